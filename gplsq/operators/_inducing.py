"""Functions of a kernel's space that a few inducing points span, evaluated at many rows."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import as_points, cast, jittered_cholesky
from gplsq.kernels import AbstractKernel
from gplsq.operators._base import AbstractEuclideanOperator
from gplsq.operators._rows import Rows


class Inducing(AbstractEuclideanOperator):
    """`A v = (f(x_1), ..., f(x_n))` for functions `f = sum_j a_j k(., z_j)` of m inducing points.

    v are the coordinates of f in an orthonormal basis of that span: with `k(Z, Z) = L L^T` and
    `a = L^-T v`, the norm of f in the kernel's function space is |v|. So `lstsq(A, y, damp=sigma)`
    is the posterior mean of the Gaussian process restricted to the span: subset of regressors, or
    the Nystroem method (Smola & Schoelkopf 2000; Williams & Seeger 2001; Rudi, Carratino & Rosasco
    2017, "FALKON").

    Parameters
    ----------
    kernel
        Any kernel.
    X
        Rows of data, shape (n, d). Its dtype is that of the operator.
    Z
        Inducing points, shape (m, d). Points that repeat, or nearly, add nothing and do no harm.
    block
        Rows of k(X, Z) made at a time, see `gplsq.operators.Rows`.

    Raises
    ------
    ValueError
        If a table is not two-dimensional, or the tables differ in their number of columns.

    Notes
    -----
    k(X, Z) is made block by block and forgotten; `sweep`, the step of LSMR, makes every entry once
    for both products. Cost: n m kernel entries and 4 n m k flops a sweep, m^3 / 3 flops for L.
    Memory: m^2 numbers and a block. Differentiable in the kernel's hyperparameters, X and Z.

    L is the Cholesky factor of `k(Z, Z) + jitter I`, with the smallest jitter out of
    ``m eps 10^i`` times the mean diagonal that makes it exist. It adds `jitter |a|^2` to the norm
    of f, and keeps rounding errors of A v near ``sqrt(eps)``: without it a cancels to many digits.
    """

    kernel: AbstractKernel
    Z: Float[Array, "m d"]
    lower: Float[Array, "m m"]
    cross: Rows

    def __init__(
        self, kernel: AbstractKernel, X: ArrayLike, Z: ArrayLike, *, block: int | None = None
    ):
        points = as_points("X", X)
        centres = as_points("Z", Z).astype(points.dtype)
        if centres.shape[1] != points.shape[1]:
            msg = (
                f"X and Z must have the same number of columns; got {points.shape[1]} and "
                f"{centres.shape[1]}. Pass inducing points of the space of the data."
            )
            raise ValueError(msg)
        self.kernel = cast(kernel, points.dtype)
        self.Z = centres
        self.lower = inducing_factor(self.kernel, centres)
        self.cross = Rows(
            lambda rows: self.kernel.cross(rows, centres), points, centres.shape[0], block=block
        )

    @property
    def shape(self):
        return self.cross.shape

    @property
    def dtype(self):
        return self.cross.dtype

    @property
    def X(self) -> Float[Array, "n d"]:
        """The rows of data."""
        return self.cross.data

    def coefficients(self, v: Float[Array, "m *k"]) -> Float[Array, "m *k"]:
        """`a = L^-T v`, the coefficients of the kernel sections."""
        return jax.scipy.linalg.solve_triangular(self.lower, v, lower=True, trans=1)

    def features(self, points: Float[Array, "t d"]) -> Float[Array, "t m"]:
        """Rows of the operator for any points: `k(points, Z) L^-T`."""
        return inducing_features(self.kernel, self.Z, self.lower, points)

    def rows_at(self, index: Any) -> Float[Array, "t m"]:
        """Chosen rows of the operator as a matrix."""
        return self.features(self.X[index])

    def mv(self, v):
        return self.cross.mv(self.coefficients(v))

    def rmv(self, u):
        return self._whiten(self.cross.rmv(u))

    def sweep(self, v, shift):
        w, back = self.cross.sweep(self.coefficients(v), shift)
        return w, self._whiten(back)

    def _whiten(self, a: Array) -> Array:
        return jax.scipy.linalg.solve_triangular(self.lower, a, lower=True)


@eqx.filter_jit
def inducing_factor(kernel: AbstractKernel, Z: Float[Array, "m d"]) -> Float[Array, "m m"]:
    """Lower Cholesky factor of k(Z, Z) with the least jitter that it needs."""
    m = Z.shape[0]
    diagonal = kernel.diagonal(Z)
    index = jnp.arange(m)
    K = kernel.cross(Z, Z).at[index, index].set(diagonal)
    unit = m * float(jnp.finfo(Z.dtype).eps) * jnp.mean(diagonal)
    return jittered_cholesky(K, unit)[0]


@eqx.filter_jit
def inducing_features(
    kernel: AbstractKernel, Z: Array, lower: Array, points: Float[Array, "t d"]
) -> Float[Array, "t m"]:
    """`k(points, Z) L^-T`."""
    cross = kernel.cross(points, Z)
    return jax.scipy.linalg.solve_triangular(lower, cross.T, lower=True).T
