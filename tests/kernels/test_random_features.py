"""Random features: unbiased, of exact variance, and for every algebra of kernels that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import kernels
from gplsq.kernels import (
    AbstractFeatureMap,
    AbstractPairKernel,
    AbstractRadial,
    mixture_scales,
    random_features,
)

SCALES = np.array([0.6, 1.1, 0.9])
KERNELS = {
    "RBF": kernels.RBF(SCALES),
    "Matern12": kernels.Matern12(SCALES),
    "Matern32": kernels.Matern32(0.8),
    "Matern52": kernels.Matern52(SCALES),
    "RationalQuadratic": kernels.RationalQuadratic(0.8, 0.7),
    "Periodic": kernels.Periodic(0.9, 2.0),
    "Linear": kernels.Linear(np.array([0.2, 0.4, 0.6])),
    "Constant": kernels.Constant(0.7),
    "scaled": 2.5 * kernels.RBF(0.7),
    "columns": kernels.Matern32(0.8).on([2, 0]),
    "columns of columns": kernels.RBF(0.8).on([1]).on([2, 0]),
    "sum": 1.5 * kernels.RBF(0.7) + kernels.Linear(0.3).on(1) + 0.5,
    "product": kernels.RBF(0.9) * (2.0 * kernels.Periodic(1.0, 3.0).on(0)),
    "product with a line": kernels.RBF(0.9) * (kernels.Linear(0.5).on([0, 1]) + 0.2),
    "weighted": kernels.Weighted(kernels.RBF(0.8)),
    "weighted, scaled": 2.0 * kernels.Weighted(kernels.RBF(0.8)),
    "columns of weighted": kernels.Weighted(kernels.RBF(0.8)).on([2, 0]),
    "product of sums": (kernels.RBF(0.9) + kernels.Matern52(2.0)) * (kernels.RBF(0.5) + 0.3),
}


def points(rng, dtype=np.float32):
    return rng.uniform(-1, 1, (5, 3)).astype(dtype), rng.uniform(-1, 1, (4, 3)).astype(dtype)


@pytest.mark.parametrize("name", KERNELS)
def test_inner_products_estimate_the_kernel_without_bias(rng, name):
    kernel, (X, Z) = KERNELS[name], points(rng)
    many = 200 if name == "RationalQuadratic" else 4000  # quantiles of its scales take time

    @jax.jit
    @jax.vmap
    def estimate(key):
        phi = random_features(kernel, key, 24, 3)
        assert phi.size <= 24
        return phi(X) @ phi(Z).T

    estimates = np.asarray(estimate(jax.random.split(jax.random.key(0), many)), np.float64)
    error = estimates.mean(axis=0) - np.asarray(kernel(X, Z))
    standard = estimates.std(axis=0) / np.sqrt(many) + 1e-6
    assert np.max(np.abs(error) / standard) < 5


@pytest.mark.parametrize("name", ["RBF", "Matern12", "scaled", "Linear", "product", "sum"])
def test_the_variance_is_exact(rng, name):
    X, _ = points(rng)
    phi = random_features(KERNELS[name], jax.random.key(1), 20, 3)(X)
    np.testing.assert_allclose(
        jnp.sum(phi**2, axis=1), KERNELS[name].diagonal(X), rtol=1e-4, atol=1e-6
    )


def test_orthogonal_frequencies_have_a_smaller_error_than_independent_ones(rng):
    """Yu et al. (2016), theorem 3, for 16 inputs at distances where it is largest."""
    X, kernel = rng.standard_normal((30, 16)).astype(np.float32) / 8, kernels.RBF(1.0)
    exact, count = np.asarray(kernel(X)), 64

    def orthogonal(key):
        phi = random_features(kernel, key, 2 * count, 16)(X)
        return jnp.mean((phi @ phi.T - exact) ** 2)

    def independent(key):
        angles = X @ jax.random.normal(key, (16, count))
        phi = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], 1) / np.sqrt(count)
        return jnp.mean((phi @ phi.T - exact) ** 2)

    keys = jax.random.split(jax.random.key(0), 100)
    errors = [float(jnp.mean(jax.jit(jax.vmap(fn))(keys))) for fn in (orthogonal, independent)]
    assert errors[0] < 0.6 * errors[1]


def test_the_error_falls_with_the_root_of_their_number(rng):
    (X, Z), kernel = points(rng), kernels.Matern32(0.8)
    exact, keys = np.asarray(kernel(X, Z)), jax.random.split(jax.random.key(0), 200)

    def error(count):
        def squared(key):
            phi = random_features(kernel, key, count, 3)
            return jnp.mean((phi(X) @ phi(Z).T - exact) ** 2)

        return float(jnp.sqrt(jnp.mean(jax.jit(jax.vmap(squared))(keys))))

    assert 3.2 < error(50) / error(800) < 4.8


def test_features_follow_the_hyperparameters_smoothly(rng, x64):
    X, _ = points(rng, np.float64)

    def total(p):
        kernel = p[0] * kernels.RationalQuadratic(p[1] * np.ones(3), p[2])
        phi = random_features(kernel, jax.random.key(3), 12, 3)(X)
        return jnp.sum(jnp.cos(jnp.arange(5.0) @ phi))

    p, step = np.array([1.3, 0.7, 0.9]), 1e-5
    slopes = [(total(p + step * e) - total(p - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(p)), slopes, rtol=1e-6)


def test_a_stationary_kernel_of_ones_own_needs_its_scales_only(rng):
    class Cauchy(AbstractRadial):
        lengthscale: jax.Array

        def profile(self, q):
            return 1 / (1 + q)

    kernel, (X, Z) = Cauchy(jnp.asarray(0.9)), points(rng)
    with pytest.raises(NotImplementedError, match=r"mixture_scales\.register"):
        random_features(kernel, jax.random.key(0), 10, 3)
    # 1 / (1 + q) = E exp(-t q) for an exponential t.
    mixture_scales.register(
        Cauchy, lambda kernel, key, num: jnp.sqrt(2 * jax.random.exponential(key, (num,)))
    )
    phi = random_features(kernel, jax.random.key(0), 60_000, 3)
    np.testing.assert_allclose(phi(X) @ phi(Z).T, kernel(X, Z), atol=0.03)


def test_a_map_of_ones_own_is_scaled_and_looks_at_columns(rng):
    class Line(AbstractPairKernel):
        def pair(self, x, z):
            return x[0] * z[0]

    class First(AbstractFeatureMap):
        size = 1

        def __call__(self, X):
            return X[:, :1]

    random_features.register(Line, lambda kernel, key, num, d: First())
    X, Z = points(rng)
    for kernel in (2.0 * Line(), Line().on([1]), (2.0 * Line()).on([2, 0])):
        phi = random_features(kernel, jax.random.key(0), 4, 3)
        assert phi.size == 1
        np.testing.assert_allclose(phi(X) @ phi(Z).T, kernel(X, Z), rtol=1e-6, atol=1e-7)


def test_kernels_without_features_and_too_few_features_are_refused():
    class Mine(AbstractPairKernel):
        def pair(self, x, z):
            return jnp.minimum(x[0], z[0])

    key = jax.random.key(0)
    for kernel in (kernels.Polynomial(), Mine(), kernels.RBF() + kernels.Polynomial()):
        with pytest.raises(NotImplementedError, match="inducing points"):
            random_features(kernel, key, 10, 3)
    for kernel, num in ((kernels.RBF(), 1), (kernels.Linear(), 2), (kernels.Constant(), 0)):
        with pytest.raises(ValueError, match="Ask for more features"):
            random_features(kernel, key, num, 3)
    with pytest.raises(ValueError, match="the points have 3 columns"):
        random_features(kernels.RBF().on(3), key, 10, 3)
