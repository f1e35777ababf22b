"""Inducing points as hyperparameters: tuned ones serve better than those they started from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import kernels
from gplsq.gp import condition
from gplsq.testing import central_difference, tolerance
from gplsq.tuning import Level, tune

START = np.linspace(-2.0, -1.0, 8)[:, None]


@pytest.fixture
def table(rng, dtype):
    X = rng.uniform(-2, 2, (80, 1))
    y = np.sin(3 * X[:, 0]) + 0.1 * rng.standard_normal(80)
    return X.astype(dtype), y.astype(dtype)


def test_tuned_points_predict_better_than_those_of_the_start(table, dtype):
    X, y = table
    start = kernels.Nystrom(kernels.RBF(0.6), START.astype(dtype))
    result = tune(start, X, y, noise_variance=0.01, levels=(Level(80, 80),))
    Z = np.asarray(result.kernel.Z)
    assert Z.dtype == dtype
    grid = np.linspace(-2, 2, 200, dtype=dtype)[:, None]
    errors = []
    for points in (start.Z, Z):
        settings = {"noise_variance": result.noise_variance, "inducing": points}
        posterior = condition(result.kernel.kernel, X, y, solver="inducing", **settings)
        errors.append(
            float(jnp.sqrt(jnp.mean((posterior.mean(grid) - np.sin(3 * grid[:, 0])) ** 2)))
        )
    assert errors[1] < 0.08
    assert errors[1] < 0.5 * errors[0]


def test_the_model_tuned_is_the_one_solved(table, dtype):
    X, y = table
    kernel = kernels.Nystrom(
        1.3 * kernels.Matern52(0.7), np.linspace(-2, 2, 12, dtype=dtype)[:, None]
    )
    exact = condition(kernel, X, y, noise_variance=0.05, solver="direct").mean(X[:9])
    settings = {"noise_variance": 0.05, "inducing": kernel.Z, "rtol": 1e-5}
    low_rank = condition(kernel.kernel, X, y, solver="inducing", **settings).mean(X[:9])
    np.testing.assert_allclose(exact, low_rank, atol=tolerance(dtype, 1e4))


def test_the_gradient_in_the_points_is_that_of_differences(x64, rng):
    X = jnp.asarray(rng.standard_normal((6, 2)))

    def value(Z):
        return jnp.sum(
            jnp.sin(jnp.arange(36.0).reshape(6, 6)) * kernels.Nystrom(kernels.RBF(0.8), Z)(X)
        )

    Z = rng.standard_normal((4, 2))
    expected = central_difference(jax.jit(value), Z)
    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(Z)), expected, atol=1e-7)


def test_points_must_be_a_table():
    with pytest.raises(ValueError, match="Z must"):
        kernels.Nystrom(kernels.RBF(), np.ones(3))
