"""Kernels of the dot product: linear and polynomial. Not stationary."""

import equinox as eqx
from jaxtyping import Array

from gplsq._core import check_count, matmul, positive, savable
from gplsq.kernels._base import AbstractPairKernel


@savable
class Linear(AbstractPairKernel):
    """`sum_j variance_j x_j z_j`: Bayesian linear regression through the origin.

    Add `Constant()` for an intercept. Rasmussen & Williams (2006), section 4.2.2.

    Parameters
    ----------
    variance
        Prior variance of the slopes; a scalar, or shape (d,).
    """

    variance: Array = positive(default=1.0)

    def pair(self, x, z):
        return matmul(x * self.variance, z)


@savable
class Polynomial(AbstractPairKernel):
    """`(variance x.z + bias)^degree`. Rasmussen & Williams (2006), section 4.2.2.

    Parameters
    ----------
    degree
        A whole number from 1 up; not tuned.
    variance, bias
        Positive scalars.
    """

    degree: int = eqx.field(default=2, static=True)
    variance: Array = positive(default=1.0)
    bias: Array = positive(default=1.0)

    def __check_init__(self):
        check_count("degree", self.degree, minimum=1)

    def pair(self, x, z):
        return (self.variance * matmul(x, z) + self.bias) ** self.degree
