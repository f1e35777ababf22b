"""Random features: explicit maps whose inner products estimate a kernel without bias."""

import abc
import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gplsq._core import describe, matmul, savable
from gplsq.kernels._base import AbstractKernel, Columns, Constant, Product, Scaled, Sum
from gplsq.kernels._dot_product import Linear
from gplsq.kernels._scale_mixtures import mixture_scales
from gplsq.kernels._stationary import AbstractStationary
from gplsq.kernels._weighted import Weighted


class AbstractFeatureMap(eqx.Module):
    """A function of tables with `phi(X) phi(Z)^T` close to `kernel(X, Z)`."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """r, the number of features."""

    @abc.abstractmethod
    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, "n r"]:
        """Features of rows; r is `size`."""


@savable(name="gplsq.kernels.Waves")
class FourierFeatures(AbstractFeatureMap):
    """`sqrt(variance / s) (cos a_1, ..., cos a_s, sin a_1, ..., sin a_s)`, a linear in `embed(x)`.

    The variance `phi(x) . phi(x)` is exact. A product of stationary kernels adds angles.
    """

    kernels: tuple[AbstractStationary, ...]
    frequencies: tuple[Array, ...]  # (s, e) each, of unit lengthscale: `embed` divides by it
    variance: Array
    columns: tuple[tuple[int, ...] | None, ...] = eqx.field(static=True)

    @property
    def size(self):
        return 2 * self.frequencies[0].shape[0]

    def __call__(self, X):
        angles = 0
        for kernel, W, columns in zip(self.kernels, self.frequencies, self.columns, strict=True):
            inputs = X if columns is None else X[:, np.asarray(columns)]
            angles = angles + matmul(kernel.embed(inputs), W.T)
        scale = jnp.sqrt(self.variance * (2 / self.size))
        return scale * jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


@savable(name="gplsq.kernels.Offset")
class ConstantFeature(AbstractFeatureMap):
    """One feature, the same everywhere."""

    variance: Array

    @property
    def size(self):
        return 1

    def __call__(self, X):
        return jnp.broadcast_to(jnp.sqrt(self.variance).astype(X.dtype), (X.shape[0], 1))


@savable(name="gplsq.kernels.Slopes")
class LinearFeatures(AbstractFeatureMap):
    """The inputs, scaled: exact for a linear kernel."""

    variance: Array
    columns: tuple[int, ...] | None = eqx.field(static=True)
    num_columns: int = eqx.field(static=True)

    @property
    def size(self):
        return self.num_columns

    def __call__(self, X):
        inputs = X if self.columns is None else X[:, np.asarray(self.columns)]
        return inputs * jnp.sqrt(self.variance)


@savable(name="gplsq.kernels.SideBySide")
class ConcatenatedFeatures(AbstractFeatureMap):
    """Features of a sum of kernels."""

    left: AbstractFeatureMap
    right: AbstractFeatureMap

    @property
    def size(self):
        return self.left.size + self.right.size

    def __call__(self, X):
        return jnp.concatenate([self.left(X), self.right(X)], axis=1)


@savable(name="gplsq.kernels.Pairs")
class ProductFeatures(AbstractFeatureMap):
    """Features of a product of kernels: all products of a feature of each."""

    left: AbstractFeatureMap
    right: AbstractFeatureMap

    @property
    def size(self):
        return self.left.size * self.right.size

    def __call__(self, X):
        products = self.left(X)[:, :, None] * self.right(X)[:, None, :]
        return products.reshape(X.shape[0], self.size)


@savable
class ScaledFeatures(AbstractFeatureMap):
    """Features of a kernel times a number, where the map has no variance of its own."""

    variance: Array
    inner: AbstractFeatureMap

    @property
    def size(self):
        return self.inner.size

    def __call__(self, X):
        return self.inner(X) * jnp.sqrt(self.variance).astype(X.dtype)


@savable
class ColumnFeatures(AbstractFeatureMap):
    """Features of some columns, where the map does not choose them itself."""

    inner: AbstractFeatureMap
    columns: tuple[int, ...] = eqx.field(static=True)

    @property
    def size(self):
        return self.inner.size

    def __call__(self, X):
        return self.inner(X[:, np.asarray(self.columns)])


@savable(name="gplsq.kernels.Multiplied")
class WeightedFeatures(AbstractFeatureMap):
    """Features of all columns but the last, multiplied by the last."""

    inner: AbstractFeatureMap

    @property
    def size(self):
        return self.inner.size

    def __call__(self, X):
        return self.inner(X[:, :-1]) * X[:, -1:]


@functools.singledispatch
def random_features(kernel: AbstractKernel, key: Array, num: int, d: int) -> AbstractFeatureMap:
    """A feature map with at most `num` features whose inner products estimate `kernel`.

    Stationary kernels get orthogonal random Fourier features (Rahimi & Recht 2007; Yu, Suresh,
    Choromanski, Holtmann-Rice & Kumar 2016): pairs of a cosine and a sine at random frequencies.
    Linear and constant kernels have exact features. Sums divide `num` between their parts, products
    of stationary kernels add frequencies, other products multiply features.

    Parameters
    ----------
    kernel
        RBF, Matérn, rational quadratic, periodic, linear, constant kernels, and their sums,
        products, scalings and `.on(columns)`. Register a kernel of your own with
        ``random_features.register``, or, if it is stationary, with ``mixture_scales.register``.
    key
        A JAX random key. The map is a smooth function of the hyperparameters for a given key.
    num
        The most features it may have.
    d
        Columns of the tables it will be given.

    Raises
    ------
    NotImplementedError
        For kernels without a known feature map. Inducing points work with any kernel.
    ValueError
        If `num` is too small.

    Notes
    -----
    The error of an entry is about ``variance / sqrt(num)``, whatever the dimension; functions that
    need many frequencies are served better by inducing points.
    """
    del key, num, d
    msg = (
        f"no random features are known for {describe(kernel)}. Use inducing points "
        '(solver="inducing"), or register a map with random_features.register.'
    )
    raise NotImplementedError(msg)


def orthogonal_normal(key: Array, num: int, e: int, dtype=None) -> Float[Array, "s e"]:
    """Standard normal rows, orthogonal to each other in groups of e (Yu et al. 2016)."""
    to_direct, to_scale = jax.random.split(key)
    groups = -(-num // e)
    Q, R = jnp.linalg.qr(jax.random.normal(to_direct, (groups, e, e), dtype))
    # With these signs Q is uniformly distributed over all rotations.
    directions = Q * jnp.sign(jnp.diagonal(R, axis1=1, axis2=2))[:, None, :]
    lengths = jnp.linalg.norm(jax.random.normal(to_scale, (groups, e, e), dtype), axis=-1)
    return (directions * lengths[..., None]).reshape(groups * e, e)[:num]


@random_features.register
def _(kernel: AbstractStationary, key, num, d):
    count = _at_least(num, 2, kernel) // 2
    to_direct, to_scale = jax.random.split(key)
    inputs = jax.ShapeDtypeStruct((1, d), jnp.result_type(kernel.lengthscale, jnp.float32))
    e = jax.eval_shape(kernel.embed, inputs).shape[1]
    normal = orthogonal_normal(to_direct, count, e, inputs.dtype)
    scales = mixture_scales(kernel, to_scale, count).astype(inputs.dtype)
    one = jnp.ones((), inputs.dtype)
    return FourierFeatures((kernel,), (normal * scales[:, None],), one, (None,))


@random_features.register
def _(kernel: Constant, key, num, d):
    del key, d
    _at_least(num, 1, kernel)
    return ConstantFeature(jnp.asarray(kernel.variance))


@random_features.register
def _(kernel: Linear, key, num, d):
    del key
    _at_least(num, d, kernel)
    return LinearFeatures(jnp.asarray(kernel.variance), None, d)


@random_features.register
def _(kernel: Scaled, key, num, d):
    return _scaled(random_features(kernel.kernel, key, num, d), kernel.variance)


@random_features.register
def _(kernel: Weighted, key, num, d):
    return WeightedFeatures(random_features(kernel.kernel, key, num, d - 1))


@random_features.register
def _(kernel: Columns, key, num, d):
    if max(kernel.columns) >= d:
        msg = (
            f"kernel.on(columns) needs column {max(kernel.columns)}, but the points have {d} "
            f"columns. Choose columns below {d}."
        )
        raise ValueError(msg)
    inner = random_features(kernel.kernel, key, num, len(kernel.columns))
    return _on(inner, kernel.columns)


@random_features.register
def _(kernel: Sum, key, num, d):
    left, right = jax.random.split(key)
    parts = [_exact_size(part, d) for part in (kernel.left, kernel.right)]
    share = num // 2
    if parts[0] is not None:
        share = parts[0]
    elif parts[1] is not None:
        share = num - parts[1]
    first = random_features(kernel.left, left, _at_least(share, 1, kernel), d)
    second = random_features(kernel.right, _after(right, first), num - first.size, d)
    return ConcatenatedFeatures(first, second)


@random_features.register
def _(kernel: Product, key, num, d):
    left, right = jax.random.split(key)
    parts = [_exact_size(part, d) for part in (kernel.left, kernel.right)]
    if parts[0] is not None:
        first = random_features(kernel.left, left, parts[0], d)
        second = random_features(kernel.right, right, num // parts[0], d)
    elif parts[1] is not None:
        second = random_features(kernel.right, right, parts[1], d)
        first = random_features(kernel.left, left, num // parts[1], d)
    else:
        first = random_features(kernel.left, left, num, d)
        second = random_features(kernel.right, _after(right, first), num, d)
        if isinstance(first, FourierFeatures) and isinstance(second, FourierFeatures):
            return FourierFeatures(
                first.kernels + second.kernels,
                first.frequencies + second.frequencies,
                first.variance * second.variance,
                first.columns + second.columns,
            )
        each = math.isqrt(num)
        first = random_features(kernel.left, left, each, d)
        second = random_features(kernel.right, _after(right, first), each, d)
    return ProductFeatures(first, second)


def _after(key: Array, earlier: AbstractFeatureMap) -> Array:
    """A key that XLA cannot know before the earlier features are there.

    Large batches of QR factorisations that run side by side on a CPU can wait for each other's
    threads forever (jaxlib 0.10.2, two batches of 6,250 matrices of order 8, two cores).
    """
    numbers = jax.tree.leaves(eqx.filter(earlier, eqx.is_inexact_array))
    broken = sum(jnp.sum(jnp.isnan(leaf)) for leaf in numbers)
    return jax.random.fold_in(key, broken)


def _exact_size(kernel: AbstractKernel, d: int) -> int | None:
    """Features of a kernel that has finitely many; None if it has not."""
    if isinstance(kernel, Constant):
        return 1
    if isinstance(kernel, Linear):
        return d
    if isinstance(kernel, Scaled):
        return _exact_size(kernel.kernel, d)
    if isinstance(kernel, Columns):
        return _exact_size(kernel.kernel, len(kernel.columns))
    if isinstance(kernel, Sum | Product):
        left, right = _exact_size(kernel.left, d), _exact_size(kernel.right, d)
        if left is None or right is None:
            return None
        return left + right if isinstance(kernel, Sum) else left * right
    return None


def _scaled(features: AbstractFeatureMap, variance: Array) -> AbstractFeatureMap:
    if isinstance(features, ConcatenatedFeatures):
        left, right = _scaled(features.left, variance), _scaled(features.right, variance)
        return ConcatenatedFeatures(left, right)
    if isinstance(features, ProductFeatures):
        return ProductFeatures(_scaled(features.left, variance), features.right)
    if isinstance(features, FourierFeatures | ConstantFeature | LinearFeatures):
        return eqx.tree_at(lambda f: f.variance, features, features.variance * variance)
    return ScaledFeatures(variance, features)


def _on(features: AbstractFeatureMap, columns: tuple[int, ...]) -> AbstractFeatureMap:
    """The same features of some columns of a wider table."""
    if isinstance(features, ConcatenatedFeatures):
        return ConcatenatedFeatures(_on(features.left, columns), _on(features.right, columns))
    if isinstance(features, ProductFeatures):
        return ProductFeatures(_on(features.left, columns), _on(features.right, columns))
    if isinstance(features, ConstantFeature):
        return features

    def outer(inner: tuple[int, ...] | None) -> tuple[int, ...]:
        return columns if inner is None else tuple(columns[i] for i in inner)

    if isinstance(features, FourierFeatures):
        chosen = tuple(outer(inner) for inner in features.columns)
        return FourierFeatures(features.kernels, features.frequencies, features.variance, chosen)
    if isinstance(features, LinearFeatures):
        return LinearFeatures(features.variance, outer(features.columns), features.size)
    return ColumnFeatures(features, columns)


def _at_least(num: int, least: int, kernel: AbstractKernel) -> int:
    if num < least:
        msg = (
            f"{describe(kernel)} needs at least {least} features; {num} are left for it. Ask for "
            "more features."
        )
        raise ValueError(msg)
    return num
