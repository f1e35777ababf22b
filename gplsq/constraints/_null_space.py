"""`null_space`: the last transform of a chain, which keeps its updates on the constraint."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._bounded import Held, without_value
from gplsq.constraints._outcome import (
    Asked,
    Outcome,
    expected_rows,
    finish,
    init_state,
    settle,
    unless,
    when_started,
)
from gplsq.constraints._params import movable
from gplsq.constraints._settings import Rate, checked_settings
from gplsq.constraints._sparing import after
from gplsq.constraints._state import NullSpaceState
from gplsq.constraints._step import bare_point, linearise, project_update
from gplsq.solvers import AbstractLeastSquares


def null_space(
    constraint: AbstractConstraint,
    *,
    correction_rate: Rate = 1.0,
    damp: Rate | str = 0.0,
    restoration_steps: int = 0,
    backtracking_steps: int = 0,
    tolerance: Rate | None = None,
    start_step: int = 0,
    inequalities: str = "active_set",
    solver: AbstractLeastSquares | None = None,
    warm_start: bool = True,
    rank_every: int = 100,
    warn: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Keep the updates of a chain on a constraint: `u - J^+ (J u + correction_rate c)`.

    J is the Jacobian of the residuals c at the current parameters. What comes out moves the
    parameters along the linearised constraint and takes off the share `correction_rate` of the
    violation; it is the update closest to u that does.

    **Put it last**, after the optimiser: a preconditioner such as Adam's behind it leads off the
    constraint. Alone behind a preconditioner it is feasible but ends at a wrong point, because the
    gradient was not projected: `constrained` does both.

    Parameters
    ----------
    constraint
        A constraint of this package, a sum of several, or `Constraint(fn)`.
    correction_rate
        Share of the violation that a step takes off; a number or a schedule of the step.
    damp
        0 for a linearised constraint that holds exactly. A positive number, or a schedule, lets go
        of directions in which the Jacobian is smaller than that, in its units. `"adaptive"` damps
        as much as keeps the violation at `tolerance`: for constraints that cannot hold exactly.
    restoration_steps
        Newton corrections at most after a step, with the same Jacobian, until the nonlinear
        violation is below `tolerance`. Each is taken only if it lowers the violation.
    backtracking_steps
        How many times at most a step is halved, with corrections anew, while the violation after
        it is above both `tolerance` and the one before: steps too long for the curvature of the
        constraint. One evaluation of the residuals each, and its corrections.
    tolerance
        Violation, as the root mean square of the residuals, that is small enough; 0 by default.
        Where it is a schedule, adaptive damping follows it.
    start_step
        Steps before it pass through unchanged.
    inequalities
        `"active_set"`: exactly those rows hold a step that it would cross; a few solves a step.
        `"slack"`: slack variables in an affine-scaling metric, one solve or two (with a
        box up to 40 rounds of them). Rows are felt before they are met, and met in the limit.
    solver
        `LSMR(rtol, max_steps=...)` for products with J alone, `Direct()` to form and factorise it.
        By default factorised for at most 64 residuals and 2^23 entries of J, otherwise
        ``LSMR(rtol=1e-4, max_steps=200)``.
    warm_start
        Begin the solve at the multipliers of the last step. Not for mini-batch constraints.
    rank_every
        Steps between two measurements of the rank; 0 for never.
    warn
        Warn of a vanished null space, a growing violation, residuals that are not finite.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        `update(updates, state, params, constraint_batch=...)`. `state.report` is a `Report`, whose
        gradient norms and multipliers are those of the updates here.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong type, parameters without floating-point arrays, `params=None`, a
        missing batch, residuals that are not floating-point, none, or of a new number.

    Notes
    -----
    A step whose residuals or Jacobian are not finite is not taken: updates of zero, the status
    `NON_FINITE` and a warning.

    Cost of a step: one linearisation, one evaluation, and with LSMR one forward and one backward
    product of the linearised residuals an iteration, and about eight vectors of the parameters' and
    as many of the residuals' size; with over 2^20 parameters one of the parameters' size, for one
    backward product more a solve. Factorised: one backward pass for each residual, and n p^2 flops
    for p residuals and n parameters.
    """
    settings = checked_settings(
        constraint,
        correction_rate=correction_rate,
        damp=damp,
        restoration_steps=restoration_steps,
        backtracking_steps=backtracking_steps,
        tolerance=tolerance,
        start_step=start_step,
        inequalities=inequalities,
        solver=solver,
        warm_start=warm_start,
        rank_every=rank_every,
        warn=warn,
    )

    def init(params: PyTree) -> NullSpaceState:
        return init_state(settings, params)

    def update(
        updates: PyTree,
        state: NullSpaceState,
        params: PyTree | None = None,
        *,
        constraint_batch: PyTree = None,
        **extra: Any,
    ) -> tuple[PyTree, NullSpaceState]:
        del extra
        everything = movable(params, updates)

        def act(state: NullSpaceState) -> tuple[PyTree, NullSpaceState]:
            expected = expected_rows(state)
            bare = bare_point(everything, params, constraint_batch, state.count, settings, expected)
            layout = bare.layout
            flat = layout.ravel(updates)

            def step() -> tuple[Outcome, Held | None, Array]:
                point = linearise(bare, state.damping)
                moved, along, held = project_update(point, flat, state.of_update)
                size = everything.norm(layout.insert(updates, along))
                asked = Asked(everything.norm(updates), jnp.all(jnp.isfinite(flat)))
                return finish(point, moved, held, state, asked), without_value(held), size

            outcome, held, size = after(everything, flat, step)
            report = outcome.report._replace(projected_gradient_norm=size)
            out = unless(outcome.skipped, layout.insert(updates, outcome.update), None)
            return out, settle(settings, state, report, None, held)

        def idle(state: NullSpaceState) -> tuple[PyTree, NullSpaceState]:
            return updates, state

        moved, state = when_started(settings, state.count, act, idle, state)
        return moved, state._replace(count=state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]
