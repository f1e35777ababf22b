"""What a kernel is: a covariance function of two points, and what kernels combine to.

The algebra lives here because a kernel's `+` and `*` make its nodes, and the nodes are kernels.
"""

import abc
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gplsq._core import ArrayLike, as_points, cast, describe, is_traced, positive, savable


class AbstractKernel(eqx.Module):
    """A covariance function k(x, z) of two points of shape (d,).

    Kernels combine with `+`, `*`, a number in front (`2.0 * k`, a variance) and `.on(columns)`.
    Called on tables, `k(X, Z)` gives the dense cross-covariance.
    """

    # NumPy then leaves `array * kernel` to the kernel, which refuses, instead of looping over it.
    __array_ufunc__ = None

    @abc.abstractmethod
    def pair(self, x: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, ""]:
        """Covariance of two points, each of shape (d,)."""

    @abc.abstractmethod
    def cross(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Covariances of two tables. Hyperparameters must have the dtype of the tables."""

    @abc.abstractmethod
    def diagonal(self, X: Float[Array, "n d"]) -> Float[Array, " n"]:
        """The variances k(x, x)."""

    def __call__(self, X: ArrayLike, Z: ArrayLike | None = None) -> Float[Array, "n m"]:
        """Dense cross-covariance of two tables of points.

        Parameters
        ----------
        X
            Shape (n, d).
        Z
            Shape (m, d); `X` itself by default.

        Returns
        -------
        Array
            Shape (n, m), in the common dtype of the tables.

        Raises
        ------
        ValueError
            If a table has the wrong rank, or the tables differ in their number of columns.
        """
        left = as_points("X", X)
        right = left if Z is None else as_points("Z", Z)
        if left.shape[1] != right.shape[1]:
            msg = (
                f"X and Z must have the same number of columns; got {left.shape[1]} and "
                f"{right.shape[1]}. Pass points of the same space."
            )
            raise ValueError(msg)
        dtype = jnp.promote_types(left.dtype, right.dtype)
        return cast(self, dtype).cross(left.astype(dtype), right.astype(dtype))

    def on(self, columns: int | Sequence[int]) -> "AbstractKernel":
        """The same kernel looking at some input columns only.

        Parameters
        ----------
        columns
            Column numbers, counted from 0.
        """
        return Columns(self, columns)

    def __add__(self, other: Any) -> "AbstractKernel":
        return _add(self, other)

    def __radd__(self, other: Any) -> "AbstractKernel":
        return _add(self, other)

    def __mul__(self, other: Any) -> "AbstractKernel":
        return _multiply(self, other)

    def __rmul__(self, other: Any) -> "AbstractKernel":
        return _multiply(self, other)


class AbstractPairKernel(AbstractKernel):
    """A kernel given by `pair` alone. **Subclass this for a kernel of your own.**

    Matrices, tiles, derivatives and tuning follow. Declare positive hyperparameters with
    `gplsq.kernels.positive(default=...)`; other floating-point fields are tuned as they are.
    Cost: one call of `pair` an entry, vectorised.
    """

    def cross(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return jax.vmap(lambda x: jax.vmap(lambda z: self.pair(x, z))(Z))(X)

    def diagonal(self, X: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jax.vmap(lambda x: self.pair(x, x))(X)


@savable
class Constant(AbstractPairKernel):
    """The same covariance everywhere: an unknown offset with this prior variance.

    Parameters
    ----------
    variance
        A positive scalar, in squared units of the target.
    """

    variance: Array = positive(default=1.0)

    def pair(self, x, z):
        del z
        return jnp.asarray(self.variance, x.dtype)


@savable
class Sum(AbstractKernel):
    """`left + right`: the covariance of a sum of independent processes."""

    left: AbstractKernel
    right: AbstractKernel

    def pair(self, x, z):
        return self.left.pair(x, z) + self.right.pair(x, z)

    def cross(self, X, Z):
        return self.left.cross(X, Z) + self.right.cross(X, Z)

    def diagonal(self, X):
        return self.left.diagonal(X) + self.right.diagonal(X)


@savable
class Product(AbstractKernel):
    """`left * right`, pointwise (Schur product)."""

    left: AbstractKernel
    right: AbstractKernel

    def pair(self, x, z):
        return self.left.pair(x, z) * self.right.pair(x, z)

    def cross(self, X, Z):
        return self.left.cross(X, Z) * self.right.cross(X, Z)

    def diagonal(self, X):
        return self.left.diagonal(X) * self.right.diagonal(X)


@savable
class Scaled(AbstractKernel):
    """`variance * kernel`.

    Parameters
    ----------
    variance
        A positive scalar, in squared units of the target.
    kernel
        Any kernel.
    """

    variance: Array = positive()
    kernel: AbstractKernel = eqx.field()  # type: ignore[misc]

    def pair(self, x, z):
        return self.variance * self.kernel.pair(x, z)

    def cross(self, X, Z):
        return self.variance * self.kernel.cross(X, Z)

    def diagonal(self, X):
        return self.variance * self.kernel.diagonal(X)


@savable
class Columns(AbstractKernel):
    """A kernel looking at some input columns only; made by `kernel.on(columns)`."""

    kernel: AbstractKernel
    columns: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, kernel: AbstractKernel, columns: int | Sequence[int]):
        chosen: list[Any] = [columns] if isinstance(columns, Integral) else list(columns)  # type: ignore[arg-type]
        whole = all(isinstance(c, Integral) and not isinstance(c, bool | np.bool_) for c in chosen)
        if not chosen or not whole or min(chosen) < 0 or len(set(chosen)) < len(chosen):
            msg = (
                "columns must be one or more different column numbers, counted from 0; got "
                f"{describe(columns)}. Pass for example kernel.on([0, 2])."
            )
            raise ValueError(msg)
        self.kernel = kernel
        self.columns = tuple(int(c) for c in chosen)

    def _take(self, X):
        if max(self.columns) >= X.shape[-1]:
            msg = (
                f"kernel.on(columns) needs column {max(self.columns)}, but the points have "
                f"{X.shape[-1]} columns. Choose columns below {X.shape[-1]}."
            )
            raise ValueError(msg)
        return X[..., np.asarray(self.columns)]

    def pair(self, x, z):
        return self.kernel.pair(self._take(x), self._take(z))

    def cross(self, X, Z):
        return self.kernel.cross(self._take(X), self._take(Z))

    def diagonal(self, X):
        return self.kernel.diagonal(self._take(X))


def _is_scalar(value: Any) -> bool:
    return eqx.is_array_like(value) and jnp.ndim(value) == 0 and not isinstance(value, bool)


def _add(kernel: AbstractKernel, other: Any) -> AbstractKernel:
    """`kernel + other`; a number is a constant kernel of that variance."""
    if isinstance(other, AbstractKernel):
        return Sum(kernel, other)
    if _is_scalar(other):
        return Sum(kernel, Constant(_positive_number(other)))
    return NotImplemented


def _multiply(kernel: AbstractKernel, other: Any) -> AbstractKernel:
    """`kernel * other`; a number is a variance."""
    if isinstance(other, AbstractKernel):
        return Product(kernel, other)
    if _is_scalar(other):
        return Scaled(_positive_number(other), kernel)
    return NotImplemented


def _positive_number(value: Any) -> Any:
    if not is_traced(value) and not float(value) > 0:
        msg = f"a kernel is scaled by, or gets added, a positive number; got {value!r}."
        raise ValueError(msg)
    return value
