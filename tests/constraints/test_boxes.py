"""Bounds on parameters, kept by projection, against quadratic programs solved by SciPy."""

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
    Sparsity,
    augmented_lagrangian,
    check_constraint,
    constrained,
    null_space,
    restore_feasibility,
)
from gplsq.solvers import STATUS

SOLVERS = {"factorised": None, "iterative": LSMR()}
H = np.random.default_rng(3).uniform(0.5, 2, 6).astype(np.float32)
TARGET = (2 * np.random.default_rng(4).standard_normal(6)).astype(np.float32)
A = np.random.default_rng(5).standard_normal((2, 6)).astype(np.float32)
B = np.array([0.3, -0.2], np.float32)
DECAY = optax.cosine_decay_schedule(0.2, 300)


def program(weight, target, low, high, A, b):
    """argmin of sum w (d - target)^2 / 2 with bounds and A d = b."""
    weight, target = np.asarray(weight, np.float64), np.asarray(target, np.float64)
    found = scipy.optimize.minimize(
        lambda d: 0.5 * np.sum(weight * (d - target) ** 2),
        np.zeros_like(target),
        jac=lambda d: weight * (d - target),
        bounds=list(zip(low, high, strict=True)),
        constraints=[{"type": "eq", "fun": lambda d: A @ d - b, "jac": lambda d: A}],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    return found.x


def train(optimizer, gradient, start, steps=300):
    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(gradient(w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps))
    (w, state), path = run((start, optimizer.init(start)))
    return np.asarray(w), state, np.asarray(path)


def slope(w):
    return H * (w - TARGET)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(4))
def test_a_step_solves_the_quadratic_program(solver, seed, x64) -> None:
    rng = np.random.default_rng(seed)
    J, u, c = rng.standard_normal((5, 10)), 2 * rng.standard_normal(10), rng.standard_normal(5) / 3
    low, high = -rng.uniform(0.3, 1.5, 10), rng.uniform(0.3, 1.5, 10)
    equal = Constraint(lambda theta: J[:2] @ theta + c[:2])
    unequal = Inequality(lambda theta: J[2:] @ theta + c[2:])
    transform = null_space(equal + unequal + Box(low, high), solver=SOLVERS[solver])
    theta = jnp.zeros(10)
    out, state = transform.update(jnp.asarray(u), transform.init(theta), theta)
    d = np.asarray(out, np.float64)
    limit = 1e-3 if solver == "iterative" else 1e-5
    assert np.all((d >= low) & (d <= high))
    assert np.abs(J[:2] @ d + c[:2]).max() <= limit
    assert np.max(J[2:] @ d + c[2:]) <= limit
    # Optimal: what keeps u from d is a push of rows and bounds that hold, each in its direction.
    up, down = d >= high - 1e-6, d <= low + 1e-6
    tight = J[2:][J[2:] @ d + c[2:] >= -10 * limit]
    pushes = np.concatenate([J[:2], -J[:2], tight, np.eye(10)[up], -np.eye(10)[down]])
    assert scipy.optimize.nnls(pushes.T, u - d)[1] <= 20 * limit
    assert up.sum() + down.sum() >= 1
    left = float(state.report.null_space_dimension)
    assert left == pytest.approx(10 - up.sum() - down.sum() - 2 - len(tight), abs=0.2)


