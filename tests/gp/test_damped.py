"""Tall damped solves start again from what rounding errors left."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gplsq import LSMR, lstsq
from gplsq._core import triangular_inverse
from gplsq.gp import _damped, solve_damped
from gplsq.kernels import Matern32
from gplsq.operators import Dense, Inducing
from gplsq.solvers import STATUS, root_of_rows

_DAMP = 0.1


def _system(rng, offset):
    """4,000 rows and 100 functions in float32; a target far from its mean needs many digits."""
    X = jnp.asarray(rng.uniform(-1, 1, (4000, 2)), jnp.float32)
    noise = 0.1 * rng.standard_normal(4000)
    y = np.sin(3 * np.asarray(X[:, 0])) + noise
    operator = Inducing(Matern32(1.0), X, X[:100])
    R = root_of_rows(operator, jnp.arange(0, 4000, 2), jnp.float32(_DAMP))
    target = jnp.asarray(np.stack([y, y + offset], axis=1), jnp.float32)
    return operator, target, Dense(triangular_inverse(R))


def _settings(preconditioner):
    return jnp.float32(_DAMP), LSMR(rtol=1e-3), preconditioner


def test_a_column_that_rounding_stopped_converges_in_another_round(rng):
    operator, y, preconditioner = _system(rng, offset=30)
    damp, solver, _ = _settings(preconditioner)
    once = lstsq(operator, y, damp=damp, solver=solver, preconditioner=preconditioner, throw=False)
    assert once.status[1] == STATUS.STAGNATED
    solution = solve_damped(operator, y, *_settings(preconditioner))
    assert jnp.all(solution.ok)
    assert solution.stats.error_measure[1] < once.stats.error_measure[1] / 2
    assert solution.stats.num_steps[1] > once.stats.num_steps[1]

    # The number is that of the solution: the normal residual in float64.
    A = np.asarray(operator.rows_at(jnp.arange(4000)), float)
    x = np.asarray(solution.value, float)
    residual = np.asarray(y, float) - A @ x
    left = np.linalg.norm(A.T @ residual - _DAMP**2 * x, axis=0)
    norms = np.linalg.norm(A, 2) * np.sqrt((residual**2).sum(0) + _DAMP**2 * (x**2).sum(0))
    assert np.all(left < 2e-3 * norms)


def test_a_column_that_converged_is_left_alone(rng):
    operator, y, preconditioner = _system(rng, offset=0)
    settings = _settings(preconditioner)
    once = lstsq(operator, y, damp=settings[0], solver=settings[1], preconditioner=preconditioner)
    solution = solve_damped(operator, y, *settings)
    np.testing.assert_array_equal(solution.value, once.value)
    np.testing.assert_array_equal(solution.stats.num_steps, once.stats.num_steps)


def test_under_jit_it_is_one_solve_with_its_own_status(rng):
    operator, y, preconditioner = _system(rng, offset=30)
    solution = eqx.filter_jit(solve_damped)(operator, y, *_settings(preconditioner))
    assert solution.status[1] == STATUS.STAGNATED
    assert not solution.ok[1]


def test_a_round_that_helps_no_column_is_the_last(rng, monkeypatch):
    operator, y, preconditioner = _system(rng, offset=30)
    solves = []

    def counted(*arguments):
        solves.append(arguments)
        return solve(*arguments)

    solve = _damped._solve
    monkeypatch.setattr(_damped, "_solve", counted)
    damp, _, _ = _settings(preconditioner)
    out_of_reach = LSMR(rtol=1e-9)
    monkeypatch.setattr(_damped, "_ROUNDS", 20)
    solution = solve_damped(operator, y, damp, out_of_reach, preconditioner)
    assert not jnp.any(solution.ok)
    assert 2 <= len(solves) < 20
