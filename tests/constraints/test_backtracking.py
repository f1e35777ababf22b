"""Steps that are too long for the curvature of a constraint are shortened."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gplsq.constraints import (
    Constraint,
    Inequality,
    Orthogonality,
    Sparsity,
    constrained,
    null_space,
)

TOLERANCE = 1e-3


def _frame(rng):
    W = jnp.asarray(np.linalg.qr(rng.standard_normal((6, 4)))[0], jnp.float32)
    return W, jnp.asarray(3 * rng.standard_normal((6, 4)), jnp.float32)


def _violation(W):
    return float(jnp.sqrt(jnp.mean((W.T @ W - jnp.eye(4)) ** 2)))


def test_a_halved_step_is_the_step_times_a_power_of_two(rng) -> None:
    W, target = _frame(rng)

    def step(**options):
        optimizer = null_space(Orthogonality(), **options)
        updates, state = jax.jit(optimizer.update)(target - W, optimizer.init(W), W)
        return updates, state.report

    whole, plain = step()
    short, report = step(backtracking_steps=10, tolerance=TOLERANCE)
    halvings = int(report.halvings)
    assert int(plain.halvings) == 0
    assert halvings >= 2
    np.testing.assert_allclose(short, whole / 2**halvings, rtol=1e-5, atol=1e-7)
    assert float(plain.violation_after) > TOLERANCE
    # The longest of those that stay within the tolerance.
    assert float(report.violation_after) <= TOLERANCE
    assert _violation(W + 2 * short) > TOLERANCE
    few = step(backtracking_steps=1, tolerance=TOLERANCE)[1]
    assert int(few.halvings) == 1


def test_every_step_of_a_run_keeps_the_tolerance(rng) -> None:
    W, target = _frame(rng)

    def violations(**options):
        # The null space has vanished nowhere, and the plain run is to diverge without a word.
        optimizer = constrained(optax.sgd(0.4), Orthogonality(), warn=False, **options)

        def step(carry, _):
            W, state = carry
            updates, state = optimizer.update(W - target, state, W)
            W = optax.apply_updates(W, updates)
            return (W, state), (state.report.violation_after, state.report.halvings)

        carry = W, optimizer.init(W)
        return jax.jit(lambda carry: jax.lax.scan(step, carry, length=100))(carry)

    _, (plain, _) = violations()
    (end, _), (kept, halvings) = violations(
        restoration_steps=3, backtracking_steps=10, tolerance=TOLERANCE
    )
    assert float(plain[0]) > 10 * TOLERANCE
    assert np.all(kept <= TOLERANCE)
    assert int(np.max(halvings)) >= 1
    assert _violation(end) < 1.1 * TOLERANCE
    # Close to the nearest frame to the target, its polar factor: the sum of singular values.
    reached = float(jnp.sum(end * target))
    assert reached > 0.98 * np.linalg.svd(target, compute_uv=False).sum()


def test_a_step_out_of_the_domain_of_the_residuals_is_shortened() -> None:
    constraint = Constraint(lambda w: jnp.log(w[0]) + w[1] ** 2)
    w = jnp.array([1.0, 0.0], jnp.float32)  # log 1 + 0 = 0; the gradient is (1, 0)
    crooked = Inequality(lambda w: jnp.sqrt(1 - w[1]) - 2)
    optimizer = null_space(constraint + crooked, backtracking_steps=8, tolerance=0.5, warn=False)
    updates, state = jax.jit(optimizer.update)(jnp.array([0.0, 3.0]), optimizer.init(w), w)
    assert int(state.report.halvings) >= 2
    assert np.all(np.isfinite(updates))
    assert float(w[1] + updates[1]) < 1
    assert float(updates[1]) > 0.3


def test_entries_that_are_to_be_zero_are_zero_after_a_short_step_too(rng) -> None:
    W, target = _frame(rng)
    constraint = Sparsity(0.5) + Constraint(lambda W: jnp.sum(W**2) - 3.0)
    optimizer = constrained(
        optax.sgd(2.0), constraint, backtracking_steps=6, tolerance=1e-2, warn=False
    )
    updates, state = jax.jit(optimizer.update)(W - target, optimizer.init(W), W)
    assert int(state.report.halvings) >= 1
    assert int(jnp.sum(W + updates == 0)) == 12


@pytest.mark.parametrize("make", [null_space, lambda c, **o: constrained(optax.sgd(0.1), c, **o)])
def test_its_tolerance_is_asked_for(make) -> None:
    with pytest.raises(ValueError, match="tolerance must be given with backtracking_steps"):
        make(Orthogonality(), backtracking_steps=3)
    with pytest.raises(ValueError, match="backtracking_steps must be at least 0; got -1"):
        make(Orthogonality(), backtracking_steps=-1, tolerance=1.0)
