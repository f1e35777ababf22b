"""A tolerance that falls from the first violation: what adaptive damping follows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gplsq.constraints import Constraint, constrained, null_space
from gplsq.constraints._settings import checked_settings
from gplsq.constraints._step import followed_tolerance

CONSTRAINT = Constraint(lambda w: w)


def followed(first, step, **settings):
    given = checked_settings(CONSTRAINT, damp="adaptive", **settings)
    return float(followed_tolerance(given, jnp.asarray(first), jnp.asarray(step)))


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (50, 0.1), (100, 0.01), (1000, 0.01)])
@pytest.mark.parametrize("start", [0, 30])
def test_it_falls_geometrically_and_stays(start, step, expected) -> None:
    settings = {"tolerance": 0.01, "tightening_steps": 100, "start_step": start}
    np.testing.assert_allclose(followed(1.0, start + step, **settings), expected, rtol=1e-5)


def test_it_is_never_below_the_tolerance_and_reaches_zero_to_rounding() -> None:
    assert followed(0.5, 10, tolerance=2.0, tightening_steps=100) == 2.0
    assert followed(1.0, 0, tolerance=0.25) == 0.25
    last = followed(1.0, 100, tolerance=0.0, tightening_steps=100)
    assert 0 < last < 1e-4


def test_a_schedule_is_met_where_the_fall_ends() -> None:
    schedule = optax.linear_schedule(0.4, 0.2, 100)
    settings = {"tolerance": schedule, "tightening_steps": 50}
    np.testing.assert_allclose(followed(1.0, 50, **settings), 0.3, rtol=1e-6)
    np.testing.assert_allclose(followed(1.0, 100, **settings), 0.2, rtol=1e-6)


@pytest.mark.parametrize("projection", ["twice", "metric", "alone"])
def test_the_violation_of_training_follows_it(rng, projection) -> None:
    """Twelve equations for six unknowns, and a loss whose minimum is far off them."""
    A = jnp.asarray(rng.standard_normal((12, 6)) / 4)
    constraint = Constraint(lambda w: A @ w)
    settings = {"damp": "adaptive", "tolerance": 0.02, "tightening_steps": 400, "warn": False}
    if projection == "alone":
        optimizer = optax.chain(optax.sgd(0.02), null_space(constraint, **settings))
    else:
        options = {"projection": "metric"} if projection == "metric" else {}
        optimizer = constrained(optax.adam(0.02), constraint, **settings, **options)
    target = 3.0 * jnp.ones(6)

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(w - target, state, w)
        return (w + updates, state), jnp.sqrt(jnp.mean((A @ w) ** 2))

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=800))
    (_, state), violations = run((target, optimizer.init(target)))
    state = state[-1] if projection == "alone" else state.constraint
    first = violations[0]
    np.testing.assert_allclose(state.first, first, rtol=1e-5)
    for at in (200, 300):
        wanted = float(first) ** (1 - at / 400) * 0.02 ** (at / 400)
        assert wanted / 3 < violations[at] < 3 * wanted
    assert 0.01 < violations[-1] < 0.04


def test_the_first_violation_is_that_of_the_first_step_that_was_finite() -> None:
    constraint = Constraint(lambda w, factor: factor * w)
    settings = {"damp": "adaptive", "tolerance": 0.01, "tightening_steps": 10, "warn": False}
    optimizer = constrained(optax.sgd(0.1), constraint, **settings)
    w = jnp.ones(3)
    state = optimizer.init(w)
    seen = []
    for factor in (jnp.nan, 2.0, 3.0):
        _, state = optimizer.update(w, state, w, constraint_batch=jnp.asarray(factor))
        seen.append(float(state.constraint.first))
    assert np.isnan(seen[0])
    assert seen[1:] == [2.0, 2.0]


@pytest.mark.parametrize("make", [null_space, lambda *a, **k: constrained(optax.sgd(0.1), *a, **k)])
def test_it_goes_with_adaptive_damping_alone(make) -> None:
    with pytest.raises(ValueError, match="tightening_steps goes with damp='adaptive'"):
        make(CONSTRAINT, tightening_steps=10, tolerance=0.1)
    with pytest.raises(ValueError, match="tightening_steps"):
        make(CONSTRAINT, tightening_steps=-1, damp="adaptive", tolerance=0.1)
