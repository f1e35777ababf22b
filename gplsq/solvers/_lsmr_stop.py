"""When a column of LSMR stops, and what its status says: the two stopping rules.

Rectangular systems are judged by the backward error of least squares (Fong & Saunders 2011, section
3.4). Kernel systems are square, and judged by their relative residual. Both are followed by
recurrences, without products, and recomputed from the iterate at the end.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import STATUS, column_norm, default_rtol, safe_divide
from gplsq.solvers._lsmr_step import LSMRState
from gplsq.solvers._systems import System

# A kernel system whose residual has not improved by a twentieth in so many steps has stagnated.
_PATIENCE = 100


class Tolerances(NamedTuple):
    """Settings in the dtype of the solve."""

    rtol: Array
    atol: Array  # per column, in units of the scaled right-hand side
    condition_limit: Array
    best_reachable: bool  # no rtol was given: what rounding allows is good enough


def tolerances(solver, dtype, scale: Array) -> Tolerances:
    """Read a solver's settings; `scale` is what the right-hand sides were divided by."""
    rtol = default_rtol(dtype) if solver.rtol is None else solver.rtol
    limit = jnp.inf if solver.condition_limit is None else solver.condition_limit
    return Tolerances(
        jnp.asarray(rtol, dtype),
        jnp.asarray(0 if solver.atol is None else solver.atol, dtype) / scale,
        jnp.asarray(limit, dtype),
        solver.rtol is None,
    )


class Progress(NamedTuple):
    """Best residual of each column, and steps since it improved (kernel systems)."""

    best: Array
    stale: Array


def judge_step(
    system: System, tols: Tolerances, norm_b: Array, state: LSMRState, status: Array
) -> Array:
    """Status after a step of a rectangular system, from the recurrences."""
    # The recurrences are asked for half the tolerance: rounding errors get the other half.
    eps = jnp.finfo(state.x.dtype).eps
    goal = jnp.maximum(tols.rtol / 2, eps)
    size = state.norm_A * system.cheap_norm(state.x) + norm_b
    small_residual = state.residual <= goal * size + tols.atol / 2
    small_normal = jnp.abs(state.zeta_bar) <= goal * state.norm_A * state.residual
    new = jnp.where(condition_estimate(state) > tols.condition_limit, STATUS.ILL_CONDITIONED, 0)
    new = jnp.where(small_normal, STATUS.CONVERGED_NORMAL, new)
    new = jnp.where(small_residual, STATUS.CONVERGED_RESIDUAL, new)
    return jnp.where(status == STATUS.RUNNING, new, status).astype(jnp.int32)


def judge_residual(
    system: System, tols: Tolerances, state: LSMRState, status: Array, progress: Progress
) -> tuple[Array, Progress]:
    """Status after a step of a kernel system, from its followed residual."""
    linear = system.linear
    assert linear is not None
    residual = best_iterate(system, state)[1]
    better = residual < 0.95 * progress.best
    stale = jnp.where(better, 0, progress.stale + 1)
    # A vanishing bidiagonal entry means the Krylov space is exhausted: nothing can improve.
    stuck = (stale >= _PATIENCE) | (state.zeta_bar == 0)
    new = jnp.where(condition_estimate(state) > tols.condition_limit, STATUS.ILL_CONDITIONED, 0)
    new = jnp.where(stuck, STATUS.STAGNATED, new)
    # A fifth of the tolerance is left to the rounding errors of the recurrence.
    goal = 0.8 * (tols.rtol * linear.reference + tols.atol)
    new = jnp.where(residual <= goal, STATUS.CONVERGED_RESIDUAL, new)
    status = jnp.where(status == STATUS.RUNNING, new, status).astype(jnp.int32)
    return status, Progress(jnp.where(better, residual, progress.best), stale)


def best_iterate(system: System, state: LSMRState) -> tuple[Array, Array]:
    """The iterate with the smaller followed residual, and its norm, column by column."""
    residual = column_norm(state.r - system.damp**2 * state.x)
    if state.craig is None:
        return state.x, residual
    other = column_norm(state.craig.r)
    ahead = other < residual
    return jnp.where(ahead, state.craig.x, state.x), jnp.where(ahead, other, residual)


def verify_rectangular(
    system: System, tols: Tolerances, b: Array, x: Array, state: LSMRState, status: Array
):
    """Recompute the residuals; take back what the recurrences promised too much."""
    operator, damp = system.operator, system.damp
    eps = float(jnp.finfo(b.dtype).eps)
    Ax, norm_x = operator.forward(x)
    At_r, norm_r = operator.adjoint(b - Ax)
    _, normal = operator.forward(At_r - damp**2 * x)
    damped_r = jnp.sqrt(norm_r**2 + (damp * norm_x) ** 2)
    size = state.norm_A * norm_x + column_norm(b)
    # Rounding in b - A x alone leaves a residual of eps (|A| |x| + |b|); a few of these must be
    # allowed in the normal residual, which has no such term of its own. A tolerance below them is
    # out of reach, and gets no such allowance.
    floor = jnp.where(tols.rtol >= 8 * eps, 8 * eps / tols.rtol, 0)
    by_residual = safe_divide(damped_r, size)
    by_normal = safe_divide(normal, state.norm_A * (damped_r + floor * size))
    met_residual = damped_r <= tols.rtol * size + tols.atol
    met = met_residual | (by_normal <= tols.rtol)
    kind = jnp.where(met_residual, STATUS.CONVERGED_RESIDUAL, STATUS.CONVERGED_NORMAL)
    return _settle(status, met, kind), norm_r, normal, jnp.minimum(by_residual, by_normal)


def verify_linear(
    system: System, tols: Tolerances, b: Array, x: Array, state: LSMRState, status: Array
):
    """The same for a kernel system."""
    linear = system.linear
    assert linear is not None
    del state
    eps = float(jnp.finfo(b.dtype).eps)
    left = b - linear.multiply(x)
    residual = column_norm(left)
    allowed = tols.rtol * linear.reference + tols.atol
    if tols.best_reachable:
        # Coefficients of both signs cancel in S c; |S| |c| says how much that costs.
        allowed = allowed + 4 * eps * column_norm(linear.magnitude(x) + jnp.abs(b))
    measure = tols.rtol * safe_divide(residual, allowed)
    met = residual <= allowed
    misfit = column_norm(left + linear.penalty(x))
    return _settle(status, met, STATUS.CONVERGED_RESIDUAL), misfit, residual, measure


def _settle(status: Array, met: Array, kind: Array | int) -> Array:
    """What is shown counts, whatever the recurrences thought: also at the step limit."""
    promised = (status == STATUS.CONVERGED_RESIDUAL) | (status == STATUS.CONVERGED_NORMAL)
    open_ended = (
        (status == STATUS.MAX_STEPS)
        | (status == STATUS.ILL_CONDITIONED)
        | (status == STATUS.STAGNATED)
    )
    status = jnp.where(promised & ~met, STATUS.STAGNATED, status)
    return jnp.where((promised | open_ended) & met, kind, status).astype(jnp.int32)


def condition_estimate(state: LSMRState) -> Array:
    """Condition number of the damped operator in its own norms, estimated from below."""
    return safe_divide(state.max_rho_bar, state.min_rho_bar)
