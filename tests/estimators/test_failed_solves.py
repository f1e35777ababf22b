"""Solves of GPRegressor that fail: what is said of them, and what the model predicts after."""

import warnings

import numpy as np
import pytest
from single import N, short
from sklearn.exceptions import ConvergenceWarning

from gplsq import LSMR, GPRegressor
from gplsq.kernels import Matern32


def hard_problem(rng):
    """Short correlations, and more rows than the preconditioner has columns."""
    X = rng.uniform(-1, 1, (260, 2))
    truth = np.sin(3 * X[:, 0])
    y = truth + 0.1 * rng.standard_normal(260)
    gp = GPRegressor(
        kernel=Matern32(0.25),
        noise_variance=1e-3,
        objective=None,
        solver=LSMR(rtol=1e-12, max_steps=3),
        random_state=0,
    )
    return gp, X, y, truth


def test_a_missed_tolerance_warns_once_and_the_model_predicts(rng):
    gp, X, y, _ = hard_problem(rng)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gp.fit(X, y)
    assert [item.category for item in caught] == [ConvergenceWarning]
    message = str(caught[0].message)
    assert "error measure" in message
    assert message.count("Remedy") == 1
    assert "raise max_steps" in message
    assert caught[0].filename == __file__
    assert "out of steps" in gp.solver_report_
    mean, std = gp.predict(X, return_std=True)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std > 0).all()


def test_intervals_after_a_missed_tolerance_own_up_to_the_error(rng):
    gp, X, y, truth = hard_problem(rng)
    with pytest.warns(ConvergenceWarning):
        gp.fit(X, y)
    mean, std = gp.predict(X, return_std=True)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 2 * np.sqrt(np.mean(std**2))


def test_a_factorisation_that_breaks_down_is_refused_where_it_was_asked_for(table):
    X, y, _ = table
    X = np.r_[X[: N // 2], X[: N // 2]].astype(np.float32)
    gp = short(objective=None, noise_variance=1e-14, solver="direct")
    with pytest.raises(np.linalg.LinAlgError, match=r'broke down.*solver="auto" goes on'):
        gp.fit(X, y)


def test_a_factorisation_that_breaks_down_is_replaced_when_the_choice_is_ours(table):
    X, y, Z = table
    X = np.r_[X[: N // 2], X[: N // 2]].astype(np.float32)
    gp = short(objective=None, noise_variance=1e-14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gp.fit(X, y)
    assert "broke down" in gp.solver_report_
    mean, std = gp.predict(Z, return_std=True)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
