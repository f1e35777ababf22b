"""`lstsq`: regularised least squares with any operator, any solver, and its derivative."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from gplsq._core import (
    column_norm,
    describe,
    is_traced,
    jit_quickly,
    status_ok,
    stop_gradient,
)
from gplsq.operators import Diagonal, Kernel, Stacked
from gplsq.solvers._adjoint import make_adjoint, solve_with_derivative
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._inputs import (
    as_columns,
    as_cotangent,
    as_damp,
    as_operator,
    as_start,
    check_preconditioner,
)
from gplsq.solvers._lsmr import LSMR
from gplsq.solvers._solution import ConvergenceError, Solution, describe_outcome, solution_from


def lstsq(
    A: Any,
    b: PyTree[ArrayLike],
    *,
    damp: ArrayLike = 0.0,
    solver: AbstractLeastSquares | None = None,
    x0: PyTree[ArrayLike] | None = None,
    preconditioner: Any = None,
    throw: bool = True,
    like: PyTree | None = None,
    adjoint_solver: AbstractLeastSquares | None = None,
    adjoint_x0: PyTree[ArrayLike] | None = None,
) -> Solution:
    """Differentiable regularised least squares: `argmin_x |A x - b|^2 + damp^2 |x|^2`.

    The solution of minimum norm where there are several. Norms are those of the operator's spaces:
    Euclidean for a matrix or function; for a kernel operator |x| is the norm of the function space,
    which makes the solution the posterior mean of a Gaussian process with noise variance damp^2.

    Equations (1) and (4) of docs/derivations/function-space.md.

    Parameters
    ----------
    A
        A real matrix of shape (m, n); a sparse one (BCOO, BCSR or SciPy); an operator of
        `gplsq.operators` or of lineax; or a linear function, with `like`.
    b
        Right-hand side: shape (m,) or (m, k) for k of them, or a pytree in the codomain of a
        function. Its dtype must be that of A: the solve runs in it, whatever JAX's x64 flag says.
    damp
        A non-negative scalar, in units of A, or one number for each unknown (shape (n,), or a
        pytree like the solution): `sum_i damp_i^2 x_i^2`. The number 0 selects the undamped
        problem; a traced scalar is taken to be positive. Entries of a vector may be 0.
    solver
        `LSMR()` (default) or `Direct()`.
    x0
        A first guess, shaped like the solution. It changes neither the answer nor any derivative.
        Used by scalar-damped and kernel systems, where it helps; an undamped system does not use
        it, because it would choose among several solutions.
    preconditioner
        For a kernel operator `RandomlyPivotedCholesky(rank)`. Otherwise a recipe (`Sketch`,
        `ColumnScaling`, `LearnedPreconditioner`) or an operator that applies R^-1 of a right
        preconditioner, `x = R^-1 z`. Undamped, A must then have full column rank.
    throw
        Raise `ConvergenceError` if a column misses its tolerance (under `jit` a runtime error).
        With `False`, look at `Solution.ok`.
    like
        For a function A: an example of its argument, an array or pytree. Only shapes and dtypes
        matter. Without it `x0` serves.
    adjoint_solver
        The solver of derivatives, by default `solver`: its tolerance is that of the gradient.
    adjoint_x0
        A guess of `(A* A + damp^2)^-1 g`, g the cotangent, which derivatives start from where it
        helps; it changes no derivative. `adjoint_solution` returns such a vector. Not used by
        undamped systems.

    Returns
    -------
    Solution
        `value`, `ok`, `status`, `stats`, and `report()` in plain words.

    Raises
    ------
    ValueError, TypeError
        For arguments of the wrong shape, dtype or type, complex numbers, an empty system.
    ConvergenceError
        If `throw` and a column failed.

    Notes
    -----
    Differentiable in b, damp and everything inside A, forward and reverse, to any order and at any
    (locally constant) rank, by the rule in docs/derivations/adjoint.md. Value and gradient together
    cost two solves, and the memory of a derivative does not grow with iterations. A derivative
    whose own solve fails raises (`throw`) or gives a `DerivativeWarning`.
    A kernel system is (1) of docs/derivations/function-space.md.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from gplsq import lstsq
    >>> A = jnp.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> solution = lstsq(A, jnp.array([1.0, 2.0, 3.0]))
    >>> [round(float(x), 4) for x in solution.value]
    [1.0, 1.0]
    """
    operator = as_operator(A, like, x0)
    rhs, single, restore = as_columns(operator, b)
    sigma = as_damp(damp, operator)
    method = _checked_solver("solver", LSMR() if solver is None else solver)
    backward = _checked_solver("adjoint_solver", adjoint_solver or method)
    start = as_start("x0", operator, x0, rhs.shape[1])
    guess = as_start("adjoint_x0", operator, adjoint_x0, rhs.shape[1])
    check_preconditioner(preconditioner, operator)
    value, status, stats = _run(
        operator, sigma, rhs, start, preconditioner, method, backward, guess, throw
    )
    if throw:
        value = _raise_if_failed(value, status, stats)
    return solution_from(value, status, stats, single, restore)


def adjoint_solution(
    A: Any,
    g: PyTree[ArrayLike],
    *,
    damp: ArrayLike = 0.0,
    solver: AbstractLeastSquares | None = None,
    x0: PyTree[ArrayLike] | None = None,
    preconditioner: Any = None,
    like: PyTree | None = None,
) -> Solution:
    """The solve inside a derivative of `lstsq`: `w = (A* A + damp^2)^+ g`, with its status.

    Under `jax.grad` the cotangent g meets this solve, and a result that missed its tolerance is
    reported by an error or a warning. Here it can be looked at, and its value handed to the next
    call of `lstsq` as `adjoint_x0`.

    Parameters
    ----------
    A, damp, solver, preconditioner, like
        As in `lstsq`; `solver` is its `adjoint_solver`.
    g
        The cotangent: shaped like the solution x, (n,) or (n, k) or a pytree.
    x0
        A first guess of w; undamped systems do not use it.

    Returns
    -------
    Solution
        `value` is w (for a kernel operator `(K + damp^2)^-1 g`), shaped like g. Statuses and stats
        are those of the solve `A* p = g` that finds it. Not differentiable.
    """
    operator = as_operator(A, g if like is None else like, None)
    method = _checked_solver("solver", LSMR() if solver is None else solver)
    sigma = as_damp(damp, operator)
    cotangent, single, restore = as_cotangent(operator, g)
    start = as_start("x0", operator, x0, cotangent.shape[1])
    check_preconditioner(preconditioner, operator)
    w, status, stats = _run_adjoint(operator, sigma, cotangent, start, preconditioner, method)
    return solution_from(w, status, stats, single, restore)


@jit_quickly
def _run_adjoint(operator, damp, g, w0, preconditioner, solver):
    operator, damp, g, w0 = stop_gradient((operator, damp, g, w0))
    if damp is not None and damp.ndim == 1:
        operator, damp = Stacked((operator, Diagonal(damp))), None
    prepared = solver.prepare(operator, damp, preconditioner)
    if isinstance(operator, Kernel):
        w, _, status, stats = solver.run(prepared, operator, damp, g, w0)
    else:
        _, w, status, stats = solver.run_adjoint(prepared, operator, damp, g, w0)
    return stop_gradient(w), status, stats


@jit_quickly
def _run(operator, damp, b, x0, preconditioner, solver, adjoint_solver, adjoint_x0, throw):
    rows = b.shape[0]
    data = operator, b
    if damp is not None and damp.ndim == 1:
        # A vector damps by rows of its own, so that entries of 0 and their derivatives are right.
        operator = Stacked((operator, Diagonal(damp)))
        b = jnp.concatenate([b, jnp.zeros((damp.shape[0], b.shape[1]), b.dtype)])
        damp = None
    fixed = stop_gradient((operator, damp))
    prepared = stop_gradient(solver.prepare(*fixed, preconditioner))
    prepared_adjoint = prepared
    if type(adjoint_solver) is not type(solver):
        prepared_adjoint = adjoint_solver.prepare(*fixed, preconditioner)
    adjoint = make_adjoint(adjoint_solver, prepared_adjoint, operator, damp, adjoint_x0, throw)
    value, _, status, stats = solve_with_derivative(
        operator, damp, b, stop_gradient(x0), prepared, solver, adjoint
    )
    if b.shape[0] != rows:
        left = column_norm(data[1] - data[0].mv(value))
        stats = eqx.tree_at(lambda s: s.residual_norm, stats, stop_gradient(left))
    return value, status, stats


def _checked_solver(name: str, solver: Any) -> AbstractLeastSquares:
    if not isinstance(solver, AbstractLeastSquares):
        msg = f"{name} must be LSMR() or Direct(); got {describe(solver)}. Pass an instance."
        raise TypeError(msg)
    return solver


def _raise_if_failed(value: Array, status: Array, stats: Any) -> Array:
    if is_traced(status):
        message = "lstsq missed its tolerance; call with throw=False and look at Solution.report()"
        return eqx.error_if(value, ~jnp.all(status_ok(status)), message)
    if not np.all(status_ok(np.asarray(status))):
        raise ConvergenceError(describe_outcome(status, stats))
    return value
