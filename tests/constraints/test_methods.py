"""Adaptive damping, schedules, checkpoints, and the methods compared on one problem."""

import pickle
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gplsq
from gplsq import LSMR
from gplsq.constraints import (
    Box,
    Constraint,
    Inequality,
    LagrangianState,
    Orthogonality,
    Sparsity,
    constrained,
    null_space,
    restore_feasibility,
)

A = np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32)
TARGET = np.random.default_rng(2).standard_normal(5).astype(np.float32)
LINEAR = Constraint(lambda w: A @ w - 1.0)


def train(optimizer, start, gradient, steps, batches=None):
    def step(carry, batch):
        w, state = carry
        updates, state = optimizer.update(gradient(w), state, w, constraint_batch=batch)
        return (optax.apply_updates(w, updates), state), state.report.violation_before

    carry = start, optimizer.init(start)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, batches, length=steps))
    (w, state), violations = run(carry)
    return w, state, np.asarray(violations)


def optimum():
    a = A.astype(np.float64)
    system = np.block([[np.eye(5), a.T], [a, np.zeros((2, 2))]])
    solution = np.linalg.solve(system, np.concatenate([TARGET, np.ones(2)]))
    return solution[:5], solution[5:]


@pytest.mark.parametrize(
    ("method", "options", "error"),
    [
        ("null_space", {}, 1e-5),
        ("augmented_lagrangian", {"penalty": 2.0}, 1e-4),
        ("augmented_lagrangian", {"penalty": optax.linear_schedule(0.5, 2.0, 200)}, 1e-4),
        ("penalty", {"penalty": 100.0}, 2e-2),
    ],
)
def test_one_word_changes_the_method(method, options, error) -> None:
    rate = 0.2 if method == "null_space" else 0.005 if method == "penalty" else 0.05
    optimizer = constrained(optax.sgd(rate), LINEAR, method=method, **options)
    w, state, violations = train(optimizer, jnp.zeros(5, "f4"), lambda w: w - TARGET, 1500)
    best, multipliers = optimum()
    np.testing.assert_allclose(w, best, atol=error)
    assert violations[-1] <= 2 * error
    np.testing.assert_allclose(state.report.multipliers, multipliers, atol=5 * error)


def test_multipliers_of_inequalities_stay_non_negative_and_survive_a_checkpoint(tmp_path) -> None:
    constraint = Inequality(lambda w: A @ w - 1.0)
    optimizer = constrained(optax.sgd(0.05), constraint, method="augmented_lagrangian", penalty=2.0)
    far = (4 * A[0] - 2 * A[1]).astype(np.float32)
    w, state, _ = train(optimizer, jnp.zeros(5, "f4"), lambda w: w - far, 1500)
    assert isinstance(state.constraint, LagrangianState)
    m = np.asarray(state.constraint.multipliers)
    assert np.all(m >= 0)
    assert m.max() > 0.1
    assert (A @ np.asarray(w) - 1).max() < 1e-3
    leaves, structure = jax.tree.flatten(state)
    saved = pickle.dumps([np.asarray(leaf) for leaf in leaves])
    gplsq.save_state(tmp_path / "state", state)
    first = optimizer.update(w - far, state, w)[0]
    for again in (
        jax.tree.unflatten(structure, pickle.loads(saved)),
        gplsq.load_state(tmp_path / "state", like=optimizer.init(w)),
    ):
        np.testing.assert_array_equal(first, optimizer.update(w - far, again, w)[0])


def test_adaptive_damping_trains_on_at_the_tolerance_where_a_strict_constraint_freezes() -> None:
    # Thirty equations for five numbers that no point satisfies but for the origin.
    J = np.random.default_rng(3).standard_normal((30, 5)).astype(np.float32)
    constraint = Constraint(lambda w: J @ w)
    far = jnp.asarray(5 * TARGET)

    def gradient(w):
        return w - far

    strict = constrained(optax.sgd(0.1), constraint, warn=False)
    w, state, _ = train(strict, jnp.zeros(5, "f4"), gradient, 50)
    assert float(jnp.abs(w).max()) < 1e-5
    assert float(state.report.null_space_dimension) == 0
    loose = constrained(optax.sgd(0.1), constraint, damp="adaptive", tolerance=0.3)
    w, state, violations = train(loose, jnp.zeros(5, "f4"), gradient, 800)
    assert np.sqrt(np.mean((J @ np.asarray(w)) ** 2)) == pytest.approx(0.3, rel=0.1)
    assert float(w @ far) > 0
    assert violations[-200:].max() < 0.4
    assert float(state.report.null_space_dimension) > 0.5


