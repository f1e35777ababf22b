"""Inequalities inside the null-space method, against a quadratic program solved by SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from gplsq import LSMR
from gplsq.constraints import (
    Box,
    Constraint,
    Inequality,
    Linear,
    NormBall,
    constrained,
    null_space,
)
from gplsq.solvers import STATUS

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


def run(optimizer, gradient, theta, steps):
    """The end, its state, and the parameters after every step."""

    def step(carry, _):
        theta, state = carry
        updates, state = optimizer.update(gradient(theta), state, theta)
        return (theta + updates, state), theta + updates

    train = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps))
    (theta, state), path = train((theta, optimizer.init(theta)))
    return np.asarray(theta), state, np.asarray(path)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_slack_variables_end_at_the_same_optimum(optimizer, solver, rng) -> None:
    A = rng.standard_normal((5, 4)).astype(np.float32)
    b = np.abs(rng.standard_normal(5)).astype(np.float32)
    target = (3 * rng.standard_normal(4)).astype(np.float32)
    inner = {"adam": optax.adam(optax.cosine_decay_schedule(0.1, 400)), "sgd": optax.sgd(0.2)}
    constraint = Linear(A, b, kind="inequality")
    settings = {"inequalities": "slack", "solver": SOLVERS[solver]}
    wrapped = constrained(inner[optimizer], constraint, **settings)
    theta, state, path = run(wrapped, lambda w: w - target, jnp.zeros(4, "f4"), 400)
    expected = quadratic_program(target, A, -b, [False] * 5)
    np.testing.assert_allclose(theta, expected, atol=5e-3)
    assert (A @ theta - b).max() <= 1e-4
    assert (path @ A.T - b).max() <= 2e-2
    held = np.abs(A @ expected - b) < 1e-6
    np.testing.assert_array_equal(np.asarray(state.report.active), held)
    assert np.all(np.asarray(state.report.multipliers)[held] > 0)


def test_a_step_towards_one_row_with_slack_stops_short_of_it_and_others_are_free() -> None:
    near = Inequality(lambda w: jnp.stack([w[0] - 1.0, w[1] - 1000.0]))
    transform = null_space(near, inequalities="slack")
    theta = jnp.zeros(2, jnp.float32)
    for length in (0.1, 1.0, 100.0):
        u = jnp.array([length, 0.0], jnp.float32)
        out, state = transform.update(u, transform.init(theta), theta)
        # The harmonic mean of the step and of the room, halved.
        assert float(out[0]) == pytest.approx(length / (1 + length), rel=1e-4)
        assert float(state.report.violation_after) == 0
    out, _ = transform.update(jnp.array([0.0, 1.0]), transform.init(theta), theta)
    assert float(out[1]) == pytest.approx(1, abs=2e-3)


def test_a_row_with_slack_is_left_when_the_loss_leaves_it() -> None:
    wrapped = constrained(optax.sgd(0.2), NormBall(1.0), inequalities="slack")
    far, near = jnp.array([3.0, 4.0], "f4"), jnp.array([0.3, 0.1], "f4")
    w, state, path = run(wrapped, lambda w: w - far, jnp.array([0.1, 0.2], "f4"), 100)
    np.testing.assert_allclose(w, far / 5, atol=1e-3)
    assert np.linalg.norm(path, axis=1).max() <= 1.05
    assert bool(state.report.active[0])
    w, state, _ = run(wrapped, lambda w: w - near, jnp.asarray(w), 150)
    np.testing.assert_allclose(w, near, atol=1e-4)
    assert not bool(state.report.active[0])


def test_slack_beside_equations_and_a_box() -> None:
    both = (
        Linear(np.ones(3, np.float32), 1.0)
        + Inequality(lambda w: w[0] - 0.3)
        + Box(-0.5)
    )  # fmt: skip
    wrapped = constrained(optax.sgd(0.2), both, inequalities="slack")
    target = jnp.array([2.0, 0.5, -3.0], "f4")
    w, _, path = run(wrapped, lambda w: w - target, jnp.full(3, 1 / 3, "f4"), 200)
    np.testing.assert_allclose(w, [0.3, 1.2, -0.5], atol=2e-3)
    np.testing.assert_allclose(path[2:].sum(axis=1), 1, atol=1e-5)
    assert path.min() >= -0.5 * (1 + 1e-6)


def test_an_unknown_way_to_treat_inequalities_is_refused() -> None:
    with pytest.raises(ValueError, match="active_set"):
        constrained(optax.sgd(0.1), NormBall(1.0), inequalities="barrier")


def test_memory_of_a_step_with_slack_grows_with_the_parameters_not_their_square() -> None:
    rows = Inequality(lambda w: w[:2] - jnp.array([0.0, 100.0], w.dtype))
    transform = null_space(rows, inequalities="slack", rank_every=0)

    def temporary(n: int) -> int:
        theta = jnp.zeros(n, jnp.float32)
        lowered = jax.jit(transform.update).lower(theta, transform.init(theta), theta)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(2000) < 100 * 2000 * 4


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("length", [1e-2, 1e-6])
def test_a_far_row_with_slack_leaves_equations_and_rows_at_hand_alone(length, solver) -> None:
    half = Constraint(lambda w: w[:4].sum() / 2)
    rows = Inequality(lambda w: w[4:6] - jnp.array([0.0, 100.0], w.dtype))
    settings = {"inequalities": "slack", "solver": SOLVERS[solver], "rank_every": 0}
    transform = null_space(half + rows, **settings)
    theta = jnp.zeros(2000, jnp.float32)
    u = jnp.zeros(2000).at[:6].set(length).astype(jnp.float32)
    out, state = jax.jit(transform.update)(u, transform.init(theta), theta)
    assert abs(float(out[:4].sum())) <= 2e-4 * length
    assert float(out[4]) <= 2e-4 * length
    # The pull of the far row is that of a step so short.
    assert float(out[5]) == pytest.approx(length, rel=1e-3)
    assert int(state.report.status) != STATUS.MAX_STEPS


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("size", [0.0, 1e-19])
def test_a_step_of_no_length_is_taken_with_slack(size, solver) -> None:
    both = Linear(np.ones(3, np.float32), 1.0) + Inequality(lambda w: w[:1] - 1000.0)
    settings = {"inequalities": "slack", "solver": SOLVERS[solver], "rank_every": 0}
    wrapped = constrained(optax.sgd(0.1), both, warn=False, **settings)
    theta = jnp.full(3, 1 / 3, jnp.float32)
    state, update = wrapped.init(theta), jax.jit(wrapped.update)
    for gradient in (size, 1.0):
        along = gradient * jnp.array([0.0, 1.0, -1.0], jnp.float32)
        updates, state = update(along, state, theta)
        np.testing.assert_allclose(updates, -0.1 * along, rtol=1e-3, atol=1e-12)
        assert int(state.report.status) != STATUS.NON_FINITE
