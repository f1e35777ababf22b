"""One constrained step: linearise, project, correct, restore, report.

Equations (2), (3) and (19) of docs/derivations/null-space.md.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gplsq._core import STATUS
from gplsq.constraints._active_set import hold
from gplsq.constraints._bounded import Held, Room
from gplsq.constraints._metric import adam_metric
from gplsq.constraints._params import Movable
from gplsq.constraints._projection import Projection, is_dense, project_with, row_length, worse
from gplsq.constraints._residuals import (
    Rows,
    box_of,
    flat_residuals,
    pinned_entries,
    rows_of,
    size_of_violation,
    touched,
    violation_of,
)
from gplsq.constraints._settings import Settings, rate_at
from gplsq.constraints._sparing import Sparing, is_many
from gplsq.constraints._state import warn_of_rows
from gplsq.operators import Composed, Diagonal, Function

# Adaptive damping, relative to the root mean square of the lengths of the Jacobian's rows.
DAMPING_START = 1e-2
_DAMPING_RANGE = (1e-2, 1e2)
# How fast it follows, and by how much at most in a step.
_GAIN, _CHANGE = 0.1, 1.1


class Point(NamedTuple):
    """A constraint at the current parameters."""

    layout: Movable
    params: PyTree
    batch: PyTree
    step: Array
    settings: Settings
    rows: Rows
    theta: Float[Array, " n"]
    residuals: Any  # shape (p,); None before `linearise`
    projection: Projection | None  # None where all there is are pinned entries
    damp: Array  # for the report
    pinned: Bool[Array, " n"] | None
    pull: Float[Array, " n"] | None
    outside: int  # parameters that the constraint does not touch
    box: Room | None  # bounds of the parameters
    metric: Float[Array, " n"] | None = None  # square root of a preconditioner

    def evaluate(self, theta: Float[Array, " n"]) -> Float[Array, " p"]:
        """Residuals elsewhere; parameters are rounded as they will be."""
        return self.residuals_of(self.layout.insert(self.params, theta))

    def evaluate_after(self, update: Float[Array, " n"]) -> Float[Array, " p"]:
        """Residuals one step further."""
        return self.residuals_of(self.layout.shift(self.params, update))

    def residuals_of(self, params: PyTree) -> Float[Array, " p"]:
        """Residuals of other parameters."""
        dtype = self.layout.dtype
        return flat_residuals(self.settings.constraint, params, self.batch, self.step, dtype)

    def violation_after(self, update: Float[Array, " n"], residuals: Float[Array, " p"]) -> Array:
        """The same as `violation` one step further."""
        return self.violation(self.theta + update, residuals)

    def violation(self, theta: Float[Array, " n"], residuals: Float[Array, " p"]) -> Array:
        """How far a point is from what is asked of it; see `size_of_violation`."""
        violated = violation_of(residuals, self.rows.inequality)
        return size_of_violation(violated, theta, self.pinned, self.box)

    def room(self, update: Float[Array, " n"] | None = None) -> Room | None:
        """How far a step, or one on top of `update`, may go."""
        if self.box is None:
            return None
        place = self.theta if update is None else self.theta + update
        return Room(self.box.low - place, self.box.high - place)

    def inside(self, update: Float[Array, " n"]) -> Float[Array, " n"]:
        """The update that ends inside the box."""
        room = self.room()
        return update if room is None else room.inside(update)

    def free(self, flat: Float[Array, " n"]) -> Float[Array, " n"]:
        """The part of a vector that pinned entries have no share in."""
        return flat if self.pinned is None else jnp.where(self.pinned, 0, flat)

    @property
    def num_free(self) -> Array:
        """Parameters that are not pinned."""
        n = jnp.asarray(self.theta.size + self.outside, self.theta.dtype)
        return n if self.pinned is None else n - jnp.sum(self.pinned)


def bare_point(
    everything: Movable,
    params: PyTree,
    batch: PyTree,
    step: Array,
    settings: Settings,
    expected: int | None = None,
) -> Point:
    """What is known at `params` without residuals and their derivative.

    Raises
    ------
    ValueError
        If a batch is missing or not wanted, or the number of residuals differs from `expected`.
    """
    constraint = settings.constraint
    layout = touched(everything, constraint, params, batch, step)
    dtype = layout.dtype
    rows = rows_of(constraint, params, batch, step, dtype)
    if expected is not None and rows.size != expected:
        msg = (
            f"a constraint must return the same number of residuals at every step; got {rows.size} "
            f"after {expected} at init. Keep the shapes, for example by batches of one size."
        )
        raise ValueError(msg)
    zero = jnp.zeros((), dtype)
    outside = everything.size - layout.size
    point = Point(
        layout, params, batch, step, settings, rows, zero, None, None, zero, None, None, outside,
        None,
    )  # fmt: skip
    return with_vectors(point)


def with_vectors(point: Point) -> Point:
    """The point with its vectors of all parameters made anew.

    One made outside of a branch of `lax.cond` and used inside is kept until that branch is done.
    """
    layout, where = point.layout, (point.settings.constraint, point.params, point.step)
    pinned, pull = pinned_entries(*where, layout)
    box = box_of(*where, layout, pinned)
    if box is not None:
        box = Room(*box)
    return point._replace(theta=layout.ravel(point.params), pinned=pinned, pull=pull, box=box)


def linearise(point: Point, damping: Array, optimizer_state: PyTree = None) -> Point:
    """A `bare_point` with residuals and Jacobian, by one linearisation.

    With an `optimizer_state` in the metric of Adam's preconditioner that it holds.
    """
    point = with_vectors(point)
    settings, step = point.settings, point.step
    layout, rows, dtype = point.layout, point.rows, point.layout.dtype
    size = layout.size + point.outside
    if settings.undamped and rows.size > size and not rows.any_inequality and settings.warn:
        warn_of_rows(rows.size, size)
    if rows.size == 0:
        return point._replace(residuals=jnp.zeros(0, dtype))

    def of_leaves(leaves: list[Array]) -> Array:
        return point.residuals_of(layout.replace(point.params, leaves))

    # Linear in the leaves themselves: a vector of all of them would be one copy more.
    leaves = layout.leaves(point.params)
    residuals, derivative = jax.linearize(of_leaves, leaves)

    def of_vector(flat: Array) -> Array:
        pieces = zip(layout.pieces(flat), leaves, strict=True)
        return derivative([piece.astype(leaf.dtype) for piece, leaf in pieces])

    jacobian = Function(of_vector, jax.ShapeDtypeStruct((layout.size,), dtype))
    if is_many(layout.size):
        jacobian = Sparing(jacobian)
    if point.pinned is not None:
        jacobian = Composed(jacobian, Diagonal(jnp.where(point.pinned, 0, 1).astype(dtype)))
    if optimizer_state is not None:
        metric = adam_metric(optimizer_state, layout, rate_at(settings.metric_eps, step, dtype))
        point = point._replace(metric=metric)
        jacobian = Composed(jacobian, Diagonal(metric))
    damp = None
    if settings.adaptive:
        damp = damping * row_length(jacobian)
    elif not settings.undamped:
        damp = rate_at(settings.damp, step, dtype)
    dense = is_dense(rows.size, layout.size, settings.solver)
    projection = project_with(jacobian, settings.solver, damp, dense)
    shown = point.damp if damp is None else damp
    return point._replace(residuals=residuals, projection=projection, damp=shown)


def project_gradient(
    point: Point, gradient: Float[Array, " n"], start: Array | None, reach: Array
) -> tuple[Float[Array, " n"], Held | None]:
    """The part of the gradient along the constraint, and the multipliers of the rest.

    `reach` is the length of an update for a gradient of length 1, as last seen: an inequality
    counts as far as a step of that length would come up against it.

    Equations (14) and (18) of docs/derivations/null-space.md.
    """
    inside = point.free(gradient)
    far, room = jnp.maximum(reach, 1e-20), point.room()
    if room is not None:
        low, high = jnp.minimum(room.low, 0) / far, jnp.maximum(room.high, 0) / far
        room = Room(low, high)
    if point.projection is None:
        return inside if room is None else -room.inside(-inside), None
    ahead = jnp.zeros_like(point.residuals)
    if point.rows.any_inequality:
        c = jnp.where(point.rows.inequality, jnp.minimum(point.residuals, 0), 0)
        ahead = jnp.maximum(c / far, -1e20)
    rows, slack = point.rows.inequality, point.settings.slack
    held = hold(point.projection, -inside, ahead, rows, start, room, slack)
    return inside + held.step.value, held


def project_update(
    point: Point,
    update: Float[Array, " n"],
    start: Array | None,
) -> tuple[Float[Array, " n"], Float[Array, " n"], Held | None]:
    """The update that keeps and corrects the linearised constraint, its part along it, and m.

    Equations (2) and (3) of docs/derivations/null-space.md.
    """
    dtype = update.dtype
    if point.pinned is not None and point.pull is not None:
        update = jnp.where(point.pinned, -point.pull * point.theta, update)
    if point.projection is None:
        update = point.inside(update)
        return update, point.free(update), None
    c, rate = point.residuals, rate_at(point.settings.correction_rate, point.step, dtype)
    target = jnp.where(point.rows.inequality & (c < 0), c, rate * c)
    metric = point.metric
    moved = update if metric is None else update / metric
    if point.pinned is not None:
        # What pinned entries do to the residuals is known: it goes to the right-hand side.
        fixed = jnp.where(point.pinned, update, 0)
        target = target + jax.jvp(point.evaluate, (point.theta,), (fixed,))[1]
    room = _room_in_metric(point.room(), metric)
    rows, slack = point.rows.inequality, point.settings.slack
    held = hold(point.projection, point.free(moved), target, rows, start, room, slack)
    back = held.step.value if metric is None else held.step.value * metric
    update = point.inside(update - back)
    return update, point.free(update), held


def _room_in_metric(room: Room | None, metric: Array | None) -> Room | None:
    return room if room is None or metric is None else Room(room.low / metric, room.high / metric)


def restore(
    point: Point, update: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Array, Array, Array, Array]:
    """Newton corrections after a step, with the Jacobian it was made with.

    Each is taken only if it lowers the violation. Returns the update, the violation after it, the
    number of corrections, their solver steps and their worst status.

    Equation (19) of docs/derivations/null-space.md.
    """
    settings, metric, zero = point.settings, point.metric, jnp.zeros((), jnp.int32)
    after = point.evaluate_after(update)
    violation = point.violation_after(update, after)
    fine = jnp.asarray(STATUS.EXACT, jnp.int32)
    projection = point.projection
    if projection is None or not settings.restores:
        return update, violation, zero, zero, fine
    tolerance = rate_at(settings.tolerance, point.step, update.dtype)
    limit = jnp.asarray(settings.restoration_steps, jnp.int32)

    def unfinished(carry):
        _, _, violation, taken, _, _, improved = carry
        return (taken < limit) & (violation > tolerance) & improved

    def correct(carry):
        update, after, violation, taken, steps, status, _ = carry
        still = jnp.zeros_like(update)
        room = _room_in_metric(point.room(update), metric)
        rows = point.rows.inequality
        held = hold(projection, still, after, rows, room=room, slack=settings.slack)
        back = held.step.value if metric is None else held.step.value * metric
        trial = point.inside(update - back)
        residuals = point.evaluate_after(trial)
        new = point.violation_after(trial, residuals)
        better = new < violation
        chosen = jax.tree.map(
            lambda a, b: jnp.where(better, a, b),
            (trial, residuals, new, taken + 1),
            (update, after, violation, taken),
        )
        return *chosen, steps + held.step.num_steps, worse(held.step.status, status), better

    carry = (update, after, violation, zero, zero, fine, jnp.ones((), bool))
    update, _, violation, taken, steps, status, _ = jax.lax.while_loop(unfinished, correct, carry)
    return update, violation, taken, steps, status


def backtrack(
    point: Point, update: Float[Array, " n"], before: Array
) -> tuple[Float[Array, " n"], Array, Array, Array, Array, Array]:
    """`restore`, of a step that is halved while it leads too far off; and how many times it was.

    Too far is above the tolerance and above the violation `before`. Pinned entries keep their own
    step.
    """
    settings, zero = point.settings, jnp.zeros((), jnp.int32)
    whole = restore(point, update)
    if not settings.backtracks:
        return *whole, zero
    limit = jnp.asarray(settings.backtracking_steps, jnp.int32)
    goal = jnp.maximum(rate_at(settings.tolerance, point.step, update.dtype), before)
    fixed = update - point.free(update)

    def too_far(carry: tuple) -> Array:
        (_, violation, *_), halvings = carry
        # Not a comparison with NaN: it is too far as well.
        return (halvings < limit) & ~(violation <= goal) & jnp.isfinite(before)

    def shorten(carry: tuple) -> tuple:
        (*_, taken, steps, status), halvings = carry
        length = jnp.exp2(-(halvings + 1).astype(update.dtype))
        shorter = point.inside(fixed + length * point.free(update))
        new, violation, more, further, worst = restore(point, shorter)
        status = worse(worst, status)
        return (new, violation, taken + more, steps + further, status), halvings + 1

    carry, halvings = jax.lax.while_loop(too_far, shorten, (whole, zero))
    return *carry, halvings


def next_damping(settings: Settings, damping: Array, violation: Array, step: Array) -> Array:
    """Damping follows the violation: more freedom below the tolerance, less above it."""
    if not settings.adaptive:
        return damping
    tolerance = rate_at(settings.tolerance, step, damping.dtype)
    tiny = jnp.finfo(damping.dtype).tiny
    ratio = (tolerance + tiny) / (violation + tiny)
    change = jnp.clip(ratio**_GAIN, 1 / _CHANGE, _CHANGE)
    low, high = _DAMPING_RANGE
    new = jnp.clip(damping * change, low, high).astype(damping.dtype)
    return jnp.where(jnp.isfinite(violation), new, damping)
