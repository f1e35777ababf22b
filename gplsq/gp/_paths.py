"""Functions drawn from a posterior: a draw of the prior, corrected by what the data say.

If f is a draw of the prior and e one of the noise, then `f + k(., X) (K + s^2 I)^-1 (y - f(X) - e)`
is one of the posterior (Matheron's rule). With random features for f it is a function that can be
evaluated anywhere, any number of times (Wilson, Borovitskiy, Terenin, Mostowsky & Deisenroth 2020,
2021). The correction is a solve with one column for each draw of each output.
"""

from dataclasses import replace
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
    function; of p outputs (num, m, p). The functions are fixed: the same point has the same values
    in every call, whatever else Z holds. Differentiable in Z and, where the posterior was, in the
    hyperparameters.

    Attributes
    ----------
    features, weights
        The draws of the prior: `features(z) . weights`, (r,) and (r, c): a column for each draw, or
        c = num p columns, draw by draw.
    kernel, X, coefficients
        What the data add: `sum_i coefficients_i k(z, x_i)`, with (n, d) data rows or inducing
        points and coefficients (n, c). None for a model of random features, which needs nothing
        added.
    status
        A `gplsq.solvers.STATUS` code of each function's solve, shape (num,) or (num, p).
    num_outputs
        p, or None for one output that is a vector.
    basis, mean_weights
        Functions of the mean and their drawn coefficients, (q,) and (q, c); None around zero.
    mesh
        The devices that share the work.
    """

    features: AbstractFeatureMap
    weights: Float[Array, "r c"]
    kernel: AbstractKernel | None
    X: Float[Array, "n d"] | None
    coefficients: Float[Array, "n c"] | None
    status: Int[Array, "num *p"]
    num_columns: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    num_outputs: int | None = eqx.field(static=True, default=None)
    basis: Any = None
    mean_weights: Float[Array, "q c"] | None = None

    @property
    def ok(self) -> Bool[Array, "num *p"]:
        """Where the function's solve met its tolerance."""
        return status_ok(self.status)

    def __call__(self, Z: ArrayLike) -> Float[Array, "num m *p"]:
        """Values at Z, shape (m, d).

        Raises
        ------
        ValueError
            If Z is no table of points like the data.

        Notes
        -----
        Cost: m n kernel entries, m r features and 2 m (n + r) c flops, in tiles: nothing of size
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

    def around(self, basis: Any, weights: Array, explained: Array) -> "SamplePaths":
        """With `(h(z) - g(z)) . weights` added, h the basis of a mean.

        g is what the data predict of h: `explained`, shape (n, q) or (r, q), are its coefficients.
        """
        changed = "weights" if self.coefficients is None else "coefficients"
        left = {changed: getattr(self, changed) - matmul(explained, weights)}
        return replace(self, basis=basis, mean_weights=weights, **left)


class _Sections(eqx.Module):
    """`k(z, x_i)` for all i."""

    kernel: AbstractKernel
    X: Float[Array, "n d"]

    def __call__(self, Z: Array) -> Array:
        return self.kernel.cross(Z, self.X)


def exact_paths(posterior: Any, key: Array, num: int, num_features: int) -> SamplePaths:
    """Of a `Posterior`: one block solve by its own solver, which is prepared already.

    The mean's coefficients are subtracted from, so that all paths have exactly that mean.
    """
    check_count("num", num, minimum=1)
    X, noise, value = posterior.X, posterior.noise_variance, posterior.solution.value
    kernel = cast(posterior.kernel, X.dtype)
    to_prior, to_noise = jax.random.split(key)
    mean = _for_each(value, num)
    features, weights = _prior(kernel, to_prior, mean.shape[1], num_features, X)
    drawn = _noisy_values(features, weights, X, noise, to_noise, posterior.operator.mesh)
    settings = {"damp": jnp.sqrt(noise), "solver": posterior.solver, "throw": False}
    solution = lstsq(posterior.operator, drawn, preconditioner=posterior.prepared, **settings)
    status = solution.status.reshape(num, *value.shape[1:])
    parts = kernel, X, mean - solution.value, status, X.shape[1], posterior.operator.mesh
    return SamplePaths(features, weights, *parts, num_outputs=_outputs(value))


def low_rank_paths(posterior: Any, key: Array, num: int, num_features: int) -> SamplePaths:
    """Of a `LowRankPosterior`: coordinates in its basis are drawn by the factor of its variance.

    They have the mean and covariance of `mean` and `covariance`. With inducing points, what these
    do not explain comes from the draw of the prior.
    """
    check_count("num", num, minimum=1)
    basis, dtype, d = posterior.basis, posterior.X.dtype, posterior.X.shape[1]
    value = posterior.solution.value
    to_prior, to_basis, to_jitter = jax.random.split(key, 3)
    mean = _for_each(value, num)
    normal = jax.random.normal(to_basis, mean.shape, dtype)
    drawn = _coordinates(mean, posterior.factors, normal)
    status = jnp.full((num, *value.shape[1:]), STATUS.EXACT, jnp.int32)
    rest = status, d, posterior.mesh, _outputs(value)
    if isinstance(basis, FeatureBasis):
        return SamplePaths(basis.map, drawn, None, None, None, *rest)
    assert isinstance(basis, InducingBasis)
    kernel = cast(posterior.kernel, dtype)
    features, weights = _prior(kernel, to_prior, mean.shape[1], num_features, basis.Z)
    at = _values([(features, weights)], basis.Z, posterior.mesh)
    coefficients = _correction(kernel, basis, drawn, at, to_jitter)
    return SamplePaths(features, weights, kernel, basis.Z, coefficients, *rest)


def _for_each(value: Float[Array, "n *p"], num: int) -> Float[Array, "n c"]:
    """The columns of the outputs once for every draw."""
    return jnp.tile(value.reshape(value.shape[0], -1), num)


def _outputs(value: Array) -> int | None:
    return None if value.ndim == 1 else value.shape[1]


def _prior(kernel, key, num, num_features, like) -> tuple[AbstractFeatureMap, Array]:
    """Draws of the prior as weights of random features."""
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
def _values(terms, Z, mesh) -> Float[Array, "m c"]:
    """The sum of `function(Z) . weights` over pairs of them, tile by tile."""

    def values(part, terms):
        def of_tile(z, _):
            return jax.tree.reduce(jnp.add, [matmul(function(z), w) for function, w in terms])

        columns = sum(weights.shape[0] for _, weights in terms)
        return map_row_tiles(of_tile, part, tile_rows(part.shape[0], columns))

    return map_rows(values, mesh, Z, terms)


@eqx.filter_jit
def _noisy_values(features, weights, X, noise, key, mesh) -> Float[Array, "n num"]:
    """Draws of the prior at the data rows, and of the noise there."""
    drawn = _values([(features, weights)], X, mesh)
    return drawn + jnp.sqrt(noise) * jax.random.normal(key, drawn.shape, X.dtype)


@eqx.filter_jit
def _evaluate(paths: SamplePaths, Z: Array) -> Float[Array, "num m *p"]:
    terms: list[Any] = [(paths.features, paths.weights)]
    if paths.kernel is not None and paths.X is not None:
        terms.append((_Sections(paths.kernel, paths.X), paths.coefficients))
    if paths.basis is not None:
        terms.append((paths.basis, paths.mean_weights))
    values = _values(terms, Z, paths.mesh)
    if paths.num_outputs is None:
        return values.T
    return jnp.moveaxis(values.reshape(Z.shape[0], -1, paths.num_outputs), 1, 0)


@eqx.filter_jit
def _coordinates(mean: Array, factors: Any, normal: Array) -> Float[Array, "m c"]:
    """Draws of N(mean, shift (root root^T)^-1)."""
    spread = jax.scipy.linalg.solve_triangular(factors.root, normal, lower=True, trans=1)
    return mean + jnp.sqrt(factors.shift) * spread


@eqx.filter_jit
def _correction(kernel, basis, drawn, at, key) -> Float[Array, "m c"]:
    """Coefficients that take draws of the prior, `at` the inducing points, to those drawn."""
    # The basis is that of k(Z, Z) plus a jitter: the draw gets as much more noise there.
    jitter = jnp.sum(basis.lower**2, axis=1) - kernel.diagonal(basis.Z)
    noise = jnp.sqrt(jnp.maximum(jitter, 0))[:, None] * jax.random.normal(key, at.shape, at.dtype)
    return basis.coefficients(drawn - basis.whiten(at + noise))
