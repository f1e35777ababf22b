"""Parameters moved onto a constraint.

Equation (19) of docs/derivations/null-space.md.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from gplsq._core import STATUS, check_count, check_finite_scalar, plain_norm, status_message
from gplsq.constraints._active_set import hold
from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._params import Movable, movable
from gplsq.constraints._projection import worse
from gplsq.constraints._residuals import check_boxes
from gplsq.constraints._settings import Settings, checked_settings
from gplsq.constraints._step import Point, bare_point, linearise
from gplsq.solvers import AbstractLeastSquares

_HALVINGS = 10


class Restoration(NamedTuple):
    """How `restore_feasibility` went. Violations are root mean squares of the residuals.

    Beside these count entries to be zero, by a mean of their own, and the distance of the farthest
    entry outside of a `Box`: the violation is the root of the sum of the squares.
    """

    ok: Array  # the violation is within the tolerance
    status: Int[Array, ""]  # CONVERGED_RESIDUAL, STAGNATED, MAX_STEPS or NON_FINITE
    violation: Float[Array, ""]
    violation_before: Float[Array, ""]
    num_steps: Int[Array, ""]  # Gauss-Newton steps
    distance: Float[Array, ""]  # Euclidean, from the parameters that were given

    def report(self) -> str:
        """The outcome in plain words. Not for use under jit."""
        words = {
            STATUS.CONVERGED_RESIDUAL: "met its tolerance",
            STATUS.STAGNATED: "stopped at a point where no step lowers the violation: the "
            "constraint may have no solution nearby. Try other parameters, or fewer residuals",
            STATUS.MAX_STEPS: "ran out of steps. Raise max_steps",
        }
        code = STATUS(int(self.status))
        outcome = words.get(code, status_message(code))
        return (
            f"violation {float(self.violation_before):.1e} -> {float(self.violation):.1e} in "
            f"{int(self.num_steps)} steps, {float(self.distance):.1e} away: {outcome}"
        )


def restore_feasibility(
    params: PyTree,
    constraint: AbstractConstraint,
    *,
    tolerance: float | None = None,
    max_steps: int = 20,
    batch: PyTree = None,
    solver: AbstractLeastSquares | None = None,
) -> tuple[PyTree, Restoration]:
    """Move parameters onto a constraint by Gauss-Newton steps of minimum norm, with backtracking.

    For the end of training, or for a feasible start.

    Equation (19) of docs/derivations/null-space.md.

    Parameters
    ----------
    params
        Any pytree; its floating-point leaves move.
    constraint
        As in `null_space`. A schedule is taken at its end.
    tolerance
        Violation, as `Restoration` measures it, to stop at. By default
        ``10 eps max(1, |params| / sqrt(n))``, which suits residuals of the size of parameters.
    max_steps
        Gauss-Newton steps at most; each halves its length up to ten times until the violation
        falls.
    batch
        Data of a mini-batch constraint.
    solver
        As in `null_space`; by default factorised for few residuals, otherwise
        ``LSMR(rtol=1e-4, max_steps=200)``.

    Returns
    -------
    tuple
        Parameters like `params`, and a `Restoration`. Where no step helps they are the best found.

    Raises
    ------
    TypeError, ValueError
        As `null_space`.

    Notes
    -----
    Cost of a step: one linearisation, one solve, one evaluation for each trial. Quadratic near a
    solution where the Jacobian has full rank (Ben-Israel 1966).
    """
    settings = _settings(constraint, solver)
    check_count("max_steps", max_steps, minimum=1)
    layout = movable(params)
    check_boxes(constraint, params, jnp.asarray(_LAST, jnp.int32), layout)
    if tolerance is None:
        theta = layout.ravel(params)
        size = jnp.maximum(1, plain_norm(theta) / theta.size**0.5)
        bound = 10 * float(jnp.finfo(layout.dtype).eps) * size
    else:
        bound = jnp.asarray(check_finite_scalar("tolerance", tolerance, minimum=0.0), layout.dtype)
    return _restore(layout, params, batch, settings, bound, jnp.asarray(max_steps, jnp.int32))


def _settings(constraint: Any, solver: AbstractLeastSquares | None) -> Settings:
    return checked_settings(constraint, solver=solver, warm_start=False, warn=False)


# A step that no schedule goes beyond.
_LAST = 2**30


def _restore(
    everything: Movable,
    params: PyTree,
    batch: PyTree,
    settings: Settings,
    bound: Array,
    limit: Array,
) -> tuple[PyTree, Restoration]:
    last = jnp.asarray(_LAST, jnp.int32)
    fixed = bare_point(everything, params, batch, last, settings)  # keeps entries pinned at first
    layout = fixed.layout
    start = layout.ravel(params)

    def at(theta: Array) -> Point:
        moved = layout.insert(params, theta)
        point = linearise(bare_point(everything, moved, batch, last, settings), jnp.zeros(()))
        return point._replace(pinned=fixed.pinned, pull=fixed.pull)

    def violation_at(theta: Array) -> Array:
        return fixed.violation(theta, fixed.evaluate(theta))

    def unfinished(carry):
        steps, status = carry[2:]
        return (status == STATUS.RUNNING) & (steps < limit)

    def improve(carry):
        theta, violation, steps, status = carry
        point = at(theta)
        back = jnp.zeros_like(theta)
        solved = jnp.asarray(STATUS.EXACT, jnp.int32)
        if point.pinned is not None:
            back = jnp.where(point.pinned, theta, 0)
        if point.projection is not None:
            still, rows = jnp.zeros_like(theta), point.rows.inequality
            held = hold(point.projection, still, point.residuals, rows, room=point.room())
            back, solved = back + held.step.value, worse(held.step.status, solved)
        back = -point.inside(-back)

        def too_long(trial):
            halvings, _, new = trial
            return (halvings < _HALVINGS) & ~(new < violation)

        def halve(trial):
            halvings, length, _ = trial
            length = length / 2
            return halvings + 1, length, violation_at(theta - length * back)

        one = jnp.ones((), theta.dtype)
        first = jnp.zeros((), jnp.int32), one, violation_at(theta - back)
        _, length, new = jax.lax.while_loop(too_long, halve, first)
        better = new < violation
        theta = jnp.where(better, theta - length * back, theta)
        violation = jnp.where(better, new, violation)
        status = jnp.where(better, STATUS.RUNNING, STATUS.STAGNATED)
        status = jnp.where(solved == STATUS.NON_FINITE, STATUS.NON_FINITE, status)
        status = jnp.where(violation <= bound, STATUS.CONVERGED_RESIDUAL, status)
        return theta, violation, steps + 1, status.astype(jnp.int32)

    before = violation_at(start)
    status = jnp.where(jnp.isfinite(before), STATUS.RUNNING, STATUS.NON_FINITE)
    status = jnp.where(before <= bound, STATUS.CONVERGED_RESIDUAL, status).astype(jnp.int32)
    carry = (start, before, jnp.zeros((), jnp.int32), status)
    theta, violation, steps, status = jax.lax.while_loop(unfinished, improve, carry)
    status = jnp.where(status == STATUS.RUNNING, STATUS.MAX_STEPS, status).astype(jnp.int32)
    ok = status == STATUS.CONVERGED_RESIDUAL
    result = Restoration(ok, status, violation, before, steps, plain_norm(theta - start))
    return layout.insert(params, theta), result
