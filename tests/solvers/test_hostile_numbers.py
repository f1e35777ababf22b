"""Hostile numbers, operators and scales: solved honestly or reported, never a silent zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, Direct, lstsq
from gplsq.kernels import RBF
from gplsq.operators import AbstractEuclideanOperator, Function, Kernel, check_adjoint
from gplsq.solvers import STATUS, ConvergenceError

A = np.random.default_rng(11).standard_normal((5, 3)).astype(np.float32)
b = np.random.default_rng(12).standard_normal(5).astype(np.float32)
POINTS = np.random.default_rng(13).standard_normal((6, 2)).astype(np.float32)
solvers = pytest.mark.parametrize("solver", [LSMR(), Direct()], ids=["lsmr", "direct"])


def solves(solution, expected, rtol=1e-4):
    assert bool(np.all(solution.ok)), solution.report()
    np.testing.assert_allclose(solution.value, expected, rtol=rtol, atol=rtol * np.max(expected))


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


@solvers
@pytest.mark.parametrize("size", [1e-37, 1.6e-32, 1e-30, 1e30, 1e36])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1)])
def test_a_system_that_one_step_solves_is_solved_at_any_scale(solver, size, shape):
    """The next step divides rounding by rounding: both inverses at once were beyond float32."""
    matrix = np.full(shape, size, np.float32) * np.linspace(0.5, 1, shape[1], dtype=np.float32)
    rhs = np.full(shape[0], -0.13, np.float32)
    solution = lstsq(matrix, rhs, solver=solver)
    expected = np.linalg.pinv(matrix.astype(float) / size) @ rhs
    np.testing.assert_allclose(np.asarray(solution.value, float) * size, expected, rtol=1e-3)
