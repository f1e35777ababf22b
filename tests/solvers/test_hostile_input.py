"""Hostile input is refused by name or solved honestly: no endless loop, no silent zero."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, Direct, lstsq
from gplsq.kernels import RBF
from gplsq.operators import AbstractEuclideanOperator, Function, Kernel, check_adjoint
from gplsq.solvers import STATUS, ConvergenceError, DerivativeWarning

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


# Numbers that are not finite.


def reported(solution, solver):
    """Not solved, found at once, and nothing that looks like an answer."""
    assert not bool(np.any(solution.ok))
    assert set(np.ravel(solution.status)) <= {STATUS.NON_FINITE}, solution.report()
    assert int(np.max(solution.stats.num_steps)) <= 1
    assert "NaN" in solution.report()


@solvers
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("damp", [0.0, 0.1, np.array([0.1, 0.0, 1.0])])
@pytest.mark.parametrize("where", ["A", "b", "both"])
def test_entries_that_are_not_finite_are_reported_at_once(solver, bad, damp, where):
    matrix, rhs = A.copy(), b.copy()
    if where != "b":
        matrix[2, 1] = bad
    if where != "A":
        rhs[3] = bad
    reported(lstsq(matrix, rhs, damp=damp, solver=solver, throw=False), solver)
    with pytest.raises(ConvergenceError, match="NaN or"):
        lstsq(matrix, rhs, damp=damp, solver=solver)


@solvers
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["X", "y"])
def test_kernel_systems_that_are_not_finite_are_reported_at_once(solver, bad, where):
    X, y = POINTS.copy(), POINTS[:, 0].copy()
    (X if where == "X" else y)[(2,) if where == "y" else (2, 1)] = bad
    reported(lstsq(Kernel(RBF(), X), y, damp=0.1, solver=solver, throw=False), solver)


GUESSED = {"undamped": (A, b, 0.0), "damped": (A, b, 0.1)}
GUESSED["kernel"] = (Kernel(RBF(), POINTS), POINTS[:, 0], 0.1)


def _bad_guess(system, bad):
    guess = np.zeros(6 if system == "kernel" else 3, np.float32)
    guess[1] = bad
    return guess


@solvers
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e4, 1e30])
@pytest.mark.parametrize("system", GUESSED)
def test_a_guess_that_is_no_good_changes_nothing(solver, bad, system):
    operator, rhs, damp = GUESSED[system]
    plain = lstsq(operator, rhs, damp=damp, solver=solver)
    guess = _bad_guess(system, bad)
    solution = lstsq(operator, rhs, damp=damp, solver=solver, x0=guess, throw=False)
    solves(solution, plain.value, 1e-3)


@solvers
@pytest.mark.parametrize("system", ["damped", "kernel"])
def test_a_guess_that_is_no_good_changes_no_derivative(solver, system):
    operator, rhs, damp = GUESSED[system]

    @jax.jit
    def gradient(guess):
        def loss(rhs):
            solution = lstsq(operator, rhs, damp=damp, solver=solver, adjoint_x0=guess, throw=False)
            return solution.value.sum()

        return jax.grad(loss)(jnp.asarray(rhs))

    plain = gradient(_bad_guess(system, 0))
    for bad in (np.nan, np.inf, 1e4, 1e30):
        np.testing.assert_allclose(
            gradient(_bad_guess(system, bad)), plain, rtol=1e-3, atol=1e-3 * np.abs(plain).max()
        )


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


# Operators and functions that are not what they say.


class Faulty(AbstractEuclideanOperator):
    """A matrix whose adjoint is another matrix."""

    matrix: jax.Array
    other: jax.Array

    @property
    def shape(self):
        return self.matrix.shape

    @property
    def dtype(self):
        return self.matrix.dtype

    def mv(self, v):
        return self.matrix @ v

    def rmv(self, u):
        return self.other @ u


WRONG = {
    "sign": -A.T,
    "factor": 2 * A.T,
    "another": np.random.default_rng(3).standard_normal((3, 5)).astype(np.float32),
    "zero": 0 * A.T,
    "huge": 1e20 * A.T,
    "tiny": 1e-20 * A.T,
    "a little": A.T * (1 + 0.01 * np.random.default_rng(4).standard_normal((3, 5))),
}


@pytest.mark.parametrize("damp", [0.0, 0.1])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_adjoint_ends_within_the_step_limit_and_is_found_by_the_check(wrong, damp):
    operator = Faulty(jnp.asarray(A), jnp.asarray(WRONG[wrong], jnp.float32))
    solution = lstsq(operator, b, damp=damp, throw=False)
    assert int(solution.stats.num_steps) <= 20 * 3 + 200
    assert np.all(np.isfinite(solution.value))
    if wrong in ("sign", "another"):
        assert not bool(solution.ok)
    with pytest.raises(ValueError, match="rmv must be the adjoint of mv"):
        check_adjoint(operator)


@solvers
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_product_that_is_not_finite_is_reported_at_once(solver, bad):
    matrix = jnp.asarray(A)
    for operator in (
        Faulty(matrix, bad * matrix.T),
        Faulty(bad * matrix, matrix.T),
        Function(lambda v: bad * (matrix @ v), np.zeros(3, np.float32)),
    ):
        if isinstance(solver, Direct) and np.all(np.isfinite(operator.as_matrix())):
            continue  # needs no adjoint
        reported(lstsq(operator, b, solver=solver, throw=False), solver)


NONLINEAR = {
    "square": lambda v: jnp.asarray(A) @ v**2,
    "sine": lambda v: jnp.asarray(A) @ jnp.sin(v),
    "relu": lambda v: jnp.asarray(A) @ jax.nn.relu(v),
    "absolute": lambda v: jnp.asarray(A) @ jnp.abs(v),
    "piecewise": lambda v: jnp.asarray(A) @ jnp.where(v > 0, v, 2 * v),
    "product": lambda v: jnp.asarray(A) @ (v * v[::-1]),
    "affine": lambda v: jnp.asarray(A) @ v + 1,
    "constant": lambda v: jnp.ones(5, np.float32),
}


@pytest.mark.parametrize("kind", NONLINEAR)
def test_a_function_that_is_not_linear_is_refused(kind):
    with pytest.raises((TypeError, ValueError), match="must be linear"):
        Function(NONLINEAR[kind], np.zeros(3, np.float32))


@solvers
@pytest.mark.parametrize("kind", ["affine", "constant"])
def test_an_affine_function_never_gives_a_wrong_answer_in_silence(solver, kind):
    """Its transposition is linear, so that only values show the constant."""
    try:
        operator = Function(NONLINEAR[kind], np.zeros(3, np.float32))
    except (TypeError, ValueError):
        return
    solution = lstsq(operator, b, solver=solver, throw=False)
    assert not bool(solution.ok)


@pytest.mark.parametrize(
    ("fn", "error", "match"),
    [
        (lambda v: None, (TypeError, ValueError), r"fn must return|result of fn|fn must map"),
        (lambda v: v.astype(int), TypeError, "fn must"),
        (lambda v: v * 1j, TypeError, "fn must map one real"),
        (lambda v: v[:0], ValueError, "at least one row"),
    ],
)
def test_functions_of_no_use_are_refused_by_name(fn, error, match):
    with pytest.raises(error, match=match):
        lstsq(fn, b, like=np.zeros(3, np.float32))


def test_a_function_without_an_example_is_refused():
    with pytest.raises(TypeError, match="pass `like`"):
        lstsq(lambda v: jnp.asarray(A) @ v, b)


# Scales at the ends of the dtype.

ENDS = [1e30, 1e36, 8e37, 1e38, 3e38, 1e-30, 1e-36, 2e-38]


def honest(solution, expected, rtol):
    """Right, or not `ok`. An answer that underflows may be rounded to zero."""
    expected = np.asarray(expected, np.float64)
    atol = rtol * np.abs(expected).max() + 2 * float(np.finfo(np.float32).tiny)
    right = np.allclose(np.asarray(solution.value, float), expected, rtol=0, atol=atol)
    assert right or not bool(solution.ok), f"{solution.value} for {expected}: {solution.report()}"
    return right


@solvers
@pytest.mark.parametrize("scale", ENDS)
def test_huge_and_tiny_right_hand_sides_are_never_a_silent_zero(solver, scale):
    rhs = (b * np.float32(scale / np.abs(b).max())).astype(np.float32)
    solution = lstsq(A, rhs, solver=solver, throw=False)
    expected = np.linalg.lstsq(A.astype(float), rhs.astype(float))[0]
    right = honest(solution, expected, 1e-3)
    assert right or not 1e-36 <= scale <= 1e36


@solvers
@pytest.mark.parametrize("scale", ENDS)
def test_huge_and_tiny_matrices_are_never_a_silent_zero(solver, scale):
    factor = np.float32(scale / np.abs(A).max())
    if scale == 2e-38:
        return  # most entries are subnormal, which XLA takes for zero before anything can look
    for rhs in (b, b * factor):
        solution = lstsq(A * factor, rhs, solver=solver, throw=False)
        expected = np.linalg.lstsq((A * factor).astype(float), rhs.astype(float))[0]
        # Beyond 1e±30 products of entries underflow: an answer may be rough, but not another one.
        inside = 1e-30 <= scale <= 1e30
        right = honest(solution, expected, 1e-3 if inside else 0.5)
        assert right or not inside


@solvers
def test_the_largest_number_of_the_dtype_is_never_a_silent_zero(solver, dtype):
    """It is what some programs write for a missing value."""
    rhs = b.astype(dtype)
    rhs[2] = np.finfo(dtype).max
    solution = lstsq(A.astype(dtype), rhs, solver=solver, throw=False)
    with np.errstate(over="ignore"):
        expected = np.linalg.lstsq(A.astype(dtype).astype(float), rhs / 1e10)[0] * 1e10
    right = np.allclose(np.asarray(solution.value, float) / 1e10, expected / 1e10, rtol=1e-3)
    assert right or not bool(solution.ok), solution.report()


@solvers
@pytest.mark.parametrize("damp", [0.0, 1e-25])
def test_an_answer_beyond_the_dtype_is_reported(solver, damp):
    solution = lstsq(A * np.float32(1e-20), b * 1e20, damp=damp, solver=solver, throw=False)
    assert not bool(solution.ok), solution.value
    assert int(solution.status) in (STATUS.NON_FINITE, STATUS.STAGNATED)


@solvers
def test_an_answer_below_the_dtype_is_reported_or_zero_to_rounding(solver):
    """The exact answer is 1e-40, which is zero where subnormal numbers are."""
    solution = lstsq(A * np.float32(1e20), b * np.float32(1e-20), solver=solver, throw=False)
    assert np.all(np.abs(solution.value) <= 2 * np.finfo(np.float32).tiny)
