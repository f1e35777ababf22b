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


def places(where: Callable | None, params: PyTree) -> list[int]:
    """Which leaves of params `where` returns as they are, counted in their order.

    Raises
    ------
    ValueError
        If it returns anything else.
    """
    leaves, structure = jax.tree.flatten(params)
    if where is None:
        return list(range(len(leaves)))
    # Stand-ins with shape and dtype, each an object of its own, that nothing can be computed from.
    marks = [_mark(leaf) for leaf in leaves]
    order = {id(mark): i for i, mark in enumerate(marks)}
    try:
        tree = where(jax.tree.unflatten(structure, marks))
    except (TypeError, AttributeError) as error:
        where(params)  # a mistake that has nothing to do with stand-ins speaks for itself
        raise ValueError(_as_they_are("numbers computed from them")) from error
    found = jax.tree.leaves(tree)
    for leaf in found:
        if id(leaf) not in order:
            raise ValueError(_as_they_are(describe(leaf)))
    return [order[id(leaf)] for leaf in found]


def _mark(leaf: Any) -> Any:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return object()


def _as_they_are(given: str) -> str:
    return (
        f"where must return leaves of params as they are; got {given}. Return whole arrays, for "
        "example lambda p: p['weight']; what shall hold for numbers computed from params is a "
        "Constraint(fn) or an Inequality(fn)."
    )


def check_where(where: Any) -> None:
    """Refuse what is not a function."""
    if where is not None and not callable(where):
        msg = (
            f"where must be a function of params that picks leaves; got {describe(where)}. Pass "
            "for example lambda p: p['weight']."
        )
        raise TypeError(msg)
