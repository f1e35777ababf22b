"""An explicit matrix as an operator."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import ArrayLike, check_real_array, describe, matmul, matmul_adjoint
from gplsq.operators._base import AbstractEuclideanOperator


class Dense(AbstractEuclideanOperator):
    """An explicit real matrix.

    Parameters
    ----------
    matrix
        Shape (m, n).

    Raises
    ------
    TypeError
        If the entries are not real numbers: complex, text, objects, a masked array.
    ValueError
        If it is not two-dimensional.
    """

    matrix: Float[Array, "m n"]

    def __init__(self, matrix: ArrayLike):
        array = jnp.asarray(check_real_array("A", matrix))
        if array.ndim != 2:
            msg = (
                f"A must be a matrix, shape (m, n); got {describe(array)}. Pass a two-dimensional "
                "array, or wrap a function with gplsq.operators.Function."
            )
            raise ValueError(msg)
        self.matrix = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)

    @property
    def shape(self):
        return self.matrix.shape

    @property
    def dtype(self):
        return self.matrix.dtype

    def mv(self, v):
        if v.ndim == 2 and v.shape[1] == 1:
            return matmul(self.matrix, v[:, 0])[:, None]
        return matmul(self.matrix, v)

    def rmv(self, u):
        return matmul_adjoint(self.matrix, u)

    def as_matrix(self):
        return self.matrix
