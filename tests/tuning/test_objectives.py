"""Held-out objectives against refits by NumPy, and their gradients against central differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import kernels
from gplsq.solvers import LSMR, leave_one_out
from gplsq.testing import central_difference, tolerance
from gplsq.tuning import Holdout, LeaveOneOut, choose_objective, mse, nlpd

LOSSES = {"mse": mse, "nlpd": nlpd}
# Lengthscales of the two columns, variance, noise variance.
THETA = np.array([0.8, 1.4, 1.3, 0.15])
KEY = jax.random.key(0)


@pytest.fixture
def data(rng):
    X = rng.standard_normal((12, 2))
    return X, np.sin(2 * X[:, 0]) + 0.3 * X[:, 1] + 0.2 * rng.standard_normal(12)


def _gram(theta, X, Z):
    squares = (((X[:, None] - Z[None]) / theta[:2]) ** 2).sum(axis=2)
    s = np.sqrt(3 * squares)
    return theta[2] * (1 + s) * np.exp(-s)


def _predict(theta, X, y, Z):
    """Mean and variance (noise included) of a textbook refit."""
    k = _gram(theta, X, Z)
    weights = np.linalg.solve(_gram(theta, X, X) + theta[3] * np.eye(len(X)), k)
    return weights.T @ y, theta[2] - (k * weights).sum(axis=0) + theta[3]


def _score(loss, y, mean, variance):
    if loss == "mse":
        return np.mean((y - mean) ** 2)
    return np.mean(0.5 * np.log(2 * np.pi * variance) + 0.5 * (y - mean) ** 2 / variance)


def _refit_without_each_row(theta, X, y, loss):
    parts = []
    for i in range(len(X)):
        rest = np.arange(len(X)) != i
        parts.append(_predict(theta, X[rest], y[rest], X[i : i + 1]))
    mean, variance = np.concatenate(parts, axis=1)
    return _score(loss, y, mean, variance)


def _refit_without_the_last(held):
    def refit(theta, X, y, loss):
        return _score(loss, y[-held:], *_predict(theta, X[:-held], y[:-held], X[-held:]))

    return refit


def _objective(objective, loss, X, y, key=KEY):
    X, y = jnp.asarray(X), jnp.asarray(y)

    def value(theta):
        kernel = theta[2] * kernels.Matern32(theta[:2])
        return objective(kernel, theta[3], X, y, key, LOSSES[loss])

    return value


OBJECTIVES = {
    "leave-one-out": (LeaveOneOut, _refit_without_each_row),
    "holdout-direct": (
        lambda: Holdout(0.25, fresh=False, solver="direct"),
        _refit_without_the_last(3),
    ),
    "holdout-lsmr": (
        lambda: Holdout(0.25, fresh=False, solver=LSMR(rtol=1e-12)),
        _refit_without_the_last(3),
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("make", "refit"), OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_values_and_gradients_are_those_of_refits(make, refit, loss, data, x64):
    X, y = data
    run = jax.jit(jax.value_and_grad(_objective(make(), loss, X, y)))
    value, gradient = run(jnp.asarray(THETA))
    np.testing.assert_allclose(value, refit(THETA, X, y, loss), rtol=1e-9)
    expected = central_difference(lambda theta: refit(theta, X, y, loss), THETA)
    atol = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=atol / 100)


@pytest.mark.parametrize("loss", LOSSES)
def test_leave_one_out_keeps_float32_and_its_accuracy(loss, data):
    X, y = (part.astype(np.float32) for part in data)
    value = jax.jit(_objective(LeaveOneOut(), loss, X, y))(THETA.astype(np.float32))
    assert value.dtype == np.float32
    expected = _refit_without_each_row(THETA, *data, loss)
    # Condition of K + noise: about n variance / noise, 100.
    np.testing.assert_allclose(value, expected, rtol=tolerance(np.float32, 100))


def test_fresh_splits_follow_the_key_and_fixed_ones_do_not(data):
    X, y = (part.astype(np.float32) for part in data)
    theta = THETA.astype(np.float32)
    values = {}
    for fresh in (True, False):
        run = jax.jit(
            lambda key, fresh=fresh: _objective(Holdout(0.25, fresh=fresh), "mse", X, y, key)(theta)
        )
        values[fresh] = [float(run(jax.random.key(seed))) for seed in (0, 1, 0)]
    assert values[True][0] != values[True][1]
    assert values[True][0] == values[True][2]
    assert len(set(values[False])) == 1
    assert Holdout().random
    assert not Holdout(fresh=False).random
    assert not LeaveOneOut().random


def test_a_fresh_split_is_a_permutation_of_the_rows(data, x64):
    X, y = data
    order = np.asarray(jax.random.permutation(KEY, len(X)))
    value = jax.jit(_objective(Holdout(0.25, solver="direct"), "mse", X, y))(THETA)
    expected = _refit_without_the_last(3)(THETA, X[order], y[order], "mse")
    np.testing.assert_allclose(value, expected, rtol=1e-9)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_fractions_outside_the_unit_interval_are_refused(fraction):
    with pytest.raises(ValueError, match="fraction must"):
        Holdout(fraction)


def test_unknown_solvers_and_objectives_are_refused():
    with pytest.raises(ValueError, match="solver must be one of 'auto', 'direct', 'lsmr'"):
        Holdout(solver="cg")
    with pytest.raises(TypeError, match='objective must be "auto" or an objective'):
        choose_objective("holdout", 100)


def test_auto_is_leave_one_out_for_small_data_and_holdout_beyond():
    assert isinstance(choose_objective("auto", 2000), LeaveOneOut)
    assert isinstance(choose_objective("auto", 2001), Holdout)
    mine = Holdout(0.5)
    assert choose_objective(mine, 10) is mine


def _plain(S, y):
    W = jnp.linalg.inv(S)
    return W @ y / jnp.diagonal(W), 1 / jnp.diagonal(W)


def test_leave_one_out_derivatives_are_those_of_the_plain_formula(rng, x64):
    half, t_half = rng.standard_normal((2, 6, 6))
    S, t_S = half @ half.T + np.eye(6), t_half + t_half.T
    y, t_y, u, w = rng.standard_normal((4, 6))

    def both(fn):
        def run(S, y):
            out, tangents = jax.jvp(fn, (S, y), (jnp.asarray(t_S), jnp.asarray(t_y)))
            bar_S, bar_y = jax.vjp(fn, S, y)[1]((jnp.asarray(u), jnp.asarray(w)))
            # S is symmetric: only the symmetric part of its cotangent means something.
            return out, tangents, bar_S + bar_S.T, bar_y

        return jax.jit(run)(jnp.asarray(S), jnp.asarray(y))

    got, expected = jax.tree.leaves(both(leave_one_out)), jax.tree.leaves(both(_plain))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(b).max())


def test_leave_one_out_of_an_indefinite_matrix_is_nan():
    residual, variance = leave_one_out(-jnp.eye(3), jnp.ones(3))
    assert np.all(np.isnan(residual))
    assert np.all(np.isnan(variance))
