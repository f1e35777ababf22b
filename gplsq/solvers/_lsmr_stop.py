"""When a column of LSMR stops, and what its status says: the two stopping rules.

Rectangular systems are judged by the backward error of least squares (Fong & Saunders 2011, section
3.4), from the recurrences at every step and recomputed at the end. Kernel systems are square, and
judged by their relative residual, recomputed from the iterate every few steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import STATUS, column_norm, default_rtol, safe_divide
from gplsq.solvers._lsmr_step import LSMRState
from gplsq.solvers._systems import System

# A kernel system's residual is recomputed every so many steps: one product more in ten.
_CHECK_EVERY = 10
# So many checks in a row without an improvement by a twentieth are called stagnation.
_PATIENCE = 4


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
    """Best recomputed residual of each column, and checks since it improved (kernel systems)."""

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
    new = jnp.where(_condition(state) > tols.condition_limit, STATUS.ILL_CONDITIONED, 0)
    new = jnp.where(small_normal, STATUS.CONVERGED_NORMAL, new)
    new = jnp.where(small_residual, STATUS.CONVERGED_RESIDUAL, new)
    return jnp.where(status == STATUS.RUNNING, new, status).astype(jnp.int32)


def judge_residual(
    system: System,
    tols: Tolerances,
    b: Array,
    state: LSMRState,
    status: Array,
    step: Array,
    progress: Progress,
) -> tuple[Array, Progress]:
    """Status after a step of a kernel system, from its true residual where one is due."""
    linear = system.linear
    assert linear is not None
    # A vanishing bidiagonal entry means the Krylov space is exhausted: nothing can improve.
    exhausted = (state.zeta_bar == 0) & (status == STATUS.RUNNING)
    exhausted = exhausted | ((_condition(state) > tols.condition_limit) & (status == 0))

    def look(_):
        residual = column_norm(b - linear.multiply(state.x))
        met = residual <= tols.rtol * linear.reference + tols.atol
        better = residual < 0.95 * progress.best
        stale = jnp.where(better, 0, progress.stale + 1)
        new = jnp.where(stale >= _PATIENCE, STATUS.STAGNATED, STATUS.RUNNING)
        new = jnp.where(met, STATUS.CONVERGED_RESIDUAL, new)
        return new.astype(jnp.int32), Progress(jnp.minimum(residual, progress.best), stale)

    def skip(_):
        return jnp.zeros_like(status), progress

    new, moved = jax.lax.cond((step + 1) % _CHECK_EVERY == 0, look, skip, None)
    new = jnp.where(exhausted & (new == STATUS.RUNNING), STATUS.STAGNATED, new)
    return jnp.where(status == STATUS.RUNNING, new, status).astype(jnp.int32), moved


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
    residual = column_norm(b - linear.multiply(x))
    allowed = tols.rtol * linear.reference + tols.atol
    if tols.best_reachable:
        # Coefficients of both signs cancel in S c; |S| |c| says how much that costs.
        allowed = allowed + 4 * eps * column_norm(linear.magnitude(x) + jnp.abs(b))
    measure = tols.rtol * safe_divide(residual, allowed)
    met = residual <= allowed
    return _settle(status, met, STATUS.CONVERGED_RESIDUAL), residual, residual, measure


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


def _condition(state: LSMRState) -> Array:
    return safe_divide(state.max_rho_bar, state.min_rho_bar)


def condition_estimate(state: LSMRState) -> Array:
    """Condition number of the damped operator in its own norms, estimated from below."""
    return _condition(state)
