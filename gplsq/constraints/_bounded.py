"""A step under equations, inequalities and bounds at once.

Of `min |d - u|^2` subject to `J_i d = -t_i`, `J_i d <= -t_i` and `low <= d <= high` the dual is a
concave, piecewise quadratic function of the multipliers m with the gradient `J d(m) + t`, where
`d(m)` is `u - J^T m` clipped to its bounds. It is climbed by Newton's method: entries at a bound
and rows without a push leave the solve, and a line search makes that converge from everywhere
(Bertsekas 1982 for the signs). What comes out in the end is solved once more without damping.
Equation (23) of docs/derivations/null-space.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gplsq._core import STATUS, column_norm, plain_norm, status_ok
from gplsq.constraints._projection import Projection, Step, row_length

# Newton steps at most, and halvings of each.
_ROUNDS, _HALVINGS = 40, 30
# Damping of a Newton step relative to the rows of the Jacobian: where bounds leave a row no freedom
# there is no curvature. It falls with what is left to do, down to the least.
_DAMPING, _LEAST_DAMPING = 0.3, 1e-3


class Room(NamedTuple):
    """How far every entry of a step may go; infinite where there is no bound."""

    low: Float[Array, " n"]
    high: Float[Array, " n"]

    def inside(self, step: Float[Array, " n"]) -> Float[Array, " n"]:
        """The nearest step that keeps the bounds. What is infinite stays so, to be seen."""
        return jnp.where(jnp.isinf(step), step, jnp.clip(step, self.low, self.high))

    def side(self, step: Float[Array, " n"]) -> Int[Array, " n"]:
        """1 for entries beyond their upper bound, -1 beyond the lower one, otherwise 0."""
        return (step > self.high).astype(jnp.int8) - (step < self.low).astype(jnp.int8)


class Held(NamedTuple):
    """A step, and the rows and the bounds that it was held by."""

    step: Step
    active: Bool[Array, " p"]
    side: Int[Array, " n"] | None = None  # as of `Room.side`; None without bounds

    @property
    def num_at_bounds(self) -> Array | int:
        """Entries at a bound."""
        return 0 if self.side is None else jnp.sum(self.side != 0)


def without_value(held: Held | None) -> Held | None:
    """What is asked of it later: all but the step itself, which is as long as the parameters."""
    return None if held is None else held._replace(step=held.step._replace(value=None))


class _Place(NamedTuple):
    """The dual at some multipliers."""

    m: Float[Array, " p"]
    v: Float[Array, " n"]  # u - J^T m
    slope: Float[Array, " p"]
    value: Float[Array, ""]


class _Climb(NamedTuple):
    """The rounds so far."""

    round: Array
    settled: Array
    stuck: Array
    place: _Place
    num_steps: Array


def hold_in_box(
    projection: Projection,
    u: Float[Array, " n"],
    target: Float[Array, " p"],
    inequality: np.ndarray,
    start: Float[Array, " p"] | None,
    room: Room,
) -> Held:
    """x such that `d = u - x` keeps the linearised constraint and its bounds.

    Parameters and what is returned are those of `gplsq.constraints._active_set.hold`.

    Equation (23) of docs/derivations/null-space.md.
    """
    jacobian, unequal = projection.jacobian, jnp.asarray(inequality)
    dtype, eps = u.dtype, float(jnp.finfo(u.dtype).eps)
    ridge = jnp.zeros((), dtype) if projection.damp is None else projection.damp**2
    length = row_length(jacobian)
    # Of an inequality the room that is left asks for nothing. Where J u is nothing, what clipping
    # adds to it is to do; and what rounding leaves of a product with J is none to take off.
    asked = jnp.where(unequal, jnp.maximum(target, 0), jnp.abs(target))
    moved = jnp.abs(jacobian.mv(u)) + jnp.abs(jacobian.mv(room.inside(u)))
    size = jnp.max(moved) + jnp.max(asked)
    enough = (1e-4 if projection.factors is None else 30 * eps) * size
    enough = jnp.maximum(enough, eps * length * column_norm(u))

    def signed(m: Array) -> Array:
        return jnp.where(unequal, jnp.maximum(m, 0), m)

    def at(m: Array) -> _Place:
        v = u - jacobian.rmv(m)
        d = room.inside(v)
        ahead = jacobian.mv(d) + target
        value = jnp.sum((d - u) ** 2) / 2 + jnp.vdot(m, ahead) - ridge * jnp.vdot(m, m) / 2
        return _Place(m, v, ahead - ridge * m, value)

    # A step along the slope, for rows without one of Newton's.
    gentle_rate = 1 / jnp.maximum(length, jnp.finfo(dtype).tiny ** 0.5) ** 2

    def pushing(place: _Place) -> Array:
        # Rows about to lose their push would cut every Newton step short (Bertsekas 1982).
        moved = signed(place.m + gentle_rate * place.slope) - place.m
        return ~unequal | (place.slope > 0) | (place.m > plain_norm(moved))

    def left_of(place: _Place) -> Array:
        pushes = ~unequal | (place.m > 0) | (place.slope > 0)
        return jnp.max(jnp.where(pushes, jnp.abs(place.slope), 0))

    def climbing(carry):
        going = ~carry.settled & ~carry.stuck & (carry.round < _ROUNDS)
        return going & jnp.isfinite(carry.place.value)

    def climb(old):
        place = old.place
        rows, side = pushing(place), room.side(place.v)
        least = _LEAST_DAMPING / _DAMPING
        part = jnp.clip(left_of(place) / size, least, 1)
        damp = jnp.hypot(_DAMPING * part * length, jnp.sqrt(ridge)).astype(dtype)
        gentle = Projection(jacobian, projection.solver, damp, projection.factors)
        gentle = gentle.restricted(rows.astype(dtype), (side == 0).astype(dtype))
        step = gentle.solve(jnp.where(rows, place.slope, 0))
        ahead = jnp.where(rows, step.multipliers, gentle_rate * place.slope)
        rounding = 10 * eps * (jnp.abs(place.value) + jnp.sum(u * u))

        def too_long(trial):
            halvings, new = trial
            gain = jnp.vdot(place.slope, new.m - place.m)
            # Not `<`: with NaN a step is too long.
            enough = new.value >= place.value + 1e-4 * gain - rounding
            return ~enough & (halvings < _HALVINGS)

        def halve(trial):
            halvings = trial[0] + 1
            part = jnp.exp2(-halvings.astype(dtype))
            return halvings, at(signed(place.m + part * ahead))

        first = jnp.zeros((), jnp.int32), at(signed(place.m + ahead))
        halvings, new = jax.lax.while_loop(too_long, halve, first)
        stuck = halvings >= _HALVINGS
        new = jax.tree.map(lambda a, b: jnp.where(stuck, b, a), new, place)
        same = jnp.all(room.side(new.v) == side) & jnp.all(pushing(new) == rows)
        settled = (left_of(new) <= enough) | (same & (halvings == 0) & (part <= least))
        return _Climb(old.round + 1, settled, stuck, new, old.num_steps + step.num_steps)

    place = at(jnp.zeros_like(target))
    if start is not None:
        warm = at(signed(start))
        place = jax.tree.map(lambda a, b: jnp.where(warm.value > place.value, a, b), warm, place)
    no, zero = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    end = jax.lax.while_loop(
        climbing, climb, _Climb(zero, left_of(place) <= enough, no, place, zero)
    )
    settled = end.settled | (left_of(end.place) <= 10 * enough)
    active, side = ~unequal | (end.place.m > 0), room.side(end.place.v)
    met = jnp.where(side > 0, room.high, jnp.where(side < 0, room.low, 0))
    begun = jnp.where(side == 0, u, met)
    mask = active.astype(dtype)
    rhs = mask * (jacobian.mv(begun) + target)
    step = projection.restricted(mask, (side == 0).astype(dtype)).solve(rhs)
    d = begun - jnp.where(side == 0, step.value, 0)
    status = jnp.where(settled | ~status_ok(step.status), step.status, STATUS.MAX_STEPS)
    steps = end.num_steps + step.num_steps
    return Held(
        Step(u - d, signed(mask * step.multipliers), status.astype(jnp.int32), steps), active, side
    )
