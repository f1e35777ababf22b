"""Nets of many parameters: the same numbers as of few, in little memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gplsq.constraints._sparing as sparing_module
from gplsq import LSMR, Direct
from gplsq.constraints import (
    Box,
    Constraint,
    Inequality,
    Sparsity,
    constrained,
    null_space,
)

W = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32) / 2
TARGET = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
CURVED = Constraint(lambda w: jnp.sin(w[:2]).sum(axis=1) - 0.5 + w[2, :2] ** 2)
TIGHT = LSMR(rtol=1e-5, max_steps=50)

# What is run with the rules for many parameters, and with those for few.
STEPS = {
    "null space": lambda: optax.chain(optax.sgd(0.1), null_space(CURVED, solver=TIGHT)),
    "twice": lambda: constrained(optax.adam(0.05), CURVED, solver=TIGHT),
    "factorised": lambda: constrained(optax.adam(0.05), CURVED, solver=Direct()),
    "metric": lambda: constrained(optax.adam(0.05), CURVED, solver=TIGHT, projection="metric"),
    "restored": lambda: constrained(
        optax.adam(0.05), CURVED, solver=TIGHT, restoration_steps=2, tolerance=1e-6
    ),
    "backtracked": lambda: constrained(
        optax.adam(0.5), CURVED, solver=TIGHT, backtracking_steps=3, tolerance=1e-3
    ),
    "damped": lambda: constrained(
        optax.adam(0.05), CURVED, solver=TIGHT, damp="adaptive", tolerance=0.01
    ),
    "later": lambda: constrained(optax.adam(0.05), CURVED, solver=TIGHT, start_step=5),
    "inequality": lambda: constrained(
        optax.adam(0.05), Inequality(lambda w: w[0] - 0.1), solver=TIGHT
    ),
    "slack": lambda: constrained(
        optax.adam(0.05), Inequality(lambda w: w[0] - 0.1), solver=TIGHT, inequalities="slack"
    ),
    "box": lambda: constrained(optax.adam(0.05), Box(-0.6, 0.6) + CURVED, solver=TIGHT),
    "sparse": lambda: constrained(optax.adam(0.05), Sparsity(0.5) + CURVED, solver=TIGHT),
}


def _trained(optimizer, start=W):
    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(w - TARGET, state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), (w, state)

    start = jnp.asarray(start)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=20))
    return run((start, optimizer.init(start)))[1]


def _report(states):
    return (
        states[-1].report
        if isinstance(states, tuple) and not hasattr(states, "report")
        else states.report
    )


@pytest.mark.parametrize("name", STEPS)
def test_the_numbers_are_those_of_few_parameters(name, monkeypatch) -> None:
    few, states = _trained(STEPS[name]())
    monkeypatch.setattr(sparing_module, "MANY", 1)
    many, same = _trained(STEPS[name]())
    np.testing.assert_allclose(many, few, atol=3e-5)
    for field in ("violation_after", "gradient_norm", "projected_gradient_norm", "multipliers"):
        found, expected = (getattr(_report(s), field) for s in (same, states))
        scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0.0)))
        np.testing.assert_allclose(found, expected, atol=1e-3 * scale, err_msg=field)
    np.testing.assert_array_equal(_report(same).status, _report(states).status)
    np.testing.assert_allclose(_report(same).rank, _report(states).rank, atol=0.02)


@pytest.mark.parametrize("make", [STEPS["twice"], STEPS["metric"]], ids=["twice", "metric"])
def test_a_step_that_fails_is_not_taken_and_leaves_the_optimiser(make, monkeypatch) -> None:
    monkeypatch.setattr(sparing_module, "MANY", 1)
    broken = Constraint(lambda w: jnp.log(w[0]))
    optimizer = constrained(optax.adam(0.05), broken, solver=TIGHT, warn=False)
    w = jnp.asarray(W).at[0, 0].set(-1.0)
    state = optimizer.init(w)
    updates, after = jax.jit(optimizer.update)(w - TARGET, state, w)
    assert np.all(np.asarray(updates) == 0)
    same = jax.tree.map(lambda a, b: bool(np.all(np.asarray(a) == np.asarray(b))), state, after)
    assert all(jax.tree.leaves(same.inner))
    # A gradient that is NaN is passed on, to be seen.
    optimizer = make()
    updates, _ = jax.jit(optimizer.update)(w * jnp.nan, optimizer.init(w), w)
    assert np.all(np.isnan(updates))


def test_a_step_takes_few_copies_of_the_parameters(monkeypatch) -> None:
    """Beyond those of Adam alone."""
    net = eqx.nn.MLP(256, 8, 1024, 4, dtype=jnp.float32, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_inexact_array)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert size > sparing_module.MANY
    x = jnp.asarray(np.random.default_rng(0).standard_normal((16, 256)), jnp.float32)

    def outputs(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    def odd(params, x):
        return (outputs(params, x) + outputs(params, -x))[:, 0]

    def copies(optimizer, **more):
        def step(params, state):
            gradient = jax.grad(lambda p: jnp.mean(outputs(p, x) ** 2))(params)
            updates, state = optimizer.update(gradient, state, params, **more)
            return optax.apply_updates(params, updates), state

        state = optimizer.init(params)
        step = jax.jit(step, donate_argnums=(0, 1)).lower(params, state)
        memory = step.compile().memory_analysis()
        return memory.temp_size_in_bytes / (4 * size)

    alone = copies(optax.with_extra_args_support(optax.adam(1e-3)))
    # Nothing is solved, most of it is for sorting. Vectors kept over the whole step are two more.
    assert copies(constrained(optax.adam(1e-3), Sparsity(0.9))) - alone < 9
    constraint, loose = Constraint(odd), LSMR(rtol=0.1, max_steps=5)
    for options in ({}, {"projection": "metric"}):
        optimizer = constrained(optax.adam(1e-3), constraint, solver=loose, **options)
        more = copies(optimizer, constraint_batch=x) - alone
        with monkeypatch.context() as patch:
            patch.setattr(sparing_module, "MANY", 2**40)
            plain = copies(optimizer, constraint_batch=x) - alone
        assert more < 10
        assert more < 0.75 * plain
