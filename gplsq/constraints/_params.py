"""The floating-point leaves of a pytree of parameters as one vector, and back."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gplsq._core import describe, plain_norm


class Movable(eqx.Module):
    """Which leaves an update moves, and how they lie in one flat vector.

    Everything is static: two of the same pytree are equal, and nothing is traced anew.
    """

    structure: Any = eqx.field(static=True)
    index: tuple[int, ...] = eqx.field(static=True)  # of the leaves that move
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dtypes: tuple[Any, ...] = eqx.field(static=True)

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def dtype(self) -> Any:
        """Dtype of the flat vector: that of the leaves, and no less than float32."""
        return jnp.result_type(jnp.float32, *self.dtypes)

    def only(self, wanted: list[bool]) -> "Movable":
        """The same with some of the leaves that move."""
        kept = [i for i, yes in enumerate(wanted) if yes]
        return Movable(
            self.structure,
            tuple(self.index[i] for i in kept),
            tuple(self.shapes[i] for i in kept),
            tuple(self.dtypes[i] for i in kept),
        )

    def norm(self, tree: PyTree) -> Float[Array, ""]:
        """Euclidean norm of the leaves that move, together."""
        leaves = self.structure.flatten_up_to(tree)
        norms = [plain_norm(jnp.ravel(leaves[i]).astype(self.dtype)) for i in self.index]
        return plain_norm(jnp.stack(norms))

    def ravel(self, tree: PyTree) -> Float[Array, " n"]:
        """The leaves of `tree` that move, one after the other."""
        leaves = self.structure.flatten_up_to(tree)
        parts = [jnp.ravel(leaves[i]).astype(self.dtype) for i in self.index]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def pieces(self, flat: Float[Array, " n"]) -> list[Array]:
        """The flat vector cut into leaves, in its own dtype."""
        found, start = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape))
            found.append(jax.lax.slice(flat, (start,), (start + size,)).reshape(shape))
            start += size
        return found

    def insert(self, tree: PyTree, flat: Float[Array, " n"]) -> PyTree:
        """`tree` with its leaves that move taken from the flat vector, in their own dtypes."""
        return self.replace(tree, self.pieces(flat))

    def replace(self, tree: PyTree, pieces: list[Array]) -> PyTree:
        """`tree` with these for its leaves that move, in their own dtypes."""
        leaves = list(self.structure.flatten_up_to(tree))
        for i, piece in zip(self.index, pieces, strict=True):
            leaves[i] = piece.astype(leaves[i].dtype)
        return jax.tree.unflatten(self.structure, leaves)

    def leaves(self, tree: PyTree) -> list[Array]:
        """The leaves of `tree` that move."""
        leaves = self.structure.flatten_up_to(tree)
        return [leaves[i] for i in self.index]

    def shift(self, tree: PyTree, flat: Float[Array, " n"]) -> PyTree:
        """`tree` with the flat vector added, rounded once; no vector of the sum is made."""
        pairs = zip(self.leaves(tree), self.pieces(flat), strict=True)
        return self.replace(tree, [leaf.astype(self.dtype) + piece for leaf, piece in pairs])


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is an array of real floating-point numbers."""
    return hasattr(leaf, "shape") and jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.floating)


def movable(params: PyTree, updates: PyTree | None = None) -> Movable:
    """The floating-point leaves of `params` for which `updates` has one too.

    Raises
    ------
    ValueError
        If `params` is None, if the trees or the shapes of two leaves differ, or if nothing is left.
    TypeError
        If a leaf holds complex numbers, or no leaf is a floating-point array.
    """
    if params is None:
        msg = (
            "params must be the current parameters, because the constraint is evaluated there; "
            "got None. Call update(updates, state, params)."
        )
        raise ValueError(msg)
    leaves, structure = jax.tree.flatten(params)
    for leaf in leaves:
        if jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.complexfloating):
            msg = (
                f"params must hold real numbers; got {describe(leaf)}. Keep real and imaginary "
                "parts as two leaves."
            )
            raise TypeError(msg)
    moves = [is_floating(leaf) for leaf in leaves]
    if not any(moves):
        given = describe(leaves[0]) if leaves else "a pytree without leaves"
        msg = (
            f"params must hold floating-point arrays; got {given}. Convert the numbers with "
            "jnp.asarray, and of an equinox model pass eqx.filter(model, eqx.is_inexact_array)."
        )
        raise TypeError(msg)
    if updates is not None:
        given = _leaves_like(structure, updates)
        for i, (leaf, update) in enumerate(zip(leaves, given, strict=True)):
            if not (moves[i] and is_floating(update)):
                moves[i] = False
            elif leaf.shape != update.shape:
                msg = (
                    f"updates must have the shapes of params; got {update.shape} for a parameter "
                    f"of shape {leaf.shape}. Pass the gradient in these parameters."
                )
                raise ValueError(msg)
        if not any(moves):
            msg = (
                "updates must hold a floating-point array for at least one of those in params; "
                "got none. Pass the gradient in these parameters."
            )
            raise ValueError(msg)
    index = tuple(i for i, yes in enumerate(moves) if yes)
    shapes = tuple(tuple(leaves[i].shape) for i in index)
    return Movable(structure, index, shapes, tuple(jnp.dtype(leaves[i].dtype) for i in index))


def _leaves_like(structure: Any, updates: PyTree) -> list[Any]:
    try:
        return structure.flatten_up_to(updates)
    except ValueError as error:
        msg = (
            f"updates must have the tree structure of params, {structure}; got "
            f"{jax.tree.structure(updates)}. Pass the gradient in these parameters."
        )
        raise ValueError(msg) from error
