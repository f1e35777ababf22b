"""`lstsq`: regularised least squares with any operator, any solver, and its derivative."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, PyTree

from gplsq._core import check_finite_scalar, describe, is_traced, stop_gradient
from gplsq.operators import AbstractLinearOperator, Dense, Function
from gplsq.solvers._adjoint import solve_with_derivative
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._lsmr import LSMR
from gplsq.solvers._solution import ConvergenceError, Solution, describe_outcome, solution_from


def lstsq(
    A: ArrayLike | AbstractLinearOperator,
    b: PyTree[ArrayLike],
    *,
    damp: ArrayLike = 0.0,
    solver: AbstractLeastSquares | None = None,
    x0: PyTree[ArrayLike] | None = None,
    preconditioner: Any = None,
    throw: bool = True,
) -> Solution:
    """Differentiable regularised least squares: `argmin_x |A x - b|^2 + damp^2 |x|^2`.

    The solution of minimum norm where there are several. Norms are those of the operator's spaces:
    Euclidean for a matrix or function; for a kernel operator |x| is the norm of the function space,
    which makes the solution the posterior mean of a Gaussian process with noise variance damp^2.

    Parameters
    ----------
    A
        A matrix of shape (m, n), an operator, or `gplsq.operators.Function(fn, like)` for a linear
        function.
    b
        Right-hand side: shape (m,) or (m, k) for k of them, or a pytree in the codomain of a
        `Function`. Its dtype must be that of A: the solve runs in it, whatever JAX's x64 flag says.
    damp
        A non-negative scalar, in units of A. The Python number 0 selects the undamped problem; a
        traced value is taken to be positive.
    solver
        `LSMR()` (default) or `Direct()`.
    x0
        A first guess, shaped like the solution. It changes neither the answer nor any derivative.
        Used by damped and kernel systems; an undamped system does not use it, because it would
        choose among several solutions.
    preconditioner
        For a kernel operator a recipe such as `RandomlyPivotedCholesky(rank)`; otherwise an
        operator that applies R^-1 of a right preconditioner, `x = R^-1 z`.
    throw
        Raise `ConvergenceError` if a column misses its tolerance (under `jit` a runtime error).
        With `False`, look at `Solution.ok`.

    Returns
    -------
    Solution
        `value`, `ok`, `status`, `stats`, and `report()` in plain words.

    Raises
    ------
    ValueError, TypeError
        For arguments of the wrong shape, dtype or type.
    ConvergenceError
        If `throw` and a column failed.

    Notes
    -----
    Differentiable in b, damp and everything inside A, forward and reverse, by the rule derived in
    `gplsq/solvers/_adjoint.py`; the derivative costs one more solve (two to four when undamped),
    and its memory does not grow with iterations. A derivative whose own solve fails raises
    (`throw`) or warns. Second order is right for damped systems, kernel systems, and undamped ones
    of full column rank.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from gplsq import lstsq
    >>> A = jnp.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> solution = lstsq(A, jnp.array([1.0, 2.0, 3.0]))
    >>> [round(float(x), 4) for x in solution.value]
    [1.0, 1.0]
    """
    operator = A if isinstance(A, AbstractLinearOperator) else _as_operator(A)
    rhs, single, restore = _as_columns(operator, b)
    sigma = _as_damp(damp, operator.dtype)
    method = LSMR() if solver is None else solver
    if not isinstance(method, AbstractLeastSquares):
        msg = f"solver must be LSMR() or Direct(); got {describe(solver)}. Pass an instance."
        raise TypeError(msg)
    start = None if x0 is None else _as_start(operator, x0, rhs.shape[1])
    value, status, stats = _run(operator, sigma, rhs, start, preconditioner, method, throw)
    if throw:
        value = _raise_if_failed(value, status, stats)
    if single:
        value, status, stats = jax.tree.map(lambda leaf: leaf[..., 0], (value, status, stats))
    return solution_from(restore(value), status, stats)


@eqx.filter_jit
def _run(operator, damp, b, x0, preconditioner, solver, throw):
    fixed = stop_gradient((operator, damp))
    prepared = solver.prepare(*fixed, preconditioner)
    start = stop_gradient(x0)
    return solve_with_derivative(
        operator, damp, b, start, stop_gradient(prepared), solver=solver, throw=throw
    )


def _as_operator(A: Any) -> AbstractLinearOperator:
    if callable(A):
        msg = (
            "A is a function: wrap it as gplsq.operators.Function(fn, like), where `like` is an "
            "example of its argument."
        )
        raise TypeError(msg)
    return Dense(A)


def _as_columns(operator: AbstractLinearOperator, b: Any) -> tuple[Array, bool, Callable]:
    """The right-hand side as (m, k), whether it was single, and how to shape the solution."""
    if isinstance(operator, Function):
        structure = jax.tree.structure(b)
        if structure == operator.codomain[1] and not (
            eqx.is_array_like(b) and jnp.ndim(b) == 2 and len(operator.codomain[0][0].shape) == 1
        ):
            shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(b)]
            expected = [leaf.shape for leaf in operator.codomain[0]]
            if shapes != expected:
                msg = f"b must have the shapes of fn's result, {expected}; got {shapes}."
                raise ValueError(msg)
            flat = ravel_pytree(jax.tree.map(jnp.asarray, b))[0]
            return _checked(operator, flat)[:, None], True, operator.unravel
        restore = operator.unravel
    else:
        restore = _same
    if not eqx.is_array_like(b):
        msg = f"b must be an array of shape (m,) or (m, k); got {describe(b)}."
        raise TypeError(msg)
    array = jnp.asarray(b)
    if array.ndim not in (1, 2) or array.shape[0] != operator.shape[0]:
        msg = (
            f"b must have shape ({operator.shape[0]},) or ({operator.shape[0]}, k), one row for "
            f"each row of A; got shape {array.shape}."
        )
        raise ValueError(msg)
    array = _checked(operator, array)
    return (array[:, None], True, restore) if array.ndim == 1 else (array, False, restore)


def _same(x):
    return x


def _checked(operator: AbstractLinearOperator, array: Array) -> Array:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        msg = "b must be real; got complex numbers. Stack real and imaginary parts."
        raise TypeError(msg)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(operator.dtype)
    if array.dtype != operator.dtype:
        msg = (
            f"b and A must have one dtype; got {array.dtype} and {operator.dtype}. Cast one of "
            "them: the precision of the solve is yours to choose."
        )
        raise TypeError(msg)
    return array


def _as_damp(damp: Any, dtype: Any) -> Array | None:
    if damp is None:
        return None
    if isinstance(damp, int | float | np.number | np.ndarray) and np.ndim(damp) == 0:
        number = check_finite_scalar("damp", damp, minimum=0.0)
        return None if number == 0 else jnp.asarray(number, dtype)
    if not eqx.is_array(damp) or jnp.ndim(damp) != 0:
        msg = f"damp must be a non-negative scalar; got {describe(damp)}. Pass one number."
        raise ValueError(msg)
    if not is_traced(damp):
        check_finite_scalar("damp", damp, minimum=0.0)
    return jnp.asarray(damp, dtype)


def _as_start(operator: AbstractLinearOperator, x0: Any, columns: int) -> Array:
    if isinstance(operator, Function) and not eqx.is_array_like(x0):
        x0 = ravel_pytree(x0)[0]
    start = jnp.asarray(x0, operator.dtype)
    start = start[:, None] if start.ndim == 1 else start
    if start.shape != (operator.shape[1], columns):
        msg = (
            f"x0 must be shaped like the solution, ({operator.shape[1]},) or "
            f"({operator.shape[1]}, {columns}); got shape {jnp.shape(x0)}."
        )
        raise ValueError(msg)
    return start


def _raise_if_failed(value: Array, status: Array, stats: Any) -> Array:
    from_status = solution_from(value, status, stats)
    if is_traced(status):
        message = "lstsq missed its tolerance; call with throw=False and look at Solution.report()"
        return eqx.error_if(value, ~jnp.all(from_status.ok), message)
    if not bool(jnp.all(from_status.ok)):
        raise ConvergenceError(describe_outcome(status, stats))
    return value
