"""Inequalities inside the null-space method, against a quadratic program solved by SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from gplsq import LSMR
from gplsq.constraints import Constraint, Inequality, Linear, NormBall, constrained, null_space

SOLVERS = {"factorised": None, "iterative": LSMR()}


def quadratic_program(u, J, t, equal):
    """argmin |d - u|^2 with J d = -t in the rows `equal`, and J d <= -t in the others."""
    u, J, t = (np.asarray(x, np.float64) for x in (u, J, t))
    constraints = [
        {"type": "eq" if e else "ineq", "fun": lambda d, j=j, s=s: -(j @ d + s)}
        for j, s, e in zip(J, t, equal, strict=True)
    ]
    found = scipy.optimize.minimize(
        lambda d: 0.5 * np.sum((d - u) ** 2),
        np.zeros_like(u),
        jac=lambda d: d - u,
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    return found.x


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(4))
def test_a_step_solves_the_quadratic_program(solver, seed, x64) -> None:
    rng = np.random.default_rng(seed)
    J, u = rng.standard_normal((6, 10)), 2 * rng.standard_normal(10)
    c = rng.standard_normal(6)
    equality = Constraint(lambda theta: J[:2] @ theta + c[:2])
    inequality = Inequality(lambda theta: J[2:] @ theta + c[2:])
    transform = null_space(equality + inequality, solver=SOLVERS[solver])
    theta = jnp.zeros(10)
    out, state = transform.update(jnp.asarray(u), transform.init(theta), theta)
    expected = quadratic_program(u, J, c, [True] * 2 + [False] * 4)
    np.testing.assert_allclose(out, expected, atol=2e-4)
    held = np.abs(J @ expected + c) < 1e-6
    np.testing.assert_array_equal(state.report.active, held)
    assert np.all(np.asarray(state.report.multipliers)[2:] >= 0)


def test_training_stops_at_the_boundary_and_leaves_it_when_the_loss_does() -> None:
    ball = NormBall(1.0)
    optimizer = constrained(optax.sgd(0.2), ball, restoration_steps=2, tolerance=1e-7)
    theta = {"w": jnp.array([0.1, 0.2, 0.0], jnp.float32)}
    state = optimizer.init(theta)

    def train(theta, state, target):
        def step(carry, _):
            theta, state = carry
            updates, state = optimizer.update({"w": theta["w"] - target}, state, theta)
            return (optax.apply_updates(theta, updates), state), state.report.violation_after

        return jax.lax.scan(step, (theta, state), None, length=60)

    far = jnp.array([3.0, 4.0, 0.0], jnp.float32)
    (theta, state), violations = train(theta, state, far)
    np.testing.assert_allclose(theta["w"], far / 5, atol=1e-5)
    assert violations.max() <= 1e-5
    assert bool(state.constraint.report.active[0])
    # gradient theta - far = -4 theta, normal theta: the multiplier is 4.
    assert float(state.report.multipliers[0]) == pytest.approx(4.0, rel=1e-3)
    inside = jnp.array([0.3, 0.0, 0.1], jnp.float32)
    (theta, state), _ = train(theta, state, inside)
    np.testing.assert_allclose(theta["w"], inside, atol=1e-5)
    assert not bool(state.report.active[0])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_constrained_optimum_with_some_rows_active(optimizer, rng) -> None:
    A = rng.standard_normal((5, 4)).astype(np.float32)
    b = np.abs(rng.standard_normal(5)).astype(np.float32)
    target = (3 * rng.standard_normal(4)).astype(np.float32)
    decay = optax.cosine_decay_schedule(0.1, 400)
    inner = {"adam": optax.adam(decay), "sgd": optax.sgd(0.2)}[optimizer]
    wrapped = constrained(inner, Linear(A, b, kind="inequality"))

    def step(carry, _):
        theta, state = carry
        updates, state = wrapped.update(theta - target, state, theta)
        return (theta + updates, state), None

    theta = jnp.zeros(4, jnp.float32)
    (theta, _), _ = jax.lax.scan(step, (theta, wrapped.init(theta)), None, length=400)
    expected = quadratic_program(target, A, -b, [False] * 5)
    np.testing.assert_allclose(theta, expected, atol=2e-3)
    assert (A @ np.asarray(theta) - b).max() <= 1e-5


def test_a_mini_batch_of_inequalities_holds_where_it_is_violated(rng) -> None:
    constraint = Inequality(lambda theta, x: x @ theta - 1.0)
    optimizer = constrained(optax.sgd(0.1), constraint)
    theta = jnp.asarray([3.0, -2.0, 1.0], jnp.float32)
    state = optimizer.init(theta)
    assert state.report.multipliers is None
    x = rng.standard_normal((8, 3)).astype(np.float32)
    for _ in range(3):
        updates, state = optimizer.update(
            jnp.zeros(3, jnp.float32), state, theta, constraint_batch=x
        )
        theta = theta + updates
    assert (x @ np.asarray(theta)).max() <= 1 + 1e-4
