"""Derivatives of a process as further observations of it, by differentiating its kernel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gplsq._core import (
    ArrayLike,
    as_points,
    describe,
    is_traced,
    like_columns,
    parts_of_type,
    savable,
)
from gplsq.kernels._base import AbstractKernel
from gplsq.kernels._random_features import AbstractFeatureMap, random_features
from gplsq.kernels._stationary import Matern12


@savable
class WithDerivatives(AbstractKernel):
    """Covariances of a process f and its partial derivatives, by a last column that says which.

    A point has the columns of the inner kernel and one more: 0 for the value f(x), and j for the
    derivative of f by the j-th column, **counted from 1**. The covariances are k, dk/dz_j, dk/dx_i
    and d2k/dx_i dz_j (Rasmussen & Williams 2006, section 9.4). So rows of values and of slopes can
    be in one table, in any mixture, and every solver, objective and low-rank model serves; points
    to predict may ask for slopes too. Rows of different noise: `Weighted(WithDerivatives(kernel))`.

    Parameters
    ----------
    kernel
        Of the other columns, at least once differentiable in both arguments together: RBF,
        Matérn 3/2 and 5/2, rational quadratic, periodic, linear, polynomial and constant kernels,
        and what they combine to. Of a kernel of your own JAX must know the derivatives, also at
        equal points.

    Raises
    ------
    ValueError
        If the kernel holds a `Matern12`, whose process has no derivative, or another
        `WithDerivatives`; and if a table that is there to look at has a last column of anything but
        whole numbers from 0 to d. Covariances of such rows inside compiled functions are NaN, which
        solvers report.

    Notes
    -----
    One pass of forward differentiation in each argument over the inner kernel's own matrix, along
    a direction for each row: about four times its cost, whatever d. Matérn 3/2 is differentiable
    once (the variance of a slope is `3 / lengthscale^2`), but its derivatives are as rough as the
    process of Matérn 1/2; where slopes were measured smoother kernels are the better guess.
    """

    kernel: AbstractKernel

    def __check_init__(self):
        if not isinstance(self.kernel, AbstractKernel):
            msg = f"kernel must be a gplsq kernel; got {describe(self.kernel)}. Pass RBF()."
            raise TypeError(msg)
        if parts_of_type(self.kernel, Matern12):
            msg = (
                "the process of a Matern12 kernel has no derivatives; got a kernel that holds one. "
                "Use Matern52 or RBF (or Matern32, the roughest that has)."
            )
            raise ValueError(msg)
        if parts_of_type(self.kernel, WithDerivatives):
            msg = (
                "WithDerivatives cannot hold another one: first derivatives are all it gives. Pass "
                "the inner kernel."
            )
            raise ValueError(msg)

    def __call__(self, X: ArrayLike, Z: ArrayLike | None = None) -> Float[Array, "n m"]:
        for name, table in (("X", X), ("Z", Z)):
            if table is not None:
                _check_orders(name, as_points(name, table))
        return super().__call__(X, Z)

    def pair(self, x, z):
        return _observed(self.kernel.pair, x, z)

    def cross(self, X, Z):
        return _observed(self.kernel.cross, X, Z)

    def diagonal(self, X):
        return jax.vmap(lambda x: self.pair(x, x))(X)


def _observed(covariance: Callable, X: Array, Z: Array) -> Array:
    """What the last columns ask for of `covariance`, a function of two points or two tables."""
    (left, along_X, orders_X), (right, along_Z, order_z) = _split(X), _split(Z)

    def in_Z(points: Array) -> Any:
        return jax.jvp(lambda others: covariance(points, others), (right,), (along_Z,))

    # (k, dk/dz), and their derivatives by x.
    values, slopes = jax.jvp(in_Z, (left,), (along_X,))
    order_x = like_columns(orders_X, values[0])
    of_values = jnp.where(order_z > 0, values[1], values[0])
    of_slopes = jnp.where(order_z > 0, slopes[1], slopes[0])
    # NaN plus a finite number: an order that does not exist shows.
    return jnp.where(order_x > 0, of_slopes, of_values) + 0 * (order_x + order_z)


def _split(X: Array) -> tuple[Array, Array, Array]:
    """Points, the directions they are differentiated along (0 for values), and their orders.

    An order that is no whole number from 0 to d comes out as NaN.
    """
    points, orders = X[..., :-1], jax.lax.stop_gradient(X[..., -1])
    columns = jnp.arange(1, points.shape[-1] + 1, dtype=X.dtype)
    directions = (orders[..., None] == columns).astype(X.dtype)
    known = (orders == 0) | jnp.any(directions > 0, axis=-1)
    return points, directions, jnp.where(known, orders, jnp.nan)


def _check_orders(name: str, X: Array) -> None:
    if is_traced(X) or X.shape[1] < 2:
        return
    orders, d = np.asarray(X[:, -1]), X.shape[1] - 1
    wrong = ~np.isin(orders, np.arange(d + 1))
    if wrong.any():
        msg = (
            f"the last column of {name} must say what a row observes, 0 for the value or a column "
            f"from 1 to {d} for the derivative by it; got {orders[wrong][0]} in row "
            f"{np.flatnonzero(wrong)[0]}. Append it with np.column_stack."
        )
        raise ValueError(msg)


@savable(name="gplsq.kernels.Differentiated")
class DerivativeFeatures(AbstractFeatureMap):
    """Features of all columns but the last, or their derivatives by the column the last names."""

    inner: AbstractFeatureMap

    @property
    def size(self):
        return self.inner.size

    def __call__(self, X):
        points, directions, orders = _split(X)
        values, slopes = jax.jvp(self.inner, (points,), (directions,))
        orders = orders[:, None]
        return jnp.where(orders > 0, slopes, values) + 0 * orders


@random_features.register
def _(kernel: WithDerivatives, key, num, d):
    return DerivativeFeatures(random_features(kernel.kernel, key, num, d - 1))
