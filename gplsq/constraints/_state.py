"""What a constrained step leaves behind: numbers to judge it by, and warnings."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from gplsq._core import STATUS, status_message, status_remedy
from gplsq.constraints._residuals import Rows

# A violation that grew so many steps in a row, to twice its size, is not noise.
_STREAK = 10


class ConstraintWarning(UserWarning):
    """A constraint cannot be met as asked, or is not being met."""


class Report(NamedTuple):
    """Numbers of the last constrained step; scalars unless said otherwise.

    Violations are root mean squares of the residuals, for inequalities of their positive part.
    """

    violation_before: Float[Array, ""]  # at the parameters that the step started from
    violation_after: Float[Array, ""]  # at the parameters it leads to, with the nonlinear residuals
    gradient_norm: Float[Array, ""]
    projected_gradient_norm: Float[Array, ""]  # 0 at a constrained optimum
    multipliers: Float[Array, " p"] | None  # of the residuals, in their order; see the docs
    active: Bool[Array, " p"] | None  # rows that held the step: all equalities, some inequalities
    num_steps: Int[Array, ""]  # solver iterations; 0 for a factorisation
    restorations: Int[Array, ""]  # Newton corrections that were taken
    halvings: Int[Array, ""]  # times that the step was shortened to a half
    status: Int[Array, ""]  # a `gplsq.solvers.STATUS` code, the worst of the step
    rank: Float[Array, ""]  # sum s^2 / (s^2 + damp^2) of the Jacobian, last time it was measured
    null_space_dimension: Float[Array, ""]  # free parameters less rank: what is left to train
    damp: Float[Array, ""]
    growth: Int[Array, ""]  # steps in a row in which violation_before grew

    def describe(self) -> str:
        """The step in plain words. Not for use under jit."""
        code = int(self.status)
        if code == STATUS.RUNNING:
            return "no constrained step was taken yet"
        before, after = float(self.violation_before), float(self.violation_after)
        lines = [
            f"violation {before:.1e} -> {after:.1e}, gradient "
            f"{float(self.gradient_norm):.1e} -> {float(self.projected_gradient_norm):.1e} along "
            f"the constraint, rank {float(self.rank):.0f}, dimensions left "
            f"{float(self.null_space_dimension):.0f}, solver: {status_message(code)}"
        ]
        remedy = status_remedy(code)
        return lines[0] + (f". Remedy: {remedy}" if remedy else "")


class NullSpaceState(NamedTuple):
    """State of `null_space`, and a part of that of `constrained`.

    Multipliers are guesses for the next solve, None where they are not kept.
    """

    count: Int[Array, ""]
    damping: Float[Array, ""]  # adaptive damping, relative to the rows of the Jacobian
    of_gradient: Float[Array, " p"] | None
    of_update: Float[Array, " p"] | None
    streak_from: Float[Array, ""]  # violation before it began to grow
    reach: Float[Array, ""]  # length of an update for a projected gradient of length 1
    report: Report


class ConstrainedState(NamedTuple):
    """State of `constrained`."""

    inner: PyTree
    constraint: Any  # NullSpaceState, or LagrangianState

    @property
    def report(self) -> Report:
        """Numbers of the last step."""
        return self.constraint.report


def blank_report(rows: Rows | None, dtype: Any) -> Report:
    """Before the first step: NaN where nothing was measured."""
    multipliers = None if rows is None else jnp.zeros(rows.size, dtype)
    active = None if rows is None else jnp.zeros(rows.size, bool)

    # A buffer each: a state whose leaves share one cannot be donated.
    def nan():
        return jnp.full((), jnp.nan, dtype)

    def zero():
        return jnp.zeros((), jnp.int32)

    return Report(
        violation_before=nan(),
        violation_after=nan(),
        gradient_norm=nan(),
        projected_gradient_norm=nan(),
        multipliers=multipliers,
        active=active,
        num_steps=zero(),
        restorations=zero(),
        halvings=zero(),
        status=zero(),
        rank=nan(),
        null_space_dimension=nan(),
        damp=jnp.zeros((), dtype),
        growth=zero(),
    )


def blank_state(rows: Rows | None, dtype: Any, damping: float, keep: bool) -> NullSpaceState:
    """State before the first step. Multipliers are kept between steps if `keep`."""

    def guess():
        return None if rows is None or not keep else jnp.zeros(rows.size, dtype)

    zero = jnp.zeros((), jnp.int32)
    start = jnp.asarray(damping, dtype)
    report = blank_report(rows, dtype)
    nan, none = jnp.full((), jnp.nan, dtype), jnp.zeros((), dtype)
    return NullSpaceState(zero, start, guess(), guess(), nan, none, report)


def growth_of(state: NullSpaceState, violation: Array) -> tuple[Array, Array]:
    """Length of the streak of growing violations, and the violation that it began from."""
    last = state.report.violation_before
    grows = violation > last  # False for the NaN of the first step
    growth = jnp.where(grows, state.report.growth + 1, 0).astype(jnp.int32)
    begin = jnp.where(grows & (state.report.growth > 0), state.streak_from, last)
    return growth, jnp.where(grows, begin, violation)


def warn_of_growth(growth: Array, begin: Array, violation: Array) -> None:
    """Once in a streak of ten."""
    message = (
        "the violation of the constraint grew ten steps in a row, to more than twice its size: "
        "steps are too long for the curvature of the constraint. Lower the learning rate, set "
        "restoration_steps to 1 or more, or damp."
    )
    _warn_if((growth == _STREAK) & (violation > 2 * begin), message)


def warn_of_vanished(vanished: Array) -> None:
    """The constraint leaves nothing to train."""
    message = (
        "the null space of the constraint has vanished: it has as many independent residuals as "
        "there are parameters, and training stands still. Pass damp='adaptive' with a tolerance, "
        "use fewer residuals, or a larger network."
    )
    _warn_if(vanished, message)


def warn_of_non_finite(skipped: Array) -> None:
    """A step was not taken."""
    message = (
        "the residuals of the constraint, their derivatives or the update were NaN or infinite; "
        "the step was not taken. Look for a division by zero, a square root or a norm at zero."
    )
    _warn_if(skipped, message)


def warn_of_rows(rows: int, columns: int) -> None:
    """More residuals than parameters, undamped: seen from shapes, when the step is traced."""
    message = (
        f"the constraint has {rows} residuals for {columns} parameters. Undamped it leaves "
        "nothing to train if they are independent. Pass damp='adaptive' with a tolerance, or use "
        "fewer residuals."
    )
    warnings.warn(message, ConstraintWarning, stacklevel=2)


def _warn_if(condition: Array, message: str) -> None:
    """A warning at run time. The host is called only where there is something to say."""

    def say(flag):
        if flag:
            warnings.warn(message, ConstraintWarning, stacklevel=2)

    jax.lax.cond(condition, lambda: jax.debug.callback(say, condition), lambda: None)
