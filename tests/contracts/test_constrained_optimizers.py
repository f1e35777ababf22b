"""Every optimiser under a constraint: one line each, and it inherits all tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from gplsq import LSMR
from gplsq.constraints import ConstrainedState, Constraint, constrained, null_space

STEPS = 300
A = np.random.default_rng(1).standard_normal((2, 6)).astype(np.float32)
B = np.random.default_rng(2).standard_normal(2).astype(np.float32)
H = np.random.default_rng(3).uniform(0.3, 3, 6).astype(np.float32)
TARGET = (2 * np.random.default_rng(4).standard_normal(6)).astype(np.float32)
DECAY = optax.cosine_decay_schedule(0.3, STEPS)
SLOW_DECAY = optax.cosine_decay_schedule(0.15, STEPS)


def params(value=0.0):
    return {
        "a": jnp.full(2, value, "f4"),
        "b": {"c": jnp.full((2, 2), value, "f4"), "frozen": None},
    }


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def loss(tree):
    w = flat(tree) - TARGET
    return 0.5 * jnp.sum(H * w * w)


LINEAR = Constraint(lambda tree: {"rows": A @ flat(tree) - B})


def oracle():
    """The constrained optimum and its multipliers, in float64, by the KKT system."""
    a, h = A.astype(np.float64), np.diag(H.astype(np.float64))
    system = np.block([[h, a.T], [a, np.zeros((2, 2))]])
    solution = np.linalg.solve(system, np.concatenate([h @ TARGET, B]))
    return solution[:6], solution[6:]


RADIUS = 1.5
SPHERE = Constraint(lambda tree: jnp.sum(flat(tree) ** 2) - RADIUS**2)


def optimum_on_the_sphere():
    """By the secular equation: `(H + m) w = H t` with the m that gives w its length."""
    h, pull = H.astype(np.float64), (H * TARGET).astype(np.float64)
    m = scipy.optimize.brentq(
        lambda m: np.sum((pull / (h + m)) ** 2) - RADIUS**2, -h.min() + 1e-9, 100
    )
    return pull / (h + m)


def under(constraint, optimizer, **options):
    return constrained(optimizer, constraint, **options)


def spread(tree):
    return jax.tree.map(lambda leaf: True, tree)


# How to make it, of a constraint; the projected gradient that it ends at, relative to the first.
OPTIMIZERS = {
    "sgd": (lambda c: under(c, optax.sgd(0.3)), 1e-5),
    "momentum": (lambda c: under(c, optax.sgd(0.1, momentum=0.8)), 1e-5),
    "nesterov": (lambda c: under(c, optax.sgd(0.1, momentum=0.8, nesterov=True)), 1e-5),
    "adam": (lambda c: under(c, optax.adam(DECAY)), 1e-5),
    "adam-lsmr": (lambda c: under(c, optax.adam(DECAY), solver=LSMR()), 1e-5),
    "adam-metric": (lambda c: under(c, optax.adam(SLOW_DECAY), projection="metric"), 1e-5),
    "adam-inside-chain": (
        lambda c: under(c, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(DECAY))),
        1e-5,
    ),
    "adamw": (lambda c: under(c, optax.adamw(DECAY)), 1e-4),
    "adamw-metric": (lambda c: under(c, optax.adamw(SLOW_DECAY), projection="metric"), 1e-4),
    "rmsprop": (lambda c: under(c, optax.rmsprop(optax.cosine_decay_schedule(0.1, STEPS))), 1e-3),
    "lion": (lambda c: under(c, optax.lion(DECAY)), 1e-3),
    "muon": (lambda c: under(c, optax.contrib.muon(DECAY)), 1e-3),
    "schedule": (
        lambda c: under(
            c, optax.adam(DECAY), correction_rate=optax.linear_schedule(0.1, 1.0, STEPS // 2)
        ),
        1e-5,
    ),
    "damping-schedule": (
        lambda c: under(c, optax.adam(DECAY), damp=optax.linear_schedule(0.3, 0.0, STEPS // 3)),
        1e-5,
    ),
    "start-step": (lambda c: under(c, optax.adam(DECAY), start_step=50), 1e-5),
    "restoration": (
        lambda c: under(c, optax.adam(DECAY), restoration_steps=2, tolerance=1e-7),
        1e-5,
    ),
    "backtracking": (
        lambda c: under(
            c, optax.adam(DECAY), restoration_steps=1, backtracking_steps=4, tolerance=1e-5
        ),
        1e-5,
    ),
    "masked-optimizer": (lambda c: under(c, optax.masked(optax.sgd(0.3), spread)), 1e-5),
    "multi-transform": (
        lambda c: under(
            c,
            optax.multi_transform(
                {"slow": optax.sgd(0.2), "fast": optax.sgd(0.3)},
                lambda tree: {"a": "slow", "b": {"c": "fast", "frozen": None}},
            ),
        ),
        1e-5,
    ),
    "injected-optimizer": (
        lambda c: under(c, optax.inject_hyperparams(optax.adam)(learning_rate=DECAY)),
        1e-5,
    ),
    "injected-constraint": (
        lambda c: optax.inject_hyperparams(constrained)(optax.adam(DECAY), c),
        1e-5,
    ),
    "multi-steps": (
        lambda c: optax.MultiSteps(under(c, optax.sgd(0.3)), 2).gradient_transformation(),
        1e-5,
    ),
    "apply-if-finite": (lambda c: optax.apply_if_finite(under(c, optax.adam(DECAY)), 3), 1e-5),
    "lookahead": (lambda c: optax.lookahead(under(c, optax.sgd(0.3)), 5, 0.5), 1e-5),
    "null-space-behind-sgd": (lambda c: optax.chain(optax.sgd(0.3), null_space(c)), 1e-5),
    "null-space-both-sides": (
        lambda c: optax.chain(null_space(c, correction_rate=0.0), optax.adam(DECAY), null_space(c)),
        1e-5,
    ),
}
LOOKAHEAD = {"lookahead"}


@functools.lru_cache
def trained(name, sphere=False):
    """Parameters and violations of a run of 300 steps in one compiled scan, in float32."""
    constraint = SPHERE if sphere else LINEAR
    optimizer = OPTIMIZERS[name][0](constraint)
    start = params(0.3 if sphere else 0.0)
    if name in LOOKAHEAD:
        start = optax.LookaheadParams.init_synced(start)

    def fast(tree):
        return tree.fast if name in LOOKAHEAD else tree

    def step(carry, _):
        tree, state = carry
        updates, state = optimizer.update(jax.grad(loss)(fast(tree)), state, tree)
        tree = optax.apply_updates(tree, updates)
        residual = jnp.ravel(jax.tree.leaves(constraint.residuals(fast(tree)))[0])
        scale = RADIUS**2 if sphere else np.linalg.norm(B)
        return (tree, state), jnp.linalg.norm(residual) / scale

    @jax.jit
    def run(tree, state):
        return jax.lax.scan(step, (tree, state), None, length=STEPS)

    (tree, state), violations = run(start, optimizer.init(start))
    return fast(tree), state, np.asarray(violations)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_linear_constraint_holds_to_rounding_after_every_step_but_the_first(name: str) -> None:
    tree, _, violations = trained(name)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tree))
    first = {
        "start-step": 51,
        "schedule": 200,
        "damping-schedule": 150,
        "multi-steps": 2,
        "lookahead": 150,
    }.get(name, 1)
    assert violations[first:].max() <= 1e-6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_end_is_the_constrained_optimum(name: str) -> None:
    tree, _, _ = trained(name)
    a = A.astype(np.float64)
    P = np.eye(6) - np.linalg.pinv(a) @ a
    w = np.asarray(flat(tree), np.float64)
    start = np.abs(P @ (H * TARGET)).max()
    assert np.abs(P @ (H * (w - TARGET))).max() <= OPTIMIZERS[name][1] * max(start, 10.0)
    assert np.abs(w - oracle()[0]).max() <= 30 * OPTIMIZERS[name][1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_curved_constraint_is_met_at_its_optimum(name: str) -> None:
    tree, _, violations = trained(name, sphere=True)
    assert violations[-1] <= 1e-5
    w = np.asarray(flat(tree), np.float64)
    # Weight decay and signs have fixed points of their own, as on the plane.
    atol = 30 * OPTIMIZERS[name][1] + (5e-3 if "adamw" in name else 2e-4)
    np.testing.assert_allclose(w, optimum_on_the_sphere(), atol=atol)


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if not n.startswith("null-space")])
def test_the_report_in_the_state_says_what_happened(name: str) -> None:
    if name == "injected-constraint":
        pytest.skip("its state is inside that of inject_hyperparams")
    state = trained(name)[1]
    found = [
        node
        for node in jax.tree.leaves(state, is_leaf=lambda n: isinstance(n, ConstrainedState))
        if isinstance(node, ConstrainedState)
    ]
    report = found[0].report
    assert float(report.violation_after) <= 1e-6
    assert float(report.rank) == pytest.approx(2)
    assert float(report.null_space_dimension) == pytest.approx(4)
    assert int(report.status) in (1, 2, 3)
    assert "violation" in report.describe()
    if "metric" not in name:
        assert float(report.projected_gradient_norm) <= 1e-2
        np.testing.assert_allclose(report.multipliers, oracle()[1], atol=0.02)
