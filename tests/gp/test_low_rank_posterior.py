"""Models of inducing points against dense algebra, and against the exact model as they grow."""

import jax
import numpy as np
import pytest

from gplsq.gp import LowRankPosterior, _low_rank, condition
from gplsq.kernels import RBF, Matern32

NOISE = 0.04


def data(rng, rows=300, dtype=np.float64):
    X = rng.uniform(-2, 2, (rows, 2)).astype(dtype)
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2 / 3 + 0.2 * rng.standard_normal(rows)
    return X, y.astype(dtype), rng.uniform(-2, 2, (25, 2)).astype(dtype)


def oracle(kernel, X, y, Z, points):
    """Mean and covariance by dense algebra (Quinonero-Candela & Rasmussen 2005, eq. 20)."""
    X, y, Z, points = (np.asarray(part, np.float64) for part in (X, y, Z, points))
    K, cross, at = (np.asarray(kernel(*pair), np.float64) for pair in ((Z,), (X, Z), (points, Z)))
    inner = NOISE * K + cross.T @ cross
    mean = at @ np.linalg.solve(inner, cross.T @ y)
    known = at @ np.linalg.solve(K, at.T)
    left = NOISE * at @ np.linalg.solve(inner, at.T)
    return mean, np.asarray(kernel(points), np.float64) - known + left


def fit(kernel, X, y, **options):
    options = {"noise_variance": NOISE, "solver": "inducing", "rtol": 1e-6, **options}
    return condition(kernel, X, y, **options)


def test_mean_and_covariance_are_those_of_dense_algebra(rng, x64):
    X, y, points = data(rng)
    kernel, Z = 1.5 * RBF(0.9), X[:20] + 0.01
    posterior = fit(kernel, X, y, inducing=Z, rtol=1e-12)
    assert isinstance(posterior, LowRankPosterior)
    assert bool(posterior.solution.ok)
    mean, covariance = oracle(kernel, X, y, Z, points)
    np.testing.assert_allclose(posterior.mean(points), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(posterior.covariance(points), covariance, atol=1e-6)
    np.testing.assert_allclose(posterior.variance(points), np.diag(covariance), atol=1e-6)


def test_float32_is_close_to_float64(rng):
    X, y, points = data(rng, dtype=np.float32)
    kernel, Z = 1.5 * Matern32(0.9), X[:40]
    posterior = fit(kernel, X, y, inducing=Z, rtol=None)
    assert posterior.mean(points).dtype == np.float32
    mean, covariance = oracle(kernel, X, y, Z, points)
    np.testing.assert_allclose(posterior.mean(points), mean, atol=5e-3)
    np.testing.assert_allclose(posterior.variance(points), np.diag(covariance), atol=8e-3)


def test_it_tends_to_the_exact_model_as_points_are_added(rng, x64):
    X, y, points = data(rng)
    kernel = 1.5 * Matern32(0.9)
    exact = condition(kernel, X, y, noise_variance=NOISE, solver="direct")
    errors, widths = [], []
    for m in (10, 40, 160, 300):
        posterior = fit(kernel, X, y, inducing=m)
        errors.append(float(np.abs(posterior.mean(points) - exact.mean(points)).max()))
        widths.append(float(np.max(posterior.variance(points) / exact.variance(points))))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4
    assert widths[0] > 2
    assert abs(widths[-1] - 1) < 1e-3


def test_leave_one_out_is_that_of_a_fit_without_the_row(rng, x64):
    X, y, _ = data(rng, 60)
    kernel, Z = 1.5 * RBF(0.9), X[:12]
    residual, variance = fit(kernel, X, y, inducing=Z, rtol=1e-10).leave_one_out(np.arange(60))
    for i in (0, 30, 59):
        others = np.arange(60) != i
        mean, covariance = oracle(kernel, X[others], y[others], Z, X[i : i + 1])
        np.testing.assert_allclose(residual[i], y[i] - mean[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(variance[i], covariance[0, 0], rtol=1e-4, atol=1e-6)


def test_the_variance_given_a_sample_of_the_rows_is_an_upper_bound(rng, monkeypatch, x64):
    X, y, points = data(rng, 1000)
    kernel, Z = 1.5 * RBF(0.9), X[:5]
    mean, covariance = oracle(kernel, X, y, Z, points)
    posterior = fit(kernel, X, y, inducing=Z)  # 16 rows a point: 80 of 1000
    variance = np.asarray(posterior.variance(points))
    assert np.all(variance >= np.diag(covariance) - 1e-9)
    assert np.max(variance - np.diag(covariance)) > 1e-5
    np.testing.assert_allclose(posterior.mean(points), mean, atol=1e-3)


@pytest.mark.parametrize("many", [300, 5000])
def test_more_points_than_rows_are_as_many_as_there_are(rng, many):
    X, y, points = data(rng, dtype=np.float32)
    posterior = fit(Matern32(0.5), X, y, inducing=many, rtol=None)
    assert posterior.Z.shape[0] <= 300
    assert np.all(np.isfinite(posterior.mean(points)))


def test_samples_have_the_posterior_mean_and_covariance(rng):
    X, y, points = data(rng, dtype=np.float32)
    posterior = fit(Matern32(0.9), X, y, inducing=30, rtol=None)
    draws = np.asarray(posterior.sample(jax.random.key(0), points[:3], 4000))
    spread = np.sqrt(np.asarray(posterior.variance(points[:3])))
    np.testing.assert_allclose(
        draws.mean(axis=1), posterior.mean(points[:3]), atol=spread.max() / 10
    )
    np.testing.assert_allclose(draws.std(axis=1), spread, rtol=0.1)


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (0, ValueError, "inducing must be at least 1; got 0"),
        (True, ValueError, "inducing must be a table"),
        ("many", TypeError, "inducing must be a number of points, or the points"),
        (np.zeros((3, 5), np.float32), ValueError, r"shape \(m, 2\); got shape \(3, 5\)"),
        (np.zeros((0, 2), np.float32), ValueError, r"got shape \(0, 2\)"),
    ],
)
def test_bad_inducing_points_are_refused(rng, bad, error, match):
    X, y, _ = data(rng, 20, np.float32)
    with pytest.raises(error, match=match):
        fit(RBF(), X, y, inducing=bad)


def test_many_rows_begin_in_the_solution_of_a_sample(rng, monkeypatch, dtype):
    X, y, points = data(rng, rows=4000, dtype=dtype)
    kernel, Z = 1.5 * Matern32(0.9), X[:20]
    begun = fit(kernel, X, y, inducing=Z, rtol=1e-4)
    monkeypatch.setattr(_low_rank, "_MUCH_LARGER", np.inf)
    plain = fit(kernel, X, y, inducing=Z, rtol=1e-4)
    assert bool(begun.solution.ok)
    assert bool(plain.solution.ok)
    assert begun.solution.stats.num_steps < plain.solution.stats.num_steps
    mean = oracle(kernel, X, y, Z, points)[0]
    np.testing.assert_allclose(begun.mean(points), mean, atol=2e-3)


def test_far_from_everything_the_variance_is_that_of_the_prior(rng):
    """What the functions do not explain is added to what the data leave of the rest."""
    X, y, _ = data(rng, 40, np.float32)
    posterior = fit(1.5 * RBF(0.9), X, y, inducing=X[:6], rtol=None)
    far = np.full((2, X.shape[1]), 50, np.float32)
    np.testing.assert_allclose(posterior.variance(far), 1.5, rtol=1e-4)
