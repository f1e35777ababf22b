"""The one solve of a step against an explicit pseudo-inverse in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gplsq.constraints._sparing as sparing_module
from gplsq import LSMR
from gplsq.constraints import Constraint, constrained, null_space

SOLVERS = {"factorised": None, "iterative": LSMR()}


def matrices(rng):
    """Jacobians a solver meets: the shape and rank of each is in its name."""
    wide = rng.standard_normal((4, 9))
    tall = rng.standard_normal((9, 4))
    scaled = np.diag([1e2, 1.0, 1.0, 1e-1]) @ wide
    return {
        "wide": wide,
        "one-row": wide[:1],
        "repeated-rows": np.concatenate([wide[:2], wide[:2]]),
        "rank-one": np.outer(rng.standard_normal(4), rng.standard_normal(9)),
        "zero": np.zeros((3, 9)),
        "square": rng.standard_normal((5, 5)),
        "tall": tall,
        "scaled": scaled,
    }


NAMES = list(matrices(np.random.default_rng(0)))


def steps(J, c, u, solver, dtype, **options):
    """The update that `null_space` makes of u under the constraint J theta + c at theta = 0."""
    J, c, u = (np.asarray(x, dtype) for x in (J, c, u))
    transform = null_space(
        Constraint(lambda theta: J @ theta + c), solver=solver, warn=False, **options
    )
    theta = jnp.zeros(J.shape[1], dtype)
    out, state = jax.jit(transform.update)(jnp.asarray(u), transform.init(theta), theta)
    return out, state.report


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_that_of_the_pseudo_inverse(name, solver, dtype, rng) -> None:
    J = matrices(rng)[name]
    u = rng.standard_normal(J.shape[1])
    c = J @ rng.standard_normal(J.shape[1])
    out, report = steps(J, c, u, SOLVERS[solver], dtype)
    expected = u - np.linalg.pinv(J, rcond=1e-6) @ (J @ u + c)
    assert out.dtype == dtype
    limit = 4e-3 if dtype == np.float32 else 1e-8
    assert np.abs(out - expected).max() <= limit
    assert int(report.status) in (1, 2, 3)
    rank = np.linalg.matrix_rank(J)
    if solver == "factorised" or rank in (0, *J.shape):  # otherwise it is an estimate
        assert float(report.rank) == pytest.approx(rank, abs=0.1)
        assert float(report.null_space_dimension) == pytest.approx(J.shape[1] - rank, abs=0.1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_damped_step_is_that_of_the_normal_equations(name, solver, rng, x64) -> None:
    J = matrices(rng)[name]
    u, c = rng.standard_normal(J.shape[1]), rng.standard_normal(J.shape[0])
    out, report = steps(J, c, u, SOLVERS[solver], np.float64, damp=0.3, correction_rate=0.5)
    gram = J @ J.T + 0.09 * np.eye(len(J))
    m = np.linalg.solve(gram, J @ u + 0.5 * c)
    np.testing.assert_allclose(out, u - J.T @ m, atol=1e-8)
    np.testing.assert_allclose(report.multipliers, m, atol=1e-7)
    s = np.linalg.svd(J, compute_uv=False)
    if solver != "iterative":
        assert float(report.rank) == pytest.approx(np.sum(s**2 / (s**2 + 0.09)), abs=1e-6)


def test_an_inconsistent_constraint_is_met_in_the_sense_of_least_squares(rng, dtype) -> None:
    J = np.concatenate([np.eye(2, 5), np.eye(2, 5)])
    c = np.array([1.0, 2.0, 3.0, 4.0])
    for solver in SOLVERS.values():
        out, report = steps(J, c, np.zeros(5), solver, dtype)
        np.testing.assert_allclose(out, [-2, -3, 0, 0, 0], atol=1e-5)
        assert int(report.status) in (1, 2, 3)


def test_a_warm_start_saves_steps_and_changes_nothing(rng, x64) -> None:
    J = rng.standard_normal((80, 120))
    b = rng.standard_normal(80)
    target = rng.standard_normal(120)
    constraint = Constraint(lambda theta: J @ theta - b)

    def train(warm):
        optimizer = constrained(
            optax.sgd(0.2), constraint, solver=LSMR(rtol=1e-8), warm_start=warm, rank_every=0
        )

        def step(carry, _):
            theta, state = carry
            updates, state = optimizer.update(theta - target, state, theta)
            return (theta + updates, state), state.report.num_steps

        theta = jnp.zeros(120)
        start = theta, optimizer.init(theta)
        (theta, _), spent = jax.lax.scan(step, start, None, length=40)
        return theta, int(spent[-10:].sum())

    (warm, few), (cold, many) = train(True), train(False)
    np.testing.assert_allclose(warm, cold, atol=1e-6)
    assert few < 0.8 * many


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_metric_projection_is_that_of_the_weighted_pseudo_inverse(solver, rng, x64) -> None:
    J, c = rng.standard_normal((3, 7)), rng.standard_normal(3)
    theta, gradient = jnp.zeros(7), jnp.asarray(rng.standard_normal(7))
    optimizer = constrained(
        optax.adam(0.1),
        Constraint(lambda theta: J @ theta + c),
        projection="metric",
        solver=SOLVERS[solver],
    )
    out, _ = optimizer.update(gradient, optimizer.init(theta), theta)
    alone = optax.adam(0.1)
    u = np.asarray(alone.update(gradient, alone.init(theta))[0])
    D = np.diag(1 / np.abs(np.asarray(gradient)))
    expected = u - D @ J.T @ np.linalg.solve(J @ D @ J.T, J @ u + c)
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["wide", "tall", "repeated-rows"])
def test_the_rank_of_a_large_constraint_is_estimated_one_sign_vector_at_a_time(
    name, rng, monkeypatch
) -> None:
    """The same four vectors, without four copies of the parameters at once."""
    J, u = matrices(rng)[name], np.ones(matrices(rng)[name].shape[1])
    c = np.zeros(J.shape[0])
    found = []
    for most in (2**20, 1):
        monkeypatch.setattr(sparing_module, "MANY", most)
        found.append(float(steps(J, c, u, LSMR(), np.float32)[1].rank))
    assert found[1] == pytest.approx(found[0], abs=1e-3)
