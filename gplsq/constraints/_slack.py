"""Inequalities by slack variables: one solve or two, however many rows.

`c_i <= 0` is `c_i + s_i = 0` with a slack `s_i = -c_i >= 0`, which a step moves as it moves the
parameters. Changes of a slack are measured in the affine-scaling metric (Dikin 1967; Coleman & Li
1996): by the room that is left, in lengths of the step. With `D_i = |J_i| s_i / |u|` the step is

    x = J^T m,    (J J^T + D + damp^2) m = J u + t,                                           (24)

t the violation: a row far away is not felt, a row at hand is an equation, and between them a step
towards a row alone goes no further than up to it. Rows that would hold a step back from leaving
them (m_i < 0) are left out of a second solve.

Equation (24) of docs/derivations/null-space.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gplsq._core import column_norm
from gplsq.constraints._bounded import Held, Room, hold_in_box
from gplsq.constraints._projection import Projection, project_with, row_length
from gplsq.operators import Dense, Function

# The least slack, in lengths of a step, so that rows on which the others depend leave (24) regular.
# So much of a step may cross a row, and is taken back by the next one. The most keeps its square in
# range.
_LEAST, _MOST = 1e-5, 1e12


def hold_with_slack(
    projection: Projection,
    u: Float[Array, " n"],
    target: Float[Array, " p"],
    inequality: np.ndarray,
    start: Float[Array, " p"] | None,
    room: Room | None,
) -> Held:
    """x such that `u - x` keeps the linearised constraint, with slack in its inequalities.

    Parameters and what is returned are those of `gplsq.constraints._active_set.hold`. Rows less
    than a step away that push are called active.

    Equation (24) of docs/derivations/null-space.md.
    """
    jacobian, unequal = projection.jacobian, jnp.asarray(inequality)
    dtype, tiny = u.dtype, jnp.finfo(u.dtype).tiny
    n = u.shape[0]
    lengths = row_length(jacobian)
    if isinstance(jacobian, Dense):
        lengths = column_norm(jacobian.as_matrix().T)
        lengths = jnp.where(lengths > 0, lengths, 1)
    wanted = jnp.where(unequal, jnp.maximum(target, 0), target)
    reach = jnp.maximum(column_norm(u), jnp.max(jnp.abs(wanted) / lengths))
    reach = jnp.maximum(reach, tiny)
    slack = jnp.clip(-target / lengths / reach, _LEAST, _MOST)
    scale = jnp.where(unequal, lengths * jnp.sqrt(slack), 0).astype(dtype)
    # A row far away is long by its slack alone: shortened, or those at hand would count as zero.
    weight = jnp.where(unequal, 1 / jnp.sqrt(jnp.maximum(slack, 1)), 1).astype(dtype)
    like = jax.ShapeDtypeStruct((n + target.shape[0],), dtype)
    wide = Function(lambda v: weight * (jacobian.mv(v[:n]) + scale * v[n:]), like)
    start = None if start is None else start / weight
    dense = projection.factors is not None
    extended = project_with(wide, projection.solver, projection.damp, dense)
    wider = room
    if room is not None:
        free = jnp.full_like(target, jnp.inf)
        low, high = jnp.concatenate([room.low, -free]), jnp.concatenate([room.high, free])
        wider = Room(low, high)

    def solve(projection: Projection, mask: Array) -> Held:
        if wider is None:
            rhs = mask * weight * (jacobian.mv(u) + wanted)
            guess = None if start is None else mask * start
            return Held(projection.solve(rhs, guess), mask > 0)
        both = jnp.concatenate([u, jnp.zeros_like(target)])
        equal = np.zeros_like(inequality)
        return hold_in_box(projection, both, mask * weight * wanted, equal, start, wider)

    first = solve(extended, jnp.ones_like(target))
    stays = ~unequal | (first.step.multipliers >= 0)

    def without() -> Held:
        mask = stays.astype(dtype)
        second = solve(extended.restricted(mask), mask)
        steps = first.step.num_steps + second.step.num_steps
        m = jnp.where(unequal, jnp.maximum(second.step.multipliers, 0), second.step.multipliers)
        step = second.step._replace(num_steps=steps, multipliers=mask * m)
        return second._replace(step=step)

    held = jax.lax.cond(jnp.all(stays), lambda: first, without)
    step = held.step._replace(multipliers=weight * held.step.multipliers)
    active = ~unequal | ((slack < 1) & (step.multipliers > 0))
    side = None if held.side is None else held.side[:n]
    return Held(step._replace(value=step.value[:n]), active, side)
