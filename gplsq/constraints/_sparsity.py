"""Weights that are exactly zero: a target fraction, reached gradually."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gplsq._core import check_choice, check_count, check_finite_scalar
from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._params import is_floating
from gplsq.constraints._select import check_where, places


class Sparsity(AbstractConstraint):
    """A fraction of the weights is zero: those of least magnitude, chosen anew at every step.

    The zero entries are eliminated from the step, which costs no solve; they are exactly zero from
    `end_step` on (with `correction_rate` and learning rate of any value).

    Parameters
    ----------
    fraction
        Target, from 0 to less than 1.
    where
        Picks leaves of params; by default all with two axes or more, so that biases stay dense.
    scope
        `"tensor"`: the fraction of each picked leaf; `"global"`: of all of them together.
    structure
        What is zeroed together: `"entries"` alone; `"rows"`, all entries of one index of the first
        axis; or a pair (a, b) for blocks of a rows and b columns, of a leaf taken as a matrix of
        its first axis and all others. Groups of least norm go; a and b must divide the sizes.
    begin_step, end_step
        The fraction grows from 0 to its target between these steps, as ``1 - (1 - t)^3`` (Zhu &
        Gupta 2017). With `end_step` 0, the default, it holds from the first step.
    rate
        Share of a chosen entry that a step takes off before `end_step`; 1 zeroes it at once, a
        smaller one lets it decay.

    Raises
    ------
    TypeError, ValueError
        For numbers out of range, or a leaf that `where` does not take from params.

    Notes
    -----
    The threshold is found by bisection on the bits of the magnitudes: 32 passes over the weights,
    no sorting. Ties are zeroed together.
    """

    fraction: float = eqx.field(static=True)
    where: Callable | None = eqx.field(static=True)
    scope: str = eqx.field(static=True)
    structure: str | tuple[int, int] = eqx.field(static=True)
    begin_step: int = eqx.field(static=True)
    end_step: int = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __init__(
        self,
        fraction: float,
        where: Callable | None = None,
        *,
        scope: str = "tensor",
        structure: str | tuple[int, int] = "entries",
        begin_step: int = 0,
        end_step: int = 0,
        rate: float = 1.0,
    ):
        check_where(where)
        self.fraction = check_finite_scalar("fraction", fraction, minimum=0.0)
        self.rate = check_finite_scalar("rate", rate, minimum=0.0, strict=True)
        if self.fraction >= 1 or self.rate > 1:
            msg = (
                f"fraction must be below 1 and rate at most 1; got {fraction} and {rate}. A "
                "fraction of 0.9 zeroes 90 %."
            )
            raise ValueError(msg)
        begin_step = check_count("begin_step", begin_step)
        end_step = check_count("end_step", end_step, minimum=begin_step)
        self.where = where
        self.scope = check_choice("scope", scope, ("tensor", "global"))
        self.structure = _check_structure(structure)
        self.begin_step, self.end_step = begin_step, end_step

    def residuals(self, params, batch=None, step=None):
        """None: what is zero is pinned."""
        return []

    def pull(self, step):
        if step is None or self.end_step == 0:
            return 1.0
        return jnp.where(jnp.asarray(step) >= self.end_step, 1.0, self.rate)

    def fraction_at(self, step: Any) -> Float[Array, ""]:
        """The fraction that holds at a step; the target where step is None."""
        if step is None:
            return jnp.asarray(self.fraction)
        begin, length = self.begin_step, max(self.end_step - self.begin_step, 1)
        share = jnp.clip((jnp.asarray(step) - begin) / length, 0, 1)
        share = jnp.where(jnp.asarray(step) >= self.end_step, 1, share)
        return self.fraction * (1 - (1 - share) ** 3)

    def masks(self, params: PyTree, step: Any = None) -> PyTree:
        """True where a weight stays: shaped like params, None for leaves that are not picked."""
        pinned = self.pinned(params, step)
        return jax.tree.map(jnp.logical_not, pinned)

    def pinned(self, params, step=None):
        chosen = self._chosen(params)
        leaves, structure = jax.tree.flatten(params)
        scores = {i: jax.lax.stop_gradient(self._score(leaves[i])) for i in chosen}
        fraction = self.fraction_at(step)
        if self.scope == "global":
            together = jnp.concatenate([jnp.ravel(s).astype(jnp.float32) for s in scores.values()])
            weights = None
            if self.structure != "entries":  # a group counts as many times as it has entries
                weights = np.concatenate(
                    [
                        np.full(s.size, leaves[i].size / max(s.size, 1), np.float32)
                        for i, s in scores.items()
                    ]
                )
            bound = _threshold(together, fraction, weights)
            limits = dict.fromkeys(scores, bound)
        else:
            limits = {i: _threshold(jnp.ravel(score), fraction) for i, score in scores.items()}
        flags: list[Any] = [None] * len(leaves)
        for i, score in scores.items():
            low = score.astype(jnp.float32) <= limits[i]
            of_groups = jnp.broadcast_to(low, self._grouped(leaves[i])[0])
            flags[i] = of_groups.reshape(leaves[i].shape)
        return jax.tree.unflatten(structure, flags)

    def _chosen(self, params: PyTree) -> list[int]:
        """Positions of the picked leaves."""
        leaves, found = jax.tree.leaves(params), places(self.where, params)
        if self.where is None:
            found = [i for i in found if is_floating(leaves[i]) and leaves[i].ndim >= 2]
        if not found:
            msg = (
                "Sparsity must find leaves to thin out; got none. Without `where` these have two "
                "axes or more; with it, return leaves of params as they are, not computed from."
            )
            raise ValueError(msg)
        return found

    def _score(self, leaf: Array) -> Array:
        shape, axes = self._grouped(leaf)
        magnitude = jnp.abs(leaf).reshape(shape)
        return jnp.sqrt(jnp.mean(magnitude**2, axis=axes, keepdims=True)) if axes else magnitude

    def _grouped(self, leaf: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A shape of the same entries, and its axes along which a group extends."""
        by_rows = isinstance(self.structure, str)
        if self.structure == "entries" or leaf.size == 0 or (by_rows and leaf.ndim < 2):
            return leaf.shape, ()
        if not by_rows and leaf.ndim < 2:
            msg = (
                "structure must suit each leaf, and a block is for two axes or more; got "
                f"{self.structure} for a leaf of shape {leaf.shape}. Pick leaves by where=."
            )
            raise ValueError(msg)
        rows, columns = leaf.shape[0], leaf.size // leaf.shape[0]
        if isinstance(self.structure, str):
            return (rows, columns), (1,)
        high, wide = self.structure
        if rows % high or columns % wide:
            msg = (
                f"structure must be a block that divides each leaf; got {high} x {wide} for a leaf "
                f"of {rows} x {columns}. Pick leaves by where=, or pass another block."
            )
            raise ValueError(msg)
        return (rows // high, high, columns // wide, wide), (1, 3)


def _check_structure(structure: Any) -> str | tuple[int, int]:
    if isinstance(structure, tuple | list) and len(structure) == 2:
        high, wide = structure
        check_count("structure", high, minimum=1)
        check_count("structure", wide, minimum=1)
        return int(high), int(wide)
    return check_choice("structure", structure, ("entries", "rows"))


def _threshold(scores: Array, fraction: Array, weights: np.ndarray | None = None) -> Array:
    """The least number such that the fraction of scores up to it is no less than `fraction`.

    Non-negative floating-point numbers are ordered as their bits are, which bisection halves.
    Below every score (-1) where the fraction rounds to none.
    """
    values = scores.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    total = values.size if weights is None else float(weights.sum())
    wanted = jnp.round(fraction * total)

    def count(bound: Array) -> Array:
        low = bits <= bound
        return jnp.sum(low) if weights is None else jnp.sum(jnp.where(low, weights, 0))

    def halve(_, ends):
        below, enough = ends
        middle = below + (enough - below) // 2
        reached = count(middle) >= wanted
        return jnp.where(reached, below, middle), jnp.where(reached, middle, enough)

    def bisect():
        ends = jnp.asarray(-1, jnp.int32), jnp.asarray(0x7F800000, jnp.int32)
        return jax.lax.fori_loop(0, 32, halve, ends)[1]

    # Once the target is reached the zeros are those that there are: one pass.
    zero = jnp.zeros((), jnp.int32)
    bound = jax.lax.cond(count(zero) >= wanted, lambda: zero, bisect)
    found = jax.lax.bitcast_convert_type(bound, jnp.float32)
    return jnp.where(wanted < 0.5, -1.0, found)
