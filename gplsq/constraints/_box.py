"""Bounds on parameters, kept by projection."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gplsq._core import ArrayLike, check_real_array, describe, is_traced
from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._params import is_floating
from gplsq.constraints._select import check_where, places


class Box(AbstractConstraint):
    """`lower <= theta <= upper`, entrywise, for the picked leaves.

    The step is projected: entries that it would take beyond a bound stop there, and the other
    constraints are held by what is left. There are no residuals, and no multipliers.

    Parameters
    ----------
    lower, upper
        Numbers, or arrays that broadcast to every picked leaf. None, or an infinity, for no bound.
    where
        Picks leaves of params; all of them by default.

    Raises
    ------
    TypeError, ValueError
        If a bound is no number, if there is none, or if a lower one is above the upper one.

    Notes
    -----
    Without other constraints a step costs two passes over the parameters. With them the entries at
    a bound are found in rounds of one solve each, two or three as a rule.

    Parameters lie in the box to rounding, and from the second step at a bound exactly on it.
    """

    lower: Array | None
    upper: Array | None
    where: Callable | None = eqx.field(static=True)

    def __init__(
        self,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
        where: Callable | None = None,
    ):
        check_where(where)
        self.lower, self.upper, self.where = _limit("lower", lower), _limit("upper", upper), where
        if not _ordered(self.lower, self.upper):
            msg = (
                "lower and upper must be bounds with lower <= upper, at least one of them given; "
                f"got {describe(lower)} and {describe(upper)}. Pass None for no bound."
            )
            raise ValueError(msg)

    def residuals(self, params, batch=None, step=None):
        """None: the box is projected on."""
        return []

    def box(self, params, step=None):
        del step
        leaves, structure = jax.tree.flatten(params)
        chosen = [i for i in places(self.where, params) if is_floating(leaves[i])]
        if not chosen:
            msg = "Box must find floating-point arrays to bound; got none. Pick them with `where`."
            raise ValueError(msg)

        def tree(limit: Array | None, missing: float) -> Any:
            filled: list[Any] = [None] * len(leaves)
            for i in chosen:
                filled[i] = _broadcast(missing if limit is None else limit, leaves[i])
            return jax.tree.unflatten(structure, filled)

        return tree(self.lower, -jnp.inf), tree(self.upper, jnp.inf)


def _limit(name: str, value: Any) -> Array | None:
    return None if value is None else jnp.asarray(check_real_array(name, value), float)


def _ordered(lower: Array | None, upper: Array | None) -> bool:
    """Whether there is a bound, and none of them is in the way of another."""
    if lower is None and upper is None:
        return False
    if is_traced(lower) or is_traced(upper):  # where they cross is then seen in the violation
        return True
    low = np.asarray(-np.inf if lower is None else lower)
    high = np.asarray(np.inf if upper is None else upper)
    try:
        return bool(np.all(low <= high))  # False with NaN
    except ValueError:  # shapes that do not go together
        return False


def _broadcast(limit: Any, leaf: Any) -> Array:
    try:
        return jnp.broadcast_to(jnp.asarray(limit, leaf.dtype), leaf.shape)
    except ValueError as error:
        msg = (
            f"lower and upper must broadcast to every picked leaf; got shape {jnp.shape(limit)} "
            f"for a leaf of shape {leaf.shape}. Pick leaves of one shape with `where`, and add "
            "boxes."
        )
        raise ValueError(msg) from error
