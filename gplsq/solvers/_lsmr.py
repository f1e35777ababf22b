"""LSMR: settings and the loop over a block of right-hand sides.

docs/derivations/function-space.md derives it for kernels.
"""

import functools
from numbers import Integral
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import (
    STATUS,
    check_finite_scalar,
    column_norm,
    describe,
    savable,
    status_ok,
    usable_divisor,
)
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._lsmr_step import initial_state, lsmr_step, select
from gplsq.solvers._lsmr_stop import (
    Progress,
    best_iterate,
    condition_estimate,
    judge_residual,
    judge_step,
    norm_estimate,
    tolerances,
    verify_linear,
    verify_rectangular,
    without_residual,
)
from gplsq.solvers._precondition import AbstractPreconditioner
from gplsq.solvers._solution import Stats
from gplsq.solvers._systems import (
    System,
    adjoint_system,
    kernel_system,
    rectangular_system,
)

# Starts of a kernel system at most, the first included. Measured in float32 on 3000 rows: the
# second took the residual from 1e-5 ... 1e-4 to 1e-6 or below, the third changed nothing any more.
_ROUNDS = 3


@savable
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

    A kernel system that stagnated starts again from its recomputed residual, at most twice.
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
        if not _is_scalar_array(max_steps, jnp.integer) and max_steps is not None:
            if isinstance(max_steps, bool) or not isinstance(max_steps, Integral):
                msg = f"max_steps must be a whole number; got {describe(max_steps)}. Pass an int."
                raise TypeError(msg)
            if not 1 <= max_steps < 2**31:
                msg = f"max_steps must be from 1 to 2^31 - 1; got {max_steps}. Pass such a number."
                raise ValueError(msg)
        self.max_steps = None if max_steps is None else jnp.asarray(max_steps, jnp.int32)

    def prepare(self, operator, damp, preconditioner):
        euclidean = not isinstance(operator, KernelOperator)
        if preconditioner is not None and euclidean and damp is None:
            _check_tall(operator)
        if isinstance(preconditioner, AbstractPreconditioner):
            return preconditioner.build(operator, damp)
        return preconditioner

    # Compiled functions of their own: a derivative calls the same two loops several times, and XLA
    # compiles each once.
    @eqx.filter_jit
    def run(self, prepared, operator, damp, f, x0, *, with_dual=False):
        if isinstance(operator, KernelOperator):
            x, status, stats = self._with_restarts(prepared, operator, damp, f, x0)
            return x, None, status, stats
        system = rectangular_system(operator, damp, prepared, f, x0)
        with_dual = with_dual and damp is None and prepared is None
        return self._loop(system, self._budget(operator), with_dual)

    @eqx.filter_jit
    def run_adjoint(self, prepared, operator, damp, g, w0, *, by_dual=False):
        """As the base class says; `by_dual` makes p of w in the end instead of following it.

        That saves three vectors as long as p for one product more, and p is as accurate as w is.
        """
        if damp is None:  # a guess would choose among several solutions
            w0 = None
        system, finish = adjoint_system(operator, damp, prepared, g, w0)
        budget = self._budget(operator)
        p, w, status, stats = self._loop(system, budget, with_dual=True, follow_x=not by_dual)
        assert w is not None
        return *finish(p, w), status, stats

    def _budget(self, operator) -> Array:
        if self.max_steps is not None:
            return self.max_steps
        return jnp.asarray(20 * min(operator.shape) + 200, jnp.int32)

    def _with_restarts(self, prepared, operator, damp, f, x0):
        """A kernel system; columns that stagnated start again from their true residual.

        Recurrences in float32 drift from the residual of the iterate by eps times the condition
        number. A system in the correction has a small right-hand side, and drifts by as much less:
        the iterative refinement of Wilkinson (1963), at the price of one product a round.
        """
        budget = self._budget(operator)
        columns = f.shape[1]

        def unfinished(carry):
            round_, _, status, stats = carry
            open_ = (status == STATUS.RUNNING) | (status == STATUS.STAGNATED)
            return (round_ < _ROUNDS) & jnp.any(open_ & (stats.num_steps < budget))

        def attempt(carry):
            round_, x, status, stats = carry
            open_ = (status == STATUS.RUNNING) | (status == STATUS.STAGNATED)
            system = kernel_system(operator, damp, prepared, f, x)
            # A column that is done gets a zero right-hand side, which costs it no step.
            system = system._replace(rhs=jnp.where(open_, system.rhs, 0))
            left = budget - jnp.max(jnp.where(open_, stats.num_steps, 0))
            new_x, _, new_status, new = self._loop(system, left)
            # A round that made nothing better is not taken.
            taken = open_ & ((round_ == 0) | (new.error_measure < stats.error_measure))
            steps = stats.num_steps + jnp.where(open_, new.num_steps, 0)
            new = eqx.tree_at(lambda s: s.num_steps, new, steps)
            old = eqx.tree_at(lambda s: s.num_steps, stats, steps)
            pick = functools.partial(jnp.where, taken)
            merged = jax.tree.map(pick, (new_x, new_status, new), (x, status, old))
            return round_ + 1, *merged

        zeros = jnp.zeros(columns, f.dtype)
        no_steps = jnp.zeros(columns, jnp.int32)
        blank = Stats(no_steps, zeros, zeros, zeros, zeros, zeros, no_steps, zeros, zeros)
        start = jnp.zeros_like(f)
        if x0 is not None:
            left = kernel_system(operator, damp, None, f, x0).rhs
            # A guess that does not help is not taken.
            start = jnp.where(column_norm(left) < column_norm(f), x0, 0)
        carry = (jnp.zeros((), jnp.int32), start, no_steps, blank)
        _, x, status, stats = jax.lax.while_loop(unfinished, attempt, carry)
        rhs_norm = column_norm(f)
        status = jnp.where(rhs_norm == 0, STATUS.EXACT, status).astype(jnp.int32)
        return x, status, eqx.tree_at(lambda s: s.rhs_norm, stats, rhs_norm)

    def _loop(
        self, system: System, max_steps: Array, with_dual: bool = False, follow_x: bool = True
    ):
        operator, damp, linear = system.operator, system.damp, system.linear
        dtype = system.rhs.dtype
        # Scaling the columns keeps squares of 1e±30 inside float32.
        scale = jnp.max(jnp.abs(system.rhs), axis=0, initial=0.0)
        scale = usable_divisor(scale)
        # Not so large that its inverse, which XLA multiplies by, underflows.
        scale = jnp.minimum(scale, 2.0**-10 * float(jnp.finfo(dtype).max))
        b = system.rhs / scale
        if linear is not None:
            linear = linear._replace(reference=linear.reference / scale)
            system = system._replace(linear=linear)
        tols = tolerances(self, dtype, scale)

        def judge(state, status, progress):
            if linear is None:
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
            state = select(taken, new, old)
            status, progress = judge(state, status, progress)
            return step + 1, steps + taken, status, state, progress

        consistent = linear is not None and linear.consistent
        start = initial_state(
            operator, b, damp, consistent=consistent, with_dual=with_dual, follow_x=follow_x
        )
        norm_b = start.residual
        if system.reference is not None:
            norm_b = jnp.maximum(norm_b, system.reference / scale)
        zero, running = jnp.zeros((), jnp.int32), jnp.zeros(b.shape[1:], jnp.int32)
        status = jnp.where(jnp.isfinite(start.zeta_bar), STATUS.RUNNING, STATUS.NON_FINITE).astype(
            jnp.int32
        )
        if linear is None:
            status = judge_step(system, tols, norm_b, start, status)
        status = jnp.where(start.residual == 0, STATUS.EXACT, status).astype(jnp.int32)
        progress = Progress(jnp.full(b.shape[1:], jnp.inf, dtype), running)
        _, steps, status, state, _ = jax.lax.while_loop(
            keep_going, body, (zero, running, status, start, progress)
        )
        status = jnp.where(status == STATUS.RUNNING, STATUS.MAX_STEPS, status)
        unit = state.pair.unit
        if linear is not None:
            x = best_iterate(system, state)[0]
            verified = verify_linear(system, tols, b, x, status)
        else:
            if state.x is None:
                assert state.dual is not None
                x = operator.rmv(state.dual.value / unit)
            else:
                x = state.x.value
            verified = verify_rectangular(system, tols, b, norm_b, x, state, status)
        status, r, residual, normal, measure = verified
        norm_A, condition = norm_estimate(state) * unit, condition_estimate(state)
        dual = None
        if state.dual is not None:
            dual = without_residual(state.dual.value, r, residual, normal, state)
            dual = dual / unit / unit * scale
        if system.rows is not None:
            residual = column_norm(r[: system.rows])
        stats = Stats(
            num_steps=steps,
            residual_norm=residual * scale,
            normal_residual_norm=normal * unit * scale,
            rhs_norm=start.residual * scale,
            norm_estimate=norm_A,
            condition_estimate=condition,
            rank_estimate=jnp.full_like(steps, -1),
            error_measure=measure,
            tolerance=jnp.broadcast_to(tols.rtol, measure.shape),
        )
        value = system.recover(x / unit * scale)
        overflown = status_ok(status) & ~jnp.all(jnp.isfinite(value), axis=0)
        status = jnp.where(overflown, STATUS.NON_FINITE, status).astype(jnp.int32)
        return value, dual, status, stats


def _is_scalar_array(value: Any, kind: Any) -> bool:
    return eqx.is_array(value) and value.ndim == 0 and jnp.issubdtype(value.dtype, kind)


def _check_tall(operator) -> None:
    """x = R^-1 z of minimum norm |z| is not of minimum norm |x|, unless the solution is unique."""
    rows, columns = operator.shape
    if rows < columns:
        msg = (
            "a right preconditioner of an undamped system needs at least as many rows as columns, "
            f"because it would change which of many solutions is found; got shape "
            f"({rows}, {columns}). Add damping, or leave the preconditioner out."
        )
        raise ValueError(msg)


def _setting(name: str, value: Any, minimum: float) -> Array | None:
    """An optional non-negative number as an array leaf, so that a new value does not recompile."""
    if value is None or _is_scalar_array(value, jnp.floating):
        return value
    return jnp.asarray(check_finite_scalar(name, value, minimum=minimum), float)
