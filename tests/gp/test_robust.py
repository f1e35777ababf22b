"""Student-t noise by reweighted least squares, against a dense one written out with NumPy."""

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.exceptions import ConvergenceWarning

from gplsq import kernels
from gplsq.gp import RobustFit, condition, robust
from gplsq.operators import RowTable
from gplsq.solvers import STATUS

KERNEL = 1.5 * kernels.RBF(0.7)
N, DF, S2 = 60, 3.0, 0.02
WAYS = {
    "direct": {"solver": "direct"},
    "lsmr": {"solver": "lsmr", "rtol": 1e-9},
    "inducing": {"solver": "inducing", "inducing": N, "rtol": 1e-9},
}

each_way = pytest.mark.parametrize("way", WAYS)


def _data(rng, n=N, share=0.1, dtype=np.float64):
    """A wave with a little noise, and the same with some rows far off."""
    X = rng.uniform(-3, 3, (n, 1))
    y = np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(n)
    bad = np.arange(n) < round(share * n)
    wrong = np.where(bad, y + rng.choice([-1, 1], n) * rng.uniform(3, 30, n), y)
    Z = np.linspace(-2.8, 2.8, 50)[:, None]
    return *(part.astype(dtype) for part in (X, y, wrong, Z)), bad


def _gram(A, B):
    return 1.5 * np.exp(-((A - B.T) ** 2) / (2 * 0.7**2))


def _objective(X, y, c, s2):
    """Minus the log density of the targets and of the function with coefficients c."""
    K = _gram(X, X)
    residual = y - K @ c
    return -student.logpdf(residual, DF, scale=np.sqrt(s2)).sum() + c @ K @ c / 2


def _oracle(X, y, s2, weights, steps=3000):
    """Reweighted least squares by dense solves, from these weights to the end."""
    K = _gram(X, X)
    for _ in range(steps):
        c = np.linalg.solve(K + np.diag(s2 / weights), y)
        weights = (DF + 1) / (DF + (y - K @ c) ** 2 / s2)
    return c, weights


def _coefficients(fit):
    """Of the kernel's sections, not the weighted one's."""
    return np.asarray(fit.posterior.solution.value) * np.sqrt(np.asarray(fit.weights))


@each_way
def test_the_result_is_that_of_dense_reweighted_least_squares(way, rng, x64):
    X, _, y, Z, _ = _data(rng)
    settings = {"noise_variance": S2, "df": DF, "estimate_noise": False, "max_steps": 500}
    fit = robust(KERNEL, X, y, tolerance=1e-10, **settings, **WAYS[way])
    assert fit.ok
    c, weights = _oracle(X, y, S2, np.asarray(fit.weights))
    # Points chosen among the rows leave out what rounding cannot tell apart.
    atol = 1e-3 if way == "inducing" else 1e-4
    np.testing.assert_allclose(fit.weights, weights, atol=atol)
    np.testing.assert_allclose(fit.mean(Z), _gram(Z, X) @ c, atol=atol)
    S = _gram(X, X) + np.diag(S2 / weights)
    covariance = _gram(Z, Z) - _gram(Z, X) @ np.linalg.solve(S, _gram(X, Z))
    np.testing.assert_allclose(fit.covariance(Z), covariance, atol=atol)
    np.testing.assert_allclose(fit.variance(Z, "exact"), np.diagonal(covariance), atol=atol)
    # The objective is the Student-t one, and never rises.
    values = np.array([step.objective for step in fit.history])
    assert len(values) == fit.num_steps > 4
    assert np.all(np.diff(values) < 1e-7)
    assert values[0] - values[-1] > 1e-3
    if way != "inducing":
        expected = _objective(X, y, _coefficients(fit), S2)
        np.testing.assert_allclose(values.min(), expected, rtol=1e-6)


@pytest.mark.parametrize("start", [1e-3, 1.0])
def test_the_noise_is_a_fixed_point_wherever_it_starts(start, rng, x64):
    X, _, y, _, _ = _data(rng, 200)
    fit = robust(KERNEL, X, y, noise_variance=start, df=DF, solver="direct")
    assert fit.ok
    s2, weights = float(fit.noise_variance), np.asarray(fit.weights)
    K = _gram(X, X)
    smoother = K @ np.linalg.inv(K + np.diag(s2 / weights))
    residual = y - smoother @ y
    expected = np.sum(weights * residual**2) / (200 - np.trace(smoother))
    np.testing.assert_allclose(s2, expected, rtol=0.05)
    # The noise of the rows that are no outliers.
    assert 0.07 < np.sqrt(s2) < 0.14


