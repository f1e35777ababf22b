"""What a constraint is: residuals of parameters, zero or not above zero, combined by `+`."""

import abc
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import PyTree

from gplsq._core import check_choice, describe


class AbstractConstraint(eqx.Module):
    """A condition on a pytree of parameters: `residuals = 0`, or `residuals <= 0` entrywise.

    **Subclass this** for a constraint of your own: one method, `residuals`. `Constraint(fn)` does
    it for a function.

    `kind` says which of the two it is. `takes_batch` says whether residuals depend on data that
    come with each step, as `update(..., constraint_batch=...)`. `batch_like` is an example of such
    data, of which only shapes and dtypes matter: with it the number of residuals is known at
    `init`, which is what multipliers of a mini-batch constraint need.
    """

    @property
    def kind(self) -> str:
        """`"equality"`, `"inequality"`, or `"mixed"` for a sum of both."""
        return "equality"

    @property
    def takes_batch(self) -> bool:
        """Whether `residuals` needs a batch."""
        return False

    @property
    def batch_like(self) -> PyTree:
        """An example of a batch, or None where none is known."""
        return None

    @abc.abstractmethod
    def residuals(self, params: PyTree, batch: PyTree = None, step: Any = None) -> PyTree:
        """Residuals: any pytree of real floating-point arrays.

        `step` counts optimisation steps from 0, for constraints that follow a schedule.
        """

    def pinned(self, params: PyTree, step: Any = None) -> PyTree:
        """Entries of parameters that are held at zero, as booleans shaped like `params`.

        None, the default, for no such entries. They are eliminated, at no cost of a solve, and
        must not be among the residuals.
        """
        del params, step

    def pull(self, step: Any) -> Any:
        """Part of a pinned entry that is taken off in a step; 1 sets it to zero at once."""
        del step
        return 1.0

    def box(self, params: PyTree, step: Any = None) -> tuple[PyTree, PyTree] | None:
        """Lower and upper bounds of entries of parameters, two trees shaped like `params`.

        None, the default, for no bounds, and None for a leaf without. They are kept by projection,
        at no cost of a solve where there are no residuals, and must not be among these.
        """
        del params, step

    def parts(self) -> tuple["AbstractConstraint", ...]:
        """The constraints that this one is the sum of."""
        return (self,)

    def __add__(self, other: "AbstractConstraint") -> "Sum":
        if not isinstance(other, AbstractConstraint):
            return NotImplemented
        return Sum((*self.parts(), *other.parts()))


class AbstractBatchConstraint(AbstractConstraint):
    """A constraint at the inputs of a batch, of which `example` is one or None."""

    example: eqx.AbstractVar[PyTree]

    @property
    def takes_batch(self):
        return True

    @property
    def batch_like(self):
        return self.example


class Sum(AbstractConstraint):
    """All of several constraints; made by `a + b`."""

    terms: tuple[AbstractConstraint, ...]

    @property
    def kind(self):
        kinds = {term.kind for term in self.terms}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    @property
    def takes_batch(self):
        return any(term.takes_batch for term in self.terms)

    def residuals(self, params, batch=None, step=None):
        return tuple(term.residuals(params, batch, step) for term in self.terms)

    def parts(self):
        return self.terms


class Constraint(AbstractConstraint):
    """`fn(params) = 0` or `fn(params) <= 0`, for any function written in JAX.

    Parameters
    ----------
    fn
        `fn(params)`, or `fn(params, batch)` for a constraint on a mini-batch. Returns a pytree of
        real floating-point arrays, the residuals. Of an equinox model pass the array part as
        params and combine inside: ``eqx.combine(params, static)``.
    kind
        `"equality"` for residuals that shall be zero, `"inequality"` for residuals that shall not
        be positive.
    batch_like
        For `fn(params, batch)`: an example of a batch, which makes the number of residuals known
        before the first step, so that the report has multipliers. Only shapes and dtypes
        matter.

    Raises
    ------
    TypeError
        If `fn` cannot be called with one or two arguments.
    ValueError
        If `kind` is neither of the two.
    """

    fn: Callable
    condition: str = eqx.field(static=True)
    example: PyTree = None
    with_batch: bool = eqx.field(static=True, default=False)

    def __init__(self, fn: Callable, kind: str = "equality", batch_like: PyTree = None):
        self.condition = check_choice("kind", kind, ("equality", "inequality"))
        self.with_batch = wants_batch(fn)
        self.fn = fn
        if batch_like is not None and not self.with_batch:
            msg = (
                "batch_like is for fn(params, batch); got it with a function of one argument. "
                "Leave it out, or let fn take the batch."
            )
            raise ValueError(msg)
        self.example = batch_like

    @property
    def kind(self):
        return self.condition

    @property
    def takes_batch(self):
        return self.with_batch

    @property
    def batch_like(self):
        return self.example

    def residuals(self, params, batch=None, step=None):
        del step
        return self.fn(params, batch) if self.with_batch else self.fn(params)


class Inequality(Constraint):
    """`fn(params) <= 0`, entrywise: `Constraint(fn, kind="inequality")`.

    Parameters
    ----------
    fn, batch_like
        As in `Constraint`.
    """

    def __init__(self, fn: Callable, batch_like: PyTree = None):
        super().__init__(fn, "inequality", batch_like)


def wants_batch(fn: Any) -> bool:
    """Whether a function takes (params, batch) rather than (params)."""
    if not callable(fn):
        msg = (
            f"fn must be a function of params, or of params and a batch; got {describe(fn)}. "
            "Pass a function."
        )
        raise TypeError(msg)
    try:
        arguments = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [a for a in arguments if a.default is a.empty and a.kind in positional]
    variadic = any(a.kind is a.VAR_POSITIONAL for a in arguments)
    keyword_only = [a for a in arguments if a.default is a.empty and a.kind is a.KEYWORD_ONLY]
    possible = [a for a in arguments if a.kind in positional]
    if len(needed) > 2 or keyword_only or not (possible or variadic):
        msg = (
            "fn must be callable as fn(params) or fn(params, batch); got a function whose "
            f"signature is {inspect.signature(fn)}. Fix other arguments with functools.partial."
        )
        raise TypeError(msg)
    return len(needed) == 2


def pair_of(batch: PyTree, what: str, remedy: str) -> tuple[PyTree, PyTree]:
    """The two parts of a batch, or a `ValueError` that says what they are."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        msg = f"constraint_batch must be {what}; got {describe(batch)}. {remedy}"
        raise ValueError(msg)
    return batch[0], batch[1]


def check_constraint_type(constraint: Any) -> AbstractConstraint:
    """Refuse what is not a constraint, naming the remedy for a function."""
    if not isinstance(constraint, AbstractConstraint):
        msg = (
            f"constraint must be a constraint object; got {describe(constraint)}. Wrap a function "
            "of the parameters as Constraint(fn)."
        )
        raise TypeError(msg)
    return constraint
