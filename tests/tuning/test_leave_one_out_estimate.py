"""Leave-one-out loss from some of the rows: against the closed form, and its standard error."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gplsq.tuning._leave_one_out as module
from gplsq import LSMR, kernels
from gplsq.tuning import LeaveOneOut, Level, crps, mse, nlpd, tune

LOSSES = {"mse": mse, "nlpd": nlpd, "crps": crps}
# Lengthscales of the two columns, variance, noise variance.
THETA = np.array([0.8, 1.4, 1.3, 0.05])


@pytest.fixture
def data(rng):
    X = rng.standard_normal((150, 2))
    return X, np.sin(2 * X[:, 0]) + 0.3 * X[:, 1] + 0.2 * rng.standard_normal(150)


def _model(theta):
    return theta[2] * kernels.Matern32(theta[:2]), theta[3]


def _value(objective, loss, X, y, key=None):
    return lambda theta: objective(*_model(theta), X, y, key, LOSSES[loss])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("outputs", [(), (2,)], ids=["one output", "two outputs"])
def test_of_all_rows_it_is_the_closed_form(loss, outputs, data, rng):
    X, y = (jnp.asarray(part, jnp.float32) for part in data)
    y = y if not outputs else jnp.stack([y, jnp.cos(X[:, 0])], axis=1)
    theta = jnp.asarray(THETA, jnp.float32)
    key = jax.random.key(0)
    sampled = LeaveOneOut(direct_rows=0, num_rows=1000)
    run = jax.jit(jax.value_and_grad(_value(sampled, loss, X, y, key)))
    value, gradient = run(theta)
    exact, slope = jax.jit(jax.value_and_grad(_value(LeaveOneOut(), loss, X, y)))(theta)
    assert value.dtype == jnp.float32
    # The solves stop at 1e-3: of second order in the value, of first order in the gradient.
    np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-2 * float(jnp.abs(slope).max()))


def test_of_some_rows_it_is_the_closed_form_at_these_rows(data, x64):
    X, y = (jnp.asarray(part) for part in data)
    key = jax.random.key(3)
    rows = np.asarray(jax.random.choice(key, 150, (20,), replace=False))
    theta = jnp.asarray(THETA)
    S = _model(theta)[0](X, X) + THETA[3] * jnp.eye(150)
    W = np.linalg.inv(S)
    expected = np.mean((W @ y / np.diag(W))[rows] ** 2)
    found = jax.jit(_value(LeaveOneOut(direct_rows=10, num_rows=20), "mse", X, y, key))(theta)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_standard_error_is_the_spread_over_draws(loss, data, x64):
    X, y = (jnp.asarray(part) for part in data)
    theta = jnp.asarray(THETA)
    objective = LeaveOneOut(direct_rows=10, num_rows=60)

    @jax.jit
    def run(key):
        return objective.estimate(*_model(theta), X, y, key, LOSSES[loss])

    values, errors = np.array([run(key) for key in jax.random.split(jax.random.key(0), 100)]).T
    exact, none = LeaveOneOut().estimate(*_model(theta), X, y, None, LOSSES[loss])
    assert none == 0
    assert abs(values.mean() - exact) < 4 * values.std() / 10
    # Without the correction for drawing 60 of 150 the error would be 1.29 times as large.
    assert 0.8 < np.sqrt(np.mean(errors**2)) / values.std() < 1.2


def test_a_solve_that_failed_is_no_number(data, monkeypatch):
    """Not a loss of what it had by then."""
    X, y = (jnp.asarray(part, jnp.float32) for part in data)
    short = SimpleNamespace(solver=LSMR(max_steps=1), preconditioner=None)
    monkeypatch.setattr(module, "choose_solver", lambda *args, **settings: short)
    theta, key = jnp.asarray(THETA, jnp.float32), jax.random.key(0)
    sampled = LeaveOneOut(direct_rows=0, num_rows=20)
    assert np.isnan(_value(sampled, "mse", X, y, key)(theta))
    assert np.all(np.isnan(sampled.estimate(*_model(theta), X, y, key, mse)))


def test_no_square_matrix_is_made(data):
    """What XLA sets aside grows with n and the rows drawn, not with n^2."""
    n = 20_000
    X = jax.ShapeDtypeStruct((n, 2), jnp.float32)
    y = jax.ShapeDtypeStruct((n,), jnp.float32)

    def value(theta, X, y):
        return _value(LeaveOneOut(num_rows=16), "nlpd", X, y, jax.random.key(0))(theta)

    theta = jnp.asarray(THETA, jnp.float32)
    memory = jax.jit(jax.grad(value)).lower(theta, X, y).compile().memory_analysis()
    # 17 columns of a solve, 800 of its preconditioner (64 MB), and tiles: K alone has 1,600 MB.
    assert memory.temp_size_in_bytes < n**2 * 4 / 8


def test_a_tuner_runs_on_it(data):
    X, y = (part.astype(np.float32) for part in data)
    objective = LeaveOneOut(direct_rows=100, num_rows=50)
    result = tune(kernels.Matern32(), X, y, objective=objective, levels=[Level(150, 25)])
    direct = tune(kernels.Matern32(), X, y, objective=LeaveOneOut(), levels=[Level(150, 25)])

    def loss(found):
        return float(
            LeaveOneOut()(found.kernel, jnp.float32(found.noise_variance), X, y, None, mse)
        )

    assert loss(result) < 1.1 * loss(direct)


@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [
        ("num_rows", 1, ValueError),
        ("num_rows", 2.5, TypeError),
        ("direct_rows", -1, ValueError),
        ("direct_rows", "many", TypeError),
    ],
)
def test_wrong_settings_are_refused(setting, value, error):
    with pytest.raises(error, match=f"{setting} must be"):
        LeaveOneOut(**{setting: value})
