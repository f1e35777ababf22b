"""Quantiles, intervals, covariances and joint draws of GPRegressor."""

import copy
import pickle

import jax
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.exceptions import NotFittedError

from gplsq import GPRegressor
from gplsq.estimators import _sampling
from gplsq.kernels import Matern32, Polynomial, Scaled

KERNEL = Scaled(2.0, Matern32(np.array([0.75, 1.5], np.float32)))
NEW = ("predict_quantiles", "predict_interval", "sample_y")


@pytest.fixture
def table(rng):
    X, Z = rng.standard_normal((70, 2)), rng.standard_normal((7, 2))
    return X, 10 * np.sin(2 * X[:, 0]) + rng.standard_normal(70) + 5, Z


def fitted(X, y, **settings):
    settings = {"kernel": KERNEL, "noise_variance": 2.0**-5, "objective": None} | settings
    return GPRegressor(**settings).fit(X, y)


@pytest.mark.parametrize("include_noise", [True, False])
def test_quantiles_are_those_of_the_normal_prediction(table, include_noise):
    X, y, Z = table
    gp = fitted(X, y)
    mean, std = gp.predict(Z, return_std=True, include_noise=include_noise)
    levels = [0.05, 0.5, 0.9]
    got = gp.predict_quantiles(Z, levels, include_noise=include_noise)
    expected = norm.ppf(levels, mean[:, None], std[:, None])
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    one = gp.predict_quantiles(Z, 0.9, include_noise=include_noise)
    np.testing.assert_array_equal(one, got[:, 2])
    low, high = gp.predict_interval(Z, 0.9, include_noise=include_noise).T
    np.testing.assert_allclose(low, got[:, 0], rtol=1e-12)
    np.testing.assert_allclose(low + high, 2 * mean, rtol=1e-12)
    assert gp.predict_quantiles(Z).shape == (7, 3)


def test_intervals_hold_as_many_new_targets_as_they_say(rng):
    X = rng.uniform(-2, 2, (600, 1))
    y = np.sin(3 * X[:, 0]) + 0.3 * rng.standard_normal(600)
    gp = GPRegressor(random_state=0, levels=[(200, 30)]).fit(X[:200], y[:200])
    for coverage in (0.5, 0.9):
        low, high = gp.predict_interval(X[200:], coverage).T
        inside = np.mean((low < y[200:]) & (y[200:] < high))
        assert abs(inside - coverage) < 4 * np.sqrt(coverage * (1 - coverage) / 400) + 0.02


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_results_keep_the_dtype_of_the_fit(table, precision):
    X, y, Z = (part.astype(precision) for part in table)
    gp = fitted(X, y)
    results = [getattr(gp, name)(Z) for name in NEW]
    results += [gp.predict(Z, return_cov=True)[1], gp.sample_y(Z, method="pathwise")]
    assert {result.dtype for result in results} == {np.dtype(precision)}


@pytest.mark.parametrize(
    ("name", "bad", "error", "match"),
    [
        ("quantiles", [0.1, 1.0], ValueError, r"strictly between 0 and 1; got 1\.0"),
        ("quantiles", 0, ValueError, "strictly between 0 and 1; got 0"),
        ("quantiles", [np.nan], ValueError, "strictly between 0 and 1; got nan"),
        ("quantiles", "median", TypeError, "a number between 0 and 1, or a sequence"),
        ("quantiles", [], TypeError, "a number between 0 and 1, or a sequence"),
        ("quantiles", [[0.5]], TypeError, "a number between 0 and 1, or a sequence"),
        ("quantiles", True, TypeError, "a number between 0 and 1, or a sequence"),
        ("coverage", 95, ValueError, "Per cent are divided by 100"),
        ("coverage", [0.5, 0.9], TypeError, "coverage must be one number"),
    ],
)
def test_bad_probabilities_are_refused(table, name, bad, error, match):
    X, y, Z = table
    method = {"quantiles": "predict_quantiles", "coverage": "predict_interval"}[name]
    with pytest.raises(error, match=match):
        getattr(fitted(X, y), method)(Z, bad)


@pytest.mark.parametrize("name", NEW)
def test_an_estimator_that_is_not_fitted_says_so(name, table):
    with pytest.raises(NotFittedError):
        getattr(GPRegressor(), name)(table[2])


# Draws


@pytest.mark.parametrize("include_noise", [True, False])
def test_pathwise_draws_have_the_mean_and_covariance_of_the_prediction(table, include_noise):
    X, y, Z = table
    gp, num = fitted(X, y), 3000
    settings = {"method": "pathwise", "num_features": 8192, "include_noise": include_noise}
    draws = gp.sample_y(Z, num, random_state=3, **settings)
    assert draws.shape == (7, num)
    mean, covariance = gp.predict(Z, return_cov=True, include_noise=include_noise)
    std = np.sqrt(np.diag(covariance))
    assert (np.abs(draws.mean(1) - mean) < 5 * std / np.sqrt(num)).all()
    # The error of 8192 features is one of the prior variance, in the units of y.
    prior = 2.0 * gp.calibration_.latent_scale * np.var(y)
    allowed = 5 * np.sqrt(2 / num) * np.outer(std, std) + 2 * prior / np.sqrt(8192)
    assert (np.abs(np.cov(draws) - covariance) < allowed).all()


@pytest.mark.parametrize("settings", [{}, {"solver": "lsmr", "rtol": 1e-6}, {"inducing": 30}])
def test_pathwise_draws_of_a_seed_are_one_function_for_any_rows(table, settings):
    X, y, Z = table
    if "inducing" in settings:
        settings = settings | {"solver": "inducing"}
    gp = fitted(X, y, **settings)
    draw = {"n_samples": 2, "include_noise": False, "method": "pathwise", "random_state": 7}
    together = gp.sample_y(np.concatenate([Z, X]), **draw)
    np.testing.assert_allclose(gp.sample_y(Z, **draw), together[:7], rtol=1e-9)
    np.testing.assert_allclose(gp.sample_y(X[3:9], **draw), together[10:16], rtol=1e-9)
    other = gp.sample_y(Z, **draw | {"random_state": 8})
    assert (np.abs(other - together[:7]) > 1e-3).any()


