"""What people get wrong, and what they are told."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gplsq.constraints import (
    Box,
    Conservative,
    Constraint,
    ConstraintWarning,
    Equivariance,
    Linear,
    NormBall,
    Orthogonality,
    Robustness,
    Sparsity,
    augmented_lagrangian,
    constrained,
    null_space,
    rotate90,
)
from gplsq.solvers import STATUS

W = jnp.ones((3, 2), jnp.float32)
SUM = Constraint(lambda p: p.sum() - 1.0)
PICKED = Constraint(lambda p: p["w"].sum() - 1.0)
BATCHED = Constraint(lambda p, x: x @ p)


def one_step(constraint, params=W, updates=None, **options):
    transform = null_space(constraint, **options)
    updates = jax.tree.map(jnp.ones_like, params) if updates is None else updates
    return transform.update(updates, transform.init(params), params)


def waited(fn, *arguments):
    """The result, once warnings from the device have come."""
    out = fn(*arguments)
    jax.effects_barrier()
    return out


CASES = {
    "integers": (lambda: one_step(Constraint(lambda p: p.astype(int))), TypeError, "real floating"),
    "booleans": (lambda: one_step(Constraint(lambda p: p > 0)), TypeError, "return the numbers"),
    "nothing": (lambda: one_step(Constraint(lambda p: None)), ValueError, "at least one residual"),
    "empty": (lambda: one_step(Constraint(lambda p: p[:0])), ValueError, "at least one residual"),
    "no-params": (
        lambda: null_space(SUM).update(W, null_space(SUM).init(W)),
        ValueError,
        r"update\(updates, state, params\)",
    ),
    "init-without-params": (lambda: null_space(SUM).init(None), ValueError, "got None"),
    "params-not-arrays": (lambda: null_space(SUM).init({"w": "no"}), TypeError, "eqx.filter"),
    "params-integers": (lambda: null_space(SUM).init(jnp.arange(3)), TypeError, "floating-point"),
    "params-complex": (lambda: null_space(SUM).init(W * 1j), TypeError, "two leaves"),
    "other-structure": (lambda: one_step(PICKED, {"w": W}, W), ValueError, "tree structure"),
    "other-shape": (lambda: one_step(SUM, W, W.T), ValueError, "shapes of params"),
    "no-batch": (lambda: one_step(BATCHED), ValueError, "constraint_batch=batch"),
    "batch-not-wanted": (
        lambda: null_space(SUM).update(W, null_space(SUM).init(W), W, constraint_batch=W),
        ValueError,
        "no constraint takes a batch",
    ),
    "no-constraint": (lambda: null_space(lambda p: p), TypeError, r"Constraint\(fn\)"),
    "no-function": (lambda: Constraint(3.0), TypeError, "Pass a function"),
    "three-arguments": (lambda: Constraint(lambda a, b, c: a), TypeError, "functools.partial"),
    "kind": (lambda: Constraint(lambda p: p, kind="less"), ValueError, "inequality"),
    "example-without-batch": (lambda: Constraint(jnp.sum, batch_like=W), ValueError, "batch_like"),
    "rate-negative": (lambda: null_space(SUM, correction_rate=-1.0), ValueError, "at least 0"),
    "damp-word": (lambda: null_space(SUM, damp="strong"), ValueError, "'adaptive'"),
    "adaptive-alone": (lambda: null_space(SUM, damp="adaptive"), ValueError, "tolerance must be"),
    "steps-float": (lambda: null_space(SUM, restoration_steps=1.5), TypeError, "whole number"),
    "solver": (lambda: null_space(SUM, solver="lsmr"), TypeError, r"LSMR\(\) or Direct\(\)"),
    "optimizer": (lambda: constrained("adam", SUM), TypeError, "optax"),
    "method": (lambda: constrained(optax.sgd(1.0), SUM, method="magic"), ValueError, "null_space"),
    "projection-before-adam": (
        lambda: constrained(optax.chain(null_space(SUM), optax.adam(0.1)), SUM).init(W),
        ValueError,
        "projection of its own",
    ),
    "metric-of-sgd": (
        lambda: _update(constrained(optax.sgd(0.1), SUM, projection="metric")),
        ValueError,
        "scale_by_adam",
    ),
    "multipliers-of-a-batch": (
        lambda: augmented_lagrangian(BATCHED).init(W),
        ValueError,
        "method='penalty'",
    ),
    "linear-shapes": (lambda: Linear(np.ones((2, 3)), np.ones(3)), ValueError, "entry of b"),
    "linear-columns": (lambda: one_step(Linear(np.ones(5))), ValueError, "5 columns"),
    "linear-text": (lambda: Linear("A"), TypeError, "real numbers"),
    "ball-radius": (lambda: NormBall(0.0), ValueError, "greater than"),
    "orthogonal-vector": (lambda: one_step(Orthogonality(), W[0]), ValueError, "takes matrices"),
    "where-not-a-function": (lambda: Orthogonality("weight"), TypeError, "where must be"),
    "where-picks-nothing": (
        lambda: one_step(Orthogonality(lambda p: None)),
        ValueError,
        "at least one floating-point",
    ),
    "sparsity-all": (lambda: Sparsity(1.0), ValueError, "below 1"),
    "sparsity-steps": (lambda: Sparsity(0.5, begin_step=5, end_step=2), ValueError, "end_step"),
    "sparsity-nothing": (lambda: one_step(Sparsity(0.5), W[0]), ValueError, "two axes"),
    "sparsity-block": (lambda: one_step(Sparsity(0.5, structure=(2, 7))), ValueError, "divides"),
    "sparsity-block-of-a-vector": (
        lambda: one_step(Sparsity(0.5, lambda p: p, structure=(2, 2)), W[0]),
        ValueError,
        "two axes or more",
    ),
    "inequalities-of-another-method": (
        lambda: constrained(optax.sgd(1.0), SUM, method="penalty", inequalities="barrier"),
        ValueError,
        "active_set",
    ),
    "group-elements": (
        lambda: _update(null_space(Equivariance(lambda p, x: x, rotate90, None)), batch=W),
        ValueError,
        r"\(inputs, elements\)",
    ),
    "probes": (lambda: Conservative(lambda p, x: x, probes=0), ValueError, "at least 1"),
    "probe-key": (
        lambda: _update(null_space(Conservative(lambda p, x: x, probes=1)), batch=W),
        ValueError,
        "random key",
    ),
    "perturbations": (
        lambda: _update(null_space(Robustness(lambda p, x: x, 1.0)), batch=W),
        ValueError,
        "perturbations",
    ),
}


def _update(transform, batch=None):
    return transform.update(W, transform.init(W), W, constraint_batch=batch)


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_named_with_its_remedy(name: str) -> None:
    call, kind, message = CASES[name]
    with pytest.raises(kind, match=message):
        call()


def test_a_number_of_residuals_that_changes_is_refused() -> None:
    constraint = Constraint(lambda p, x: x @ p, batch_like=jnp.zeros((2, 3)))
    transform = null_space(constraint)
    state = transform.init(W)
    _, state = transform.update(W, state, W, constraint_batch=jnp.eye(2, 3, dtype=W.dtype))
    with pytest.raises(ValueError, match="6 after 4 at init"):
        transform.update(W, state, W, constraint_batch=jnp.eye(3, dtype=W.dtype))


@pytest.mark.parametrize("where", ["residuals", "jacobian"])
@pytest.mark.parametrize("optimizer", ["null-space", "constrained"])
@pytest.mark.parametrize("call", [jax.jit, lambda fn: fn], ids=["jit", "eager"])
def test_a_step_with_nan_is_not_taken_and_is_reported(where: str, optimizer: str, call) -> None:
    fn = {"residuals": lambda p: p / 0 * 0, "jacobian": lambda p: jnp.sqrt(0 * p)}[where]
    transform = null_space(Constraint(fn))
    if optimizer == "constrained":
        transform = constrained(optax.adam(0.1), Constraint(fn))
    start = transform.init(W)
    with pytest.warns(ConstraintWarning, match="the step was not taken"):
        updates, state = waited(call(transform.update), W, start, W)
    assert not np.any(updates)
    assert int(state.report.status) == STATUS.NON_FINITE
    if optimizer == "constrained":
        assert int(state.inner[0].count) == 0


def test_a_gradient_of_nan_stays_one() -> None:
    transform = constrained(optax.sgd(0.1), SUM)
    updates, state = transform.update(W * jnp.nan, transform.init(W), W)
    assert np.all(np.isnan(updates))
    assert int(state.report.status) == STATUS.NON_FINITE


@pytest.mark.parametrize("method", ["null_space", "penalty"])
@pytest.mark.parametrize("constraint", [Box(-1.0, 1.0), SUM + Box(-1.0, 1.0)])
def test_an_infinite_gradient_is_not_clipped_to_a_box_but_seen(constraint, method) -> None:
    for inner in (optax.sgd(0.1), optax.adam(0.1)):
        transform = constrained(inner, constraint, method=method)
        gradient = W.at[0, 0].set(jnp.inf)
        updates, state = jax.jit(transform.update)(gradient, transform.init(W / 6), W / 6)
        assert not np.isfinite(updates[0, 0])
        assert int(state.report.status) == STATUS.NON_FINITE


def test_a_zero_jacobian_changes_nothing_and_is_reported() -> None:
    out, state = one_step(Constraint(lambda p: 0 * p[0] + 3.0))
    np.testing.assert_array_equal(out, W)
    assert float(state.report.rank) == 0
    assert float(state.report.violation_after) == 3.0


def test_a_vanished_null_space_is_said_before_and_during_training() -> None:
    J = jnp.asarray(np.random.default_rng(0).standard_normal((10, 6)), jnp.float32)
    constraint = Constraint(lambda p: J @ p.ravel())
    with pytest.warns(ConstraintWarning) as caught:
        waited(jax.jit(lambda p: one_step(constraint, p)[0]), W)
    text = " ".join(str(w.message) for w in caught)
    assert "10 residuals for 6 parameters" in text
    assert "null space of the constraint has vanished" in text


def test_a_violation_that_grows_is_warned_of_once() -> None:
    # Walking on while the constraint moves away: the correction takes too little off.
    constraint = Constraint(lambda p: p.sum() ** 2 - 1.0)
    transform = null_space(constraint, correction_rate=0.0)
    p = jnp.full((2, 2), 0.3, jnp.float32)
    state = transform.init(p)

    @jax.jit
    def step(p, state):
        # What is applied is not what came out: as an optimiser behind the projection does.
        _, state = transform.update(jnp.ones_like(p), state, p)
        return p + 0.1, state

    def walk(p, state):
        for _ in range(16):
            p, state = step(p, state)
        return state

    with pytest.warns(ConstraintWarning, match="grew ten steps in a row") as caught:
        state = waited(walk, p, state)
    assert len(caught) == 1
    assert int(state.report.growth) >= 10


def test_warnings_can_be_switched_off() -> None:
    J = jnp.ones((10, 6), jnp.float32)
    out, _ = one_step(Constraint(lambda p: J @ p.ravel()), warn=False)
    assert np.all(np.isfinite(out))


def test_leaves_that_are_not_floats_pass_untouched() -> None:
    params = {"w": W, "count": jnp.arange(3), "flag": jnp.array(True), "none": None}
    updates = {"w": W, "count": None, "flag": None, "none": None}
    transform = null_space(Constraint(lambda p: p["w"].sum() - p["count"].sum()))
    out, _ = transform.update(updates, transform.init(params), params)
    assert out["count"] is None
    assert float((params["w"] + out["w"]).sum()) == pytest.approx(3.0, abs=1e-5)


def test_leaves_without_an_update_do_not_move() -> None:
    params = {"w": W, "frozen": jnp.ones(2, jnp.float32)}
    transform = null_space(Constraint(lambda p: p["w"].sum() + p["frozen"].sum()))
    out, _ = transform.update({"w": W, "frozen": None}, transform.init(params), params)
    assert out["frozen"] is None
    assert float((W + out["w"]).sum()) == pytest.approx(-2.0, abs=1e-5)


def test_parameters_of_two_dtypes_keep_them() -> None:
    params = {"half": jnp.ones((2, 2), jnp.bfloat16), "single": W}
    constraint = Constraint(lambda p: p["single"].sum() + p["half"].astype("f4").sum() - 1)
    updates = jax.tree.map(jnp.ones_like, params)
    transform = null_space(constraint)
    out, state = transform.update(updates, transform.init(params), params)
    assert out["half"].dtype == jnp.bfloat16
    assert out["single"].dtype == jnp.float32
    assert state.report.violation_before.dtype == jnp.float32
    assert float(state.report.violation_after) < 0.05
