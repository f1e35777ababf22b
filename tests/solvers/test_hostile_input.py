"""Hostile input is refused by name or solved honestly: no endless loop, no silent zero."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, Direct, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Kernel
from gplsq.solvers import STATUS, DerivativeWarning

A = np.random.default_rng(11).standard_normal((5, 3)).astype(np.float32)
b = np.random.default_rng(12).standard_normal(5).astype(np.float32)
POINTS = np.random.default_rng(13).standard_normal((6, 2)).astype(np.float32)
EXPECTED = np.linalg.lstsq(A.astype(float), b.astype(float))[0]
SOLVERS = [LSMR(), Direct()]
NAMES = ["lsmr", "direct"]
solvers = pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)


def refuses(name, *arguments, **options):
    """The call is refused by an error that names the argument and says what came."""
    with pytest.raises((TypeError, ValueError)) as caught:
        lstsq(*arguments, **options)
    message = str(caught.value)
    assert re.search(rf"\b{name}\b", message), f"does not name {name}: {message}"
    assert "got" in message, f"does not say what came: {message}"
    return message


def solves(solution, expected=EXPECTED, rtol=1e-4):
    assert bool(np.all(solution.ok)), solution.report()
    np.testing.assert_allclose(solution.value, expected, rtol=rtol, atol=rtol * np.max(expected))


# Shapes.


@pytest.mark.parametrize("shape", [(4,), (6,), (0,), (), (3, 5), (1, 5), (5, 1, 1), (5, 2, 3)])
def test_a_right_hand_side_of_another_shape_is_refused(shape):
    message = refuses("b", A, np.ones(shape, np.float32))
    assert str(shape) in message


@pytest.mark.parametrize("shape", [(5,), (), (5, 3, 1), (1, 5, 3)])
def test_a_matrix_of_other_than_two_dimensions_is_refused(shape):
    message = refuses("A", np.ones(shape, np.float32), b)
    assert str(shape) in message


@pytest.mark.parametrize("shape", [(2,), (4,), (), (1, 3), (3, 2), (3, 1, 1)])
@pytest.mark.parametrize("name", ["x0", "adjoint_x0"])
def test_a_guess_of_another_shape_is_refused(name, shape):
    message = refuses(name, A, b, damp=0.1, **{name: np.ones(shape, np.float32)})
    assert str(shape) in message


@pytest.mark.parametrize("shape", [(2,), (4,), (5,), (3, 1), (1, 3)])
def test_damping_of_another_shape_is_refused(shape):
    message = refuses("damp", A, b, damp=np.ones(shape, np.float32))
    assert str(shape) in message


def test_vector_damping_of_a_function_space_is_refused():
    refuses("damp", Kernel(RBF(), POINTS), np.ones(6, np.float32), damp=np.ones(6, np.float32))


# Types.

JUNK = {
    "text": "text",
    "nothing": None,
    "object": object(),
    "dictionary": {"a": 1},
    "object array": np.array([[1.0, None]] * 5),
    "text array": np.array([["a", "b"]] * 5),
    "dates": np.array([["2020-01-01"]] * 5, "datetime64[D]"),
    "masked": np.ma.masked_array(np.ones((5, 3), np.float32), np.eye(5, 3)),
    "ragged": [[1.0, 2.0], [3.0]],
    "set": {1.0, 2.0},
}


@pytest.mark.parametrize(
    ("name", "junk"),
    [(name, junk) for name in ("A", "b") for junk in JUNK]
    + [(name, junk) for name in ("damp", "x0") for junk in JUNK if junk != "nothing"],
)
def test_junk_is_refused_by_the_name_of_the_argument(name, junk):
    arguments = {"A": A, "b": b, "damp": 0.1}
    refuses(name, **(arguments | {name: JUNK[junk]}))


@pytest.mark.parametrize("junk", ["text", 1.0, A, lambda v: v], ids=["text", "one", "array", "fn"])
@pytest.mark.parametrize("damp", [0.0, 0.1])
def test_a_preconditioner_that_is_none_is_refused_by_name(junk, damp):
    refuses("preconditioner", A, b, damp=damp, preconditioner=junk)


@pytest.mark.parametrize("junk", ["text", 1.0, LSMR], ids=["text", "one", "class"])
@pytest.mark.parametrize("name", ["solver", "adjoint_solver"])
def test_a_solver_that_is_none_is_refused_by_name(name, junk):
    refuses(name, A, b, **{name: junk})


@pytest.mark.parametrize("name", ["rtol", "atol", "condition_limit"])
@pytest.mark.parametrize("junk", ["text", True, -1.0, np.nan, np.ones(2), [1.0], 1j])
def test_junk_settings_are_refused_by_name(name, junk):
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        LSMR(**{name: junk})


@pytest.mark.parametrize("junk", ["text", True, 0, -3, 2.5, np.nan, np.ones(2), 10**12])
def test_a_junk_step_limit_is_refused_by_name(junk):
    with pytest.raises((TypeError, ValueError), match="max_steps must be"):
        LSMR(max_steps=junk)


@solvers
def test_lists_of_numbers(solver):
    """A list may be one right-hand side or a pytree of several: it is refused, a matrix is not."""
    message = refuses("b", A, b.tolist(), solver=solver)
    assert "list" in message
    solution = lstsq([[1, 0], [0, 2], [0, 0]], np.array([1, 4, 5]), solver=solver)
    solves(solution, [1, 2])


# Integers and booleans.


@solvers
@pytest.mark.parametrize("kind", [int, np.int8, np.uint16, bool])
def test_integer_and_boolean_problems_are_solved_in_the_default_float(solver, kind):
    matrix = np.array([[1, 0], [1, 1], [0, 1]]).astype(kind)
    solution = lstsq(matrix, np.array([1, 1, 0]).astype(kind), solver=solver)
    assert solution.value.dtype == jnp.zeros(()).dtype
    solves(solution, [1, 0])


@solvers
@pytest.mark.parametrize("kind", [int, bool])
def test_an_integer_right_hand_side_takes_the_dtype_of_the_matrix(solver, kind):
    numbers = np.array([1, 0, 1, 1, 0]).astype(kind)
    solution = lstsq(A, numbers, solver=solver)
    assert solution.value.dtype == np.float32
    solves(solution, np.linalg.lstsq(A.astype(float), numbers.astype(float))[0])


@solvers
def test_integer_damping_is_a_number(solver):
    expected = lstsq(A, b, damp=2.0, solver=solver).value
    for damp in (2, np.int32(2), np.array(2), jnp.asarray(2)):
        solves(lstsq(A, b, damp=damp, solver=solver), expected)


@pytest.mark.parametrize("damp", [True, np.array(True), np.ones(3, bool), jnp.asarray(True)])
def test_boolean_damping_is_refused(damp):
    refuses("damp", A, b, damp=damp)


# Damping.


@solvers
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "kind", [float, np.float32, np.array, jnp.asarray, lambda d: np.array([1.0, d, 0.0])]
)
def test_negative_and_non_finite_damping_is_refused(solver, bad, kind):
    message = refuses("damp", A, b, damp=kind(bad), solver=solver)
    assert str(bad) in message


@solvers
@pytest.mark.parametrize("kind", ["scalar", "vector", "kernel"])
def test_traced_negative_damping_is_its_absolute_value(solver, kind):
    """Damping enters squared, and cannot be looked at under `jit`."""
    operator, rhs = (Kernel(RBF(), POINTS), POINTS[:, 0]) if kind == "kernel" else (A, b)
    damp = np.array([0.5, 0.1, 0.7], np.float32) if kind == "vector" else np.float32(0.5)

    @jax.jit
    def value_and_slope(damp):
        return jax.value_and_grad(lambda d: lstsq(operator, rhs, damp=d, solver=solver).value[0])(
            damp
        )

    up, down = value_and_slope(damp), value_and_slope(-damp)
    np.testing.assert_array_equal(down[0], up[0])
    np.testing.assert_allclose(down[1], -up[1], rtol=1e-5)
    assert np.all(up[1] != 0)


@solvers
@pytest.mark.parametrize("vector", [False, True])
def test_traced_damping_that_is_nan_is_reported(solver, vector):
    damp = np.array([1, np.nan, 1], np.float32) if vector else np.float32(np.nan)
    solve = jax.jit(lambda d: lstsq(A, b, damp=d, solver=solver, throw=False))
    solution = solve(damp)
    assert int(solution.status) == STATUS.NON_FINITE
    assert not bool(solution.ok)


@solvers
@pytest.mark.parametrize("damp", [1e39, 1e300])
def test_damping_beyond_the_dtype_is_refused(solver, damp):
    refuses("damp", A, b, damp=damp, solver=solver)


@solvers
@pytest.mark.parametrize("damp", [1e-30, 1e-50, 1e10, 1e25])
def test_very_small_and_very_large_damping_is_solved(solver, damp):
    solution = lstsq(A, b, damp=damp, solver=solver, throw=False)
    solves(solution, EXPECTED if damp < 1 else A.T @ b / damp / damp)


@solvers
@pytest.mark.parametrize("zero", [0, 0.0, np.float32(0), np.array(0.0), jnp.asarray(0.0)])
def test_any_zero_that_can_be_seen_selects_the_undamped_problem(solver, zero):
    """Also for the gradient, which differs where the rank is deficient."""
    matrix = jnp.asarray(np.ones((3, 3), np.float32))
    rhs, weight = np.array([1, 2, 4], np.float32), np.array([1, 2, 5], np.float32)

    def loss(matrix, damp):
        return lstsq(matrix, rhs, damp=damp, solver=solver).value @ weight

    expected = jax.grad(loss)(matrix, 0.0)
    np.testing.assert_allclose(jax.grad(loss)(matrix, zero), expected, rtol=1e-3, atol=1e-4)


@solvers
def test_a_traced_zero_damping_never_gives_a_wrong_gradient_in_silence(solver):
    """It is taken to be positive. Where the rank is deficient the derivative does not exist."""
    matrix = jnp.asarray(np.ones((3, 3), np.float32))
    rhs, weight = np.array([1, 2, 4], np.float32), np.array([1, 2, 5], np.float32)

    def loss(matrix, damp):
        return lstsq(matrix, rhs, damp=damp, solver=solver, throw=False).value @ weight

    expected = jax.grad(loss)(matrix, 0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = np.asarray(jax.block_until_ready(jax.jit(jax.grad(loss))(matrix, 0.0)))
        jax.effects_barrier()
    warned = any(issubclass(w.category, DerivativeWarning) for w in caught)
    right = bool(np.all(np.abs(got - expected) < 1e-3))
    assert warned or right, got


# Empty systems and zeros.


@solvers
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_systems_without_rows_or_columns_are_refused(solver, shape):
    message = refuses("A", np.zeros(shape, np.float32), np.zeros(shape[0], np.float32))
    assert str(shape) in message


@solvers
@pytest.mark.parametrize("damp", [0.0, 0.1])
@pytest.mark.parametrize("kernel", [False, True])
def test_no_right_hand_sides_at_all_are_refused(solver, damp, kernel):
    operator, rows = (Kernel(RBF(), POINTS), 6) if kernel else (A, 5)
    refuses("b", operator, np.zeros((rows, 0), np.float32), damp=damp, solver=solver)


@solvers
@pytest.mark.parametrize("damp", [0.0, 0.5, np.array([0, 0.5, 2])])
def test_a_zero_matrix_has_the_answer_zero_and_a_finite_gradient(solver, damp):
    zeros = jnp.zeros((5, 3), jnp.float32)
    solution = lstsq(zeros, b, damp=damp, solver=solver)
    np.testing.assert_array_equal(solution.value, 0)
    assert bool(solution.ok)
    assert int(solution.stats.num_steps) <= 1
    np.testing.assert_allclose(solution.stats.residual_norm, np.linalg.norm(b), rtol=1e-5)
    weight = np.array([1, 2, 5], np.float32)

    def loss(matrix, rhs):
        return lstsq(matrix, rhs, damp=damp, solver=solver).value @ weight

    of_A, of_b = jax.grad(loss, (0, 1))(zeros, jnp.asarray(b))
    np.testing.assert_array_equal(of_b, 0)
    assert np.all(np.isfinite(of_A))
    if np.ndim(damp) == 0 and damp:
        # (A^T A + damp^2)^-1 A^T b, to first order about 0.
        np.testing.assert_allclose(of_A, np.outer(b, weight) / damp**2, rtol=1e-4)


@solvers
@pytest.mark.parametrize("damp", [0.0, 0.5])
def test_a_zero_right_hand_side_has_the_answer_zero_and_a_finite_gradient(solver, damp):
    solution = lstsq(A, 0 * b, damp=damp, solver=solver)
    np.testing.assert_array_equal(solution.value, 0)
    assert bool(solution.ok)

    def loss(matrix, rhs):
        return lstsq(matrix, rhs, damp=damp, solver=solver).value.sum()

    of_A, of_b = jax.grad(loss, (0, 1))(jnp.asarray(A), jnp.asarray(0 * b))
    np.testing.assert_array_equal(of_A, 0)
    inverse = np.linalg.inv(A.astype(float).T @ A + damp**2 * np.eye(3))
    np.testing.assert_allclose(of_b, A @ inverse.sum(axis=0), rtol=1e-3)


# Complex numbers and other precisions.


@pytest.mark.parametrize("name", ["A", "b", "damp", "x0", "adjoint_x0"])
def test_complex_numbers_are_refused_by_name(name):
    arguments = {"A": A, "b": b, "damp": np.float32(0.1)}
    value = arguments.get(name, np.ones(3, np.float32)) * (1 + 0j)
    message = refuses(name, **(arguments | {name: value}))
    assert "real" in message


@pytest.mark.parametrize("name", ["damp", "b", "A"])
def test_traced_complex_numbers_are_refused_by_name(name):
    arguments = {"A": A, "b": b, "damp": np.float32(0.1)}

    def solve(value):
        return lstsq(**(arguments | {name: value})).value

    with pytest.raises(TypeError, match=f"{name} must be real"):
        jax.jit(solve)(arguments[name] * (1 + 0j))


@solvers
@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_refused_by_name_or_solved_honestly(solver, half):
    damp = 0.5
    matrix, rhs = jnp.asarray(A, half), jnp.asarray(b, half)
    try:
        solution = lstsq(matrix, rhs, damp=damp, solver=solver, throw=False)
    except (TypeError, ValueError):
        message = refuses("A", matrix, rhs, damp=damp, solver=solver)
        assert "float32" in message
        return
    assert solution.value.dtype == half
    expected = np.linalg.solve(A.astype(float).T @ A + damp**2 * np.eye(3), A.T @ b)
    error = np.linalg.norm(np.asarray(solution.value, float) - expected)
    assert bool(solution.ok)
    assert error < 0.1 * np.linalg.norm(expected)


@solvers
def test_mixed_precisions_are_refused_with_x64_and_one_without(solver):
    x64 = jax.config.jax_enable_x64
    for matrix, rhs in [(A.astype(np.float64), b), (A, b.astype(np.float64))]:
        if x64:
            message = refuses("b", matrix, rhs, solver=solver)
            assert "float32" in message
            assert "float64" in message
        else:  # float64 does not exist: both are float32
            solution = lstsq(matrix, rhs, solver=solver)
            assert solution.value.dtype == np.float32
            solves(solution)
    # What is not data is cast.
    for guess in (np.ones(3), np.ones(3, np.float16), np.arange(3)):
        solution = lstsq(A, b, damp=np.float64(0.1), x0=guess, solver=solver)
        assert solution.value.dtype == np.float32
        solves(solution, lstsq(A, b, damp=0.1, solver=solver).value)


def test_extended_precision_is_refused_by_name():
    refuses("A", A.astype(np.longdouble), b)
    refuses("b", A, b.astype(np.longdouble))
