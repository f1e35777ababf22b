"""`lstsq` from the caller's side: inputs it takes, inputs it refuses, failures it reports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, Direct, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Dense, Function, Kernel
from gplsq.solvers import (
    ConvergenceError,
    RandomlyPivotedCholesky,
    SampledGram,
    estimate_rank,
    fit_preconditioner,
)
from gplsq.testing import matrix_with_spectrum, tolerance


def test_a_linear_function_of_a_pytree_is_solved_in_its_own_structure(rng, dtype):
    weight = rng.standard_normal((7, 3)).astype(dtype)

    def fn(tree):
        return {"out": weight @ tree["a"] + 2 * tree["b"].sum()}

    like = {"a": np.zeros(3, dtype), "b": np.zeros((2, 2), dtype)}
    b = {"out": rng.standard_normal(7).astype(dtype)}
    solution = lstsq(Function(fn, like), b, damp=0.1)
    assert solution.value["a"].shape == (3,)
    assert solution.value["b"].shape == (2, 2)
    dense = np.concatenate([weight, np.full((7, 4), 2, dtype)], 1).astype(float)
    expected = np.linalg.solve(dense.T @ dense + 0.01 * np.eye(7), dense.T @ b["out"])
    flat = np.concatenate([solution.value["a"], np.ravel(solution.value["b"])])
    np.testing.assert_allclose(flat, expected, atol=tolerance(dtype, 1e4))


@pytest.mark.parametrize("solver", [LSMR(), Direct()])
def test_a_start_changes_neither_the_answer_nor_the_gradient(rng, dtype, solver):
    A = matrix_with_spectrum(rng, 8, 14, np.geomspace(1, 0.3, 8), dtype)
    b = rng.standard_normal(8).astype(dtype)
    x0 = rng.standard_normal(14).astype(dtype)

    def solve(matrix, start, damp):
        return lstsq(matrix, b, damp=damp, x0=start, solver=solver).value

    for damp in (0.0, 0.3):
        plain, started = solve(A, None, damp), solve(A, x0, damp)
        np.testing.assert_allclose(started, plain, atol=tolerance(dtype, 100))
        grads = [
            jax.grad(lambda m, s=s, d=damp: jnp.sum(jnp.sin(solve(m, s, d))))(jnp.asarray(A))
            for s in (None, x0)
        ]
        np.testing.assert_allclose(grads[1], grads[0], atol=tolerance(dtype, 1e4))


def test_a_good_start_saves_steps(rng, dtype):
    X = rng.standard_normal((60, 2)).astype(dtype)
    y = np.sin(X[:, 0])
    operator = Kernel(RBF(), X)
    solver = LSMR(rtol=1e-4)
    cold = lstsq(operator, y, damp=0.3, solver=solver)
    warm = lstsq(operator, y, damp=0.3, solver=solver, x0=cold.value)
    assert int(warm.stats.num_steps) < int(cold.stats.num_steps)
    np.testing.assert_allclose(warm.value, cold.value, atol=1e-2 * float(jnp.abs(cold.value).max()))


@pytest.mark.parametrize("rank", [5, 30])
def test_preconditioning_changes_the_steps_and_not_the_answer(rng, x64, rank):
    X = rng.uniform(-2, 2, (150, 1))
    y = np.sin(3 * X[:, 0]) + 0.1 * rng.standard_normal(150)
    operator = Kernel(RBF(0.7), X)
    exact = lstsq(operator, y, damp=0.1, solver=Direct()).value
    plain = lstsq(operator, y, damp=0.1)
    recipe = RandomlyPivotedCholesky(rank=rank, block=5)
    fast = lstsq(operator, y, damp=0.1, preconditioner=recipe)
    np.testing.assert_allclose(fast.value, exact, rtol=1e-7, atol=1e-7 * np.abs(exact).max())
    if rank == 30:
        assert int(fast.stats.num_steps) <= int(plain.stats.num_steps) // 2


def test_a_right_preconditioner_leaves_a_rectangular_answer_alone(rng, dtype):
    A = matrix_with_spectrum(rng, 30, 10, np.geomspace(1, 1e-2, 10), dtype)
    b = rng.standard_normal(30).astype(dtype)
    R = np.linalg.qr(np.vstack([A, 0.1 * np.eye(10, dtype=dtype)]).astype(float))[1]
    inverse = Dense(np.linalg.inv(R).astype(dtype))
    plain = lstsq(A, b, damp=0.1)
    fast = lstsq(A, b, damp=0.1, preconditioner=inverse)
    np.testing.assert_allclose(fast.value, plain.value, atol=tolerance(dtype, 1e4))
    assert int(fast.stats.num_steps) <= 4 < int(plain.stats.num_steps)


def test_a_missed_tolerance_raises_eagerly_and_under_jit(rng):
    A = matrix_with_spectrum(rng, 40, 30, np.geomspace(1, 1e-3, 30), np.float32)
    b = rng.standard_normal(40).astype(np.float32)
    with pytest.raises(ConvergenceError, match=r"out of steps.*Remedy: raise max_steps"):
        lstsq(A, b, solver=LSMR(max_steps=2))
    with pytest.raises(Exception, match="missed its tolerance"):
        jax.block_until_ready(jax.jit(lambda m: lstsq(m, b, solver=LSMR(max_steps=2)).value)(A))


EYE = np.eye(3, dtype=np.float32)
ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((np.ones(3), ONES), ValueError, r"A must be a matrix, shape \(m, n\)"),
        ((lambda x: x, ONES), TypeError, "Function"),
        ((EYE * 1j, ONES), TypeError, "A must be real"),
        ((EYE, ONES * 1j), TypeError, "b must be real"),
        ((EYE, np.ones(4, np.float32)), ValueError, r"b must have shape \(3,\)"),
        ((EYE, np.ones((3, 1, 1), np.float32)), ValueError, "b must have shape"),
        ((EYE, "text"), TypeError, "b must be an array"),
        ((EYE, np.ones(3, np.float16)), TypeError, "one dtype"),
    ],
)
def test_wrong_operators_and_right_hand_sides_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        lstsq(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"damp": -1.0}, ValueError, "damp must be at least 0"),
        ({"damp": np.nan}, ValueError, "damp must be finite"),
        ({"damp": np.ones(4)}, ValueError, "damp must be a non-negative scalar"),
        ({"solver": "lsmr"}, TypeError, "solver must be"),
        ({"x0": np.ones(5)}, ValueError, "x0 must be shaped like the solution"),
    ],
)
def test_wrong_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        lstsq(EYE, ONES, **options)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rtol": -1.0}, ValueError, "rtol must be at least 0"),
        ({"rtol": "small"}, TypeError, "rtol must be a real number"),
        ({"max_steps": 0}, ValueError, "max_steps must be from 1"),
        ({"max_steps": 2.5}, TypeError, "max_steps must be a whole number"),
        ({"condition_limit": 0.5}, ValueError, "condition_limit must be at least 1"),
    ],
)
def test_wrong_solver_settings_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        LSMR(**options)


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "2"])
def test_counts_of_recipes_are_checked_by_name(rng, bad):
    A = rng.standard_normal((6, 2)).astype(np.float32)
    for name, make in {
        "rank": RandomlyPivotedCholesky,
        "block": RandomlyPivotedCholesky,
        "num_rows": SampledGram,
        "probes": functools.partial(estimate_rank, A),
        "steps": functools.partial(fit_preconditioner, Dense(A), rank=1),
    }.items():
        with pytest.raises((TypeError, ValueError), match=f"{name} must be (a whole|at least)"):
            make(**{name: bad})


def test_a_report_of_several_columns_is_a_sentence_each(rng):
    A = rng.standard_normal((6, 2)).astype(np.float32)
    b = np.stack([A[:, 0], np.full(6, np.nan, np.float32)], axis=1)
    report = lstsq(A, b, throw=False).report()
    assert "1 of 2 right-hand sides: a NaN or an infinity appeared" in report
    one = lstsq(A, A[:, 0], solver=LSMR(max_steps=1), throw=False).report()
    assert "(1 step, " in one


def test_randomly_pivoted_cholesky_is_for_kernels_with_noise(rng):
    recipe = RandomlyPivotedCholesky(rank=2, block=2)
    with pytest.raises(TypeError, match="kernel operators"):
        lstsq(EYE, ONES, damp=0.1, preconditioner=recipe)
    with pytest.raises(ValueError, match="damp > 0"):
        lstsq(Kernel(RBF(), EYE), ONES, preconditioner=recipe)


def test_an_integer_problem_is_solved_in_the_default_float(rng):
    value = lstsq(np.eye(2, dtype=int) * 2, np.array([2, 4])).value
    np.testing.assert_allclose(value, [1, 2], rtol=1e-5)


def test_a_right_preconditioner_of_a_wide_undamped_system_is_refused(rng, dtype):
    A = rng.standard_normal((3, 5)).astype(dtype)
    b, inverse = np.ones(3, dtype), Dense(np.eye(5, dtype=dtype))
    with pytest.raises(ValueError, match="at least as many rows as columns"):
        lstsq(A, b, preconditioner=inverse)
    damped = lstsq(A, b, damp=0.5, preconditioner=inverse).value
    np.testing.assert_allclose(damped, lstsq(A, b, damp=0.5).value, atol=tolerance(dtype, 1e3))


@pytest.mark.parametrize("rank", [6, 3])
def test_derivatives_pass_through_a_right_preconditioner_unchanged(rng, x64, rank):
    """Also at lower rank, where R^-1 maps onto the row space."""
    A = rng.standard_normal((30, rank)) @ rng.standard_normal((rank, 6))
    b = rng.standard_normal(30)
    _, s, Vt = np.linalg.svd(A, full_matrices=False)
    inverse = Dense(1.3 * Vt.T * np.where(s > 1e-10, 1 / np.where(s > 1e-10, s, 1), 0))

    def loss(matrix, rhs, preconditioner):
        value = lstsq(matrix, rhs, preconditioner=preconditioner, solver=LSMR(rtol=1e-12)).value
        return jnp.sum(jnp.sin(value))

    for argument in (0, 1):
        plain = jax.grad(loss, argument)(jnp.asarray(A), jnp.asarray(b), None)
        fast = jax.grad(loss, argument)(jnp.asarray(A), jnp.asarray(b), inverse)
        np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-9 * np.abs(plain).max())
