"""Augmented Lagrangian and quadratic penalty, with the constraint objects of the null space."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from gplsq._core import STATUS, plain_norm
from gplsq.constraints._base import AbstractConstraint, check_constraint_type
from gplsq.constraints._bounded import Room
from gplsq.constraints._params import movable
from gplsq.constraints._residuals import (
    box_of,
    check_batch,
    check_boxes,
    flat_residuals,
    pinned_entries,
    rows_at_init,
    rows_of,
    size_of_violation,
    violation_of,
)
from gplsq.constraints._settings import Rate, as_rate, rate_at
from gplsq.constraints._state import ConstrainedState, Report, blank_report


class LagrangianState(NamedTuple):
    """State of `augmented_lagrangian` and `penalty`: the dual state, and a report."""

    count: Int[Array, ""]
    multipliers: Float[Array, " p"] | None
    pinned_multipliers: Float[Array, " n"] | None  # of entries held at zero
    report: Report


def augmented_lagrangian(
    constraint: AbstractConstraint,
    *,
    penalty: Rate = 1.0,
    multiplier_rate: Rate = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Add the gradient of `m . c + penalty |c|^2 / 2` to the updates; multipliers m follow c.

    **Put it first**, before the optimiser. The method of multipliers (Hestenes 1969; Powell 1969;
    for inequalities Rockafellar 1973: `max(0, m + penalty c)`), with a step of the multipliers at
    every step of the parameters: `m + multiplier_rate penalty c`.

    Parameters
    ----------
    constraint
        As in `null_space`. Pinned entries (of `Sparsity`) count as residuals here.
    penalty
        Weight of the violation; a number or a schedule.
    multiplier_rate
        Length of a step of the multipliers, in units of `penalty`; 0 leaves a penalty method. Lower
        it where the violation oscillates.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        `update(gradient, state, params, constraint_batch=...)`; the multipliers are in the state.

    Raises
    ------
    TypeError, ValueError
        As `null_space`, and for a `Box`. Also for a mini-batch constraint without `batch_like`:
        multipliers belong to residuals, so that a batch must hold the same rows at every step; use
        `penalty` for fresh ones.

    Notes
    -----
    Cost of a step: one evaluation and one backward pass of the residuals.
    """
    for part in check_constraint_type(constraint).parts():
        if type(part).box is not AbstractConstraint.box:
            msg = (
                f"constraint must not be, or hold, a {type(part).__name__}: it is projected on "
                "after the optimiser. Use constrained(optimizer, constraint, method=...)."
            )
            raise ValueError(msg)
    return _dual_ascent(constraint, penalty, multiplier_rate)


