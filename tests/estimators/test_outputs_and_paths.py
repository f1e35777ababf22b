"""Draws, quantiles and noise of models with several outputs and with mean functions."""

import numpy as np
import pytest

from gplsq import GPRegressor
from gplsq.kernels import RBF

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


@pytest.mark.parametrize("model", ["outputs", "mean"])
def test_what_is_not_known_of_them_is_refused(table, model):
    X, y = table
    if model == "outputs":
        gp = GPRegressor(**SETTINGS).fit(X, np.column_stack([y, y]))
    else:
        gp = GPRegressor(mean="linear", **SETTINGS).fit(X, y)
        with pytest.raises(NotImplementedError, match="method='exact'"):
            gp.sample_functions()
    with pytest.raises(NotImplementedError, match="Fit one output alone"):
        gp.outlier_weights(X, y)
    with pytest.raises(NotImplementedError, match="Fit one output alone"):
        gp.noise_model(X, y)
