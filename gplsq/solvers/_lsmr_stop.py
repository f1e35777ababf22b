"""When a column of LSMR stops, and what its status says: the two stopping rules.

Rectangular systems are judged by the backward error of least squares (Fong & Saunders 2011, section
3.4). Kernel systems are square, and judged by their relative residual. Both are followed by
recurrences, without products, and recomputed from the iterate at the end.
Kernel systems: (13) and (14) of docs/derivations/function-space.md.
What a derivative takes from a solve on its way: docs/derivations/adjoint.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import STATUS, column_norm, default_rtol, plain_norm, safe_divide
from gplsq.operators import AbstractEuclideanOperator, Composed
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
    goal = jnp.maximum(tols.rtol / 2, jnp.finfo(norm_b.dtype).eps)
    norm_A = norm_estimate(state)
    # Without x its norm is taken as 0, which is on the strict side.
    size = norm_b if state.x is None else norm_A * system.cheap_norm(state.x.value) + norm_b
    small_residual = state.residual <= goal * size + tols.atol / 2
    small_normal = jnp.abs(state.zeta_bar) <= goal * norm_A * state.residual
    new = jnp.where(condition_estimate(state) > tols.condition_limit, STATUS.ILL_CONDITIONED, 0)
    new = jnp.where(small_normal, STATUS.CONVERGED_NORMAL, new)
    new = jnp.where(small_residual, STATUS.CONVERGED_RESIDUAL, new)
    return jnp.where(status == STATUS.RUNNING, new, status).astype(jnp.int32)


def judge_residual(
    system: System, tols: Tolerances, state: LSMRState, status: Array, progress: Progress
) -> tuple[Array, Progress]:
    """Status after a step of a kernel system, from its followed residual.

    Equation (14) of docs/derivations/function-space.md.
    """
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
    """The iterate with the smaller followed residual, and its norm, column by column.

    Equations (8) and (13) of docs/derivations/function-space.md.
    """
    assert state.misfit is not None
    assert state.x is not None
    x = state.x.value
    residual = column_norm(state.misfit.value + system.damp**2 * x)
    if state.craig is None:
        return x, residual
    other = column_norm(state.craig.misfit)
    ahead = other < residual
    return jnp.where(ahead, state.craig.x, x), jnp.where(ahead, other, residual)


def verify_rectangular(
    system: System,
    tols: Tolerances,
    b: Array,
    norm_b: Array,
    x: Array,
    state: LSMRState,
    status: Array,
):
    """Recompute the residuals; take back what the recurrences promised too much.

    Everything is in units of the operator divided by `unit`, as the recurrences are. Returns the
    status, the residual and its norm, that of the normal residual (infinite where it was not
    measured), and the error measure.
    """
    operator, unit = system.operator, state.pair.unit
    assert isinstance(operator, AbstractEuclideanOperator)
    damp = system.damp / unit
    eps = float(jnp.finfo(b.dtype).eps)
    unpreconditioned = None
    if system.preconditioned:
        assert isinstance(operator, Composed)
        assert isinstance(operator.left, AbstractEuclideanOperator)
        inner = operator.right.mv(x / unit)
        misfit, of_A = operator.left.sweep(inner, b)
        back = operator.right.rmv(of_A)
        # |A| from below, which is on the safe side.
        slope, norm_misfit = column_norm(of_A), column_norm(misfit)
        norm_of_A = jnp.maximum(
            safe_divide(column_norm(misfit + b), column_norm(inner)),
            safe_divide(slope, norm_misfit),
        )
        unpreconditioned = safe_divide(slope, norm_of_A * norm_misfit)
    elif state.x is None:  # where products are dear
        misfit, back = operator.mv(x / unit) - b, None
    else:
        misfit, back = operator.sweep(x / unit, b)
    norm_r, norm_x = plain_norm(misfit), plain_norm(x)
    damped_r = jnp.sqrt(norm_r**2 + (damp * norm_x) ** 2)
    norm_A = norm_estimate(state)
    size = norm_A * norm_x + norm_b
    met_residual = damped_r <= tols.rtol * size + tols.atol

    def normal_residual(back: Array) -> Array:
        return plain_norm(back / unit + damp**2 * x)

    if back is None:  # and this one is asked for only where the residual does not do
        normal = jax.lax.cond(
            jnp.all(met_residual),
            lambda: jnp.full_like(norm_r, jnp.inf),
            lambda: normal_residual(operator.rmv(misfit)),
        )
    else:
        normal = normal_residual(back)
    # Rounding in b - A x alone leaves a residual of eps (|A| |x| + |b|); a few of these must be
    # allowed in the normal residual, which has no such term of its own. A tolerance below them is
    # out of reach, and gets no such allowance.
    floor = jnp.where(tols.rtol >= 8 * eps, 8 * eps / tols.rtol, 0)
    by_residual = safe_divide(damped_r, size)
    by_normal = safe_divide(normal, norm_A * (damped_r + floor * size))
    if unpreconditioned is not None:
        # A P is better conditioned than A, and its normal residual asks for more than that of A:
        # in a low precision for what rounding errors do not allow. Either will do.
        by_normal = jnp.minimum(by_normal, unpreconditioned)
    met = met_residual | (by_normal <= tols.rtol)
    kind = jnp.where(met_residual, STATUS.CONVERGED_RESIDUAL, STATUS.CONVERGED_NORMAL)
    measure = jnp.minimum(by_residual, by_normal)
    return _settle(status, met, kind), -misfit, norm_r, normal, measure


def verify_linear(system: System, tols: Tolerances, b: Array, x: Array, status: Array):
    """The same for a kernel system.

    Equation (14) of docs/derivations/function-space.md.
    """
    linear = system.linear
    assert linear is not None
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
    return _settle(status, met, STATUS.CONVERGED_RESIDUAL), left, misfit, residual, measure


def without_residual(s: Array, r: Array, norm_r: Array, normal: Array, state: LSMRState) -> Array:
    """The vector of minimum norm among those with `A* q = A* s`.

    All left vectors are in the span of the range of A and of the final residual r = (I - A A^+) b,
    so what is too much in s is a multiple of r, which recurrences follow. (The product of s and r
    does not say it: where b is in the range but for rounding, so is the direction of r.) Where r is
    not orthogonal to the range (b is in it, and r is what the solve left) nothing is removed.
    """
    inside = normal * condition_estimate(state) > 0.1 * norm_estimate(state) * norm_r
    assert state.excess is not None
    return s - jnp.where(inside, 0, state.excess.value) * r


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


def norm_estimate(state: LSMRState) -> Array:
    """Norm of the damped operator (in its unit), from below: entries and columns of its factors."""
    return jnp.maximum(state.norm_A, state.max_rho_bar)


def condition_estimate(state: LSMRState) -> Array:
    """Condition number of the damped operator in its own norms, estimated from below."""
    return safe_divide(state.max_rho_bar, state.min_rho_bar)
