"""Functions drawn from a posterior: its mean and covariance, the same function in every call."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gplsq import kernels
from gplsq.gp import SamplePaths, condition
from gplsq.kernels import random_features
from gplsq.operators import RowTable
from gplsq.solvers import LSMR
from gplsq.testing import central_difference

KERNEL = 1.3 * kernels.Matern32([0.8, 1.4])
NOISE = 0.05
# How a posterior is asked for; each is one of the classes, solvers or bases.
WAYS = {
    "direct": {"solver": "direct"},
    "lsmr": {"solver": "lsmr", "form": "tiled"},
    "inducing": {"solver": "inducing", "inducing": 15},
    "features": {"solver": "features", "num_features": 40},
}

each_way = pytest.mark.parametrize("way", WAYS)


def _data(rng, n=40, dtype=np.float32):
    X, Z = rng.standard_normal((n, 2)).astype(dtype), rng.standard_normal((6, 2)).astype(dtype)
    return X, np.sin(2 * X[:, 0]).astype(dtype), Z


_kept = {}


def _posterior(rng, way, dtype=np.float32):
    """A posterior of the seeded data, made once."""
    X, y, Z = _data(rng, dtype=dtype)
    if (way, dtype) not in _kept:
        posterior = condition(KERNEL, X, y, noise_variance=NOISE, rtol=1e-4, **WAYS[way])
        _kept[way, dtype] = posterior
    return _kept[way, dtype], Z


@each_way
def test_draws_have_the_mean_and_covariance_of_the_posterior(way, rng):
    """Over many keys, so that the features are fresh too: then the covariance has no bias."""
    posterior, Z = _posterior(rng, way)
    num = 4000

    @jax.jit
    def draw(keys):
        return jax.lax.map(lambda key: posterior.sample_paths(key, 4, num_features=64)(Z), keys)

    draws = np.asarray(draw(jax.random.split(jax.random.key(3), num)), np.float64)
    mean, covariance = np.asarray(posterior.mean(Z)), np.asarray(posterior.covariance(Z))
    std = np.sqrt(np.diagonal(covariance))
    # Draws of one key share features, so only the keys count as independent.
    assert np.all(np.abs(draws.mean((0, 1)) - mean) < 5 * std / np.sqrt(num))
    products = np.einsum("kpi,kpj->kij", draws - mean, draws - mean) / 4
    error = np.abs(products.mean(0) - covariance)
    assert np.all(error < 5 * products.std(0) / np.sqrt(num) + 1e-4)
    # The standard errors are small enough to tell the posterior from the prior.
    assert np.all(5 * products.std(0) / np.sqrt(num) < 0.05)


def test_draws_agree_with_exact_sampling(rng):
    posterior, Z = _posterior(rng, "direct")
    num = 2000
    exact = np.asarray(posterior.sample(jax.random.key(0), Z, num))
    paths = np.asarray(posterior.sample_paths(jax.random.key(1), num, num_features=4096)(Z)).T
    std = np.sqrt(np.diagonal(np.cov(exact)))
    assert np.all(np.abs(exact.mean(1) - paths.mean(1)) < 5 * std * np.sqrt(2 / num))
    # Features of one key add an error of about 1 / sqrt(4096) of the prior's variance.
    tolerance = 5 * np.sqrt(4 / num) * std[:, None] * std + 3 * 1.3 / np.sqrt(4096)
    assert np.all(np.abs(np.cov(exact) - np.cov(paths)) < tolerance)


def test_a_path_is_a_draw_of_the_prior_corrected_by_a_dense_solve(rng, x64):
    posterior, Z = _posterior(rng, "direct", np.float64)
    paths = posterior.sample_paths(jax.random.key(2), 3)
    X, y = np.asarray(posterior.X), np.asarray(posterior.y)
    # What was drawn at the data and for the noise together follows from the correction.
    prior_at_X = np.asarray(paths.features(posterior.X) @ paths.weights)
    K = np.asarray(KERNEL(X))
    noise = y[:, None] - prior_at_X - (K + NOISE * np.eye(40)) @ np.asarray(paths.coefficients)
    assert 0.7 * NOISE < np.mean(noise**2) < 1.4 * NOISE
    gain = np.linalg.solve(K + NOISE * np.eye(40), y[:, None] - prior_at_X - noise)
    expected = np.asarray(paths.features(jnp.asarray(Z)) @ paths.weights) + KERNEL(Z, X) @ gain
    np.testing.assert_allclose(paths(Z), expected.T, atol=1e-9)


@each_way
def test_a_function_has_the_same_value_in_every_call(way, rng, dtype):
    posterior, Z = _posterior(rng, way, dtype)
    paths = posterior.sample_paths(jax.random.key(0), 5)
    assert isinstance(paths, SamplePaths)
    assert bool(jnp.all(paths.ok))
    alone, values = paths(Z[2:3]), paths(Z)
    assert values.shape == (5, 6)
    assert values.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(values[:, 2:3], alone, atol=200 * eps)
    many = paths(np.concatenate([np.ones((3000, 2), dtype), Z]))  # several tiles
    np.testing.assert_allclose(many[:, 3000:], values, atol=200 * eps)
    again = posterior.sample_paths(jax.random.key(0), 5)(Z)
    np.testing.assert_array_equal(again, values)
    assert not np.allclose(posterior.sample_paths(jax.random.key(1), 5)(Z), values, atol=0.01)


def test_with_little_noise_all_functions_pass_through_the_data(rng, x64):
    X, y, _ = _data(rng, 20, np.float64)
    posterior = condition(KERNEL, X, y, noise_variance=1e-8)
    paths = posterior.sample_paths(jax.random.key(0), 4)
    np.testing.assert_allclose(paths(X), np.tile(y, (4, 1)), atol=1e-3)
    far = np.asarray(paths(X + 50))
    assert np.std(far) > 0.5


@each_way
def test_functions_can_be_jitted_and_differentiated_in_their_points(way, rng, x64):
    posterior, Z = _posterior(rng, way, np.float64)
    paths = posterior.sample_paths(jax.random.key(0), 2)
    compiled = eqx.filter_jit(lambda paths, Z: paths(Z))
    np.testing.assert_allclose(compiled(paths, Z), paths(Z), atol=1e-12)

    def total(flat):
        return jnp.sum(jnp.cos(paths(flat.reshape(6, 2))))

    flat = Z.ravel()
    gradient = jax.jit(jax.grad(total))(flat)
    np.testing.assert_allclose(gradient, central_difference(jax.jit(total), flat), atol=1e-6)


@pytest.mark.parametrize("solver", ["direct", "lsmr"])
def test_functions_follow_the_hyperparameters(solver, rng, x64):
    X, y, Z = _data(rng, dtype=np.float64)

    def total(p):
        kernel = p[0] * kernels.RBF(p[1])
        posterior = condition(kernel, X, y, noise_variance=p[2], solver=solver, rtol=1e-12)
        return jnp.sum(jnp.sin(posterior.sample_paths(jax.random.key(0), 3)(Z)))

    p = np.array([1.2, 0.9, 0.1])
    gradient = jax.jit(jax.grad(total))(p)
    np.testing.assert_allclose(gradient, central_difference(jax.jit(total), p), rtol=1e-5)


def test_no_array_of_all_points_by_all_rows_is_made(rng):
    X, y, _ = _data(rng, 1000)
    posterior = condition(KERNEL, X, y, noise_variance=NOISE, solver="lsmr")
    Z = np.zeros((20_000, 2), np.float32)
    fits = {
        "paths": posterior.sample_paths(jax.random.key(0), 2, num_features=256),
        "mean": posterior.mean,
        "variance": posterior.variance,
    }
    for name, fn in fits.items():
        analysis = jax.jit(lambda Z, fn=fn: fn(Z)).lower(Z).compile().memory_analysis()
        assert analysis.temp_size_in_bytes < 0.5 * 4 * len(Z) * len(X), name


def test_a_model_of_random_features_needs_no_more_features(rng):
    posterior, _ = _posterior(rng, "features")
    paths = posterior.sample_paths(jax.random.key(0), 3, num_features=1)
    assert paths.X is None
    assert paths.weights.shape == (40, 3)


def test_a_table_beyond_memory_and_a_posterior_without_its_data_serve(rng):
    X, y, Z = _data(rng, 200)
    table = RowTable(X)
    posterior = condition(KERNEL, table, y, noise_variance=NOISE, inducing=20)
    values = posterior.sample_paths(jax.random.key(0), 2)(Z)
    assert np.all(np.isfinite(values))
    bare = posterior.for_pickle()
    np.testing.assert_array_equal(bare.sample_paths(jax.random.key(0), 2)(Z), values)


def test_rows_of_their_own_noise_are_followed_as_closely_as_that(rng):
    X, y, _ = _data(rng, 20)
    weight = np.where(np.arange(20) < 10, 100.0, 1.0).astype(np.float32)
    points = np.column_stack([X, weight])
    posterior = condition(kernels.Weighted(KERNEL), points, weight * y, noise_variance=1.0)
    paths = posterior.sample_paths(jax.random.key(0), 50)
    error = np.asarray(paths(np.column_stack([X, np.ones(20, np.float32)]))) - y
    assert np.abs(error[:, :10]).max() < 0.1
    assert np.abs(error[:, 10:]).max() > 1


def test_a_kernel_without_features_is_refused_with_a_way_out(rng):
    X, y, _ = _data(rng)
    for settings in (WAYS["direct"], WAYS["inducing"]):
        posterior = condition(kernels.Polynomial(), X, y, noise_variance=NOISE, **settings)
        with pytest.raises(NotImplementedError, match=r"Polynomial.*`sample`, joint draws"):
            posterior.sample_paths(jax.random.key(0))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"num": 0}, ValueError, "num must be at least 1; got 0"),
        ({"num": 1.5}, TypeError, "num must be a whole number"),
        ({"num_features": 0}, ValueError, "num_features must be at least 1"),
        ({"num_features": 1}, ValueError, "Ask for more features"),
    ],
)
def test_bad_numbers_are_refused(settings, error, match, rng):
    posterior, _ = _posterior(rng, "direct")
    with pytest.raises(error, match=match):
        posterior.sample_paths(jax.random.key(0), **settings)


def test_points_of_another_space_are_refused(rng):
    posterior, _ = _posterior(rng, "direct")
    paths = posterior.sample_paths(jax.random.key(0))
    for bad in (np.zeros((3, 5)), np.zeros(2)):
        with pytest.raises(ValueError, match=r"Z must be a table of points"):
            paths(bad)


def test_a_solve_that_missed_its_tolerance_is_told(rng):
    X, y, _ = _data(rng)
    stingy = LSMR(rtol=1e-14, max_steps=1)
    posterior = condition(kernels.RBF(), X, y, noise_variance=0.01, solver=stingy)
    with pytest.warns(ConvergenceWarning, match="solves of 3 of 3 sampled functions"):
        paths = posterior.sample_paths(jax.random.key(0), 3)
    assert not bool(jnp.any(paths.ok))


def test_features_of_a_line_draw_lines(rng, x64):
    """A kernel of finitely many functions: the draw of the prior is exact."""
    X, y, Z = _data(rng, dtype=np.float64)
    kernel = kernels.Linear(0.7) + 0.4
    assert random_features(kernel, jax.random.key(0), 99, 2).size == 3
    paths = condition(kernel, X, y, noise_variance=NOISE).sample_paths(jax.random.key(0), 2)
    middle = paths((Z[:3] + Z[3:]) / 2)
    np.testing.assert_allclose(middle, (paths(Z[:3]) + paths(Z[3:])) / 2, atol=1e-9)
