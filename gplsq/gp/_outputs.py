"""Posteriors of several outputs that do not share all rows, or that are correlated."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import is_traced, jit_quickly, savable
from gplsq.gp._condition import condition
from gplsq.gp._inputs import check_rows, points_like, rows_like
from gplsq.gp._low_rank import LowRankPosterior
from gplsq.gp._mean import MeanBasis, MeanPosterior, condition_around_mean
from gplsq.gp._missing import check_observed, group_outputs
from gplsq.gp._posterior import Posterior, joint_draws
from gplsq.kernels import AbstractKernel
from gplsq.operators import RowTable


@savable
class SeparateOutputs(eqx.Module):
    """Independent outputs of one kernel, of which not all are observed at all rows.

    Attributes
    ----------
    parts
        A posterior for each group of outputs that are observed at the same rows.
    columns
        Which outputs they are, tuples of numbers.
    """

    parts: tuple[Posterior | LowRankPosterior | MeanPosterior, ...]
    columns: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        """p."""
        return sum(map(len, self.columns))

    def mean(self, Z: ArrayLike) -> Float[Array, "m p"]:
        """Posterior means at Z, shape (m, d)."""
        return _in_order([part.mean(Z) for part in self.parts], self.columns)

    def raw_variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, "m p"]:
        """Variances of the latent functions, before negative rounding errors are set to 0."""
        return _spread([part.raw_variance(Z, method) for part in self.parts], self.columns)

    def variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, "m p"]:
        """Variances of the latent functions at Z; never negative. See `Posterior.variance`."""
        return jnp.maximum(self.raw_variance(Z, method), 0)

    def covariance(self, Z: ArrayLike) -> Float[Array, "m m p"]:
        """Joint covariance of each output at the points Z; outputs are independent."""
        return _spread([part.covariance(Z) for part in self.parts], self.columns)

    def sample(self, key: Array, Z: ArrayLike, num: int = 1) -> Float[Array, "m p num"]:
        """Joint draws of the latent functions at Z."""
        keys = jax.random.split(key, len(self.parts))
        parts = zip(self.parts, keys, strict=True)
        return _in_order([part.sample(one, Z, num) for part, one in parts], self.columns)

    def update(self, X: ArrayLike, y: ArrayLike) -> "SeparateOutputs":
        """Given more rows with all their targets, shapes (s, d) and (s, p).

        Raises
        ------
        ValueError
            If shapes do not match, or a target is missing or infinite.
        """
        points, target = rows_like(self.parts[0].X, (self.num_outputs,), X, y)
        _check_numbers(target, missing=False)
        parts = zip(self.parts, self.columns, strict=True)
        updated = [part.update(points, target[:, np.asarray(columns)]) for part, columns in parts]
        return SeparateOutputs(tuple(updated), self.columns)

    def for_pickle(self) -> "SeparateOutputs":
        """The same for a pickle, see `Posterior.for_pickle`."""
        parts = tuple(part.for_pickle() for part in self.parts)
        return SeparateOutputs(parts, self.columns)


@jit_quickly
def _in_order(values: list[Array], columns: tuple[tuple[int, ...], ...]) -> Array:
    """Blocks of outputs along the second axis, sorted by output."""
    order = np.argsort(np.concatenate(columns))
    return jnp.concatenate(values, axis=1)[:, order]


@jit_quickly
def _spread(values: list[Array], columns: tuple[tuple[int, ...], ...]) -> Array:
    """Numbers of groups, for each output along a last axis."""
    owner = {column: i for i, group in enumerate(columns) for column in group}
    return jnp.stack([values[owner[j]] for j in range(len(owner))], axis=-1)


def _check_numbers(y: Array, *, missing: bool) -> None:
    """Refuse further targets that are infinite or, unless these may be `missing`, NaN."""
    if is_traced(y):
        return
    numbers = np.asarray(y)
    if np.isinf(numbers).any() or (np.isnan(numbers).any() and not missing):
        wrong = numbers[np.isinf(numbers) if missing else ~np.isfinite(numbers)]
        what = (
            "finite, or NaN where they are missing" if missing else "finite, none of them missing"
        )
        msg = f"targets in y must be {what}; got {wrong[0]} and {wrong.size - 1} more like it."
        raise ValueError(msg)


@savable
class CorrelatedOutputs(eqx.Module):
    """Outputs that are correlated: one process over pairs of a point and an output.

    Attributes
    ----------
    pairs
        The posterior of that process; its points have one more column, the number of the output.
    num_outputs
        p.
    column
        Where the number of the output is.
    """

    pairs: Posterior | LowRankPosterior | MeanPosterior
    num_outputs: int = eqx.field(static=True)
    column: int = eqx.field(static=True)

    @property
    def parts(self) -> tuple[Posterior | LowRankPosterior | MeanPosterior, ...]:
        """The one posterior there is."""
        return (self.pairs,)

    def mean(self, Z: ArrayLike) -> Float[Array, "m p"]:
        """Posterior means at Z, shape (m, d)."""
        return self.pairs.mean(self._at_all(Z)).reshape(-1, self.num_outputs)

    def raw_variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, "m p"]:
        """Variances of the latent functions, before negative rounding errors are set to 0."""
        variance = self.pairs.raw_variance(self._at_all(Z), method)
        return variance.reshape(-1, self.num_outputs)

    def variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, "m p"]:
        """Variances of the latent functions at Z; never negative. See `Posterior.variance`."""
        return jnp.maximum(self.raw_variance(Z, method), 0)

    def covariance(self, Z: ArrayLike) -> Float[Array, "m m p"]:
        """Joint covariance of each output at the points Z; `joint_covariance` has all pairs."""
        p, all_pairs = self.num_outputs, self._at_all(Z)
        return jnp.stack([self.pairs.covariance(all_pairs[j::p]) for j in range(p)], axis=-1)

    def joint_covariance(self, Z: ArrayLike) -> Float[Array, "m p m p"]:
        """Covariance of all outputs at all points; (m p)^2 numbers."""
        p = self.num_outputs
        full = self.pairs.covariance(self._at_all(Z))
        return full.reshape(full.shape[0] // p, p, full.shape[0] // p, p)

    def sample(self, key: Array, Z: ArrayLike, num: int = 1) -> Float[Array, "m p num"]:
        """Joint draws of all latent functions at Z."""
        points = self._at_all(Z)
        draws = joint_draws(key, self.pairs.mean(points), self.pairs.covariance(points), num)
        return draws.reshape(-1, self.num_outputs, num)

    def update(self, X: ArrayLike, y: ArrayLike) -> "CorrelatedOutputs":
        """Given more rows, shapes (s, d) and (s, p); NaN are targets that are missing.

        Raises
        ------
        ValueError
            If shapes do not match, or a target is infinite.
        """
        data = rows_like(_without_output(self.pairs.X), (self.num_outputs,), X, y)
        _check_numbers(data[1], missing=True)
        points, target = map(np.asarray, data)
        pairs = self.pairs.update(*as_pairs(points, target, ~np.isnan(target), self.column))
        return CorrelatedOutputs(pairs, self.num_outputs, self.column)

    def for_pickle(self) -> "CorrelatedOutputs":
        """The same for a pickle, see `Posterior.for_pickle`."""
        return CorrelatedOutputs(self.pairs.for_pickle(), self.num_outputs, self.column)

    def _at_all(self, Z: ArrayLike) -> Float[Array, "mp e"]:
        """Every point with every output, point by point."""
        points = points_like(Z, _without_output(self.pairs.X))
        return at_all_outputs(points, self.num_outputs, self.column)


@jit_quickly
def at_all_outputs(Z: Any, num_outputs: int, column: int) -> Any:
    """Every point, shape (m, d), with the number of every output; shape (m p, d + 1)."""
    outputs = jnp.tile(jnp.arange(num_outputs, dtype=Z.dtype), Z.shape[0])
    return jnp.insert(jnp.repeat(Z, num_outputs, axis=0), column, outputs, axis=1)


def _without_output(X: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of points without the number of an output."""
    return jax.ShapeDtypeStruct((X.shape[0], X.shape[1] - 1), X.dtype)


