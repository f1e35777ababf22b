"""Sums, compositions, scalings, stacks and diagonals: operators made of operators."""

import functools
import operator
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gplsq._core import describe, like_columns
from gplsq.operators._base import AbstractEuclideanOperator, AbstractLinearOperator


def _check_parts(name: str, parts: tuple[Any, ...]) -> None:
    """Refuse what is not an operator, and operators whose space is not Euclidean."""
    for part in parts:
        if not isinstance(part, AbstractLinearOperator):
            msg = f"{name} takes operators; got {describe(part)}. Wrap arrays in Dense."
            raise TypeError(msg)
        if not isinstance(part, AbstractEuclideanOperator):
            msg = (
                f"{name} takes operators between Euclidean spaces; got {type(part).__name__}, "
                "whose domain is a function space. Combine the kernels instead (k1 + k2, 2.0 * k)."
            )
            raise TypeError(msg)


def _sum_of(terms: Iterable[Array]) -> Array:
    """Sum of at least one array."""
    return functools.reduce(operator.add, terms)


class Identity(AbstractEuclideanOperator):
    """The identity on vectors of one size and dtype."""

    size: int = eqx.field(static=True)
    number_type: Any = eqx.field(static=True)

    @property
    def shape(self):
        return (self.size, self.size)

    @property
    def dtype(self):
        return jnp.dtype(self.number_type)

    def mv(self, v):
        return v

    def rmv(self, u):
        return u


class Diagonal(AbstractEuclideanOperator):
    """The square matrix with this diagonal, shape (n,)."""

    entries: Float[Array, " n"]

    @property
    def shape(self):
        return (self.entries.shape[0], self.entries.shape[0])

    @property
    def dtype(self):
        return self.entries.dtype

    def mv(self, v):
        return like_columns(self.entries, v) * v

    def rmv(self, u):
        return self.mv(u)


class Scaled(AbstractEuclideanOperator):
    """`factor * operator`, with a scalar factor."""

    factor: Array
    operator: AbstractLinearOperator

    def __check_init__(self):
        _check_parts("Scaled", (self.operator,))

    @property
    def shape(self):
        return self.operator.shape

    @property
    def dtype(self):
        return self.operator.dtype

    def mv(self, v):
        return jnp.asarray(self.factor, v.dtype) * self.operator.mv(v)

    def rmv(self, u):
        return jnp.asarray(self.factor, u.dtype) * self.operator.rmv(u)


class Sum(AbstractEuclideanOperator):
    """`left + right`."""

    left: AbstractLinearOperator
    right: AbstractLinearOperator

    def __check_init__(self):
        _check_parts("Sum", (self.left, self.right))
        if self.left.shape != self.right.shape:
            msg = f"Sum takes operators of one shape; got {self.left.shape} and {self.right.shape}."
            raise ValueError(msg)

    @property
    def shape(self):
        return self.left.shape

    @property
    def dtype(self):
        return self.left.dtype

    def mv(self, v):
        return self.left.mv(v) + self.right.mv(v)

    def rmv(self, u):
        return self.left.rmv(u) + self.right.rmv(u)


class Composed(AbstractEuclideanOperator):
    """`left @ right`: apply `right` first."""

    left: AbstractLinearOperator
    right: AbstractLinearOperator

    def __check_init__(self):
        _check_parts("Composed", (self.left, self.right))
        if self.left.shape[1] != self.right.shape[0]:
            msg = f"Composed needs matching sizes; got {self.left.shape} and {self.right.shape}."
            raise ValueError(msg)

    @property
    def shape(self):
        return (self.left.shape[0], self.right.shape[1])

    @property
    def dtype(self):
        return self.left.dtype

    def mv(self, v):
        return self.left.mv(self.right.mv(v))

    def rmv(self, u):
        return self.right.rmv(self.left.rmv(u))

    def sweep(self, v, shift):
        assert isinstance(self.left, AbstractEuclideanOperator)
        w, back = self.left.sweep(self.right.mv(v), shift)
        return w, self.right.rmv(back)


class Stacked(AbstractEuclideanOperator):
    """Operators on the same domain, their results one above the other: general regularisers."""

    parts: tuple[AbstractLinearOperator, ...]

    def __check_init__(self):
        _check_parts("Stacked", self.parts)
        if len({part.shape[1] for part in self.parts}) != 1:
            shapes = [part.shape for part in self.parts]
            msg = f"Stacked takes operators with one number of columns; got shapes {shapes}."
            raise ValueError(msg)

    @property
    def shape(self):
        return (sum(part.shape[0] for part in self.parts), self.parts[0].shape[1])

    @property
    def dtype(self):
        return self.parts[0].dtype

    def mv(self, v):
        return jnp.concatenate([part.mv(v) for part in self.parts])

    def rmv(self, u):
        return _sum_of(part.rmv(piece) for part, piece in self._split(u))

    def sweep(self, v, shift):
        pairs = [
            part.sweep(v, piece)
            for part, piece in self._split(shift)
            if isinstance(part, AbstractEuclideanOperator)
        ]
        return jnp.concatenate([w for w, _ in pairs]), _sum_of(back for _, back in pairs)

    def _split(self, u):
        """The parts, each with its rows of u."""
        ends = np.cumsum([part.shape[0] for part in self.parts])
        return zip(self.parts, jnp.split(u, ends[:-1]), strict=True)


class Transposed(AbstractEuclideanOperator):
    """The adjoint of a Euclidean operator."""

    operator: AbstractLinearOperator

    def __check_init__(self):
        _check_parts("Transposed", (self.operator,))

    @property
    def shape(self):
        return self.operator.shape[::-1]

    @property
    def dtype(self):
        return self.operator.dtype

    def mv(self, v):
        return self.operator.rmv(v)

    def rmv(self, u):
        return self.operator.mv(u)
