"""LSMR: settings, stopping rule and the loop over a block of right-hand sides."""

from numbers import Integral
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import STATUS, check_finite_scalar, column_norm
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._lsmr_step import initial_state, lsmr_step
from gplsq.solvers._lsmr_stop import (
    Progress,
    best_iterate,
    condition_estimate,
    judge_residual,
    judge_step,
    tolerances,
    verify_linear,
    verify_rectangular,
)
from gplsq.solvers._precondition import AbstractPreconditioner
from gplsq.solvers._solution import Stats
from gplsq.solvers._systems import System, kernel_system, rectangular_system, solve_by_two


class LSMR(AbstractLeastSquares):
    """Matrix-free least squares by LSMR (Fong & Saunders 2011), with general inner products.

    Parameters
    ----------
    rtol
        Backward-error tolerance: a column has converged when its residual is below
        ``rtol (|A| |x| + |b|)`` or its normal residual below ``rtol |A| |r|``. A kernel system has
        converged when ``|b - (K + damp^2) c| <= rtol |b|``, Euclidean norms. By default what the
        dtype can reach, ``eps ** 0.75`` (6.4e-6 in float32, 1.8e-12 in float64), or the rounding
        errors of the product with K where these are larger.
    atol
        Absolute tolerance on the residual norm, in units of b. 0 by default.
    max_steps
        Iterations at most; by default ``20 min(m, n) + 200``.
    condition_limit
        Stop a column when its condition estimate passes this number. No limit by default.

    Notes
    -----
    Columns that are done are frozen; one that turned NaN or infinite keeps its last finite value
    and does not disturb the others. After the loop residuals are recomputed from the solution: a
    column whose recurrences promised more than that shows is "stagnated", not "converged".

    A preconditioned kernel system is consistent, and Craig's iterate is followed beside LSMR's on
    the same products; each column gets the one with the smaller residual.

    Cost of a step: one product with A and one with its adjoint for the whole block (for a kernel
    one product with K), and eleven vectors of memory a column. A tolerance or step limit of a new
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
        if not eqx.is_array(max_steps) and max_steps is not None:
            if isinstance(max_steps, bool) or not isinstance(max_steps, Integral):
                msg = f"max_steps must be a whole number; got {max_steps!r}. Pass an int."
                raise TypeError(msg)
            if max_steps < 1:
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

    def _loop(self, system: System):
        operator, damp = system.operator, system.damp
        dtype = system.rhs.dtype
        # Scaling the columns keeps squares of 1e±30 inside float32.
        scale = jnp.max(jnp.abs(system.rhs), axis=0, initial=0.0)
        scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)
        b = system.rhs / scale
        if system.linear is not None:
            linear = system.linear._replace(reference=system.linear.reference / scale)
            system = system._replace(linear=linear)
        tols = tolerances(self, dtype, scale)
        max_steps = self.max_steps
        if max_steps is None:
            max_steps = jnp.asarray(20 * min(operator.shape) + 200, jnp.int32)

        def judge(state, status, progress):
            if system.linear is None:
                return judge_step(system, tols, norm_b, state, status), progress
            return judge_residual(system, tols, state, status, progress)

        def keep_going(carry):
            step, _, status, _, _ = carry
            return (step < max_steps) & jnp.any(status == STATUS.RUNNING)

        def body(carry):
            step, steps, status, old, progress = carry
            active = status == STATUS.RUNNING
            new = lsmr_step(operator, damp, old)
            # A step that went wrong is not taken, so that x stays the last finite value.
            finite = jnp.isfinite(new.zeta_bar) & jnp.isfinite(new.residual)
            status = jnp.where(active & ~finite, STATUS.NON_FINITE, status).astype(jnp.int32)
            taken = active & finite
            state = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)
            status, progress = judge(state, status, progress)
            return step + 1, steps + taken, status, state, progress

        consistent = system.linear is not None and system.linear.consistent
        start = initial_state(operator, b, consistent=consistent)
        norm_b = start.residual
        zero, running = jnp.zeros((), jnp.int32), jnp.zeros(b.shape[1:], jnp.int32)
        status = jnp.where(jnp.isfinite(start.zeta_bar), STATUS.RUNNING, STATUS.NON_FINITE).astype(
            jnp.int32
        )
        if system.linear is None:
            status = judge_step(system, tols, norm_b, start, status)
        status = jnp.where(jnp.all(b == 0, axis=0), STATUS.EXACT, status).astype(jnp.int32)
        progress = Progress(jnp.full(b.shape[1:], jnp.inf, dtype), running)
        _, steps, status, state, _ = jax.lax.while_loop(
            keep_going, body, (zero, running, status, start, progress)
        )
        status = jnp.where(status == STATUS.RUNNING, STATUS.MAX_STEPS, status)
        linear = system.linear is not None
        x = best_iterate(system, state)[0] if linear else state.x
        verify = verify_linear if linear else verify_rectangular
        status, residual, normal, measure = verify(system, tols, b, x, state, status)
        stats = Stats(
            num_steps=steps,
            residual_norm=residual * scale,
            normal_residual_norm=normal * scale,
            rhs_norm=column_norm(b) * scale,
            norm_estimate=state.norm_A,
            condition_estimate=condition_estimate(state),
            error_measure=measure,
            tolerance=jnp.broadcast_to(tols.rtol, measure.shape),
        )
        return system.recover(x * scale), status, stats


def _setting(name: str, value: Any, minimum: float) -> Array | None:
    """An optional non-negative number as an array leaf, so that a new value does not recompile."""
    if value is None or eqx.is_array(value):
        return value
    return jnp.asarray(check_finite_scalar(name, value, minimum=minimum), float)