def as_pairs(
    X: np.ndarray, y: np.ndarray, observed: np.ndarray, column: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points with the number of an output, and targets, of those there are: (t, d + 1), (t,)."""
    rows, outputs = np.nonzero(observed)
    return np.insert(X[rows], column, outputs, axis=1), y[rows, outputs]


def condition_outputs(
    kernel: AbstractKernel,
    X: ArrayLike | RowTable,
    y: ArrayLike,
    *,
    noise_variance: ArrayLike,
    observed: ArrayLike | None = None,
    correlated: bool = False,
    column: int | None = None,
    mean: str = "zero",
    weighted: bool = False,
    inducing: Any = None,
    **settings: Any,
) -> Posterior | LowRankPosterior | MeanPosterior | SeparateOutputs | CorrelatedOutputs:
    """Condition several outputs on what is observed of each.

    Parameters
    ----------
    kernel
        Of the points; of correlated outputs of points with one more column, the number of the
        output: see `gplsq.kernels.Coregionalised`.
    X, y
        Shapes (n, d), and (n,) or (n, p).
    noise_variance
        Of all outputs, in squared units of y; positive.
    observed
        Booleans of shape (n, p): which targets there are. All by default.
    correlated
        Whether the outputs are one process over pairs of a point and an output, or independent.
    column
        Of correlated outputs: where the number of the output goes among the columns, the end by
        default.
    mean
        ``"zero"``, or ``"constant"`` or ``"linear"``: see `condition_around_mean`. Every output has
        coefficients of its own.
    weighted
        Whether the last column is the weight of a row, which a mean then has to know.
    inducing, **settings
        As in `condition`. Inducing points of shape (m, d) are taken at all outputs.

    Returns
    -------
    Posterior, LowRankPosterior, MeanPosterior, SeparateOutputs or CorrelatedOutputs
        The first three for independent outputs that are all observed at the same rows: they share
        one factorisation or one block solve. Outputs observed at different rows share it in groups,
        and correlated ones are one solve for all targets there are.

    Raises
    ------
    ValueError
        If shapes do not match, an output has no target, or `correlated` or `observed` comes with
        one output, y of shape (n,).

    Notes
    -----
    Cost: with `Direct` n^3 / 3 flops for each group of outputs, and (n p)^3 / 3 for correlated
    ones.
    """
    target = np.asarray(y)
    check_rows(X.shape if isinstance(X, RowTable) else np.shape(X), target.shape)
    settings["noise_variance"] = noise_variance
    fit: Any = condition
    if mean != "zero":
        fit = functools.partial(condition_around_mean, mean=MeanBasis(mean, weighted=weighted))
    if target.ndim == 1 and (correlated or observed is not None):
        msg = (
            f"correlated and observed are of several outputs, y of shape (n, p); got y of shape "
            f"{target.shape}. Leave them out, and rows without a target too."
        )
        raise ValueError(msg)
    if target.ndim == 1:
        return fit(kernel, X, target, inducing=inducing, **settings)
    mask = check_observed(observed, target.shape)
    if correlated:
        if isinstance(X, RowTable):
            msg = "X is a RowTable, which independent outputs alone can use. Pass an array."
            raise ValueError(msg)
        place = np.shape(X)[1] - weighted if column is None else column
        p = target.shape[1]
        if np.ndim(inducing) == 2 and np.shape(inducing)[1] == np.shape(X)[1]:
            inducing = at_all_outputs(jnp.asarray(inducing), p, place)
        points, values = as_pairs(np.asarray(X), target, mask, place)
        if mean != "zero":
            basis = MeanBasis(mean, outputs=p, column=place, weighted=weighted)
            fit = functools.partial(condition_around_mean, mean=basis)
        pairs = fit(kernel, points, values, inducing=inducing, **settings)
        return CorrelatedOutputs(pairs, p, place)
    if mask.all():
        return fit(kernel, X, target, inducing=inducing, **settings)
    if isinstance(X, RowTable):
        msg = "rows of a RowTable have all their targets; some are missing. Pass an array."
        raise ValueError(msg)
    table = np.asarray(X)
    groups = group_outputs(mask)
    settings["inducing"] = inducing
    parts = [
        fit(kernel, table[rows], target[rows][:, list(columns)], **settings)
        for columns, rows in groups
    ]
    return SeparateOutputs(tuple(parts), tuple(group.columns for group in groups))