@each_way
def test_gross_outliers_cost_little_accuracy(way, rng):
    X, y, wrong, Z, bad = _data(rng, 200, dtype=np.float32)
    settings = {**WAYS[way], "rtol": None}
    settings |= {"inducing": 40} if way == "inducing" else {}

    def rmse(model):
        return np.sqrt(np.mean((np.asarray(model.mean(Z)) - np.sin(2 * Z[:, 0])) ** 2))

    clean = rmse(condition(KERNEL, X, y, noise_variance=0.01, **settings))
    plain = rmse(condition(KERNEL, X, wrong, noise_variance=float(np.var(wrong)), **settings))
    fit = robust(KERNEL, X, wrong, noise_variance=0.1, **settings)
    assert isinstance(fit, RobustFit)
    assert fit.mean(Z).dtype == fit.weights.dtype == np.float32
    assert rmse(fit) < 1.3 * clean
    assert rmse(fit) < 0.2 * plain
    weights = np.asarray(fit.weights)
    assert weights[bad].max() < 0.05
    assert np.median(weights[~bad]) > 1
    assert "20 of 200 rows weigh less than a quarter" in fit.report()


def test_an_outlier_where_there_are_no_other_rows_is_not_believed_less_than_the_prior(rng, x64):
    """The first weights are from rows left out, so that one row alone cannot hide its error."""
    X, _, _, _, _ = _data(rng)
    X = np.concatenate([X, [[0.0], [0.05], [-0.05]]])
    y = np.sin(2 * X[:, 0])
    y[-3] = 4.0
    fit = robust(KERNEL, X, y, noise_variance=1e-3, estimate_noise=False, solver="direct")
    assert float(fit.weights[-3]) < 0.01
    assert abs(float(fit.mean(np.zeros((1, 1)))[0])) < 0.1


def test_many_degrees_of_freedom_are_normal_noise(rng, x64):
    X, y, _, Z, _ = _data(rng)
    fit = robust(KERNEL, X, y, noise_variance=0.01, df=1e7, estimate_noise=False, solver="direct")
    normal = condition(KERNEL, X, y, noise_variance=0.01, solver="direct")
    np.testing.assert_allclose(fit.weights, 1, atol=1e-4)
    np.testing.assert_allclose(fit.mean(Z), normal.mean(Z), atol=1e-5)


def test_a_fit_that_ends_early_says_so_and_is_usable(rng):
    X, _, y, Z, _ = _data(rng, dtype=np.float32)
    for steps in (1, 2):
        with pytest.warns(ConvergenceWarning, match=f"out of steps: .* after {steps} steps"):
            fit = robust(KERNEL, X, y, noise_variance=9 * S2, max_steps=steps)
        assert not fit.ok
        assert fit.status == STATUS.MAX_STEPS
        assert np.all(np.isfinite(fit.mean(Z)))
        # All that is told is of one and the same step.
        assert fit.noise_variance == fit.posterior.noise_variance == fit.history[-1].noise_variance
        np.testing.assert_allclose(fit.posterior.X[:, -1] ** 2, fit.weights, rtol=1e-5)


def test_numbers_that_are_not_finite_end_it_at_once(rng):
    X, _, y, _, _ = _data(rng, dtype=np.float32)
    y[3] = np.nan
    with pytest.warns(ConvergenceWarning, match="a NaN or an infinity appeared"):
        fit = robust(KERNEL, X, y, noise_variance=S2)
    assert fit.num_steps == 1
    assert fit.status == STATUS.NON_FINITE


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"noise_variance": 0.0}, ValueError, "noise_variance must be"),
        ({"df": 0}, ValueError, "df must be"),
        ({"df": np.nan}, ValueError, "df must be"),
        ({"tolerance": -1.0}, ValueError, "tolerance must be"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ({"kernel": "rbf"}, TypeError, "kernel must be a gplsq kernel"),
        ({"y": np.zeros(3)}, ValueError, r"one target for each row"),
        ({"X": np.zeros(60)}, ValueError, "X must be a table of points"),
        ({"X": RowTable(np.zeros((60, 1), np.float32))}, TypeError, "cannot be weighted"),
        ({"solver": "newton"}, ValueError, "solver must be one of"),
    ],
)
def test_bad_input_is_refused(change, error, match, rng):
    X, _, y, _, _ = _data(rng, dtype=np.float32)
    good = {"kernel": KERNEL, "X": X, "y": y, "noise_variance": S2}
    with pytest.raises(error, match=match):
        robust(**good | change)