def test_a_fresh_mini_batch_each_step_with_a_loose_solver(rng) -> None:
    points = jnp.asarray(rng.standard_normal((100, 80, 3)), jnp.float32)
    params = {"a": jnp.ones((3, 40), "f4") / 10, "b": jnp.ones((40, 3), "f4") / 10}

    def odd(p, x):  # f(x) + f(-x) = 0
        def f(x):
            return jnp.tanh(x @ p["a"] + 0.3) @ p["b"]

        return f(x) + f(-x)

    def gradient(p):
        return jax.grad(lambda p: jnp.sum((p["a"] @ p["b"] - jnp.eye(3)) ** 2))(p)

    optimizer = constrained(optax.adam(0.01), Constraint(odd), solver=LSMR(rtol=1e-2, max_steps=20))
    _, state, violations = train(optimizer, params, gradient, 100, points)
    assert state.report.multipliers is None
    assert violations[-10:].mean() < 0.2 * violations[0]
    assert 0 < int(state.report.num_steps) <= 40


def test_restoration_meets_a_nonlinear_tolerance_that_one_correction_misses(rng) -> None:
    W = jnp.asarray(np.linalg.qr(rng.standard_normal((6, 4)))[0], jnp.float32)
    target = jnp.asarray(rng.standard_normal((6, 4)), jnp.float32)

    def end(**options):
        optimizer = constrained(optax.sgd(0.1), Orthogonality(), **options)
        step = jax.jit(lambda w, s: optimizer.update(w - target, s, w))
        updates, state = step(W, optimizer.init(W))
        return updates, state.report

    _, plain = end()
    updates, restored = end(restoration_steps=10, tolerance=1e-6)
    assert float(plain.violation_after) > 1e-3
    assert float(restored.violation_after) <= 1e-6
    assert int(restored.restorations) >= 2
    moved = np.asarray(W + updates, np.float64)
    assert np.sqrt(np.mean((moved.T @ moved - np.eye(4)) ** 2)) < 1e-5


def test_sparsity_grows_along_its_schedule_and_ends_with_exact_zeros(rng) -> None:
    constraint = Sparsity(0.9, begin_step=10, end_step=60, rate=0.3)
    params = {"W": jnp.asarray(rng.standard_normal((30, 20)), jnp.float32), "b": jnp.ones(3, "f4")}
    target = jnp.asarray(rng.standard_normal((30, 20)), jnp.float32)
    optimizer = constrained(optax.adamw(0.01), constraint)

    def step(carry, _):
        p, state = carry
        gradient = {"W": p["W"] - target, "b": p["b"]}
        updates, state = optimizer.update(gradient, state, p)
        p = optax.apply_updates(p, updates)
        return (p, state), jnp.mean(p["W"] == 0)

    start = params, optimizer.init(params)
    (p, state), zeros = jax.jit(lambda s: jax.lax.scan(step, s, None, length=80))(start)
    assert zeros[9] == 0
    np.testing.assert_allclose(zeros[61:], 0.9, atol=1e-6)
    masks = constraint.masks(p)
    np.testing.assert_array_equal(masks["W"], p["W"] != 0)
    assert masks["b"] is None
    assert float(constraint.fraction_at(35)) == pytest.approx(0.9 * (1 - 0.5**3))
    assert float(state.report.null_space_dimension) == 60 + 3


def test_structured_and_global_sparsity_zero_what_is_least(rng) -> None:
    params = {
        "small": jnp.asarray(0.01 * rng.standard_normal((4, 5)), jnp.float32),
        "large": jnp.asarray(rng.standard_normal((6, 10)), jnp.float32),
    }
    masks = Sparsity(0.5, scope="global").masks(params)
    assert not masks["small"].any()
    assert int(masks["large"].sum()) == 40
    rows = Sparsity(0.5, lambda p: p["large"], structure="rows").masks(params)
    norms = np.linalg.norm(params["large"], axis=1)
    np.testing.assert_array_equal(rows["large"].all(axis=1), norms > np.median(norms))
    np.testing.assert_array_equal(rows["large"].any(axis=1), rows["large"].all(axis=1))
    assert rows["small"] is None
    blocks = Sparsity(0.4, scope="global", structure=(2, 5)).masks(params)
    assert not blocks["small"].any()
    tiles = np.asarray(blocks["large"]).reshape(3, 2, 2, 5).swapaxes(1, 2).reshape(6, 10)
    parts = np.asarray(params["large"]).reshape(3, 2, 2, 5).swapaxes(1, 2).reshape(6, 10)
    norms = np.linalg.norm(parts, axis=1)
    # 20 of the small entries and 12 of the large, rounded up to two blocks of ten.
    np.testing.assert_array_equal(tiles.all(axis=1), norms > np.sort(norms)[1])
    np.testing.assert_array_equal(tiles.any(axis=1), tiles.all(axis=1))


def test_masked_leaves_are_outside_the_constraint(rng) -> None:
    params = {"W": jnp.asarray(rng.standard_normal((3, 3)), jnp.float32), "b": jnp.ones(3, "f4")}
    only_W = {"W": True, "b": False}
    transform = optax.masked(null_space(Constraint(lambda p: p["W"].sum())), only_W)
    updates, _ = transform.update(params, transform.init(params), params)
    assert float((params["W"] + updates["W"]).sum()) == pytest.approx(0, abs=1e-5)
    np.testing.assert_array_equal(updates["b"], params["b"])


