"""`constrained`: any optax optimiser, kept on a constraint and led to the constrained optimum.

Equations (15), (16) and (17) of docs/derivations/null-space.md, and why it converges.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from gplsq._core import check_choice, describe
from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._bounded import Held, without_value
from gplsq.constraints._lagrangian import lagrangian_optimizer
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
from gplsq.constraints._params import Movable, movable
from gplsq.constraints._settings import Rate, Settings, checked_settings
from gplsq.constraints._sparing import after, at_once
from gplsq.constraints._state import ConstrainedState, NullSpaceState
from gplsq.constraints._step import bare_point, linearise, project_gradient, project_update
from gplsq.solvers import AbstractLeastSquares

METHODS = ("null_space", "augmented_lagrangian", "penalty")


def constrained(
    optimizer: optax.GradientTransformation,
    constraint: AbstractConstraint,
    *,
    method: str = "null_space",
    correction_rate: Rate = 1.0,
    damp: Rate | str = 0.0,
    restoration_steps: int = 0,
    backtracking_steps: int = 0,
    tolerance: Rate | None = None,
    start_step: int = 0,
    inequalities: str = "active_set",
    solver: AbstractLeastSquares | None = None,
    warm_start: bool = True,
    projection: str = "twice",
    metric_eps: Rate = 1e-8,
    rank_every: int = 100,
    warn: bool = True,
    penalty: Rate = 1.0,
    multiplier_rate: Rate = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """An optimiser under a constraint: project the gradient, optimise, project, correct.

    Projecting only the gradient before Adam leaves the constraint, because Adam rescales it.
    Projecting only the update ends where Adam's update, and not the gradient, is normal to the
    constraint: a wrong point. Both together are feasible and optimal.

    Equations (1), (15) and (16) of docs/derivations/null-space.md.

    Parameters
    ----------
    optimizer
        Any optax optimiser: `optax.adam(1e-3)`, a chain, a masked one. Without a projection of its
        own.
    constraint
        A constraint of this package, a sum of several, or `Constraint(fn)`.
    method
        `"null_space"`. For comparison `"augmented_lagrangian"` and `"penalty"`, which add the
        gradient of the violation to that of the loss; see `augmented_lagrangian`. They solve
        nothing: of the arguments below only `penalty` and `multiplier_rate` act on them.
    correction_rate, damp, restoration_steps, backtracking_steps, tolerance, inequalities, solver,
    warm_start, rank_every, warn
        As in `null_space`.
    start_step
        Steps before it are those of the optimiser alone.
    projection
        `"twice"`: the gradient and the update, two solves, right for every optimiser. `"metric"`:
        only the update, in the metric of Adam's preconditioner, one solve; for Adam, AdamW and
        other chains with `optax.scale_by_adam`.
    metric_eps
        The `eps` of that Adam, which its state does not hold; 1e-8 is optax's default. With another
        one training comes to rest at a wrong point.
    penalty, multiplier_rate
        For the other two methods; see `augmented_lagrangian`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        `update(gradient, state, params, constraint_batch=...)`; other keywords go to the
        optimiser. `state.report` is a `Report`. Its multipliers m are those of the Lagrangian
        `loss + m . residuals` (for inequalities not negative).

    Raises
    ------
    TypeError, ValueError
        As `null_space`; also if the optimizer of a null-space step holds a projection already.

    Notes
    -----
    Cost of a step: as `null_space` with two solves, which share the linearisation and, where there
    is one, the factorisation. With `projection="metric"` the projected gradient is not measured.
    """
    check_choice("method", method, METHODS)
    check_choice("projection", projection, ("twice", "metric"))
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        msg = f"optimizer must be an optax optimiser; got {describe(optimizer)}. Pass optax.adam()."
        raise TypeError(msg)
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
        metric_eps=metric_eps,
    )
    if method != "null_space":
        return lagrangian_optimizer(
            optimizer, constraint, penalty, 0.0 if method == "penalty" else multiplier_rate
        )
    inner = optax.with_extra_args_support(optimizer)  # pyright: ignore[reportArgumentType]

    def init(params: PyTree) -> ConstrainedState:
        state = inner.init(params)
        _refuse_projections(state)
        return ConstrainedState(state, init_state(settings, params))

    def update(
        updates: PyTree,
        state: ConstrainedState,
        params: PyTree | None = None,
        *,
        constraint_batch: PyTree = None,
        **extra: Any,
    ) -> tuple[PyTree, ConstrainedState]:
        everything = movable(params, updates)

        def act(state: ConstrainedState) -> tuple[PyTree, ConstrainedState]:
            step = _once if projection == "metric" else _twice
            return step(
                settings, inner, everything, updates, state, params, constraint_batch, extra
            )

        def idle(state: ConstrainedState) -> tuple[PyTree, ConstrainedState]:
            moved, inside = inner.update(updates, state.inner, params, **extra)
            return moved, ConstrainedState(inside, state.constraint)

        moved, state = when_started(settings, state.constraint.count, act, idle, state)
        count = state.constraint.count + 1
        return moved, ConstrainedState(state.inner, state.constraint._replace(count=count))

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _twice(
    settings: Settings,
    inner: optax.GradientTransformationExtraArgs,
    everything: Movable,
    updates: PyTree,
    state: ConstrainedState,
    params: PyTree,
    batch: PyTree,
    extra: dict[str, Any],
) -> tuple[PyTree, ConstrainedState]:
    """Both projections.

    Equations (1), (15) and (16) of docs/derivations/null-space.md.
    """
    old: NullSpaceState = state.constraint
    bare = bare_point(everything, params, batch, old.count, settings, expected_rows(old))
    linearised = at_once(everything, lambda: linearise(bare, old.damping))
    layout = bare.layout
    gradient = layout.ravel(updates)

    def first() -> tuple[Array, Held | None, Array, Asked]:
        point = linearised()
        along, held = project_gradient(point, gradient, old.of_gradient, old.reach)
        violation = point.violation(point.theta, point.residuals)
        asked = Asked(everything.norm(updates), jnp.all(jnp.isfinite(gradient)))
        return along, without_value(held), violation, asked

    along, of_gradient, violation, asked = after(everything, gradient, first)
    projected = layout.insert(updates, along)
    proposed, inside = inner.update(projected, state.inner, params, **extra)
    flat = layout.ravel(proposed)
    inside = _kept(violation, asked, (along, flat), inside, state.inner)

    def second() -> tuple[Outcome, Held | None]:
        point = linearised()
        wanted, _, held = project_update(point, flat, old.of_update)
        return finish(point, wanted, held, old, asked, of_gradient), without_value(held)

    outcome, held = after(everything, flat, second)
    size, length = everything.norm(projected), everything.norm(proposed)
    report = outcome.report._replace(projected_gradient_norm=size)
    new = settle(settings, old, report, of_gradient, held)
    seen = (size > 0) & jnp.isfinite(length) & jnp.isfinite(size)
    new = new._replace(reach=jnp.where(seen, length / jnp.where(seen, size, 1), old.reach))
    return _result(outcome, layout, proposed, inside, new)


def _once(
    settings: Settings,
    inner: optax.GradientTransformationExtraArgs,
    everything: Movable,
    updates: PyTree,
    state: ConstrainedState,
    params: PyTree,
    batch: PyTree,
    extra: dict[str, Any],
) -> tuple[PyTree, ConstrainedState]:
    """One projection, in the metric of the optimiser.

    Equation (17) of docs/derivations/null-space.md.
    """
    old: NullSpaceState = state.constraint
    proposed, inside = inner.update(updates, state.inner, params, **extra)
    bare = bare_point(everything, params, batch, old.count, settings, expected_rows(old))
    layout = bare.layout
    flat = layout.ravel(proposed)
    asked = Asked(everything.norm(updates), jnp.all(jnp.isfinite(layout.ravel(updates))))

    def only() -> tuple[Outcome, Held | None, Array]:
        point = linearise(bare, old.damping, inside)
        wanted, _, held = project_update(point, flat, old.of_update)
        violation = point.violation(point.theta, point.residuals)
        return finish(point, wanted, held, old, asked), without_value(held), violation

    outcome, held, violation = after(everything, flat, only)
    inside = _kept(violation, asked, (flat,), inside, state.inner)
    new = settle(settings, old, outcome.report, None, held)
    return _result(outcome, layout, proposed, inside, new)


def _kept(
    violation: Array, asked: Asked, made: tuple[Array, ...], inside: PyTree, before: PyTree
) -> PyTree:
    """The optimiser's state after a step: the old one if what went in or came out is not finite.

    Decided before the last solve, so that the old state is not kept beside the new one during it:
    if that solve alone fails, the update is zero and the state has seen a sound gradient.
    """
    finite = [jnp.all(jnp.isfinite(part)) for part in made]
    # NaN in the gradient that was given is not the constraint's, and stays to be seen.
    spoilt = asked.finite & ~jnp.all(jnp.stack(finite))
    return unless(~jnp.isfinite(violation) | spoilt, inside, before)


def _result(
    outcome: Outcome, layout: Movable, proposed: PyTree, inside: PyTree, new: NullSpaceState
) -> tuple[PyTree, ConstrainedState]:
    """Update and state; the update is zero where the step was not taken."""
    moved = unless(outcome.skipped, layout.insert(proposed, outcome.update), None)
    return moved, ConstrainedState(inside, new)


def _refuse_projections(state: PyTree) -> None:
    def is_projection(node: Any) -> bool:
        return isinstance(node, NullSpaceState | ConstrainedState)

    nodes = jax.tree.leaves(state, is_leaf=is_projection)
    if any(is_projection(node) for node in nodes):
        msg = (
            "optimizer must not hold a projection of its own: what follows it, for example Adam's "
            "rescaling, leaves the constraint. Pass the optimiser alone; constrained projects its "
            "gradient and its update."
        )
        raise ValueError(msg)
