"""Equalities and inequalities in one step: which rows hold it back.

Of `min |d - u|^2` subject to `J_i d = -t_i` (equalities) and `J_i d <= -t_i` (inequalities), by the
primal-dual active set method (Hintermüller, Ito & Kunisch 2003): rows are taken in where the step
would violate them, and dropped where their multiplier has the wrong sign. Each round is one solve.
All rows change at once while that lowers the number of those that are wrong, and otherwise one
alone, which ends in finitely many rounds (block principal pivoting, Júdice & Pires 1994).
Equation (22) of docs/derivations/null-space.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gplsq._core import STATUS, status_ok
from gplsq.constraints._bounded import Held, Room, hold_in_box
from gplsq.constraints._projection import Projection, Step
from gplsq.constraints._slack import hold_with_slack

# Rounds at most; two or three are usual.
ROUNDS = 40
# Rounds that may pass without fewer wrong rows before rows change one at a time.
_PATIENCE = 3


class _Search(NamedTuple):
    """The rounds so far."""

    round: Array
    settled: Array
    active: Bool[Array, " p"]
    fewest: Array  # wrong rows
    patience: Array
    step: Step
    num_steps: Array


def hold(
    projection: Projection,
    u: Float[Array, " n"],
    target: Float[Array, " p"],
    inequality: np.ndarray,
    start: Float[Array, " p"] | None = None,
    room: Room | None = None,
    slack: bool = False,
) -> Held:
    """x such that `d = u - x` keeps the linearised constraint, and its bounds.

    Equation (22) of docs/derivations/null-space.md.

    Parameters
    ----------
    projection
        The Jacobian at the current point.
    u
        The step that is asked for.
    target
        t: how far each residual is to come down.
    inequality
        Which rows are inequalities.
    start
        A guess of the multipliers.
    room
        Bounds of d.
    slack
        Whether inequalities have slack variables instead.

    Returns
    -------
    Held
        Its status is `MAX_STEPS` if the active set did not settle.
    """
    if slack and inequality.any():
        return hold_with_slack(projection, u, target, inequality, start, room)
    if room is not None:
        return hold_in_box(projection, u, target, inequality, start, room)
    moved = projection.jacobian.mv(u)
    wanted = moved + target
    if not inequality.any():
        return Held(projection.solve(wanted, start), jnp.ones(wanted.shape, bool))
    unequal = jnp.asarray(inequality)
    # What rounding and a loose solve leave of a row that is held is no violation.
    asked = jnp.where(unequal, jnp.maximum(target, 0), jnp.abs(target))
    size = jnp.max(jnp.abs(moved)) + jnp.max(asked)
    margin = 1e-3 * jnp.where(jnp.isfinite(size), size, 0)
    if projection.factors is not None:
        margin = margin * 1e-2

    def solve(active: Array) -> Step:
        mask = active.astype(wanted.dtype)
        guess = None if start is None else start * mask
        return projection.restricted(mask).solve(wanted * mask, guess)

    index = jnp.arange(wanted.shape[0])

    def unsettled(carry):
        return ~carry.settled & (carry.round < ROUNDS)

    def improve(old):
        active = old.active
        step = solve(active)
        ahead = wanted - projection.jacobian.mv(step.value)
        m = step.multipliers
        pushes, crosses = m >= -1e-5 * jnp.max(jnp.abs(m)), ahead > margin
        wrong = unequal & jnp.where(active, ~pushes, crosses)
        count = jnp.sum(wrong)
        patience = jnp.where(count < old.fewest, _PATIENCE, old.patience - 1)
        last = index == jnp.max(jnp.where(wrong, index, -1))
        change = jnp.where(patience >= 0, wrong, wrong & last)
        settled = (count == 0) | ~status_ok(step.status)
        return _Search(
            old.round + 1,
            settled,
            jnp.where(settled, active, active ^ change),
            jnp.minimum(count, old.fewest),
            patience,
            step,
            old.num_steps + step.num_steps,
        )

    first = ~unequal | (wanted > 0)
    zero = jnp.zeros((), jnp.int32)
    fine = jnp.asarray(STATUS.EXACT, jnp.int32)
    blank = Step(jnp.zeros_like(u), jnp.zeros_like(wanted), fine, zero)
    many = jnp.full_like(jnp.sum(unequal), wanted.shape[0] + 1)
    start_at = _Search(zero, jnp.zeros((), bool), first, many, zero, blank, zero)
    end = jax.lax.while_loop(unsettled, improve, start_at)
    settled, active, step, steps = end.settled, end.active, end.step, end.num_steps
    status = jnp.where(settled, step.status, STATUS.MAX_STEPS).astype(jnp.int32)
    multipliers = jnp.where(active, step.multipliers, 0)
    return Held(Step(step.value, multipliers, status, steps), active)
