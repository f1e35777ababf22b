"""What a solve returns: the value, a status per column, and numbers to judge it by."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from gplsq._core import STATUS, is_traced, savable, status_message, status_ok, status_remedy


class ConvergenceError(RuntimeError):
    """A solve missed its tolerance and `throw=True`."""


@savable
class Stats(eqx.Module):
    """Numbers of a solve, each of shape (k,): one per right-hand side.

    Residual norms are recomputed from the returned value, not taken from the recurrences.
    """

    num_steps: Int[Array, " k"]  # iterations until this column was done
    residual_norm: Float[Array, " k"]  # |b - A x|
    # |A* (b - A x) - damp^2 x|; of a kernel system the Euclidean |b - (K + damp^2) c|
    normal_residual_norm: Float[Array, " k"]
    rhs_norm: Float[Array, " k"]  # |b|
    norm_estimate: Float[Array, " k"]  # of [A; damp I], from below
    condition_estimate: Float[Array, " k"]  # of [A; damp I], from below
    # numerical rank by `Direct`; -1 from `LSMR`, which does not see it: use `estimate_rank`
    rank_estimate: Int[Array, " k"]
    error_measure: Float[Array, " k"]  # the number that was compared with the tolerance
    tolerance: Float[Array, " k"]


@savable
class Solution(eqx.Module):
    """Result of `gplsq.lstsq`.

    Attributes
    ----------
    value
        The solution: shape (n,) or (n, k), or the pytree of the operator's domain.
    ok
        True where a column met its tolerance; shape (k,), or () for one right-hand side.
    status
        A `gplsq.solvers.STATUS` code per column.
    stats
        `Stats`, shaped like `status`.
    """

    value: PyTree[Array]
    ok: Bool[Array, "*k"]
    status: Int[Array, "*k"]
    stats: Stats

    def report(self) -> str:
        """The outcome in plain words, with one remedy for what failed. Not for use under jit."""
        if is_traced(self.status):
            return "no report while tracing: call report() on the result of the jitted function"
        return describe_outcome(self.status, self.stats)


def describe_outcome(status: Array, stats: Stats) -> str:
    """Plain words for statuses and numbers of a finished solve."""
    codes = np.atleast_1d(np.asarray(status))
    steps = np.atleast_1d(np.asarray(stats.num_steps))
    measure = np.atleast_1d(np.asarray(stats.error_measure))
    tolerance = np.atleast_1d(np.asarray(stats.tolerance))
    lines = []
    for code in np.unique(codes):
        of_code = codes == code
        line = status_message(int(code))
        if codes.size > 1:
            line = f"{int(of_code.sum())} of {codes.size} right-hand sides: {line}"
        worst = float(np.max(measure[of_code]))
        if code == STATUS.EXACT:
            line += f" (relative residual {worst:.1e})"
        else:
            count = int(steps[of_code].max())
            line += f" ({count} step{'' if count == 1 else 's'}, error measure {worst:.1e}, "
            line += f"tolerance {float(tolerance[of_code].max()):.1e})"
        remedy = status_remedy(int(code))
        lines.append(line + (f". Remedy: {remedy}" if remedy else ""))
    return "; ".join(lines)


def solution_from(
    value: Array, status: Array, stats: Stats, single: bool, restore: Callable[[Array], PyTree]
) -> Solution:
    """Assemble a `Solution` from columns; `single` takes the only one out."""
    value, ok, status, stats = _finished(value, status, stats, single)
    return Solution(restore(value), ok, status, stats)


# One program, where each of these small steps would be compiled alone.
@functools.partial(jax.jit, static_argnames="single", inline=True)
def _finished(value, status, stats, single):
    parts = value, status_ok(status), status, stats
    return jax.tree.map(lambda leaf: leaf[..., 0], parts) if single else parts
