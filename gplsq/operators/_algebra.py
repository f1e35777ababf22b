"""Sums, compositions, scalings and stacks of Euclidean operators."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import describe
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
        total, start = None, 0
        for part in self.parts:
            term = part.rmv(u[start : start + part.shape[0]])
            total = term if total is None else total + term
            start += part.shape[0]
        return total


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
