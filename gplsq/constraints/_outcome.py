"""How a step on a constraint begins and ends: its state, what is refused, measured, warned of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from gplsq._core import STATUS, default_rtol, status_ok
from gplsq.constraints._bounded import Held
from gplsq.constraints._params import movable
from gplsq.constraints._projection import is_dense, worse
from gplsq.constraints._residuals import check_boxes, rows_at_init
from gplsq.constraints._settings import Settings, rate_at
from gplsq.constraints._sparing import after
from gplsq.constraints._state import (
    NullSpaceState,
    Report,
    blank_state,
    growth_of,
    warn_of_growth,
    warn_of_non_finite,
    warn_of_vanished,
)
from gplsq.constraints._step import DAMPING_START, Point, backtrack, next_damping


def init_state(settings: Settings, params: PyTree) -> NullSpaceState:
    """State before the first step; also checks constraint and parameters."""
    layout = movable(params)
    check_boxes(settings.constraint, params, jnp.zeros((), jnp.int32), layout)
    rows = rows_at_init(settings.constraint, params, layout.dtype)
    iterates = rows is not None and not is_dense(rows.size, layout.size, settings.solver)
    keep = settings.warm_start and iterates and not settings.constraint.takes_batch
    return blank_state(rows, layout.dtype, DAMPING_START, keep)


def expected_rows(state: NullSpaceState) -> int | None:
    """How many residuals were seen at init."""
    multipliers = state.report.multipliers
    return None if multipliers is None else multipliers.shape[0]


def unless(skipped: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new`, or `old` (zeros for None) where the step was not taken."""

    def pick(a: Any, b: Any) -> Any:
        return jnp.where(skipped, b, a) if hasattr(a, "dtype") else a

    if old is None:
        return jax.tree.map(lambda a: pick(a, jnp.zeros((), a.dtype)), new)
    return jax.tree.map(pick, new, old)


def when_started(
    settings: Settings, count: Array, act: Callable, idle: Callable, state: Any
) -> Any:
    """`act(state)`, or `idle(state)` before the first step that the constraint acts on."""
    if settings.starts_at_once:
        return act(state)
    return jax.lax.cond(count >= jnp.asarray(settings.start_step), act, idle, state)


class Asked(NamedTuple):
    """What is to be known of the vector that came in, when that is long gone."""

    norm: Array
    finite: Array


class Outcome(NamedTuple):
    """An update that is finite, and all of its report but the gradient's numbers."""

    update: Array
    skipped: Array
    report: Report


def finish(
    point: Point,
    update: Array,
    held: Held | None,
    state: NullSpaceState,
    asked: Asked,
    gradient: Held | None = None,
) -> Outcome:
    """Restore, refuse what is not finite, measure, warn. `asked` is what came in."""
    settings, dtype = point.settings, update.dtype
    wanted_finite = jnp.all(jnp.isfinite(update))
    before = point.violation(point.theta, point.residuals)

    def measured() -> Any:
        return backtrack(point, update, before)

    # Without a solve there is nothing to wait for, and a branch would keep its operands.
    done = measured() if held is None else after(point.layout, held.step.status, measured)
    moved, left_over, taken, steps, status, halvings = done
    held_all = [h for h in (held, gradient) if h is not None]
    for one in held_all:
        status, steps = worse(one.step.status, status), steps + one.step.num_steps
    failed = (status == STATUS.NON_FINITE) | ~wanted_finite
    # NaN in what was asked for is not the constraint's, and stays to be seen.
    broken = ~jnp.isfinite(before) | failed & asked.finite
    status = jnp.where(broken | failed, STATUS.NON_FINITE, status).astype(jnp.int32)
    left_over = jnp.where(broken, before, left_over)
    growth, begin = growth_of(state, before)
    rank, left = _measured_rank(point, held, state, left_over)
    if settings.warn:
        warn_of_non_finite(broken)
        if point.pinned is None:  # a schedule of sparsity makes its own violation grow
            # Rounding errors, and what is close to the tolerance, may grow.
            floor = jnp.asarray(default_rtol(dtype), dtype)
            if settings.tolerance is not None:
                factor = 2 if settings.adaptive else 10
                floor = jnp.maximum(floor, factor * rate_at(settings.tolerance, point.step, dtype))
            warn_of_growth(growth, begin, jnp.where(before > floor, before, 0))
        # With inequalities and bounds a point without freedom may be where training ends.
        strict = not (point.rows.any_inequality or settings.adaptive) and point.box is None
        if point.projection is not None and strict:
            seen = state.report.null_space_dimension  # NaN before the first measurement
            warn_of_vanished((left < 0.5) & ~(seen < 0.5))
    old = state.report
    shown = held if gradient is None else gradient
    keeps = old.multipliers is not None
    active = old.active
    if keeps and held_all:
        active = jnp.any(jnp.stack([one.active for one in held_all]), axis=0)
    report = Report(
        violation_before=before,
        violation_after=left_over,
        gradient_norm=asked.norm.astype(dtype),
        projected_gradient_norm=jnp.full((), jnp.nan, dtype),
        multipliers=shown.step.multipliers if keeps and shown is not None else old.multipliers,
        active=active,
        num_steps=steps.astype(jnp.int32),
        restorations=taken.astype(jnp.int32),
        halvings=halvings,
        status=status,
        rank=rank,
        null_space_dimension=left,
        damp=point.damp.astype(dtype),
        growth=growth,
    )
    return Outcome(moved, broken, report)


def settle(
    settings: Settings,
    state: NullSpaceState,
    report: Report,
    gradient: Held | None,
    update: Held | None,
) -> NullSpaceState:
    """The state after a step, but for its count."""
    damping = next_damping(settings, state.damping, report.violation_before, state.count)
    _, begin = growth_of(state, report.violation_before)

    def kept(old: Array | None, held: Held | None) -> Array | None:
        if old is None or held is None:
            return old
        m = held.step.multipliers
        return jnp.where(status_ok(held.step.status) & jnp.all(jnp.isfinite(m)), m, 0)

    return NullSpaceState(
        state.count,
        damping,
        kept(state.of_gradient, gradient),
        kept(state.of_update, update),
        begin,
        state.reach,
        report,
    )


def _measured_rank(
    point: Point, held: Held | None, state: NullSpaceState, violation: Array
) -> tuple[Array, Array]:
    """Rank of the rows that hold, measured now and then; and how many dimensions they leave."""
    old, every = state.report, point.settings.rank_every
    free, dtype = point.num_free, point.num_free.dtype
    if point.projection is None or held is None:
        return jnp.zeros((), dtype), free
    free = free - jnp.asarray(held.num_at_bounds, dtype)
    projection = point.projection
    if isinstance(every, int) and every == 0:
        return old.rank, free - old.rank

    def measure() -> Array:
        which = projection
        if point.rows.any_inequality or held.side is not None:
            columns = None if held.side is None else (held.side == 0).astype(dtype)
            which = projection.restricted(held.active.astype(dtype), columns)
        return which.effective_rank().astype(dtype)

    due = (state.count % jnp.maximum(every, 1) == 0) | ~jnp.isfinite(old.rank)
    due = due & jnp.isfinite(violation)  # and so after the step, whose vectors are gone by then
    rank = jax.lax.cond(due, measure, lambda: old.rank)
    return rank, free - rank
