"""Functions drawn from a posterior: a draw of the prior, corrected by what the data say.

If f is a draw of the prior and e one of the noise, then `f + k(., X) (K + s^2 I)^-1 (y - f(X) - e)`
is one of the posterior (Matheron's rule). With random features for f it is a function that can be
evaluated anywhere, any number of times (Wilson, Borovitskiy, Terenin, Mostowsky & Deisenroth 2020,
2021). The correction is a solve with one column for each draw.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from gplsq._core import (
    as_points,
    cast,
    check_count,
    describe,
    map_row_tiles,
    map_rows,
    matmul,
    status_ok,
    tile_rows,
)
from gplsq.kernels import AbstractFeatureMap, AbstractKernel, random_features
from gplsq.operators import FeatureBasis, InducingBasis
from gplsq.solvers import STATUS, lstsq


class SamplePaths(eqx.Module):
    """Functions drawn from a posterior; made by `Posterior.sample_paths`.

    `paths(Z)` gives their values at Z, shape (m, d), as an array of shape (num, m): one row a
    function. The functions are fixed: the same point has the same values in every call, whatever
    else Z holds. Differentiable in Z and, where the posterior was, in the hyperparameters.

    Attributes
    ----------
    features, weights
        The draws of the prior: `features(z) . weights`, (r,) and (r, num).
    kernel, X, coefficients
        What the data add: `sum_i coefficients_i k(z, x_i)`, with (n, d) data rows or inducing
        points and coefficients (n, num). None for a model of random features, which needs nothing
        added.
    status
        A `gplsq.solvers.STATUS` code of each function's solve, shape (num,).
    mesh
        The devices that share the work.
    """

    features: AbstractFeatureMap
    weights: Float[Array, "r num"]
    kernel: AbstractKernel | None
    X: Float[Array, "n d"] | None
    coefficients: Float[Array, "n num"] | None
    status: Int[Array, " num"]
    num_columns: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)

    @property
    def ok(self) -> Bool[Array, " num"]:
        """Where the function's solve met its tolerance."""
        return status_ok(self.status)

    def __call__(self, Z: ArrayLike) -> Float[Array, "num m"]:
        """Values at Z, shape (m, d).

        Raises
        ------
        ValueError
            If Z is no table of points like the data.

        Notes
        -----
        Cost: m n kernel entries, m r features and 2 m (n + r) num flops, in tiles: nothing of size
        m n is kept, neither here nor in a derivative.
        """
        points = as_points("Z", Z).astype(self.weights.dtype)
        if points.shape[1] != self.num_columns:
            msg = (
                f"Z must be a table of points, shape (m, {self.num_columns}), like the data; got "
                f"{describe(Z)}."
            )
            raise ValueError(msg)
        return _evaluate(self, points)


def exact_paths(posterior: Any, key: Array, num: int, num_features: int) -> SamplePaths:
    """Of a `Posterior`: one block solve by its own solver, which is prepared already.

    The mean's coefficients are subtracted from, so that all paths have exactly that mean.
    """
    X, noise = posterior.X, posterior.noise_variance
    kernel = cast(posterior.kernel, X.dtype)
    to_prior, to_noise = jax.random.split(key)
    features, weights = _prior(kernel, to_prior, num, num_features, X)
    drawn = _values(features, weights, None, X, posterior.operator.mesh)
    drawn = drawn + jnp.sqrt(noise) * jax.random.normal(to_noise, drawn.shape, X.dtype)
    settings = {"damp": jnp.sqrt(noise), "solver": posterior.solver, "throw": False}
    solution = lstsq(posterior.operator, drawn, preconditioner=posterior.prepared, **settings)
    coefficients = posterior.solution.value[:, None] - solution.value
    parts = kernel, X, coefficients, solution.status, X.shape[1], posterior.operator.mesh
    return SamplePaths(features, weights, *parts)


