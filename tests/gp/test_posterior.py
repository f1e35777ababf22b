"""The posterior against the textbook formulas, written out with NumPy."""

import jax
import numpy as np
import pytest

from gplsq import kernels
from gplsq.gp import choose_solver, condition
from gplsq.solvers import LSMR, Direct

KERNEL = 1.3 * kernels.Matern32([0.8, 1.4])
NOISE = 0.05
# rtol=1e-10 makes LSMR as good as a factor here; the direct solver has no use for it.
SOLVERS = ("direct", "lsmr")


def _gram(X, Z):
    squares = (((X[:, None] - Z[None]) / np.array([0.8, 1.4])) ** 2).sum(axis=2)
    s = np.sqrt(3 * squares)
    return 1.3 * (1 + s) * np.exp(-s)


@pytest.fixture
def data(rng):
    X, Z = rng.standard_normal((40, 2)), rng.standard_normal((6, 2))
    return X, np.sin(2 * X[:, 0]) + 0.2 * rng.standard_normal(40), Z


def _textbook(X, y, Z):
    """Mean and covariance of the latent function: Rasmussen & Williams (2006), eq. 2.23, 2.24."""
    k = _gram(X, Z)
    weights = np.linalg.solve(_gram(X, X) + NOISE * np.eye(len(X)), k)
    return weights.T @ y, _gram(Z, Z) - k.T @ weights


@pytest.fixture(params=SOLVERS)
def posterior(request, data, x64):
    X, y, _ = data
    return condition(KERNEL, X, y, noise_variance=NOISE, solver=request.param, rtol=1e-10)


def test_the_mean_is_that_of_the_textbook(posterior, data):
    mean, _ = _textbook(*data)
    assert bool(posterior.solution.ok)
    np.testing.assert_allclose(posterior.mean(data[2]), mean, rtol=1e-6, atol=1e-8)


def test_the_coefficients_solve_the_kernel_system(posterior, data):
    X, y, _ = data
    coefficients = np.linalg.solve(_gram(X, X) + NOISE * np.eye(len(X)), y)
    np.testing.assert_allclose(posterior.solution.value, coefficients, rtol=1e-6, atol=1e-7)


def test_the_exact_variance_and_covariance_are_those_of_the_textbook(posterior, data):
    covariance = _textbook(*data)[1]
    variance = np.diagonal(covariance)
    Z = data[2]
    np.testing.assert_allclose(posterior.variance(Z, "exact"), variance, rtol=1e-6)
    found = np.asarray(posterior.covariance(Z))
    np.testing.assert_allclose(found, covariance, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found, found.T)


def test_leave_one_out_is_a_refit_without_each_row(posterior, data):
    X, y, _ = data
    rows = np.array([0, 17, 39])
    residual, latent = posterior.leave_one_out(rows)
    for i, r, v in zip(rows, residual, latent, strict=True):
        rest = np.arange(len(X)) != i
        mean, covariance = _textbook(X[rest], y[rest], X[i : i + 1])
        np.testing.assert_allclose(r, y[i] - mean[0], rtol=1e-6)
        # 39 other rows: all are among the 64 nearest, so the bound is exact too.
        np.testing.assert_allclose(v, covariance[0, 0], rtol=1e-6)


def test_samples_have_the_mean_and_covariance_of_the_posterior(data, x64):
    X, y, Z = data
    posterior = condition(KERNEL, X, y, noise_variance=NOISE)
    num = 4000
    draws = np.asarray(posterior.sample(jax.random.key(1), Z, num))
    assert draws.shape == (6, num)
    mean, covariance = _textbook(X, y, Z)
    std = np.sqrt(np.diagonal(covariance))
    # Five standard errors of a mean, and of a covariance (at most sqrt(2 / num) std std).
    assert np.all(np.abs(draws.mean(axis=1) - mean) < 5 * std / np.sqrt(num))
    error = np.abs(np.cov(draws) - covariance)
    assert np.all(error < 5 * np.sqrt(2 / num) * std[:, None] * std[None])


def test_one_sample_is_a_column_and_follows_its_key(data):
    X, y, Z = (part.astype(np.float32) for part in data)
    posterior = condition(KERNEL, X, y, noise_variance=NOISE)
    first, again, other = (posterior.sample(jax.random.key(seed), Z) for seed in (0, 0, 1))
    assert first.shape == (6, 1)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("solver", SOLVERS)
def test_results_keep_the_dtype_of_the_data(solver, data):
    X, y, Z = (part.astype(np.float32) for part in data)
    posterior = condition(KERNEL, X, y, noise_variance=NOISE, solver=solver)
    results = (posterior.mean(Z), posterior.variance(Z), *posterior.leave_one_out(np.arange(5)))
    assert {result.dtype for result in results} == {np.dtype(np.float32)}
    mean, _ = _textbook(*data)
    # rtol of LSMR in float32 is 1e-2: the mean is off by about that many standard deviations.
    np.testing.assert_allclose(posterior.mean(Z), mean, atol=2e-2)


