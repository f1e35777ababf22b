"""LSMR: settings, stopping rule and the loop over a block of right-hand sides."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import STATUS, check_finite_scalar, default_rtol, safe_divide
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._lsmr_step import LSMRState, initial_state, lsmr_step
from gplsq.solvers._precondition import AbstractPreconditioner
from gplsq.solvers._solution import Stats
from gplsq.solvers._systems import kernel_system, rectangular_system, solve_by_two


class LSMR(AbstractLeastSquares):
    """Matrix-free least squares by LSMR (Fong & Saunders 2011), with general inner products.

    Parameters
    ----------
    rtol
        Backward-error tolerance: a column has converged when its residual is below
        ``rtol (|A| |x| + |b|)`` or its normal residual below ``rtol |A| |r|``. By default what the
        dtype can reach, ``eps ** 0.75`` (6.4e-6 in float32, 1.8e-12 in float64).
    atol
        Absolute tolerance on the residual norm, in units of b. 0 by default.
    max_steps
        Iterations at most; by default ``4 min(m, n) + 100``.
    condition_limit
        Stop a column when its condition estimate passes this number. No limit by default.

    Notes
    -----
    Columns that are done are frozen; one that turned NaN or infinite keeps its last finite value
    and does not disturb the others. After the loop residuals are recomputed from the solution, and
    a column whose recurrences promised more than that shows is "stagnated", not "converged".

    Cost of a step: one product with A and one with its adjoint for the whole block (for a kernel
    one product with K), and eight vectors of memory a column. A tolerance or step limit of a new
    value does not recompile.
    """

    rtol: Array | None = None
    atol: Array | None = None
    max_steps: Array | None = None
    condition_limit: Array | None = None

    def __init__(
        self,
        rtol: float | None = None,
        atol: float | None = None,
        max_steps: int | None = None,
        condition_limit: float | None = None,
    ):
        self.rtol = _setting("rtol", rtol, 0.0)
        self.atol = _setting("atol", atol, 0.0)
        self.condition_limit = _setting("condition_limit", condition_limit, 1.0)
        if max_steps is not None and (
            isinstance(max_steps, bool) or not jnp.issubdtype(jnp.asarray(max_steps), jnp.integer)
        ):
            msg = f"max_steps must be a whole number; got {max_steps!r}. Pass an int."
            raise TypeError(msg)
        if isinstance(max_steps, int) and max_steps < 1:
            msg = f"max_steps must be at least 1; got {max_steps}. Pass a larger number."
            raise ValueError(msg)
        self.max_steps = None if max_steps is None else jnp.asarray(max_steps, jnp.int32)

    def prepare(self, operator, damp, preconditioner):
        if isinstance(preconditioner, AbstractPreconditioner):
            return preconditioner.build(operator, damp)
        return preconditioner

    def run(self, prepared, operator, damp, f, g, x0):
        if isinstance(operator, KernelOperator):
            system = kernel_system(operator, damp, prepared, f, x0)
            return self._loop(system)
        if damp is None and g is not None:
            return solve_by_two(self.run, prepared, operator, f, g)
        return self._loop(rectangular_system(operator, damp, prepared, f, g, x0))

    def _loop(self, system: Any):
        operator, damp, b = system.operator, system.damp, system.rhs
        dtype = b.dtype
        eps = float(jnp.finfo(dtype).eps)
        rtol = jnp.asarray(default_rtol(dtype) if self.rtol is None else self.rtol, dtype)
        atol = jnp.asarray(0 if self.atol is None else self.atol, dtype)
        limit = jnp.asarray(
            jnp.inf if self.condition_limit is None else self.condition_limit, dtype
        )
        max_steps = (
            jnp.asarray(4 * min(operator.shape) + 100, jnp.int32)
            if self.max_steps is None
            else self.max_steps
        )
        # Scaling the columns keeps squares of 1e±30 inside float32.
        scale = jnp.max(jnp.abs(b), axis=0, initial=0.0)
        scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)
        b = b / scale
        atol = atol / scale
        start = initial_state(operator, b)
        norm_b = start.residual
        # The recurrences are asked for half the tolerance: rounding errors get the other half.
        goal = jnp.maximum(rtol / 2, eps)

        def judge(state: LSMRState, status: Array) -> Array:
            norm_x = system.cheap_norm(state.x)
            small_residual = state.residual <= goal * (state.norm_A * norm_x + norm_b) + atol / 2
            normal = jnp.abs(state.zeta_bar)
            small_normal = normal <= goal * state.norm_A * state.residual
            condition = safe_divide(state.max_rho_bar, state.min_rho_bar)
            finite = jnp.isfinite(normal) & jnp.isfinite(state.residual)
            new = jnp.where(condition > limit, STATUS.ILL_CONDITIONED, STATUS.RUNNING)
            new = jnp.where(small_normal, STATUS.CONVERGED_NORMAL, new)
            new = jnp.where(small_residual, STATUS.CONVERGED_RESIDUAL, new)
            new = jnp.where(finite, new, STATUS.NON_FINITE)
            return jnp.where(status == STATUS.RUNNING, new, status).astype(jnp.int32)

        running = jnp.zeros(b.shape[1:], jnp.int32)
        status = judge(start, running)
        status = jnp.where(norm_b == 0, STATUS.EXACT, status).astype(jnp.int32)

        def keep_going(carry):
            step, _, status, _ = carry
            return (step < max_steps) & jnp.any(status == STATUS.RUNNING)

        def body(carry):
            step, steps, status, old = carry
            active = status == STATUS.RUNNING
            new = lsmr_step(operator, damp, old)
            # A step that went wrong is not taken, so that x stays the last finite value.
            finite = jnp.isfinite(new.zeta_bar) & jnp.isfinite(new.residual)
            status = jnp.where(active & ~finite, STATUS.NON_FINITE, status).astype(jnp.int32)
            taken = active & finite
            state = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)
            return step + 1, steps + taken, judge(state, status), state

        zero = jnp.zeros((), jnp.int32)
        _, steps, status, state = jax.lax.while_loop(
            keep_going, body, (zero, jnp.zeros_like(running), status, start)
        )
        status = jnp.where(status == STATUS.RUNNING, STATUS.MAX_STEPS, status)
        x = jnp.where(jnp.isfinite(state.x), state.x, 0)
        return self._verify(system, b, x, scale, rtol, atol, status, steps, state, norm_b)

    def _verify(self, system, b, x, scale, rtol, atol, status, steps, state, norm_b):
        """Recompute the residuals and take back what the recurrences promised too much."""
        operator, damp = system.operator, system.damp
        eps = float(jnp.finfo(b.dtype).eps)
        Ax, norm_x = operator.forward(x)
        r = b - Ax
        At_r, norm_r = operator.adjoint(r)
        gradient = At_r - damp**2 * x
        _, normal = operator.forward(gradient)
        damped_r = jnp.sqrt(norm_r**2 + (damp * norm_x) ** 2)
        size = state.norm_A * norm_x + norm_b
        # Rounding in b - A x alone leaves a residual of eps (|A| |x| + |b|); a few of these must be
        # allowed in the normal residual, which has no such term of its own.
        floor = 8 * eps * size
        if self.rtol is None and system.rounding is not None:
            # "What the dtype can reach" of a kernel system is larger: coefficients of both signs
            # cancel in K c, and |K| |c| says how much.
            _, error = operator.adjoint(eps * (system.rounding(x) + jnp.abs(b)))
            floor = floor + error
            size = size + error / rtol
        by_residual = safe_divide(damped_r, size)
        by_normal = safe_divide(normal, state.norm_A * (damped_r + floor / rtol))
        met_residual = damped_r <= rtol * size + atol
        met_normal = by_normal <= rtol
        promised = (status == STATUS.CONVERGED_RESIDUAL) | (status == STATUS.CONVERGED_NORMAL)
        met = jnp.where(met_residual, STATUS.CONVERGED_RESIDUAL, STATUS.CONVERGED_NORMAL)
        # What is shown counts, whatever the recurrences thought: also at the step limit.
        capped = (status == STATUS.MAX_STEPS) | (status == STATUS.ILL_CONDITIONED)
        status = jnp.where((promised | capped) & (met_residual | met_normal), met, status)
        status = jnp.where(promised & ~(met_residual | met_normal), STATUS.STAGNATED, status)
        stats = Stats(
            num_steps=steps,
            residual_norm=norm_r * scale,
            normal_residual_norm=normal * scale,
            rhs_norm=norm_b * scale,
            norm_estimate=state.norm_A,
            condition_estimate=safe_divide(state.max_rho_bar, state.min_rho_bar),
            error_measure=jnp.minimum(by_residual, by_normal),
            tolerance=jnp.broadcast_to(rtol, norm_r.shape),
        )
        return system.recover(x * scale), status.astype(jnp.int32), stats


def _setting(name: str, value: Any, minimum: float) -> Array | None:
    """An optional non-negative number as an array leaf, so that a new value does not recompile."""
    if value is None or eqx.is_array(value):
        return value
    return jnp.asarray(check_finite_scalar(name, value, minimum=minimum), float)
