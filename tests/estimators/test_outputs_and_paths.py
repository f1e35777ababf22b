"""Draws, quantiles and noise of models with several outputs and with mean functions."""

import numpy as np
import pytest

from gplsq import GPRegressor
from gplsq.estimators import _sampling
from gplsq.kernels import RBF, Polynomial

SETTINGS = {"kernel": RBF(0.8), "objective": None, "noise_variance": 0.01}


@pytest.fixture
def table(rng):
    X = rng.uniform(-2, 2, (40, 1))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(40)


def test_functions_around_a_mean_of_ones_own_lie_around_it(table):
    X, y = table
    trend = lambda rows: 100 * rows[:, 0]  # noqa: E731
    far = np.array([[50.0], [60.0]])
    gp = GPRegressor(mean=trend, **SETTINGS).fit(X, y + trend(X))
    for draws in (
        gp.sample_functions(200, 0)(far),
        gp.sample_y(far, 200, 0, method="pathwise"),
        gp.sample_y(far, 200, 0, method="exact"),
    ):
        assert draws.shape == (2, 200)
        np.testing.assert_allclose(draws.mean(axis=1), [5000, 6000], atol=0.5)


def test_quantiles_of_several_outputs_are_those_of_each(table):
    X, y = table
    gp = GPRegressor(**SETTINGS).fit(X, np.column_stack([y, 10 * y + 3]))
    Z = np.linspace(-1, 1, 5)[:, None]
    both = gp.predict_quantiles(Z, [0.1, 0.9])
    assert both.shape == (5, 2, 2)
    alone = GPRegressor(**SETTINGS).fit(X, y).predict_quantiles(Z, [0.1, 0.9])
    np.testing.assert_allclose(both[:, 0], alone, rtol=1e-6)
    assert gp.predict_quantiles(Z, 0.5).shape == (5, 2)
    np.testing.assert_allclose(gp.predict_interval(Z)[:, 1, 0], gp.predict_quantiles(Z)[:, 1, 0])


@pytest.mark.parametrize("mean", ["zero", "linear"])
def test_functions_of_several_outputs_are_drawn_as_exactly_as_values_are(table, mean):
    """Of each its own mean, spread and units, and the same functions in every call."""
    X, y = table
    both = np.column_stack([y, 100 * np.cos(X[:, 0]) + 7])
    gp = GPRegressor(mean=mean, **SETTINGS).fit(X, both)
    Z, num = np.array([[-1.5], [0.1], [2.6]]), 1000
    functions = gp.sample_functions(num, 3, num_features=1024)
    values = functions(Z)
    assert values.shape == (3, 2, num)
    np.testing.assert_allclose(functions(Z[1:]), values[1:], atol=1e-9)
    draw = {"method": "pathwise", "num_features": 1024}
    again = gp.sample_y(Z[1:], num, 3, include_noise=False, **draw)
    np.testing.assert_allclose(again, values[1:], atol=1e-9)
    for noise, draws in ((False, values), (True, gp.sample_y(Z, num, 3, **draw))):
        centre, covariance = gp.predict(Z, return_cov=True, include_noise=noise)
        std = np.sqrt(np.diagonal(covariance)).T
        assert np.all(np.abs(draws.mean(axis=2) - centre) < 5 * std / np.sqrt(num))
        prior = gp.calibration_.latent_scale * np.var(both, axis=0)
        for j in range(2):
            allowed = 5 * np.sqrt(2 / num) * np.outer(std[:, j], std[:, j]) + prior[j] / 16
            assert np.all(np.abs(np.cov(draws[:, j]) - covariance[:, :, j]) < allowed)
    # Outputs are independent of each other.
    assert abs(np.corrcoef(values[2])[0, 1]) < 5 / np.sqrt(num)


def test_exact_draws_of_outputs_that_share_rows_are_those_of_each_covariance(table):
    X, y = table
    gp = GPRegressor(**SETTINGS).fit(X, np.column_stack([y, 100 * np.cos(X[:, 0])]))
    Z, num = np.array([[-1.5], [-1.4], [2.6]]), 4000
    draws = gp.sample_y(Z, num, method="exact")
    mean, covariance = gp.predict(Z, return_cov=True)
    for j in range(2):
        std = np.sqrt(np.diagonal(covariance[:, :, j]))
        assert np.all(np.abs(draws[:, j].mean(axis=1) - mean[:, j]) < 5 * std / np.sqrt(num))
        error = np.abs(np.cov(draws[:, j]) - covariance[:, :, j])
        assert np.all(error < 5 * np.sqrt(2 / num) * np.outer(std, std))


def _models(X, y):
    """Of which functions are drawn, and of which not."""
    two, holes = np.column_stack([y, np.cos(X[:, 0])]), np.column_stack([y, y])
    holes[3, 1] = np.nan
    fitted = GPRegressor(mean="linear", **SETTINGS).fit(X, y)
    polynomial = GPRegressor(**SETTINGS | {"kernel": Polynomial(2)}).fit(X, y)
    missing = GPRegressor(missing="drop", **SETTINGS).fit(X, holes)
    correlated = GPRegressor(outputs="correlated", **SETTINGS).fit(X, two)
    return [fitted], [polynomial, missing, correlated]


def test_many_rows_are_drawn_exactly_where_no_functions_are_known(table, monkeypatch):
    monkeypatch.setattr(_sampling, "_EXACT_ROWS", 4)
    X, y = table
    Z = np.linspace(-2, 2, 5)[:, None]
    drawn, refused = _models(X, y)
    for gp in drawn:
        np.testing.assert_array_equal(gp.sample_y(Z, 2), gp.sample_y(Z, 2, method="pathwise"))
    for gp in refused:
        draws = gp.sample_y(Z, 2)
        assert draws.shape == (*gp.predict(Z).shape, 2)
        assert np.isfinite(draws).all()
        with pytest.raises(NotImplementedError, match=r"none: no random|observed at the same rows"):
            gp.sample_y(Z, 2, method="pathwise")


@pytest.mark.parametrize("outputs", ["independent", "correlated"])
def test_bad_settings_of_draws_of_several_outputs_are_refused(table, outputs):
    X, y = table
    gp = GPRegressor(outputs=outputs, **SETTINGS).fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        gp.sample_y(X, 0)
    with pytest.raises(ValueError, match="method must be one of"):
        gp.sample_y(X, method="quick")
    assert gp.sample_y(X[:3], method="exact").shape == (3, 2, 1)


@pytest.mark.parametrize("model", ["outputs", "mean"])
def test_noise_of_rows_is_not_told_apart_for_them(table, model):
    X, y = table
    if model == "outputs":
        gp = GPRegressor(**SETTINGS).fit(X, np.column_stack([y, y]))
    else:
        gp = GPRegressor(mean="linear", **SETTINGS).fit(X, y)
    with pytest.raises(NotImplementedError, match="Fit one output alone"):
        gp.outlier_weights(X, y)
    with pytest.raises(NotImplementedError, match="Fit one output alone"):
        gp.noise_model(X, y)