def test_the_plan_tells_which_solver_and_why(data):
    X, y, _ = (part.astype(np.float32) for part in data)
    plans = {
        solver: condition(KERNEL, X, y, noise_variance=NOISE, solver=solver).plan
        for solver in ("auto", "direct", "lsmr")
    }
    assert "direct (dense Cholesky): 40 rows" in plans["auto"]
    assert "asked for" in plans["direct"]
    assert "LSMR: asked for" in plans["lsmr"]
    mine = condition(KERNEL, X, y, noise_variance=NOISE, solver=Direct())
    assert "chosen by the caller" in mine.plan


def test_the_solver_is_dense_up_to_5000_rows_and_lsmr_beyond():
    assert isinstance(choose_solver(5000, np.float32).solver, Direct)
    beyond = choose_solver(5001, np.float32)
    assert isinstance(beyond.solver, LSMR)
    assert float(beyond.solver.rtol) == pytest.approx(1e-2)
    assert float(choose_solver(10**5, np.float64).solver.rtol) == pytest.approx(1e-4)
    assert float(choose_solver(10**5, np.float32, rtol=0.3).solver.rtol) == pytest.approx(0.3)


@pytest.fixture
def broken(rng):
    """Every row twice and no noise to speak of: no Cholesky factor in float32."""
    X = np.tile(rng.standard_normal((20, 2)), (2, 1)).astype(np.float32)
    return X, np.sin(X[:, 0])


def test_auto_falls_back_to_lsmr_where_the_factor_breaks_and_says_so(broken):
    posterior = condition(KERNEL, *broken, noise_variance=1e-12)
    assert "LSMR" in posterior.plan
    assert "Cholesky factor broke down in float32" in posterior.plan
    assert isinstance(posterior.solver, LSMR)
    assert np.all(np.isfinite(posterior.mean(broken[0])))


def test_a_direct_solve_that_was_asked_for_fails_visibly(broken):
    posterior = condition(KERNEL, *broken, noise_variance=1e-12, solver="direct")
    assert not bool(posterior.solution.ok)
    assert "broke down" in posterior.solution.report()
    assert np.all(np.isnan(posterior.mean(broken[0])))


def test_a_target_that_is_not_finite_is_no_reason_to_fall_back(data):
    X, y, _ = (part.astype(np.float32) for part in data)
    y[3] = np.nan
    posterior = condition(KERNEL, X, y, noise_variance=NOISE)
    assert "direct" in posterior.plan
    assert not bool(posterior.solution.ok)


def test_integer_inputs_are_taken_as_floats():
    posterior = condition(kernels.RBF(), np.arange(4)[:, None], np.arange(4), noise_variance=1)
    mean = posterior.mean(np.array([[1]]))
    K = np.exp(-((np.arange(4)[:, None] - np.arange(4)) ** 2) / 2)
    expected = K[1] @ np.linalg.solve(K + np.eye(4), np.arange(4))
    np.testing.assert_allclose(mean, [expected], rtol=1e-5)


@pytest.mark.parametrize(
    "shapes", [((5,), (5,)), ((5, 2), (4,)), ((5, 2), (5, 0)), ((5, 2), (5, 2, 1)), ((5, 2), ())]
)
def test_tables_that_do_not_match_are_refused(shapes):
    X, y = (np.ones(shape, np.float32) for shape in shapes)
    with pytest.raises(ValueError, match=r"X must have shape \(n, d\) and y shape \(n,\)"):
        condition(KERNEL, X, y, noise_variance=NOISE)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"noise_variance": 0.0}, ValueError, "noise_variance must be greater than 0"),
        ({"noise_variance": -1.0}, ValueError, "noise_variance must be greater than 0"),
        ({"noise_variance": float("nan")}, ValueError, "noise_variance must be finite"),
        ({"noise_variance": "auto"}, TypeError, "noise_variance must be a real number"),
        ({"solver": "cg"}, ValueError, "solver must be one of 'auto', 'direct', 'lsmr'"),
        ({"form": "sparse"}, ValueError, "form must be one of 'auto', 'dense', 'tiled'"),
    ],
)
def test_bad_settings_are_refused(data, settings, error, message):
    X, y, _ = (part.astype(np.float32) for part in data)
    with pytest.raises(error, match=message):
        condition(KERNEL, X, y, **{"noise_variance": NOISE, **settings})


def test_a_kernel_that_is_none_is_refused(data):
    X, y, _ = (part.astype(np.float32) for part in data)
    with pytest.raises(TypeError, match="kernel must be a gplsq kernel"):
        condition("rbf", X, y, noise_variance=NOISE)


def test_bad_points_and_methods_are_refused(data):
    X, y, Z = (part.astype(np.float32) for part in data)
    posterior = condition(KERNEL, X, y, noise_variance=NOISE)
    for call in (posterior.mean, posterior.variance, posterior.covariance):
        for bad in (Z[0], Z[:, :1]):
            with pytest.raises(ValueError, match=r"Z must be a table of points, shape \(m, 2\)"):
                call(bad)
    with pytest.raises(ValueError, match="method must be one of 'auto', 'exact', 'neighbours'"):
        posterior.variance(Z, "best")


def test_no_solver_given_is_the_automatic_choice(rng):
    X = rng.standard_normal((12, 2)).astype(np.float32)
    kernel = kernels.RBF()
    plans = [
        condition(kernel, X, X[:, 0], noise_variance=0.1, solver=solver).plan
        for solver in (None, "auto")
    ]
    assert plans[0] == plans[1]
