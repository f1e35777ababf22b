"""A preconditioner trained on a family of systems."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Dense, Kernel
from gplsq.solvers import (
    ColumnScaling,
    LearnedPreconditioner,
    condition_surrogate,
    fit_preconditioner,
)
from gplsq.testing import central_difference, tolerance

DAMP, ROWS, COLUMNS = 0.1, 120, 40


def family(count, seed=0):
    """Random rows of one covariance: six large directions, and units from 1 to 30."""
    rng = np.random.default_rng(seed)
    V = np.linalg.qr(rng.standard_normal((COLUMNS, COLUMNS)))[0]
    lengths = np.concatenate([np.geomspace(100, 10, 6), np.ones(COLUMNS - 6)])
    mix = (lengths * V).T * np.geomspace(1, 30, COLUMNS)
    rng = np.random.default_rng(seed + count)
    draws = rng.standard_normal((count, ROWS, COLUMNS)) / np.sqrt(ROWS)
    return (draws @ mix).astype(np.float32)


@functools.cache
def trained():
    operators = [Dense(A) for A in family(8)]
    return fit_preconditioner(operators, rank=8, damp=DAMP, steps=1500, learning_rate=0.03)


def model(rng, dtype, n=7, rank=3):
    log_diagonal, factor = rng.standard_normal(n), rng.standard_normal((n, rank))
    return LearnedPreconditioner(
        jnp.asarray(log_diagonal, dtype), jnp.asarray(factor, dtype)
    ), np.diag(np.exp(log_diagonal / 2)) @ (np.eye(n) + factor @ factor.T) @ np.diag(
        np.exp(log_diagonal / 2)
    )


def test_it_applies_the_inverse_root_solve_and_determinant_of_its_matrix(rng, dtype):
    P, dense = model(rng, dtype)
    inverse = P.build(Dense(jnp.zeros((9, 7), dtype)), None)
    root = np.asarray(inverse.as_matrix(), float)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance(dtype, 300))
    close(root @ root.T, np.linalg.inv(dense))
    u = rng.standard_normal((7, 2))
    close(inverse.rmv(jnp.asarray(u, dtype)), root.T @ u)
    close(inverse.mv(jnp.asarray(u[:, 0], dtype)), root @ u[:, 0])
    close(P.solve(jnp.asarray(u, dtype)), np.linalg.solve(dense, u))
    close(P.log_determinant(), np.linalg.slogdet(dense)[1])


def test_the_surrogate_is_the_condition_number_of_kaporin_on_average(rng, x64):
    P, dense = model(rng, np.float64)
    A = rng.standard_normal((9, 7))
    H = A.T @ A + 0.25 * np.eye(7)
    exact = np.log(np.trace(np.linalg.solve(dense, H)) / 7) + np.linalg.slogdet(dense)[1] / 7
    got = condition_surrogate(P, Dense(A), 0.5, jax.random.key(0), probes=200_000)
    np.testing.assert_allclose(got, exact, atol=0.01)
    best = np.linalg.slogdet(H)[1] / 7
    assert exact > best  # the value where P is a multiple of H


def test_its_gradient_agrees_with_central_differences(rng, x64):
    P, _ = model(rng, np.float64, n=5, rank=2)
    A = Dense(rng.standard_normal((6, 5)))

    def loss(flat):
        P = LearnedPreconditioner(jnp.asarray(flat[:5]), jnp.asarray(flat[5:].reshape(5, 2)))
        return condition_surrogate(P, A, 0.3, jax.random.key(1))

    flat = jnp.concatenate([P.log_diagonal, P.factor.ravel()])
    np.testing.assert_allclose(jax.grad(loss)(flat), central_difference(loss, flat), atol=1e-8)


def test_training_saves_steps_on_systems_it_has_not_seen():
    P, losses = trained()
    assert np.all(np.isfinite(losses))
    assert np.mean(losses[-50:]) < np.mean(losses[:50]) - 1
    solver = LSMR(rtol=1e-5)
    rng = np.random.default_rng(5)
    for A in family(3, seed=0):
        b = rng.standard_normal(ROWS).astype(np.float32)
        steps = [
            int(lstsq(A, b, damp=DAMP, preconditioner=p, solver=solver).stats.num_steps)
            for p in (None, ColumnScaling(), P)
        ]
        assert steps[2] < steps[0] / 4
        assert steps[2] < steps[1] / 1.7


def test_answers_and_derivatives_are_those_without(x64):
    A = jnp.asarray(family(1)[0], jnp.float64)
    b = jnp.asarray(np.random.default_rng(1).standard_normal(ROWS))

    def loss(matrix, recipe):
        options = {"damp": DAMP, "solver": LSMR(rtol=1e-13), "preconditioner": recipe}
        return jnp.sum(jnp.sin(lstsq(matrix, b, **options).value))

    expected = jax.value_and_grad(loss)(A, None)
    got = jax.value_and_grad(loss)(A, trained()[0])
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=1e-7 * np.abs(e).max())


def test_no_derivative_flows_into_the_preconditioner(x64):
    A, b = jnp.asarray(family(1)[0], jnp.float64), jnp.ones(ROWS)
    gradient = jax.grad(lambda P: lstsq(A, b, damp=DAMP, preconditioner=P).value.sum())(
        trained()[0]
    )
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))


def test_bad_families_are_refused(rng):
    A = Dense(np.eye(4, 3, dtype=np.float32))
    with pytest.raises(ValueError, match="at least one operator"):
        fit_preconditioner([], rank=2)
    with pytest.raises(ValueError, match="one type and shape"):
        fit_preconditioner([A, Dense(np.eye(5, 3, dtype=np.float32))], rank=2)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        fit_preconditioner(A, rank=0)
    with pytest.raises(TypeError, match="for a kernel"):
        fit_preconditioner(Kernel(RBF(), np.eye(3, dtype=np.float32)), rank=2)
    P, _ = model(rng, np.float32)
    with pytest.raises(ValueError, match="must be for 3 unknowns"):
        lstsq(A, np.ones(4, np.float32), preconditioner=P)
