"""Which leaves of the parameters a ready-made constraint is about."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gplsq._core import describe
from gplsq.constraints._params import is_floating


def selected(where: Callable | None, params: PyTree) -> list[Array]:
    """The floating-point leaves of `where(params)`, or of all params.

    Raises
    ------
    ValueError
        If there is none.
    """
    tree = params if where is None else where(params)
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_floating(leaf)]
    if not leaves:
        msg = (
            f"where must pick at least one floating-point array of params; got {describe(tree)}. "
            "Return an array or a pytree of arrays, for example lambda p: p['weight']."
        )
        raise ValueError(msg)
    return leaves


def flattened(where: Callable | None, params: PyTree) -> Float[Array, " n"]:
    """The same as one vector."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in selected(where, params)])


def check_where(where: Any) -> None:
    """Refuse what is not a function."""
    if where is not None and not callable(where):
        msg = (
            f"where must be a function of params that picks leaves; got {describe(where)}. Pass "
            "for example lambda p: p['weight']."
        )
        raise TypeError(msg)