@pytest.mark.parametrize("method", ["null_space", "augmented_lagrangian", "penalty"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_box_alone_holds_at_every_step_and_ends_at_the_nearest_point(method, optimizer) -> None:
    inner = {"sgd": optax.sgd(0.3), "adam": optax.adam(DECAY)}[optimizer]
    wrapped = constrained(inner, Box(-0.5, [0.4, 0.4, 0.4, 3, 3, 3]), method=method)
    w, state, path = train(wrapped, slope, jnp.zeros(6, "f4"))
    high = np.array([0.4, 0.4, 0.4, 3, 3, 3], np.float32)
    np.testing.assert_allclose(w, np.clip(TARGET, -0.5, high), atol=2e-4)
    assert np.all(path >= np.float32(-0.5))
    assert np.all(path <= high * (1 + 1e-7))
    assert float(state.report.violation_before) == 0
    assert w.dtype == np.float32
    if method == "null_space":
        assert float(state.report.projected_gradient_norm) < 1e-3
        assert float(state.report.violation_after) == 0


@pytest.mark.parametrize(
    ("method", "options", "error"),
    [
        ("null_space", {}, 1e-4),
        ("null_space", {"solver": LSMR()}, 1e-3),
        ("augmented_lagrangian", {"penalty": 1.0, "multiplier_rate": 0.05}, 1e-2),
        ("penalty", {"penalty": 30.0}, 1e-1),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_equations_and_a_box_together(method, options, error, optimizer) -> None:
    rate = 0.3 if method == "null_space" else 0.005 if method == "penalty" else 0.05
    inner = {"sgd": optax.sgd(rate), "adam": optax.adam(optax.cosine_decay_schedule(0.1, 2000))}
    both = Linear(A, B) + Box(-0.6, 0.7)
    wrapped = constrained(inner[optimizer], both, method=method, **options)
    w, state, path = train(wrapped, slope, jnp.zeros(6, "f4"), 2000)
    expected = program(H, TARGET, [-0.6] * 6, [0.7] * 6, A, B)
    assert np.sum((expected < -0.599) | (expected > 0.699)) >= 2
    np.testing.assert_allclose(w, expected, atol=error)
    assert path.min() >= -0.6 * (1 + 1e-6)
    assert path.max() <= 0.7 * (1 + 1e-6)
    if method == "null_space":
        assert np.abs(A @ w - B).max() <= 1e-5
        assert float(state.report.violation_after) <= 1e-5


def test_the_metric_projection_keeps_a_box_too() -> None:
    both = Linear(A, B) + Box(-0.6, 0.7)
    wrapped = constrained(optax.adam(optax.cosine_decay_schedule(0.05, 900)), both,
                          projection="metric")  # fmt: skip
    w, _, path = train(wrapped, slope, jnp.zeros(6, "f4"), 900)
    np.testing.assert_allclose(w, program(H, TARGET, [-0.6] * 6, [0.7] * 6, A, B), atol=1e-2)
    assert np.abs(A @ w - B).max() <= 1e-5
    assert path.min() >= -0.6 * (1 + 1e-6)
    assert path.max() <= 0.7 * (1 + 1e-6)


def test_a_start_outside_comes_in_at_the_first_step_and_is_reported() -> None:
    transform = null_space(Box(0.0, 1.0))
    theta = jnp.array([-1.0, 0.5, 3.0], jnp.float32)
    out, state = transform.update(jnp.zeros(3, jnp.float32), transform.init(theta), theta)
    np.testing.assert_allclose(theta + out, [0, 0.5, 1], atol=1e-7)
    # Two entries are outside, by 1 and by 2.
    assert float(state.report.violation_before) == pytest.approx(2)
    assert float(state.report.violation_after) == 0


def test_an_entry_leaves_its_bound_when_the_loss_does() -> None:
    wrapped = constrained(optax.sgd(0.3), Box(0.0) + Linear(np.ones(3), 1.0))
    far, near = jnp.array([2.0, 0.0, -3.0], "f4"), jnp.array([0.2, 0.3, 0.5], "f4")
    w, _, _ = train(wrapped, lambda w: w - far, jnp.full(3, 1 / 3, "f4"), 60)
    np.testing.assert_allclose(w, [1, 0, 0], atol=1e-6)
    w, _, _ = train(wrapped, lambda w: w - near, jnp.asarray(w), 60)
    np.testing.assert_allclose(w, near, atol=1e-5)


@pytest.mark.parametrize("inequalities", ["active_set", "slack"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_row_far_away_changes_nothing_in_a_box(optimizer, inequalities, rng) -> None:
    target = jnp.asarray(rng.standard_normal(50), jnp.float32)
    inner = {"sgd": optax.sgd(0.2), "adam": optax.adam(optax.cosine_decay_schedule(0.02, 150))}
    both = Linear(np.ones((1, 50)), 1.0) + Box(-0.2, 0.3)

    def end(constraint):
        settings = {"inequalities": inequalities, "rank_every": 0}
        wrapped = constrained(inner[optimizer], constraint, **settings)
        w, state, path = train(wrapped, lambda w: w - target, jnp.full(50, 0.02, "f4"), 150)
        assert np.abs(path.sum(axis=1) - 1).max() <= 1e-5
        return w, state.report

    w, report = end(both + Inequality(lambda w: w[:1] - 1e5))
    np.testing.assert_allclose(w, end(both)[0], atol=1e-3)
    assert float(report.projected_gradient_norm) <= 1e-2
    assert int(report.status) == STATUS.EXACT


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_along_the_constraint_is_settled_whether_a_bound_cuts_it_or_not(solver) -> None:
    def step(constraint, u):
        transform = null_space(constraint, solver=SOLVERS[solver], rank_every=0)
        theta = jnp.zeros_like(u)
        return jax.jit(transform.update)(u, transform.init(theta), theta)

    cut = Linear([[1.0, 1.0]], 0.0) + Box(None, [0.1, 10])
    out, state = step(cut, jnp.array([1.0, -1.0], "f4"))
    np.testing.assert_allclose(out, [0.1, -0.1], atol=1e-6)
    assert int(state.report.status) != STATUS.MAX_STEPS
    # J u is nothing but rounding, and no bound is near.
    u = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    u -= u.mean()
    out, state = step(Linear(np.ones((1, 50)), 0.0) + Box(-9.0, 9.0), jnp.asarray(u))
    np.testing.assert_allclose(out, u, atol=1e-6)
    assert int(state.report.status) != STATUS.MAX_STEPS


def test_restoration_stays_in_the_box() -> None:
    sphere, box = NormBall(1.0, kind="equality"), Box(None, 0.6)
    moved, result = restore_feasibility(jnp.array([2.0, 0.5, 0.1], jnp.float32), sphere + box)
    assert bool(result.ok)
    assert float(moved.max()) <= 0.6 * (1 + 1e-6)
    assert float(jnp.linalg.norm(moved)) == pytest.approx(1, abs=1e-6)
    wrapped = constrained(optax.sgd(0.3), sphere + box, restoration_steps=8, tolerance=1e-6)
    target = jnp.array([3.0, 1.0, 0.5], "f4")
    w, state, path = train(wrapped, lambda w: w - target, moved, 80)
    # At the bound in the first; on the circle that is left along the other two.
    rest = np.array([1.0, 0.5]) * 0.8 / np.hypot(1, 0.5)
    expected = [0.6, *rest] if rest[0] <= 0.6 else [0.6, 0.6, np.sqrt(1 - 0.72)]
    np.testing.assert_allclose(w, expected, atol=1e-4)
    assert path.max() <= 0.6 * (1 + 1e-6)
    assert float(state.report.violation_after) <= 1e-6


def test_entries_that_come_into_the_box_do_not_make_what_is_left_look_larger() -> None:
    sphere = Constraint(lambda w: (jnp.sum(w**2) - 0.3 * w.size) / w.size)
    start = jnp.full(1000, 1.001, jnp.float32)
    moved, result = restore_feasibility(start, sphere + Box(None, 1.0))
    assert bool(result.ok)
    assert float(jnp.mean(moved**2)) == pytest.approx(0.3, abs=1e-5)
    assert float(result.violation_before) == pytest.approx(0.702, abs=1e-3)


@pytest.mark.parametrize("method", ["null_space", "penalty"])
def test_entries_out_by_a_rounding_do_not_hide_a_residual(method) -> None:
    first = Constraint(lambda w: w[0] - 1.0001) + Box(None, 1.0)
    start = jnp.full(100_000, 1 + 2e-7, jnp.float32)
    _, result = restore_feasibility(start, first)
    assert not bool(result.ok)
    assert float(result.violation) == pytest.approx(1e-4, rel=1e-2)
    wrapped = constrained(optax.sgd(0.1), first, method=method)
    _, state = jax.jit(wrapped.update)(jnp.zeros_like(start), wrapped.init(start), start)
    assert float(state.report.violation_before) == pytest.approx(1e-4, rel=1e-2)


def test_a_bound_may_be_traced() -> None:
    @jax.jit
    def step(high):
        transform = null_space(Box(None, high) + Box(-1.0))
        theta = jnp.zeros(2, jnp.float32)
        update, state = transform.update(theta + 1, transform.init(theta), theta)
        return update, state.report.violation_after

    update, violation = step(0.5)
    np.testing.assert_array_equal(update, [0.5, 0.5])
    assert float(violation) == 0
    assert float(step(-2.0)[1]) >= 0.5


def test_bounds_without_a_point_between_them_are_refused_or_show_as_violated() -> None:
    crossed, theta = Box(0.5) + Box(None, [0.1, 0.7]), jnp.zeros(2, jnp.float32)
    calls = [
        lambda: null_space(crossed).init(theta),
        lambda: constrained(optax.sgd(0.1), crossed, method="penalty").init(theta),
        lambda: restore_feasibility(theta, crossed),
        lambda: check_constraint(crossed, theta),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"lower bound of 0\.5 above an upper one of 0\.1"):
            call()
    moved, result = jax.jit(lambda w: restore_feasibility(w, crossed))(theta)
    assert not bool(result.ok)
    assert float(result.violation) >= 0.2
    assert float(moved[1]) == pytest.approx(0.5)


def test_boxes_of_leaves_add_up_and_zeros_of_sparsity_stay(rng) -> None:
    params = {"W": jnp.asarray(rng.standard_normal((4, 3)), jnp.float32), "b": jnp.ones(3, "f4")}
    boxes = Box(-0.2, 0.2, lambda p: p["b"]) + Box(None, [[0.5, 1, 9]], lambda p: p["W"])
    moved, result = restore_feasibility(params, boxes + Box(0.1) + Sparsity(0.5))
    assert bool(result.ok)
    np.testing.assert_allclose(moved["b"], [0.2] * 3)
    W = np.asarray(moved["W"])
    assert np.sum(W == 0) == 6
    assert np.all((W == 0) | (W >= 0.1 - 1e-6))
    assert np.all(np.array([0.5, 1, 9]) + 1e-6 >= W)
    assert "0 residuals on 15" in check_constraint(boxes, params).report()


@pytest.mark.parametrize("method", ["null_space", "augmented_lagrangian", "penalty"])
def test_a_box_leaves_the_zeros_of_sparsity_alone_with_every_method(method, rng) -> None:
    W = jnp.asarray(rng.standard_normal((4, 4)), jnp.float32)
    # Multipliers that are quick overshoot, and the entries change places.
    options = {"multiplier_rate": 0.02} if method == "augmented_lagrangian" else {}
    both = Sparsity(0.5) + Box(0.1, 2.0)
    wrapped = constrained(optax.sgd(0.1), both, method=method, **options)
    end, state, _ = train(wrapped, jnp.zeros_like, W, 1000)
    assert np.sum(np.abs(end) <= 1e-5) == 8
    assert np.sum(end >= 0.1 * (1 - 1e-6)) == 8
    assert float(state.report.violation_before) <= 1e-5


def test_leaves_outside_the_box_move_freely_in_their_own_dtypes() -> None:
    params = {"half": jnp.zeros(2, jnp.bfloat16), "free": jnp.zeros(2, "f4"), "count": 3}
    transform = null_space(Box(-1, 0.5, lambda p: p["half"]))
    updates = {"half": jnp.full(2, 2, jnp.bfloat16), "free": jnp.full(2, 2, "f4"), "count": None}
    out, _ = transform.update(updates, transform.init(params), params)
    np.testing.assert_array_equal(out["half"].astype("f4"), [0.5, 0.5])
    np.testing.assert_array_equal(out["free"], [2, 2])
    assert out["half"].dtype == jnp.bfloat16


@pytest.mark.parametrize("make", [lambda w: Box(0.0, where=w), lambda w: Sparsity(0.5, where=w)])
@pytest.mark.parametrize(
    "where",
    [
        lambda p: -p["b"],
        lambda p: 2 * p["b"],
        lambda p: [p["a"], jnp.exp(p["b"])],
        lambda p: p["b"][:1],
        lambda p: p["b"].T,
        lambda p: jnp.zeros(2),
        lambda p: 0,
    ],
)
def test_a_where_that_computes_is_refused(make, where) -> None:
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2)), "z": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="leaves of params as they are"):
        restore_feasibility(params, make(where))


def test_a_where_may_pick_by_shape_and_leaves_that_are_one_array_stay_apart() -> None:
    one = jnp.full(2, -1.0, jnp.float32)
    params = {"a": one, "b": one, "W": jnp.full((2, 2), -1.0, jnp.float32), "count": 1}
    moved, _ = restore_feasibility(params, Box(0.0, where=lambda p: p["b"]))
    np.testing.assert_array_equal(moved["a"], one)
    np.testing.assert_array_equal(moved["b"], 0 * one)
    matrices = Box(0.0, where=lambda p: [x for x in (p["a"], p["W"]) if x.ndim == 2])
    moved, _ = restore_feasibility(params, matrices)
    np.testing.assert_array_equal(moved["W"], np.zeros((2, 2)))
    np.testing.assert_array_equal(moved["a"], one)
    with pytest.raises(AttributeError, match="wieght"):
        restore_feasibility(params, Box(0.0, where=lambda p: p["a"].wieght))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: Box(), ValueError, "at least one of them given"),
        (lambda: Box(1, 0), ValueError, "lower <= upper"),
        (lambda: Box(np.nan), ValueError, "lower <= upper"),
        (lambda: Box([0, 1], [1, 2, 3]), ValueError, "lower <= upper"),
        (lambda: Box("low"), TypeError, "lower must hold real numbers"),
        (lambda: Box(0, where="b"), TypeError, "where must be"),
        (lambda: null_space(Box([0, 1])).init(jnp.ones(3)), ValueError, "broadcast to every"),
        (lambda: null_space(Box(0, where=lambda p: [])).init(jnp.ones(3)), ValueError, "find"),
        (lambda: augmented_lagrangian(Box(0)), ValueError, "Use constrained"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
