"""Tall damped least squares in the basis of a low-rank model, refined where rounding stopped it."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import column_norm, gather_rows, is_traced, jit_quickly
from gplsq.operators import AbstractEvaluation, ShardedDamping
from gplsq.solvers import STATUS, AbstractLeastSquares, Solution, lstsq

# Solves of a column at most.
_ROUNDS = 3


def solve_damped(
    operator: AbstractEvaluation,
    y: Float[Array, "n *p"],
    damp: Float[Array, ""],
    solver: AbstractLeastSquares,
    preconditioner: Any,
    x0: Float[Array, "m *p"] | None = None,
) -> Solution:
    """`lstsq` with damping in the basis of an operator, whose rows the devices of a mesh share.

    Rounding errors of a solve are relative to y. Of a million rows in float32 they hide a hundredth
    of the residual: where they stopped a column it starts again from what it has, with errors
    relative to the residual (Wilkinson 1963), at most twice. Not while tracing.

    Parameters
    ----------
    operator
        Of a model with m functions, shape (n, m).
    y, damp, solver, preconditioner, x0
        As of `lstsq`. On a mesh the rows of damping are spread like those of the operator, so that
        no step moves rows between devices.

    Returns
    -------
    Solution
        Its value has shape (m, ...). A failure is in its status; nothing is raised.
    """
    settings = {"solver": solver, "preconditioner": preconditioner, "throw": False}
    solution = _solve(operator, y, damp, x0, settings)
    if is_traced(solution.status):
        return solution
    for _ in range(_ROUNDS - 1):
        stopped = solution.status == STATUS.STAGNATED
        if not jnp.any(stopped):
            break
        solution, nearer = _better(solution, _solve(operator, y, damp, solution.value, settings))
        if not jnp.any(stopped & nearer):  # the next round would do the same
            break
    return solution


def _solve(operator, y, damp, x0, settings) -> Solution:
    if operator.mesh is None:
        return lstsq(operator, y, damp=damp, x0=x0, **settings)
    return _solve_spread(operator, y, damp, x0, settings)


@jit_quickly
def _solve_spread(operator, y, damp, x0, settings) -> Solution:
    """The same with damping as rows that are spread like those of the operator."""
    system = ShardedDamping(operator, damp, operator.mesh)
    rhs = system.right_hand_side(y)
    solution = lstsq(system, rhs if x0 is None else rhs - system.mv(x0), **settings)
    value = solution.value if x0 is None else solution.value + x0
    norms = column_norm(y - operator.mv(value)), column_norm(y)
    stats = replace(solution.stats, residual_norm=norms[0], rhs_norm=norms[1])
    return gather_rows(replace(solution, value=value, stats=stats), operator.mesh)


@jax.jit
def _better(first: Solution, second: Solution) -> tuple[Solution, Array]:
    """Column by column the nearer one, after the steps of both; and where that is the second."""
    steps = first.stats.num_steps + second.stats.num_steps
    first, second = (eqx.tree_at(lambda s: s.stats.num_steps, s, steps) for s in (first, second))
    nearer = second.stats.error_measure < first.stats.error_measure
    return jax.tree.map(lambda a, b: jnp.where(nearer, b, a), first, second), nearer
