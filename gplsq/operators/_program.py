"""Traced functions that compare equal when they are the same program.

A lambda made anew for every call is a new object to `jax.jit`, and every call would compile. Here a
function is traced to a jaxpr, the arrays it closes over become arguments, and a jaxpr that was seen
before is replaced by the one kept from then: the same operations on the same shapes are the same
static object, and compile once.
"""

import collections
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.extend.core as core
import numpy as np
from jaxtyping import Array, PyTree

# Programs kept for comparison, the oldest goes first: outlines, and programs of one outline, which
# differ in Python numbers only.
_CAPACITY = 512
_ALIKE = 64
_seen: collections.OrderedDict[Any, list[Any]] = collections.OrderedDict()
_lock = threading.Lock()


class Program(eqx.Module):
    """A function of arrays with the arrays it closed over as leaves."""

    jaxpr: Any = eqx.field(static=True)  # shared by all equal programs: hashes by identity
    structure: Any = eqx.field(static=True)  # of the result
    captured: list[Array]

    def __call__(self, argument: PyTree[Array]) -> PyTree[Array]:
        leaves = jax.tree.leaves(argument)
        out = jax.core.eval_jaxpr(self.jaxpr, self.captured, *leaves)
        return jax.tree.unflatten(self.structure, out)


def trace(fn: Callable, argument: PyTree[jax.ShapeDtypeStruct]) -> Program:
    """`fn` as a `Program`. Closed-over tracers may be differentiated or batched later."""
    closed, out = jax.make_jaxpr(fn, return_shape=True)(argument)
    return Program(_shared(closed.jaxpr), jax.tree.structure(out), list(closed.consts))


def _shared(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """The kept jaxpr that equals this one; this one if there is none."""
    key = _outline(jaxpr)
    with _lock:
        alike = _seen.setdefault(key, [])
        _seen.move_to_end(key)
        for other in alike:
            if _same_jaxpr(jaxpr, other):
                return other
        alike.append(jaxpr)
        del alike[:-_ALIKE]
        while len(_seen) > _CAPACITY:
            _seen.popitem(last=False)
    return jaxpr


def _outline(jaxpr: core.Jaxpr) -> tuple:
    """A hashable summary: equal programs have equal outlines."""
    return (
        tuple(str(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)),
        tuple(equation.primitive.name for equation in jaxpr.eqns),
    )


def _same_jaxpr(a: core.Jaxpr, b: core.Jaxpr) -> bool:
    """Whether two jaxprs do the same operations on the same variables, in the same order."""
    names: dict[Any, Any] = {}

    def bind(ours: Any, theirs: Any) -> bool:
        """Two variables that are defined at the same place."""
        names[ours] = theirs
        return ours.aval == theirs.aval

    def same_atom(ours: Any, theirs: Any) -> bool:
        if isinstance(ours, core.Literal) or isinstance(theirs, core.Literal):
            return (
                isinstance(ours, core.Literal)
                and isinstance(theirs, core.Literal)
                and ours.aval == theirs.aval
                and _same_value(ours.val, theirs.val)
            )
        return names.get(ours) is theirs

    def same_list(ours: Any, theirs: Any, fn: Callable) -> bool:
        return len(ours) == len(theirs) and all(map(fn, ours, theirs))

    def same_equation(ours: Any, theirs: Any) -> bool:
        return (
            ours.primitive is theirs.primitive
            and ours.effects == theirs.effects
            and same_list(ours.invars, theirs.invars, same_atom)
            and _same_parameters(ours, theirs)
            and same_list(ours.outvars, theirs.outvars, bind)
        )

    return (
        same_list(a.constvars, b.constvars, bind)
        and same_list(a.invars, b.invars, bind)
        and same_list(a.eqns, b.eqns, same_equation)
        and same_list(a.outvars, b.outvars, same_atom)
    )


# Derivatives of so high an order are compared; those beyond follow from them in any sane program.
_RULES_OF_RULES = 4
_rules_above: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("rules", default=())


def _same_parameters(a: core.JaxprEqn, b: core.JaxprEqn) -> bool:
    """Equality of the parameters of two equations of the same primitive."""
    ours, theirs = dict(a.params), dict(b.params)
    rules = ours.pop("jvp_jaxpr_fun", None), theirs.pop("jvp_jaxpr_fun", None)
    if not _same_value(ours, theirs) or (rules[0] is None) != (rules[1] is None):
        return False
    if rules[0] is rules[1]:
        return True
    # A fresh object at every trace of a function with a rule of its own: its program is compared.
    # It may hold the function again, whose rule is a fresh object again, without end.
    if len(_rules_above.get()) == _RULES_OF_RULES:
        return True
    nonzero = [False] * (len(a.invars) - ours["num_consts"])
    token = _rules_above.set((*_rules_above.get(), a.primitive.name))
    try:
        return _same_value(*(list(rule.call_wrapped(*nonzero)) for rule in rules))
    except Exception:
        return False
    finally:
        _rules_above.reset(token)


def _same_value(a: Any, b: Any) -> bool:
    """Equality of parameters of an equation. What cannot be compared counts as different."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, core.ClosedJaxpr):
        return _same_jaxpr(a.jaxpr, b.jaxpr) and _same_value(list(a.consts), list(b.consts))
    if isinstance(a, core.Jaxpr):
        return _same_jaxpr(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_value(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same_value, a, b))
    if isinstance(a, jax.core.Tracer):
        return False
    if isinstance(a, np.ndarray | np.generic | float):
        x, y = np.asarray(a), np.asarray(b)
        # Bytes, so that 0.0 and -0.0 differ and NaN equals itself.
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(a, jax.Array):
        return False
    try:
        return bool(a == b)
    except Exception:
        return False