def _dual_ascent(
    constraint: AbstractConstraint, penalty: Rate, multiplier_rate: Rate
) -> optax.GradientTransformationExtraArgs:
    """The same, without a look at boxes."""
    penalty, multiplier_rate = (
        as_rate("penalty", penalty),
        as_rate("multiplier_rate", multiplier_rate),
    )
    dual = not (isinstance(multiplier_rate, float) and multiplier_rate == 0)

    def init(params: PyTree) -> LagrangianState:
        layout, zero = movable(params), jnp.zeros((), jnp.int32)
        check_boxes(constraint, params, zero, layout)
        rows = rows_at_init(constraint, params, layout.dtype)
        if dual and rows is None:
            msg = (
                "an augmented Lagrangian of a mini-batch constraint needs its batch_like, and the "
                "same rows in every batch, because each residual has a multiplier; got none. Pass "
                "Constraint(fn, batch_like=batch), or use method='penalty'."
            )
            raise ValueError(msg)
        multipliers = jnp.zeros(rows.size, layout.dtype) if dual and rows is not None else None
        pinned = None
        if dual and pinned_entries(constraint, params, zero, layout)[0] is not None:
            pinned = jnp.zeros(layout.size, layout.dtype)
        return LagrangianState(zero, multipliers, pinned, blank_report(rows, layout.dtype))

    def update(
        updates: PyTree,
        state: LagrangianState,
        params: PyTree | None = None,
        *,
        constraint_batch: PyTree = None,
        **extra: Any,
    ) -> tuple[PyTree, LagrangianState]:
        del extra
        layout = movable(params, updates)
        dtype, step = layout.dtype, state.count
        check_batch(constraint, constraint_batch)
        rows = rows_of(constraint, params, constraint_batch, step, dtype)
        if state.multipliers is not None and rows.size != state.multipliers.shape[0]:
            msg = (
                "a constraint must return the same number of residuals at every step; got "
                f"{rows.size} after {state.multipliers.shape[0]} at init. Keep the shapes."
            )
            raise ValueError(msg)
        theta, gradient = layout.ravel(params), layout.ravel(updates)

        def residuals_at(flat: Array) -> Array:
            moved = layout.insert(params, flat)
            return flat_residuals(constraint, moved, constraint_batch, step, dtype)

        weight = rate_at(penalty, step, dtype)
        rate = rate_at(multiplier_rate, step, dtype)
        c, pull_back = jax.vjp(residuals_at, theta)
        old = jnp.zeros_like(c) if state.multipliers is None else state.multipliers
        force = _clipped(old + weight * c, rows.inequality)
        added = pull_back(force)[0] if c.size else jnp.zeros_like(theta)
        violations = violation_of(c, rows.inequality)
        multipliers = state.multipliers
        if multipliers is not None:
            multipliers = _clipped(old + rate * weight * c, rows.inequality)
        pinned, _ = pinned_entries(constraint, params, step, layout)
        of_pinned = state.pinned_multipliers
        if pinned is not None:
            held = jnp.where(pinned, theta, 0)
            before = jnp.zeros_like(theta) if of_pinned is None else of_pinned
            added = added + jnp.where(pinned, before, 0) + weight * held
            if of_pinned is not None:
                of_pinned = jnp.where(pinned, of_pinned + rate * weight * held, 0)
        box = box_of(constraint, params, step, layout, pinned)
        violation = size_of_violation(violations, theta, pinned, box).astype(dtype)
        finite = jnp.isfinite(violation) & jnp.all(jnp.isfinite(gradient + added))
        blank = state.report
        report = blank._replace(
            violation_before=violation,
            gradient_norm=plain_norm(gradient),
            projected_gradient_norm=plain_norm(gradient + added),
            multipliers=None if blank.multipliers is None else force,
            status=jnp.where(finite, STATUS.EXACT, STATUS.NON_FINITE).astype(jnp.int32),
        )
        moved = layout.insert(updates, gradient + added)
        return moved, LagrangianState(step + 1, multipliers, of_pinned, report)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def penalty(
    constraint: AbstractConstraint, *, weight: Rate = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Add the gradient of `weight |c|^2 / 2` to the updates (inequalities: of the positive part).

    **Put it first**, before the optimiser. It trades the constraint against the loss: the violation
    of the optimum falls as 1 / weight.

    Parameters
    ----------
    constraint
        As in `null_space`.
    weight
        A number or a schedule.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        As `augmented_lagrangian`.
    """
    return augmented_lagrangian(constraint, penalty=weight, multiplier_rate=0.0)


def lagrangian_optimizer(
    optimizer: optax.GradientTransformation,
    constraint: AbstractConstraint,
    weight: Rate,
    multiplier_rate: Rate,
) -> optax.GradientTransformationExtraArgs:
    """The optimiser behind `augmented_lagrangian`, with the state of `constrained`.

    Its updates are projected on boxes.
    """
    first = _dual_ascent(check_constraint_type(constraint), weight, multiplier_rate)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> ConstrainedState:
        return ConstrainedState(inner.init(params), first.init(params))

    def update(updates, state, params=None, *, constraint_batch=None, **extra):
        updates, dual = first.update(
            updates, state.constraint, params, constraint_batch=constraint_batch
        )
        moved, after = inner.update(updates, state.inner, params, **extra)
        layout = movable(params, moved)
        count = state.constraint.count
        pinned, _ = pinned_entries(constraint, params, count, layout)
        box = box_of(constraint, params, count, layout, pinned)
        if box is not None:
            theta, update = layout.ravel(params), layout.ravel(moved)
            room = Room(box[0] - theta, box[1] - theta)
            moved = layout.insert(moved, room.inside(update))
        return moved, ConstrainedState(after, dual)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _clipped(m: Array, inequality: Any) -> Array:
    """Multipliers of inequalities are not negative."""
    return jnp.where(inequality, jnp.maximum(m, 0), m) if inequality.any() else m