def test_an_equinox_model_trains_under_filter_jit() -> None:
    model = eqx.nn.MLP(2, 1, 8, 2, key=jax.random.key(0))
    constraint = Orthogonality(lambda m: m.layers[1].weight)
    optimizer = constrained(optax.adam(1e-2), constraint, restoration_steps=3, tolerance=1e-6)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    x = jax.random.normal(jax.random.key(1), (32, 2))

    @eqx.filter_jit
    def step(model, state):
        def loss(model):
            return jnp.mean((jax.vmap(model)(x)[:, 0] - x[:, 0] * x[:, 1]) ** 2)

        value, gradient = eqx.filter_value_and_grad(loss)(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(gradient, state, params)
        return eqx.apply_updates(model, updates), state, value

    model, state, first = step(model, state)
    for _ in range(40):
        model, state, last = step(model, state)
    W = np.asarray(model.layers[1].weight)
    np.testing.assert_allclose(W @ W.T, np.eye(8), atol=1e-4)
    assert last < first


def test_a_new_step_does_not_compile_anew(rng) -> None:
    traces = []

    def fn(w):
        traces.append(1)
        return A @ w - 1.0

    optimizer = constrained(optax.adam(1e-2), Constraint(fn))
    update = jax.jit(optimizer.update)
    w = jnp.zeros(5, "f4")
    state = optimizer.init(w)
    _, state = update(w, state, w)
    seen = len(traces)
    for _ in range(3):
        w, state = update(w + 1, state, w)
    assert len(traces) == seen


@pytest.mark.parametrize("method", ["null_space", "augmented_lagrangian", "penalty"])
def test_a_step_may_donate_its_state(method):
    """No two leaves of a fresh state share a buffer."""
    constraint = Constraint(lambda w: w[:1] - w[1:2])
    optimizer = constrained(optax.adam(0.1), constraint, method=method, solver=gplsq.LSMR())

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return params + updates, state

    params = jnp.array([1.0, 2.0, 3.0])
    state = optimizer.init(params)
    for _ in range(2):
        params, state = step(params, state)
    assert jnp.all(jnp.isfinite(params))


@pytest.mark.parametrize("structure", ["entries", "rows", (2, 2)])
@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_a_leaf_without_entries_has_no_share_in_sparsity(shape, scope, structure) -> None:
    full = jnp.arange(1.0, 17.0, dtype=jnp.float32).reshape(4, 4)
    sparsity = Sparsity(0.5, scope=scope, structure=structure)
    masks = sparsity.masks({"empty": jnp.zeros(shape, jnp.float32), "full": full})
    assert masks["empty"].shape == shape
    np.testing.assert_array_equal(masks["full"], full > 8)


@pytest.mark.parametrize(
    "other",
    [Sparsity(0.5, where=lambda p: p["b"]), Box(0.0, 1.0, where=lambda p: p["b"])],
    ids=["sparsity", "box"],
)
def test_a_leaf_that_is_the_residual_itself_is_constrained_beside_another(other) -> None:
    params = {"a": jnp.ones(2), "b": jnp.array([0.3, -0.6, 0.9, 0.1])}
    optimizer = constrained(optax.sgd(0.1), Constraint(lambda p: p["a"]) + other)
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    for _ in range(5):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["a"], 0, atol=1e-6)


@pytest.mark.parametrize("eps", [1e-8, 0.3])
def test_the_metric_is_that_of_the_optimisers_own_eps(eps) -> None:
    """At rest the gradient is normal to the constraint; in another metric it is not."""
    a = jnp.array([1.0, 5.0, 0.2])
    constraint, target = Constraint(lambda w: a @ w - 1), jnp.array([0.4, -0.3, 0.7])

    def slope(metric_eps):
        optimizer = constrained(
            optax.adam(optax.exponential_decay(0.05, 100, 0.6), eps=eps),
            constraint,
            projection="metric",
            metric_eps=metric_eps,
        )
        w, _, _ = train(optimizer, jnp.zeros(3), lambda w: w - target, 2000)
        g = w - target
        return float(jnp.linalg.norm(g - a * (a @ g) / (a @ a)))

    own = slope(eps)
    assert own < 0.01
    assert eps == 1e-8 or slope(1e-8) > 5 * own


def test_counts_of_restoration_and_sparsity_are_whole() -> None:
    with pytest.raises(ValueError, match="max_steps must be at least 1"):
        restore_feasibility(jnp.ones(5), LINEAR, max_steps=0)
    with pytest.raises(TypeError, match="max_steps must be a whole number"):
        restore_feasibility(jnp.ones(5), LINEAR, max_steps=2.5)
    with pytest.raises(TypeError, match="begin_step must be a whole number"):
        Sparsity(0.5, begin_step=0.5)
    with pytest.raises(TypeError, match="end_step must be a whole number"):
        Sparsity(0.5, end_step=None)
