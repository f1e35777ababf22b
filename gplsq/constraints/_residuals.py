"""Residuals of a constraint as one vector, checked, and where its numbers come from."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from gplsq._core import column_norm, describe, is_traced
from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._params import Movable, is_floating


class Rows(NamedTuple):
    """What is known of the residuals without their numbers."""

    size: int
    inequality: np.ndarray  # bool, shape (p,)

    @property
    def any_inequality(self) -> bool:
        """Whether some residual only has to be not above zero."""
        return bool(self.inequality.any())


def flat_residuals(
    constraint: AbstractConstraint, params: PyTree, batch: PyTree, step: Any, dtype: Any
) -> Float[Array, " p"]:
    """All residuals, one after the other, in one dtype.

    Raises
    ------
    TypeError
        If residuals are not real floating-point arrays.
    ValueError
        If a constraint that neither pins nor bounds entries returns none.
    """
    pieces = []
    for part in constraint.parts():
        leaves = jax.tree.leaves(part.residuals(params, batch, step))
        name = type(part).__name__
        if sum(jnp.size(leaf) for leaf in leaves) == 0 and not (_pins(part) or _bounds(part)):
            msg = (
                f"{name} must return at least one residual; got none. Return an array or a pytree "
                "of arrays that shall be zero (or not positive)."
            )
            raise ValueError(msg)
        for leaf in leaves:
            if isinstance(leaf, float):
                leaf = jnp.asarray(leaf)
            if not is_floating(leaf):
                msg = (
                    f"{name} must return real floating-point residuals; got {describe(leaf)}. "
                    "A count or a comparison has no derivative: return the numbers it is made of."
                )
                raise TypeError(msg)
            pieces.append(jnp.ravel(leaf).astype(dtype))
    return jnp.concatenate(pieces) if pieces else jnp.zeros(0, dtype)


def _pins(part: AbstractConstraint) -> bool:
    """Whether a constraint may hold entries at zero, which then are not among its residuals."""
    return type(part).pinned is not AbstractConstraint.pinned


def _bounds(part: AbstractConstraint) -> bool:
    """Whether a constraint may be a box, which then is not among its residuals."""
    return type(part).box is not AbstractConstraint.box


def rows_of(
    constraint: AbstractConstraint, params: PyTree, batch: PyTree, step: Any, dtype: Any
) -> Rows:
    """Number and kind of the residuals, by abstract evaluation."""
    flags = []
    for part in constraint.parts():
        size = eqx.filter_eval_shape(flat_residuals, part, params, batch, step, dtype).shape[0]
        flags.append(np.full(size, part.kind == "inequality"))
    inequality = np.concatenate(flags) if flags else np.zeros(0, bool)
    return Rows(inequality.shape[0], inequality)


def rows_at_init(constraint: AbstractConstraint, params: PyTree, dtype: Any) -> Rows | None:
    """The same before the first batch has come; None where it cannot be known yet."""
    step = jax.ShapeDtypeStruct((), jnp.int32)
    flags = []
    for part in constraint.parts():
        if part.takes_batch and part.batch_like is None:
            return None
        rows = rows_of(part, params, _struct(part.batch_like), step, dtype)
        flags.append(rows.inequality)
    inequality = np.concatenate(flags)
    return Rows(inequality.shape[0], inequality)


def _struct(batch: PyTree) -> PyTree:
    def of(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct) or not eqx.is_array_like(leaf):
            return leaf
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))

    return jax.tree.map(of, batch)


def touched(
    layout: Movable, constraint: AbstractConstraint, params: PyTree, batch: PyTree, step: Any
) -> Movable:
    """The leaves that residuals are computed from, or with entries held at zero or bounded.

    Others have zero columns in the Jacobian: leaving them out makes it smaller. All leaves where
    there is none.
    """
    check_batch(constraint, batch)
    leaves = layout.structure.flatten_up_to(params)

    def residuals(moving: list[Array]) -> Array:
        filled = list(leaves)
        for i, leaf in zip(layout.index, moving, strict=True):
            filled[i] = leaf
        tree = jax.tree.unflatten(layout.structure, filled)
        return flat_residuals(constraint, tree, batch, step, layout.dtype)

    jaxpr = jax.make_jaxpr(residuals)([leaves[i] for i in layout.index]).jaxpr
    read = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    read |= {id(atom) for atom in jaxpr.outvars}  # a leaf may be the residual itself
    used = [id(variable) in read for variable in jaxpr.invars]
    for part in constraint.parts():
        flags = part.pinned(params, step) if _pins(part) else None
        limits = part.box(params, step) if _bounds(part) else None
        for tree in (flags, *(limits or ())):
            if tree is not None:
                held = layout.structure.flatten_up_to(tree)
                used = [u or held[i] is not None for u, i in zip(used, layout.index, strict=True)]
    return layout.only(used) if any(used) else layout


def check_batch(constraint: AbstractConstraint, batch: PyTree) -> None:
    """A batch must come if and only if a constraint takes one."""
    if constraint.takes_batch and batch is None:
        msg = (
            "constraint_batch must be given, because the constraint is a function of params and a "
            "batch; got None. Call update(updates, state, params, constraint_batch=batch)."
        )
        raise ValueError(msg)
    if not constraint.takes_batch and batch is not None:
        msg = (
            "constraint_batch was given, and no constraint takes a batch. Leave it out, or write "
            "the constraint as fn(params, batch)."
        )
        raise ValueError(msg)


def violation_of(residuals: Float[Array, " p"], inequality: Any) -> Float[Array, " p"]:
    """Residuals of equalities, and the positive part of those of inequalities."""
    if not np.any(inequality):
        return residuals
    return jnp.where(inequality, jnp.maximum(residuals, 0), residuals)


def root_mean_square(x: Array) -> Float[Array, ""]:
    """0 for no numbers; safe against overflow of squares."""
    if x.size == 0:
        return jnp.zeros((), x.dtype)
    return column_norm(x) / x.size**0.5


def size_of_violation(
    violated: Float[Array, " p"],
    theta: Float[Array, " n"],
    pinned: Bool[Array, " n"] | None,
    box: tuple[Float[Array, " n"], Float[Array, " n"]] | None,
) -> Float[Array, ""]:
    """One number for how far a point is from what is asked of it; 0 only where all of it holds.

    Root of the sum of squares of three: the root mean square of the residuals, that of entries to
    be zero, and the distance of the farthest entry outside of its bounds. Each is taken over
    numbers that are the same at every point, and none lessens another.
    """
    sizes = [root_mean_square(violated)]
    if pinned is not None:
        norm = column_norm(jnp.where(pinned, theta, 0))
        sizes.append(norm / jnp.sqrt(jnp.maximum(jnp.sum(pinned), 1).astype(norm.dtype)))
    if box is not None:
        low, high = box  # where they cross, every point is outside of one of them
        beyond = jnp.maximum(jnp.maximum(low - theta, theta - high), 0)
        sizes.append(jnp.max(beyond, initial=0))
    return column_norm(jnp.stack(sizes))


def pinned_entries(
    constraint: AbstractConstraint, params: PyTree, step: Any, layout: Movable
) -> tuple[Bool[Array, " n"] | None, Float[Array, " n"] | None]:
    """Entries of the flat vector that are held at zero, and what a step takes off each of them."""
    pinned, pull = None, None
    for part in constraint.parts():
        tree = part.pinned(params, step)
        if tree is None:
            continue
        flags = layout.structure.flatten_up_to(tree)
        pieces = []
        for i, shape in zip(layout.index, layout.shapes, strict=True):
            flag = False if flags[i] is None else flags[i]
            pieces.append(jnp.ravel(jnp.broadcast_to(flag, shape)))
        flat = jnp.concatenate(pieces)
        rate = jnp.where(flat, jnp.asarray(part.pull(step), layout.dtype), 0)
        pinned = flat if pinned is None else pinned | flat
        pull = rate if pull is None else jnp.maximum(pull, rate)
    return pinned, pull


def box_of(
    constraint: AbstractConstraint,
    params: PyTree,
    step: Any,
    layout: Movable,
    pinned: Bool[Array, " n"] | None,
) -> tuple[Float[Array, " n"], Float[Array, " n"]] | None:
    """Bounds of the entries of the flat vector, of all boxes together; None where there is none.

    Entries that are held at zero have none.
    """
    low, high = None, None
    for part in constraint.parts():
        limits = part.box(params, step)
        if limits is None:
            continue
        lower, upper = (
            _flat_limit(tree, layout, sign) for tree, sign in zip(limits, (-1, 1), strict=True)
        )
        low = lower if low is None else jnp.maximum(low, lower)
        high = upper if high is None else jnp.minimum(high, upper)
    if low is None or high is None:
        return None
    if pinned is not None:
        low, high = jnp.where(pinned, -jnp.inf, low), jnp.where(pinned, jnp.inf, high)
    return low, high


def check_boxes(constraint: AbstractConstraint, params: PyTree, step: Any, layout: Movable) -> None:
    """Refuse bounds that do not fit the parameters, or that no point keeps.

    Raises
    ------
    ValueError
        Under `jit` only for the shapes: whether bounds cross is then seen in the violation.
    """
    box = box_of(constraint, params, step, layout, None)
    if box is None or is_traced(box[0]) or is_traced(box[1]):
        return
    low, high = np.asarray(box[0]), np.asarray(box[1])
    crossed = np.flatnonzero(low > high)
    if crossed.size:
        first = crossed[0]
        msg = (
            "boxes of a constraint must leave room between their bounds; got a lower bound of "
            f"{low[first]:g} above an upper one of {high[first]:g}, and so for {crossed.size} "
            "entries. Widen a box, or let `where` pick other leaves."
        )
        raise ValueError(msg)


def _flat_limit(tree: PyTree, layout: Movable, sign: int) -> Float[Array, " n"]:
    leaves = layout.structure.flatten_up_to(tree)
    pieces = []
    for i, shape in zip(layout.index, layout.shapes, strict=True):
        limit = sign * np.inf if leaves[i] is None else leaves[i]
        pieces.append(jnp.ravel(jnp.broadcast_to(jnp.asarray(limit, layout.dtype), shape)))
    return jnp.concatenate(pieces)
