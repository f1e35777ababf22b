"""Every ready-made constraint: one line each, and it inherits all tests."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gplsq import constraints as c
from gplsq.constraints import constrained, restore_feasibility

STEPS = 150


def weights():
    rng = np.random.default_rng(5)
    return {
        "W": jnp.asarray(np.eye(6, 4) + 0.2 * rng.standard_normal((6, 4)), jnp.float32),
        "V": jnp.asarray(rng.standard_normal((4, 6)) / 2, jnp.float32),
        "b": jnp.zeros(6, jnp.float32),
        "none": None,
    }


def network(p, x):
    """From (4,) to (4,)."""
    return p["V"] @ jnp.tanh(p["W"] @ x + p["b"])


def image_network(p, image):
    """An image (2, 2) to one number for each pixel."""
    return network(p, image.reshape(4)).reshape(2, 2)


def points_network(p, x):
    """Two points (2, 2) to two vectors."""
    return network(p, x.reshape(4)).reshape(2, 2)


def data(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def turns():
    return jnp.array([1, 2, 3])


A = np.random.default_rng(6).standard_normal((3, 24)).astype(np.float32)

# A new constraint is one line here: how to make it, and a batch for it or None.
CONSTRAINTS = {
    "linear": (lambda: c.Linear(A, 0.3, lambda p: p["V"]), None),
    "linear-inequality": (lambda: c.Linear(A, -0.3, lambda p: p["V"], "inequality"), None),
    "norm-ball": (lambda: c.NormBall(1.5, lambda p: p["V"]), None),
    "norm-sphere": (lambda: c.NormBall(1.5, kind="equality"), None),
    "box": (lambda: c.Box(-0.4, 0.3, lambda p: (p["V"], p["b"])), None),
    "box-with-linear": (
        lambda: c.Box(-0.6, 0.6, lambda p: p["V"]) + c.Linear(A, 0.3, lambda p: p["V"]),
        None,
    ),
    "box-with-norm-sphere": (lambda: c.Box(-0.7) + c.NormBall(2.0, kind="equality"), None),
    "orthogonality": (lambda: c.Orthogonality(lambda p: (p["W"], p["V"])), None),
    "unit-norm": (lambda: c.UnitNorm(lambda p: p["W"]), None),
    "unit-columns": (lambda: c.UnitNorm(lambda p: p["W"], axis=0), None),
    "sparsity": (lambda: c.Sparsity(0.6), None),
    "sparsity-global": (lambda: c.Sparsity(0.6, scope="global"), None),
    "sparsity-blocks": (lambda: c.Sparsity(0.5, lambda p: p["W"], structure=(2, 2)), None),
    "sparsity-rows": (lambda: c.Sparsity(0.5, lambda p: p["W"], structure="rows"), None),
    "equivariance": (
        lambda: c.Equivariance(image_network, c.rotate90, c.rotate90, jnp.array([1])),
        data(3, 2, 2),
    ),
    "equivariance-sampled": (
        lambda: c.Equivariance(points_network, c.rotate, c.rotate),
        (data(3, 2, 2), c.random_rotations(jax.random.key(0), 2, 2, dtype=jnp.float32)),
    ),
    "permutation": (
        lambda: c.Equivariance(points_network, c.permute, c.permute, jnp.array([[1, 0]])),
        data(4, 2, 2),
    ),
    "invariance": (lambda: c.Invariance(image_network, c.rotate90, turns()), data(2, 2, 2)),
    "invariance-flip": (
        lambda: c.Invariance(image_network, c.flip, jnp.array([1])),
        data(3, 2, 2),
    ),
    "conservative": (lambda: c.Conservative(network), data(4, 4)),
    "conservative-probes": (
        lambda: c.Conservative(network, probes=2),
        (data(8, 4), jax.random.key(3)),
    ),
    "robustness": (lambda: c.Robustness(network, 0.1), (data(6, 4), 0.5 * data(6, 4, seed=1))),
    "robustness-jacobian": (
        lambda: c.Robustness(network, 0.3, "jacobian"),
        (data(6, 4), data(6, 4, seed=1)),
    ),
    "function": (lambda: c.Constraint(lambda p: {"sum": p["b"].sum() - 1.0}), None),
    "batch-function": (lambda: c.Constraint(lambda p, x: x @ p["V"]), data(2, 4)),
    "sum": (lambda: c.UnitNorm(lambda p: p["W"]) + c.NormBall(1.5, lambda p: p["V"]), None),
    "sum-with-sparsity": (
        lambda: c.Sparsity(0.5) + c.Linear(A[:1], 0.3, lambda p: p["V"]),
        None,
    ),
}


def amount(constraint, params, batch):
    """What is violated, by a road of its own.

    Root mean squares of the residuals and of entries to be zero, and the farthest entry outside of
    its bounds, together as the root of the sum of their squares.
    """
    residuals, zeros, outside = [], [], [0.0]
    for part in constraint.parts():
        for leaf in jax.tree.leaves(part.residuals(params, batch if part.takes_batch else None)):
            values = np.ravel(np.asarray(leaf, np.float64))
            residuals += list(np.maximum(values, 0) if part.kind == "inequality" else values)
        pinned = part.pinned(params)
        if pinned is not None:
            for held, leaf in zip(jax.tree.leaves(pinned), _like(pinned, params), strict=True):
                zeros += list(np.asarray(leaf, np.float64)[np.asarray(held)])
        limits = part.box(params)
        for limit, side in zip(limits or (), (-1, 1), strict=bool(limits)):
            for bound, leaf in zip(jax.tree.leaves(limit), _like(limit, params), strict=True):
                outside += list(np.ravel(side * (np.asarray(leaf, np.float64) - np.asarray(bound))))
    of_groups = [np.sqrt(np.mean(np.square(group))) for group in (residuals, zeros) if group]
    return np.hypot(np.linalg.norm(of_groups), max(outside))


def _like(pinned, params):
    leaves = jax.tree.leaves(params)
    flags = jax.tree.flatten(params)[1].flatten_up_to(pinned)
    return [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag is not None]


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_training_keeps_it_beside_a_loss(name: str) -> None:
    constraint, batch = CONSTRAINTS[name][0](), CONSTRAINTS[name][1]
    params = weights()
    before = amount(constraint, params, batch)
    assert before > 1e-3
    x, y = data(16, 4, seed=8), data(16, 4, seed=9)
    optimizer = constrained(
        optax.adam(optax.cosine_decay_schedule(0.02, STEPS)),
        constraint,
        restoration_steps=3,
        tolerance=1e-6,
        correction_rate=0.5,
    )

    def loss(p):
        return jnp.mean((jax.vmap(lambda z: network(p, z))(x) - y) ** 2)

    def step(carry, _):
        p, state = carry
        value, gradient = jax.value_and_grad(loss)(p)
        updates, state = optimizer.update(gradient, state, p, constraint_batch=batch)
        return (optax.apply_updates(p, updates), state), (value, state.report.violation_after)

    start = params, optimizer.init(params)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=STEPS))
    (params, state), (losses, violations) = run(start)
    after = amount(constraint, params, batch)
    assert after <= 2e-5
    assert float(violations[-1]) == pytest.approx(after, abs=2e-5)
    assert losses[-1] <= losses[20]
    assert int(state.report.status) in (1, 2, 3)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_parameters_can_be_moved_onto_it(name: str) -> None:
    constraint, batch = CONSTRAINTS[name][0](), CONSTRAINTS[name][1]
    params = weights()
    move = jax.jit(lambda p: restore_feasibility(p, constraint, batch=batch, tolerance=1e-6))
    moved, result = move(params)
    assert bool(result.ok), result.report()
    assert float(result.violation_before) == pytest.approx(amount(constraint, params, batch), 1e-4)
    assert amount(constraint, moved, batch) <= 1e-5


@pytest.mark.parametrize("method", ["penalty", "augmented_lagrangian"])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_other_methods_bring_it_down_too(name: str, method: str) -> None:
    constraint, batch = CONSTRAINTS[name][0](), CONSTRAINTS[name][1]
    params = weights()
    before = amount(constraint, params, batch)
    options = {}
    if method == "augmented_lagrangian":
        # Adam's steps do not grow with the multipliers: at a rate of 0.1 these run far ahead.
        options["multiplier_rate"] = 0.01
        if batch is not None:
            constraint = eqx.tree_at(
                lambda c: c.example, constraint, batch, is_leaf=lambda leaf: leaf is None
            )
    optimizer = constrained(optax.adam(0.01), constraint, method=method, penalty=10.0, **options)

    def step(carry, _):
        p, state = carry
        still = jax.tree.map(jnp.zeros_like, p)
        updates, state = optimizer.update(still, state, p, constraint_batch=batch)
        return (optax.apply_updates(p, updates), state), None

    start = params, optimizer.init(params)
    (params, _), _ = jax.jit(lambda s: jax.lax.scan(step, s, None, length=STEPS))(start)
    assert amount(constraint, params, batch) <= 0.3 * before
