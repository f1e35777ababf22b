"""Gradients of least squares from a sample of the rows, unbiased, with their standard error.

With `x = argmin |A x - b|^2 + damp^2 |x|^2`, `r = b - A x` and `w = (A* A + damp^2)^-1 g` for a
cotangent g of x (docs/derivations/adjoint.md),

    dmu = <w, dA* r> - <A w, dA x> + <A w, db> - 2 damp <w, x> ddamp
        = sum_i da_i . c_i + ...,          c_i = r_i w - (A w)_i x,

where a_i is row i of A. The sum over rows is what a tall system makes expensive to differentiate,
and the mean of `da_i . c_i / p_i` over rows drawn with probabilities p_i estimates it.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree, Scalar

from gplsq._core import STATUS, safe_divide, stop_gradient
from gplsq.operators import Rows
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._inputs import as_columns, as_damp, as_operator
from gplsq.solvers._row_sample import checked_draw, checked_params, sampled_row_gradient
from gplsq.solvers._solution import Solution
from gplsq.solvers._solve import adjoint_solution, lstsq


class StochasticGradient(eqx.Module):
    """What `stochastic_gradient` returns.

    Attributes
    ----------
    value
        `loss(x)`.
    gradient, standard_error
        Estimate of the gradient in `params`, and the standard deviation of its entries.
    b_gradient, damp_gradient
        Gradients in b and damp, which need no sampling; `damp_gradient` is `None` if undamped.
    solution
        The `Solution` x, whose `value` is a good `x0` of the next call.
    adjoint
        The `Solution` w of the adjoint solve, whose `value` is a good `adjoint_x0`.
    """

    value: Scalar
    gradient: PyTree
    standard_error: PyTree
    b_gradient: Array
    damp_gradient: Array | None
    solution: Solution
    adjoint: Solution


def stochastic_gradient(
    loss: Callable[[Array], Array],
    row_fn: Callable[[PyTree, PyTree], Array],
    params: PyTree,
    data: PyTree[ArrayLike],
    b: Float[ArrayLike, "m *k"],
    *,
    num_rows: int,
    key: PRNGKeyArray,
    damp: ArrayLike = 0.0,
    probabilities: str | Float[ArrayLike, " m"] = "importance",
    A: Any = None,
    preconditioner: Any = None,
    solver: AbstractLeastSquares | None = None,
    adjoint_solver: AbstractLeastSquares | None = None,
    x0: ArrayLike | None = None,
    adjoint_x0: ArrayLike | None = None,
    block: int | None = None,
    num_groups: int = 32,
    throw: bool = True,
) -> StochasticGradient:
    """Value of `loss(x)` at the least-squares solution, and its gradient from `num_rows` rows.

    x solves `min |A x - b|^2 + damp^2 |x|^2` with `A = row_fn(params, data)`. Given x and the
    adjoint solution w, the gradient in `params` is a sum over the m rows, of which `num_rows` are
    drawn: an unbiased estimate, with its standard error.

    Parameters
    ----------
    loss
        A function of x, shape (n,) or (n, k), to a scalar. What it depends on besides is constant.
    row_fn, params, data
        As for `sampled_row_gradient`. A new `row_fn` object compiles anew; new numbers do not.
    b
        Right-hand side, shape (m,) or (m, k), in the dtype of A.
    num_rows
        Rows drawn, at most m.
    key
        A JAX random key.
    damp
        As for `lstsq`. Undamped, or damped by a vector with zeros, the cotangent of x must have no
        part in the null space of the system: it has none if that has full column rank.
    probabilities
        How rows are drawn: see `sampled_row_gradient`. ``"uniform"`` with `num_rows` = m is the
        exact gradient.
    A
        `row_fn(params, data)`, a matrix or an operator, if it is at hand. Without it both solves
        make all m rows anew in every step, a block at a time, and never keep them.
    preconditioner, solver, adjoint_solver, x0, adjoint_x0
        As for `lstsq`.
    block
        Rows of A made at a time by the two solves, as in `gplsq.operators.Rows`.
    num_groups
        See `sampled_row_gradient`.
    throw
        Raise if one of the solves failed, or if the cotangent has a part in the null space of A.
        With `False`, look at `solution.ok` and `adjoint.ok`, which is False in both cases.

    Returns
    -------
    StochasticGradient
        Nothing in it is differentiable.

    Raises
    ------
    ValueError, TypeError
        For arguments of the wrong shape, dtype or type.
    ConvergenceError, RuntimeError
        If `throw` and the solve for x (ConvergenceError), or that for w, failed. Under `jit`
        both are runtime errors.

    Notes
    -----
    Cost: two solves, one more pass over the m rows for r and A w, and one reverse sweep through
    `row_fn` on `num_rows` rows, where the derivative of `lstsq` sweeps through all m. It pays where
    that sweep is what costs, in time or in memory: rows that are expensive to differentiate, with a
    matrix that is kept (`A`) or solves that start close to their solutions.

    The estimate is unbiased for the x and w that were computed: their own errors stay.
    """
    params = checked_params(params)
    rows = Rows(lambda rows: row_fn(params, rows), data, block=block)
    operator = stop_gradient(rows if A is None else as_operator(A, None, None))
    if operator.shape != rows.shape or operator.dtype != rows.dtype:
        msg = (
            f"A must be row_fn(params, data), of shape {rows.shape} and dtype {rows.dtype}; got "
            f"shape {tuple(operator.shape)} and dtype {operator.dtype}. Leave it out to be safe."
        )
        raise ValueError(msg)
    # Before the solves, which may take long.
    checked_draw(num_rows, num_groups, probabilities, operator.shape[0], operator.dtype)
    solver_of_w = solver if adjoint_solver is None else adjoint_solver
    sigma = stop_gradient(as_damp(damp, operator))
    columns, single, _ = as_columns(operator, b)
    columns = stop_gradient(columns)
    rhs = columns[:, 0] if single else columns
    shared = {"damp": sigma, "preconditioner": preconditioner}
    solution = lstsq(operator, rhs, solver=solver, x0=x0, throw=throw, **shared)
    value, cotangent = jax.value_and_grad(loss)(solution.value)
    adjoint = adjoint_solution(operator, cotangent, solver=solver_of_w, x0=adjoint_x0, **shared)
    if sigma is None or sigma.ndim == 1:
        adjoint = _without_null_space(adjoint)
    if throw:
        message = (
            "the adjoint solve of stochastic_gradient missed its tolerance, or its cotangent has "
            "a part in the null space of A. Add damping, or call with throw=False."
        )
        adjoint = eqx.error_if(adjoint, ~jnp.all(adjoint.ok), message)
    x, w = solution.value, adjoint.value
    right = jnp.stack([w, x], 1) if single else jnp.concatenate([w, x], 1)
    products = operator.mv(right)
    Aw, Ax = products[:, : right.shape[1] // 2], products[:, right.shape[1] // 2 :]
    sampled = sampled_row_gradient(
        row_fn,
        params,
        data,
        jnp.concatenate([columns - Ax, -Aw], 1),
        right,
        num_rows=num_rows,
        key=key,
        probabilities=probabilities,
        num_groups=num_groups,
    )
    damp_gradient = None
    if sigma is not None:
        each = jnp.sum((w * x).reshape(w.shape[0], -1), 1)  # of every unknown
        damp_gradient = -2 * sigma * (each if sigma.ndim == 1 else jnp.sum(each))
    result = StochasticGradient(
        value=value,
        gradient=sampled.estimate,
        standard_error=sampled.standard_error,
        b_gradient=Aw[:, 0] if single else Aw,
        damp_gradient=damp_gradient,
        solution=solution,
        adjoint=adjoint,
    )
    return stop_gradient(result)


def _without_null_space(adjoint: Solution) -> Solution:
    """A cotangent that `A* p = g` misses has a part in the null space: then `ok` is False.

    The formula for the gradient is that of full column rank, and right for any g in the row space.
    """
    inside = adjoint.status != STATUS.CONVERGED_NORMAL
    relative = safe_divide(adjoint.stats.residual_norm, adjoint.stats.rhs_norm)
    small = relative <= float(jnp.finfo(relative.dtype).eps) ** 0.5
    return eqx.tree_at(lambda s: s.ok, adjoint, adjoint.ok & (inside | small))
