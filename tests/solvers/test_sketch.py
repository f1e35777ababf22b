"""R of a sketch, or of the matrix: few steps at any condition number, the same answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, lstsq
from gplsq.operators import Dense, Function
from gplsq.solvers import CholeskyQR, Sketch
from gplsq.testing import matrix_with_spectrum

ROWS, COLUMNS = 400, 30


def system(rng, condition, dtype, rank=COLUMNS):
    A = matrix_with_spectrum(rng, ROWS, COLUMNS, np.geomspace(1, 1 / condition, rank), dtype)
    b = A.astype(float) @ rng.standard_normal(COLUMNS) + 0.01 * rng.standard_normal(ROWS)
    return A, b.astype(dtype)


def left_condition(A, preconditioner):
    product = np.asarray(A, float) @ np.asarray(preconditioner.as_matrix(), float)
    values = np.linalg.svd(product, compute_uv=False)
    values = values[values > 1e-3 * values[0]]
    return values[0] / values[-1], len(values)


@pytest.mark.parametrize("kind", ["blocks", "gaussian"])
@pytest.mark.parametrize("condition", [1e1, 1e3, 1e6])
def test_the_condition_number_it_leaves_does_not_depend_on_the_matrix(rng, dtype, condition, kind):
    A, _ = system(rng, condition, dtype)
    left, rank = left_condition(A, Sketch(kind=kind).build(Dense(A), None))
    assert rank == COLUMNS
    assert left < 8


def test_rows_of_high_leverage_and_rows_that_repeat_do_not_break_it(rng, dtype):
    spikes = np.concatenate([np.diag(np.geomspace(1, 1e-3, COLUMNS)), 1e-6 * np.ones((370, 30))])
    repeated = np.repeat(rng.standard_normal((40, COLUMNS)), 10, axis=0)
    for A in (spikes, repeated):
        A = A.astype(dtype)
        left, rank = left_condition(A, Sketch().build(Dense(A), None))
        assert rank == COLUMNS
        assert left < 12


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e6])
def test_of_all_rows_nothing_is_left_to_condition(rng, dtype, condition):
    A, b = system(rng, condition, dtype)
    left, rank = left_condition(A, CholeskyQR().build(Dense(A), None))
    assert rank == COLUMNS
    assert left < 1.1
    # At a condition number of 1e6 the default tolerance is below what rounding allows.
    solution = lstsq(A, b, preconditioner=CholeskyQR(), throw=condition < 1e6)
    assert int(solution.stats.num_steps) <= 6
    A, b = A.astype(float), b.astype(float)
    expected = np.linalg.lstsq(A, b, rcond=None)[0]
    error = np.asarray(solution.value, float) - expected
    # The value, as far as rounding of A in this dtype lets it be known (Higham 2002, section 20.1);
    # and what is fitted by it, which is known better.
    eps, residual = np.finfo(dtype).eps, np.linalg.norm(b - A @ expected)
    known = eps * condition * (np.linalg.norm(expected) + condition * residual)
    assert np.linalg.norm(error) < {1e1: 10, 1e3: 0.5, 1e6: 0.3}[condition] * known
    assert np.linalg.norm(A @ error) < eps * (100 + 0.1 * condition) * np.linalg.norm(b)


RECIPES = {"sketch": (Sketch(), 70), "all rows": (CholeskyQR(), 5)}


@pytest.mark.parametrize(("recipe", "most"), RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("damp", [0.0, 1e-3])
def test_it_saves_steps_and_keeps_the_answer(rng, x64, damp, recipe, most):
    A, b = system(rng, 1e4, np.float64)
    solver = LSMR(rtol=1e-11)
    plain = lstsq(A, b, damp=damp, solver=solver)
    fast = lstsq(A, b, damp=damp, solver=solver, preconditioner=recipe)
    assert int(fast.stats.num_steps) <= most
    assert int(plain.stats.num_steps) >= 2 * int(fast.stats.num_steps)
    square = A.T @ A + damp**2 * np.eye(COLUMNS)
    expected = (
        np.linalg.lstsq(A, b, rcond=None)[0] if not damp else np.linalg.solve(square, A.T @ b)
    )
    scale = np.linalg.norm(expected)
    np.testing.assert_allclose(fast.value, expected, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("recipe", [Sketch(), CholeskyQR()], ids=RECIPES)
def test_damping_by_a_vector_goes_with_it(rng, x64, recipe):
    A, b = system(rng, 1e4, np.float64)
    damp = 10.0 ** rng.uniform(-3, -1, COLUMNS)
    solution = lstsq(A, b, damp=damp, solver=LSMR(rtol=1e-11), preconditioner=recipe)
    expected = np.linalg.solve(A.T @ A + np.diag(damp**2), A.T @ b)
    np.testing.assert_allclose(
        solution.value, expected, rtol=0, atol=1e-7 * np.linalg.norm(expected)
    )


def test_in_float32_it_reaches_what_the_plain_solver_cannot(rng):
    A, b = system(rng, 1e5, np.float32)
    expected = np.linalg.lstsq(A.astype(float), b.astype(float), rcond=None)[0]

    def error(recipe):
        value = lstsq(A, b, preconditioner=recipe, throw=False).value
        return np.linalg.norm(value - expected) / np.linalg.norm(expected)

    assert error(Sketch()) < 0.2 * error(None)
    assert error(CholeskyQR()) < 0.2 * error(None)


@pytest.mark.parametrize("recipe", [Sketch(), CholeskyQR()], ids=RECIPES)
@pytest.mark.parametrize("rank", [COLUMNS, 12])
def test_at_lower_rank_it_finds_the_solution_of_minimum_norm_and_its_gradient(
    rng, x64, rank, recipe
):
    A, b = system(rng, 10, np.float64, rank)
    expected = np.linalg.pinv(A, rcond=1e-9) @ b
    solution = lstsq(A, b, preconditioner=recipe)
    np.testing.assert_allclose(
        solution.value, expected, rtol=0, atol=1e-8 * np.linalg.norm(expected)
    )

    def loss(matrix, recipe):
        value = lstsq(matrix, b, solver=LSMR(rtol=1e-13), preconditioner=recipe).value
        return jnp.sum(jnp.sin(value))

    plain = jax.grad(loss)(jnp.asarray(A), None)
    fast = jax.grad(loss)(jnp.asarray(A), recipe)
    np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-7 * np.abs(plain).max())


@pytest.mark.parametrize("recipe", [Sketch(), CholeskyQR()], ids=RECIPES)
def test_a_matrix_of_zeros_has_the_solution_zero(dtype, recipe):
    solution = lstsq(np.zeros((50, 3), dtype), np.ones(50, dtype), preconditioner=recipe)
    np.testing.assert_array_equal(np.asarray(solution.value), 0)
    assert bool(solution.ok)


def test_what_is_not_a_tall_matrix_is_refused(rng, dtype):
    A = rng.standard_normal((40, 30)).astype(dtype)
    with pytest.raises(ValueError, match="at least 3 rows a column"):
        lstsq(A, A[:, 0], preconditioner=Sketch())
    operator = Function(lambda v: A @ v, np.zeros(30, dtype))
    with pytest.raises(TypeError, match="Sketch reads a matrix"):
        lstsq(operator, A[:, 0], preconditioner=Sketch())
    with pytest.raises(TypeError, match="CholeskyQR reads a matrix"):
        lstsq(operator, A[:, 0], preconditioner=CholeskyQR())
    with pytest.raises(ValueError, match="at least as many rows as columns"):
        lstsq(A.T, A.T[:, 0], preconditioner=CholeskyQR())
    with pytest.raises(ValueError, match="kind must be one of"):
        Sketch(kind="fast")
    with pytest.raises(ValueError, match="oversampling must be at least"):
        Sketch(oversampling=1.0)