def test_functions_are_those_of_pathwise_draws_and_outlive_the_fit(table):
    X, y, Z = table
    gp = fitted(X, y)
    functions = gp.sample_functions(3, random_state=7)
    values = functions(Z)
    draw = {"include_noise": False, "method": "pathwise", "random_state": 7}
    np.testing.assert_array_equal(values, gp.sample_y(Z, 3, **draw))
    gp.fit(X[:40], -y[:40])
    np.testing.assert_array_equal(functions(Z), values)
    weighted = GPRegressor(KERNEL, noise_variance=2.0**-5, objective=None)
    weighted.fit(X, y, sample_weight=np.full(len(y), 2.0))
    assert weighted.sample_functions(2)(Z).shape == (7, 2)
    for bad, match in (
        (Z[:, :1], "X has 1 features, but GPRegressor is expecting 2"),
        (Z * np.nan, "NaN"),
    ):
        with pytest.raises(ValueError, match=match):
            functions(bad)
    with pytest.raises(NotFittedError):
        GPRegressor().sample_functions()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("settings", [{}, {"mean": "linear"}, {"solver": "features"}], ids=str)
def test_copies_of_functions_have_the_same_values(table, precision, settings):
    """In the dtype of the fit, whatever the reader's x64 flag is."""
    X, y, Z = (part.astype(precision) for part in table)
    mesh = jax.make_mesh((1,), ("rows",)) if settings == {} else None
    functions = fitted(X, y, mesh=mesh, **settings).sample_functions(3)
    values = functions(Z)
    assert values.dtype == precision
    for copied in (copy.deepcopy(functions), pickle.loads(pickle.dumps(functions))):
        np.testing.assert_allclose(copied(Z), values, rtol=100 * np.finfo(precision).eps)


def test_auto_is_exact_for_few_rows_and_pathwise_for_many(table, monkeypatch):
    X, y, Z = table
    gp = fitted(X, y)
    np.testing.assert_array_equal(gp.sample_y(Z), gp.sample_y(Z, method="exact"))
    monkeypatch.setattr(_sampling, "_EXACT_ROWS", 6)
    np.testing.assert_array_equal(gp.sample_y(Z), gp.sample_y(Z, method="pathwise"))
    assert (gp.sample_y(Z) != gp.sample_y(Z, method="exact")).any()


def test_many_rows_are_drawn_without_their_covariance(table):
    X, y, _ = table
    Z = np.tile(np.linspace(-2, 2, 20_000, dtype=np.float32)[:, None], 2)
    draws = fitted(X.astype(np.float32), y).sample_y(Z, 2, include_noise=False)
    assert draws.shape == (20_000, 2)
    assert np.abs(np.diff(draws, axis=0)).max() < 0.5  # a continuous function, not noise


def test_a_kernel_without_features_is_drawn_exactly_or_refused(table):
    X, y, Z = table
    gp = fitted(X, y, kernel=Polynomial(2))
    assert np.isfinite(gp.sample_y(Z)).all()
    with pytest.raises(NotImplementedError, match="none: no random features are known"):
        gp.sample_y(Z, method="pathwise")


def test_bad_settings_of_draws_are_refused(table):
    X, y, Z = table
    gp = fitted(X, y)
    with pytest.raises(ValueError, match=r"method must be one of 'auto', 'exact', 'pathwise'"):
        gp.sample_y(Z, method="quick")
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        gp.sample_y(Z, 0)


# Sizes


@pytest.mark.parametrize("settings", [{}, {"solver": "inducing", "inducing": 10}])
def test_a_covariance_that_no_memory_holds_is_refused_before_it_is_made(table, settings):
    X, y, _ = (part.astype(np.float32) for part in table)
    gp = fitted(X, y, **settings)
    many = np.zeros((2_000_000, 2), np.float32)
    message = r"covariance of 2000000 points needs about 72\.8 TiB.*return_std.*pathwise"
    with pytest.raises(MemoryError, match=message):
        gp.posterior_.covariance(many)
    with pytest.raises(MemoryError, match=message):
        gp.sample_y(np.broadcast_to(many[:1], many.shape), method="exact")


def test_the_report_counts_variances_that_were_negative_by_rounding(table):
    X, y, Z = (part.astype(np.float32) for part in table)
    gp = fitted(X, y, noise_variance=1e-6)
    assert "predicted variances" not in gp.solver_report_

    def raw(points, method):
        del method
        return np.where(np.arange(len(points)) < 3, np.float32(-1e-9), np.float32(1))

    object.__setattr__(gp.posterior_, "raw_variance", raw)
    std = gp.predict(Z, return_std=True, include_noise=False)[1]
    assert (std[:3] == 0).all()
    assert gp.num_clipped_variances_ == 3
    assert gp.solver_report_.endswith(
        "of the last predicted variances 3 of 7 were negative by rounding, and set to 0"
    )
    gp.predict(Z[:3], return_std=True)
    assert gp.solver_report_.count("predicted variances") == 1
    assert "3 of 3 were negative" in gp.solver_report_


def test_neither_draws_nor_intervals_touch_the_x64_flag(table):
    X, y, Z = table
    before = jax.config.jax_enable_x64
    gp = fitted(X, y)
    gp.sample_y(Z, method="pathwise")
    gp.predict_interval(Z)
    assert jax.config.jax_enable_x64 == before
