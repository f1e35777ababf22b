"""Functions drawn for several outputs, and around fitted means: against dense algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import kernels
from gplsq.gp import MeanBasis, condition, condition_around_mean
from gplsq.testing import central_difference

KERNEL = 1.3 * kernels.Matern32([0.8, 1.4])
NOISE, N, P, NUM = 0.05, 40, 2, 3
WAYS = {
    "direct": {"solver": "direct"},
    "lsmr": {"solver": "lsmr", "form": "tiled", "rtol": 1e-10},
    "inducing": {"solver": "inducing", "inducing": 15},
    "features": {"solver": "features", "num_features": 40},
}


def _data(rng, dtype=np.float64):
    X, Z = rng.standard_normal((N, 2)).astype(dtype), rng.standard_normal((6, 2)).astype(dtype)
    return X, np.column_stack([np.sin(2 * X[:, 0]), 3 - 5 * X[:, 1]]).astype(dtype), Z


def _columns(paths, p):
    return np.asarray(paths.coefficients).reshape(N, NUM, p)


@pytest.mark.parametrize("way", ["direct", "lsmr"])
def test_functions_of_outputs_are_draws_of_the_prior_corrected_by_a_dense_solve(way, rng, x64):
    X, y, Z = _data(rng)
    paths = condition(KERNEL, X, y, noise_variance=NOISE, **WAYS[way]).sample_paths(
        jax.random.key(2), NUM
    )
    prior = [np.asarray(paths.features(jnp.asarray(A)) @ paths.weights) for A in (X, Z)]
    at_X, at_Z = (values.reshape(-1, NUM, P) for values in prior)
    S = np.asarray(KERNEL(X)) + NOISE * np.eye(N)
    # The noise that was drawn follows from the correction.
    noise = y[:, None] - at_X - np.einsum("ij,jkl->ikl", S, _columns(paths, P))
    assert 0.7 * NOISE < np.mean(noise**2) < 1.4 * NOISE
    gain = np.linalg.solve(S, (y[:, None] - at_X - noise).reshape(N, -1)).reshape(N, NUM, P)
    expected = at_Z + np.einsum("ij,jkl->ikl", np.asarray(KERNEL(Z, X)), gain)
    assert paths(Z).shape == (NUM, 6, P)
    np.testing.assert_allclose(paths(Z), np.moveaxis(expected, 1, 0), atol=1e-8)
    assert paths.ok.shape == (NUM, P)


def test_functions_around_a_mean_are_those_of_a_zero_mean_for_each_drawn_mean(rng, x64):
    X, y, Z = _data(rng)
    y, num = y[:, 0], 4000
    posterior = condition_around_mean(KERNEL, X, y, noise_variance=NOISE, mean="linear")
    paths = posterior.sample_paths(jax.random.key(0), num, num_features=64)
    H, h = (np.column_stack([np.ones(len(A)), A]) for A in (X, Z))
    S = np.asarray(KERNEL(X)) + NOISE * np.eye(N)
    spread = np.linalg.inv(H.T @ np.linalg.solve(S, H))
    centre = spread @ H.T @ np.linalg.solve(S, y)
    b = np.asarray(paths.mean_weights)
    std = np.sqrt(np.diag(spread))
    assert np.all(np.abs(b.mean(axis=1) - centre) < 5 * std / np.sqrt(num))
    assert np.all(np.abs(np.cov(b) - spread) < 5 * np.sqrt(2 / num) * np.outer(std, std))
    # y less the drawn mean, the draw of the prior and a noise is what was solved for.
    at_X, at_Z = (np.asarray(paths.features(jnp.asarray(A)) @ paths.weights) for A in (X, Z))
    noise = y[:, None] - H @ b - at_X - S @ np.asarray(paths.coefficients)
    assert abs(np.mean(noise**2) / NOISE - 1) < 0.05
    assert np.abs(noise.mean(axis=1)).max() < 5 * np.sqrt(NOISE / num)
    gain = np.linalg.solve(S, y[:, None] - H @ b - at_X - noise)
    expected = at_Z + h @ b + np.asarray(KERNEL(Z, X)) @ gain
    np.testing.assert_allclose(paths(Z), expected.T, atol=1e-8)


@pytest.mark.parametrize("mean", ["zero", "linear"])
@pytest.mark.parametrize("way", WAYS)
def test_draws_have_the_mean_and_covariance_of_each_output(way, mean, rng):
    X, y, Z = _data(rng, np.float32)
    Z = Z[:3] * np.array([1, 3], np.float32)
    settings = {"noise_variance": NOISE, **WAYS[way], "rtol": 1e-4}
    if mean == "zero":
        posterior = condition(KERNEL, X, y, **settings)
    else:
        posterior = condition_around_mean(KERNEL, X, y, mean=mean, **settings)
    keys, num = 800, 4

    @jax.jit
    def draw(keys):
        return jax.lax.map(lambda key: posterior.sample_paths(key, num, num_features=32)(Z), keys)

    draws = np.asarray(draw(jax.random.split(jax.random.key(3), keys)), np.float64)
    assert draws.shape == (keys, num, 3, P)
    centre, covariance = np.asarray(posterior.mean(Z)), np.asarray(posterior.covariance(Z))
    std = np.sqrt(np.diagonal(covariance))[:, None]
    assert np.all(np.abs(draws.mean((0, 1)) - centre) < 5 * std / np.sqrt(keys))
    away = draws - centre
    products = np.einsum("kpij,kplm->kijlm", away, away) / num
    error = products.mean(0)
    for j in range(P):
        error[:, j, :, j] -= covariance
    # Covariances between outputs are zero.
    assert np.all(np.abs(error) < 5 * products.std(0) / np.sqrt(keys) + 1e-4)


def test_functions_around_a_mean_follow_their_points_and_the_hyperparameters(rng, x64):
    X, y, Z = _data(rng)

    def total(p):
        model = {"noise_variance": p[1], "mean": "constant", "solver": "direct"}
        posterior = condition_around_mean(kernels.RBF(p[0]), X, y, **model)
        return jnp.sum(jnp.sin(posterior.sample_paths(jax.random.key(0), 2)(Z * p[2])))

    p = np.array([0.9, 0.1, 1.1])
    gradient = jax.jit(jax.grad(total))(p)
    np.testing.assert_allclose(gradient, central_difference(jax.jit(total), p), rtol=1e-5)


def test_rows_of_their_own_noise_have_functions_around_a_mean(rng):
    X, y, _ = _data(rng, np.float32)
    weight = np.where(np.arange(N) < 20, 100.0, 1.0).astype(np.float32)
    from_mean = {"mean": MeanBasis("linear", weighted=True), "noise_variance": 1.0}
    posterior = condition_around_mean(
        kernels.Weighted(KERNEL), np.column_stack([X, weight]), weight * y[:, 1], **from_mean
    )
    paths = posterior.sample_paths(jax.random.key(0), 50)
    error = np.asarray(paths(np.column_stack([X, np.ones(N, np.float32)]))) - y[:, 1]
    assert np.abs(error[:, :20]).max() < 0.1
    assert np.abs(error[:, 20:]).max() > 0.5