def low_rank_paths(posterior: Any, key: Array, num: int, num_features: int) -> SamplePaths:
    """Of a `LowRankPosterior`: coordinates in its basis are drawn by the factor of its variance.

    They have the mean and covariance of `mean` and `covariance`. With inducing points, what these
    do not explain comes from the draw of the prior.
    """
    check_count("num", num, minimum=1)
    basis, dtype, d = posterior.basis, posterior.X.dtype, posterior.X.shape[1]
    to_prior, to_basis, to_jitter = jax.random.split(key, 3)
    normal = jax.random.normal(to_basis, (basis.size, num), dtype)
    drawn = _coordinates(posterior.solution.value, posterior.factors, normal)
    status = jnp.full(num, STATUS.EXACT, jnp.int32)
    if isinstance(basis, FeatureBasis):
        return SamplePaths(basis.map, drawn, None, None, None, status, d, posterior.mesh)
    assert isinstance(basis, InducingBasis)
    kernel = cast(posterior.kernel, dtype)
    features, weights = _prior(kernel, to_prior, num, num_features, basis.Z)
    at = _values(features, weights, None, basis.Z, posterior.mesh)
    coefficients = _correction(kernel, basis, drawn, at, to_jitter)
    parts = kernel, basis.Z, coefficients, status, d, posterior.mesh
    return SamplePaths(features, weights, *parts)


def _prior(kernel, key, num, num_features, like) -> tuple[AbstractFeatureMap, Array]:
    """Draws of the prior as weights of random features."""
    check_count("num", num, minimum=1)
    check_count("num_features", num_features, minimum=1)
    try:
        return _draw(kernel, key, num, num_features, like.shape[1], like.dtype)
    except NotImplementedError as error:
        msg = (
            "functions of a posterior are drawn by random features of its kernel, and this one has "
            f"none: {error} Or take `sample`, joint draws at given points."
        )
        raise NotImplementedError(msg) from None


@eqx.filter_jit
def _draw(kernel, key, num: int, num_features: int, d: int, dtype) -> Any:
    to_features, to_weights = jax.random.split(key)
    features = random_features(kernel, to_features, num_features, d)
    return features, jax.random.normal(to_weights, (features.size, num), dtype)


@eqx.filter_jit
def _values(features, weights, sections, Z, mesh) -> Float[Array, "m num"]:
    """Values at Z, tile by tile; `sections` is (kernel, X, coefficients) or None."""

    def values(part, features, weights, sections):
        def of_tile(z, _):
            value = matmul(features(z), weights)
            if sections is not None:
                kernel, X, coefficients = sections
                value = value + matmul(kernel.cross(z, X), coefficients)
            return value

        columns = weights.shape[0] + (0 if sections is None else sections[1].shape[0])
        return map_row_tiles(of_tile, part, tile_rows(part.shape[0], columns))

    return map_rows(values, mesh, Z, features, weights, sections)


@eqx.filter_jit
def _evaluate(paths: SamplePaths, Z: Array) -> Float[Array, "num m"]:
    sections = None if paths.X is None else (paths.kernel, paths.X, paths.coefficients)
    return _values(paths.features, paths.weights, sections, Z, paths.mesh).T


@eqx.filter_jit
def _coordinates(mean: Array, factors: Any, normal: Array) -> Float[Array, "m num"]:
    """Draws of N(mean, shift (root root^T)^-1)."""
    spread = jax.scipy.linalg.solve_triangular(factors.root, normal, lower=True, trans=1)
    return mean[:, None] + jnp.sqrt(factors.shift) * spread


@eqx.filter_jit
def _correction(kernel, basis, drawn, at, key) -> Float[Array, "m num"]:
    """Coefficients that take draws of the prior, `at` the inducing points, to those drawn."""
    # The basis is that of k(Z, Z) plus a jitter: the draw gets as much more noise there.
    jitter = jnp.sum(basis.lower**2, axis=1) - kernel.diagonal(basis.Z)
    noise = jnp.sqrt(jnp.maximum(jitter, 0))[:, None] * jax.random.normal(key, at.shape, at.dtype)
    return basis.coefficients(drawn - basis.whiten(at + noise))
