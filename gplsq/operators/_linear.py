"""Whether a traced function maps zero to zero.

JAX transposes affine functions as if their constant were not there, so that transposition alone
does not show that a function is linear. Here zeros are followed through the operations: a proof,
without computing anything, for the operations that linear functions are made of.
"""

from collections.abc import Sequence
from typing import Any

import jax.extend.core as core
import numpy as np

# Zero if the first argument is; further ones are indices, shapes, bounds or divisors.
_OF_FIRST = {
    "abs", "broadcast_in_dim", "convert_element_type", "copy", "copy_p", "cumsum", "div",
    "dynamic_slice", "expand_dims", "fft", "imag", "integer_pow", "log1p", "expm1", "name", "neg",
    "real", "reduce_precision", "reduce_sum", "reshape", "rev", "sharding_constraint", "sign",
    "sin", "slice", "split", "sqrt", "square", "squeeze", "tan", "tanh", "transpose",
}  # fmt: skip
# Zero if all arguments are.
_OF_ALL = {"add", "add_any", "concatenate", "max", "min", "pad", "sub"}
# Each result is zero if the argument of its place is.
_EACH = {"optimization_barrier", "sort"}
# Zero if one argument is.
_OF_ANY = {"bcoo_dot_general", "conv_general_dilated", "dot_general", "mul"}
# Zero if the operand and the updates are; the arguments between or after are indices.
_UPDATES = {"dynamic_update_slice": 1, "scatter": 2, "scatter-add": 2, "scatter_add": 2}


def maps_zero_to_zero(jaxpr: core.Jaxpr) -> bool:
    """Whether zero arguments surely give zero results, whatever the captured arrays hold."""
    return all(_zeros(jaxpr, [False] * len(jaxpr.constvars), [True] * len(jaxpr.invars)))


def _zeros(jaxpr: core.Jaxpr, consts: Sequence[bool], args: Sequence[bool]) -> list[bool]:
    """Which results are zero, given which constants and arguments are."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def zero(atom: Any) -> bool:
        if isinstance(atom, core.Literal):
            return not np.any(np.asarray(atom.val))
        return known.get(atom, False)

    for equation in jaxpr.eqns:
        inputs = [zero(atom) for atom in equation.invars]
        results = _of_equation(equation, inputs)
        known.update(zip(equation.outvars, results, strict=True))
    return [zero(atom) for atom in jaxpr.outvars]


def _of_equation(equation: Any, inputs: list[bool]) -> list[bool]:
    name, params, count = equation.primitive.name, equation.params, len(equation.outvars)
    if name in _OF_FIRST:
        return [inputs[0]] * count
    if name in _OF_ALL:
        return [all(inputs)] * count
    if name in _OF_ANY:
        return [any(inputs)] * count
    if name in _UPDATES:
        return [inputs[0] and inputs[_UPDATES[name]]] * count
    if name in _EACH:
        return inputs
    if name == "gather":  # `fill_value` is what stands for rows that are not there
        return [inputs[0] and not params["fill_value"]]
    if name == "select_n":
        return [all(inputs[1:])] * count
    if name == "scan":
        return _of_scan(params, inputs)
    if name == "cond":
        branches = [_closed(branch, inputs[1:]) for branch in params["branches"]]
        return [all(results) for results in zip(*branches, strict=True)]
    if name == "while":
        return _of_while(params, inputs)
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if isinstance(inner, core.ClosedJaxpr) and len(inner.jaxpr.invars) == len(inputs):
        return _closed(inner, inputs)
    if isinstance(inner, core.Jaxpr) and not inner.constvars and len(inner.invars) == len(inputs):
        return _zeros(inner, [], inputs)
    return [False] * count


def _closed(jaxpr: core.ClosedJaxpr, inputs: list[bool]) -> list[bool]:
    return _zeros(jaxpr.jaxpr, [False] * len(jaxpr.consts), inputs)


def _of_scan(params: Any, inputs: list[bool]) -> list[bool]:
    """What is carried is zero if it starts so and every step keeps it so."""
    consts, carried = params["num_consts"], params["num_carry"]
    fixed, carry = inputs[:consts], inputs[consts : consts + carried]
    rest = inputs[consts + carried :]
    while True:
        results = _closed(params["jaxpr"], [*fixed, *carry, *rest])
        new = [a and b for a, b in zip(carry, results, strict=False)]
        if new == carry:
            return [*carry, *results[carried:]]
        carry = new


def _of_while(params: Any, inputs: list[bool]) -> list[bool]:
    skipped, consts = params["cond_nconsts"], params["body_nconsts"]
    fixed, carry = inputs[skipped : skipped + consts], inputs[skipped + consts :]
    while True:
        results = _closed(params["body_jaxpr"], [*fixed, *carry])
        new = [a and b for a, b in zip(carry, results, strict=True)]
        if new == carry:
            return carry
        carry = new
