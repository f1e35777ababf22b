"""More rows for a posterior: the same as conditioning on all of them."""

import jax
import numpy as np
import pytest

from gplsq import LSMR, GPRegressor
from gplsq.gp import condition
from gplsq.kernels import Matern32

KERNEL, NOISE = 1.5 * Matern32(0.8), 0.04


def data(rng, rows, dtype):
    X = rng.uniform(-2, 2, (rows, 2)).astype(dtype)
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2 / 3 + 0.2 * rng.standard_normal(rows)
    return X, y.astype(dtype)


def close(a, b, dtype, atol=None):
    atol = (1e-3 if dtype == np.float32 else 1e-9) if atol is None else atol
    np.testing.assert_allclose(a, b, atol=atol)


def test_a_factor_is_extended_to_that_of_all_rows(rng, dtype):
    X, y = data(rng, 120, dtype)
    whole = condition(KERNEL, X, y, noise_variance=NOISE, solver="direct")
    part = condition(KERNEL, X[:80], y[:80], noise_variance=NOISE, solver="direct")
    grown = part.update(X[80:100], y[80:100]).update(X[100:], y[100:])
    close(grown.prepared.lower, whole.prepared.lower, dtype)
    points = X[::7] + dtype.type(0.1)
    close(grown.mean(points), whole.mean(points), dtype)
    close(grown.variance(points), whole.variance(points), dtype)
    assert bool(grown.solution.ok)
    assert grown.plan == f"{part.plan}; updated, 120 rows in all"


@pytest.mark.parametrize("form", ["dense", "tiled"])
def test_lsmr_starts_from_the_coefficients_there_are(rng, dtype, form):
    X, y = data(rng, 300, dtype)
    solver = LSMR(rtol=1e-3 if dtype == np.float32 else 1e-8, max_steps=1000)
    options = {"noise_variance": NOISE, "solver": solver, "form": form}
    whole = condition(KERNEL, X, y, **options)
    grown = condition(KERNEL, X[:290], y[:290], **options).update(X[290:], y[290:])
    close(grown.mean(X[::7]), whole.mean(X[::7]), dtype, 5e-3 if dtype == np.float32 else 1e-6)
    assert grown.operator.form == form
    assert bool(grown.solution.ok)


def test_a_start_near_the_answer_saves_steps(rng, x64):
    X, y = data(rng, 400, np.float64)
    solver = LSMR(rtol=1e-2, max_steps=1000)
    whole = condition(KERNEL, X, y, noise_variance=NOISE, solver=solver)
    part = condition(KERNEL, X[:399], y[:399], noise_variance=NOISE, solver=solver)
    grown = part.update(X[399:], y[399:])
    assert int(grown.solution.stats.num_steps) < int(whole.solution.stats.num_steps)


@pytest.mark.parametrize("solver", ["inducing", "features"])
def test_a_low_rank_model_keeps_its_functions(rng, dtype, solver):
    X, y = data(rng, 400, dtype)
    options = {"noise_variance": NOISE, "solver": solver, "rtol": 1e-4, "key": jax.random.key(0)}
    options |= {"inducing": X[:30]} if solver == "inducing" else {"num_features": 60}
    whole = condition(KERNEL, X, y, **options)
    grown = condition(KERNEL, X[:250], y[:250], **options).update(X[250:], y[250:])
    close(grown.mean(X[::7]), whole.mean(X[::7]), dtype, 1e-2)
    close(grown.variance(X[::7]), whole.variance(X[::7]), dtype, 2e-3)


@pytest.mark.parametrize("solver", ["direct", "lsmr", "inducing"])
def test_an_estimator_takes_in_more_rows(rng, solver):
    X, y = data(rng, 200, np.float32)
    model = GPRegressor(KERNEL, noise_variance=NOISE, objective=None, solver=solver, rtol=1e-4)
    model.set_params(standardize=False, random_state=0)
    model.set_params(inducing=X[:40] if solver == "inducing" else None)
    before = model.fit(X[:150], y[:150]).predict(X[150:])
    grown = model.update(X[150:], y[150:])
    assert grown is model
    after = model.predict(X[150:], return_std=True)
    whole = GPRegressor(**model.get_params(deep=False)).fit(X, y).predict(X[150:], return_std=True)
    np.testing.assert_allclose(after[0], whole[0], atol=5e-3)
    np.testing.assert_allclose(after[1], whole[1], rtol=0.1)
    assert np.max(np.abs(after[0] - before)) > 0.02


def test_rows_of_another_shape_are_refused_and_lose_nothing(rng):
    X, y = data(rng, 60, np.float32)
    posterior = condition(KERNEL, X, y, noise_variance=NOISE)
    for bad in ((X[:3, :1], y[:3]), (X[:3], y[:2])):
        with pytest.raises(ValueError, match=r"X must have shape \(s, 2\)"):
            posterior.update(*bad)
    model = GPRegressor(random_state=0, objective=None).fit(X, y)
    before = model.predict(X)
    for bad, match in (((X[:3, :1], y[:3]), "features"), ((X[:3] * np.nan, y[:3]), "NaN")):
        with pytest.raises(ValueError, match=match):
            model.update(*bad)
    np.testing.assert_array_equal(model.predict(X), before)


def test_a_low_rank_model_without_its_data_says_so(rng):
    X, y = data(rng, 60, np.float32)
    posterior = condition(KERNEL, X, y, noise_variance=NOISE, solver="inducing", inducing=10)
    with pytest.raises(ValueError, match="was unpickled"):
        posterior.for_pickle().update(X, y)
