"""Settings of a constrained step: checked once, read at every step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import check_choice, check_count, check_finite_scalar, describe
from gplsq.constraints._base import AbstractConstraint, check_constraint_type
from gplsq.solvers import AbstractLeastSquares

Rate = float | Array | Callable[[Array], Any]


class Settings(NamedTuple):
    """What `null_space` and `constrained` were asked for."""

    constraint: AbstractConstraint
    correction_rate: Rate
    damp: Rate | str
    restoration_steps: Any
    backtracking_steps: Any
    tolerance: Any
    start_step: Any
    slack: bool
    solver: AbstractLeastSquares | None
    warm_start: bool
    rank_every: Any
    warn: bool
    metric_eps: Any

    @property
    def adaptive(self) -> bool:
        """Whether damping follows the violation."""
        return isinstance(self.damp, str)

    @property
    def undamped(self) -> bool:
        """Whether damping is known to be zero."""
        return isinstance(self.damp, float) and self.damp == 0

    @property
    def restores(self) -> bool:
        """Whether Newton corrections may follow a step."""
        return not (isinstance(self.restoration_steps, int) and self.restoration_steps == 0)

    @property
    def backtracks(self) -> bool:
        """Whether a step that leads too far off is shortened."""
        return not (isinstance(self.backtracking_steps, int) and self.backtracking_steps == 0)

    @property
    def starts_at_once(self) -> bool:
        """Whether the constraint holds from the first step."""
        return isinstance(self.start_step, int) and self.start_step == 0


def checked_settings(
    constraint: Any,
    *,
    correction_rate: Any = 1.0,
    damp: Any = 0.0,
    restoration_steps: Any = 0,
    backtracking_steps: Any = 0,
    tolerance: Any = None,
    start_step: Any = 0,
    inequalities: str = "active_set",
    solver: Any = None,
    warm_start: bool = True,
    rank_every: Any = 0,
    warn: bool = True,
    metric_eps: Any = 1e-8,
) -> Settings:
    """Check what the user passed.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected, what came, and what to do.
    """
    if isinstance(damp, str) and damp != "adaptive":
        msg = (
            f"damp must be a number, a schedule or 'adaptive'; got {damp!r}. Pass 0.0 for a "
            "linearised constraint that holds exactly."
        )
        raise ValueError(msg)
    if solver is not None and not isinstance(solver, AbstractLeastSquares):
        msg = f"solver must be LSMR() or Direct(); got {describe(solver)}. Pass an instance."
        raise TypeError(msg)
    if isinstance(damp, str) and tolerance is None:
        msg = (
            "tolerance must be given with damp='adaptive': the violation (root mean square of the "
            "residuals) that is small enough; got None. Pass a number in units of the residuals."
        )
        raise ValueError(msg)
    if isinstance(backtracking_steps, int) and backtracking_steps > 0 and tolerance is None:
        msg = (
            "tolerance must be given with backtracking_steps: the violation (root mean square of "
            "the residuals) up to which a step is not shortened; got None. Pass a number in units "
            "of the residuals."
        )
        raise ValueError(msg)
    counts = restoration_steps, backtracking_steps
    if tolerance is None and not all(isinstance(n, int) and n == 0 for n in counts):
        tolerance = 0.0  # inject_hyperparams makes arrays of numbers
    return Settings(
        constraint=check_constraint_type(constraint),
        correction_rate=as_rate("correction_rate", correction_rate),
        damp=damp if isinstance(damp, str) else as_rate("damp", damp),
        restoration_steps=_as_count("restoration_steps", restoration_steps),
        backtracking_steps=_as_count("backtracking_steps", backtracking_steps),
        tolerance=None if tolerance is None else as_rate("tolerance", tolerance),
        start_step=_as_count("start_step", start_step),
        slack=check_choice("inequalities", inequalities, ("active_set", "slack")) == "slack",
        solver=solver,
        warm_start=warm_start,
        rank_every=_as_count("rank_every", rank_every),
        warn=warn,
        metric_eps=as_rate("metric_eps", metric_eps),
    )


def as_rate(name: str, value: Any) -> Any:
    """A non-negative number, an array of one, or a schedule of the step."""
    if callable(value) or eqx.is_array(value):
        return value
    return check_finite_scalar(name, value, minimum=0.0)


def _as_count(name: str, value: Any) -> Any:
    if eqx.is_array(value):
        return value
    return check_count(name, value)


def rate_at(value: Any, step: Any, dtype: Any) -> Array:
    """A number or schedule at this step."""
    return jnp.asarray(value(step) if callable(value) else value, dtype)
