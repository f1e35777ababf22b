"""Equalities and inequalities in one step: which rows hold it back.

Of `min |d - u|^2` subject to `J_i d = -t_i` (equalities) and `J_i d <= -t_i` (inequalities), by the
primal-dual active set method (Hintermüller, Ito & Kunisch 2003, "The primal-dual active set
strategy as a semismooth Newton method"): rows are taken in where the step would violate them, and
dropped where their multiplier has the wrong sign. Each round is one solve.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gplsq._core import STATUS, status_ok
from gplsq.constraints._projection import Projection, Step

# Rounds at most; two or three are usual.
ROUNDS = 12


class Held(NamedTuple):
    """A step, and the rows that it was held by."""

    step: Step
    active: Bool[Array, " p"]


def hold(
    projection: Projection,
    u: Float[Array, " n"],
    target: Float[Array, " p"],
    inequality: np.ndarray,
    start: Float[Array, " p"] | None = None,
    candidates: Bool[Array, " p"] | None = None,
) -> Held:
    """x such that `d = u - x` keeps the linearised constraint.

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
    candidates
        Inequalities that may hold the step back; all by default.

    Returns
    -------
    Held
        Its status is `MAX_STEPS` if the active set did not settle.
    """
    wanted = projection.jacobian.mv(u) + target
    if not inequality.any():
        return Held(projection.solve(wanted, start), jnp.ones(wanted.shape, bool))
    unequal = jnp.asarray(inequality)
    allowed = unequal if candidates is None else unequal & candidates
    # What rounding and a loose solve leave of a row that is held is no violation.
    size = jnp.max(jnp.abs(wanted)) + jnp.max(jnp.abs(target))
    slack = 1e-3 * jnp.where(jnp.isfinite(size), size, 0)
    if projection.factors is not None:
        slack = slack * 1e-2

    def solve(active: Array) -> Step:
        mask = active.astype(wanted.dtype)
        guess = None if start is None else start * mask
        return projection.with_rows(mask).solve(wanted * mask, guess)

    def unsettled(carry):
        round_, settled = carry[0], carry[1]
        return ~settled & (round_ < ROUNDS)

    def improve(carry):
        round_, _, active, _, steps = carry
        step = solve(active)
        ahead = wanted - projection.jacobian.mv(step.value)
        pushes, crosses = step.multipliers > 0, ahead > slack
        new = jnp.where(unequal, allowed & jnp.where(active, pushes, crosses), True)
        settled = jnp.all(new == active) | ~status_ok(step.status)
        return round_ + 1, settled, jnp.where(settled, active, new), step, steps + step.num_steps

    first = ~unequal | (allowed & (wanted > 0))
    zero = jnp.zeros((), jnp.int32)
    blank = Step(
        jnp.zeros_like(u), jnp.zeros_like(wanted), jnp.asarray(STATUS.EXACT, jnp.int32), zero
    )
    carry = (zero, jnp.zeros((), bool), first, blank, zero)
    _, settled, active, step, steps = jax.lax.while_loop(unsettled, improve, carry)
    status = jnp.where(settled, step.status, STATUS.MAX_STEPS).astype(jnp.int32)
    return Held(step._replace(status=status, num_steps=steps), active)
