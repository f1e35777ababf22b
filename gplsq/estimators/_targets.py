"""Targets: one or several outputs, some of them missing, and how outputs are put together."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gplsq._core import describe, parts_of_type
from gplsq.estimators._scaling import Scaling, fit_scaling
from gplsq.gp import MEANS
from gplsq.kernels import AbstractKernel, Coregionalised, Matern32
from gplsq.operators import RowTable

# Rows with both targets from which a correlation of two outputs is taken.
_FEWEST_JOINT_ROWS = 5


def rows_with_target(y: np.ndarray) -> np.ndarray:
    """Which rows have a target of any output, shape (n,)."""
    return np.asarray(~np.isnan(y.reshape(len(y), -1)).all(axis=1))


def take_rows(
    X: np.ndarray | RowTable, y: np.ndarray, groups: Any, used: np.ndarray
) -> tuple[Any, np.ndarray, Any]:
    """The rows that are used."""
    if used.all():
        return X, y, groups
    assert not isinstance(X, RowTable)  # whose rows have all their targets and equal weights
    return X[used], y[used], None if groups is None else np.asarray(groups)[used]


def check_targets(y: np.ndarray, outputs: str) -> None:
    """Refuse outputs with too few targets, by name; NaN are those that are missing.

    Raises
    ------
    ValueError
        If an output has none, or less than a fit needs.
    """
    if outputs == "correlated" and y.ndim == 1:
        msg = (
            'outputs="correlated" needs several outputs, y of shape (n, p); got shape '
            f'{y.shape}. Use outputs="independent" for one.'
        )
        raise ValueError(msg)
    counts = (~np.isnan(y)).sum(axis=0)
    if not np.all(counts):
        which = f"of the outputs {np.flatnonzero(counts == 0).tolist()} " if y.ndim == 2 else ""
        msg = f"all targets {which}are missing in y. Leave such outputs out."
        raise ValueError(msg)
    least = 2 if outputs == "independent" else 1
    if np.min(counts) < least or np.sum(counts) < 2:
        few = f"the outputs {np.flatnonzero(counts < 2).tolist()} have" if y.ndim == 2 else "y has"
        msg = (
            f"{few} one target that is not missing; independent outputs need two each. Leave "
            'them out, or use outputs="correlated".'
        )
        raise ValueError(msg)


def fit_target_scaling(y: np.ndarray, enabled: bool, weights: np.ndarray | None) -> Scaling:
    """Scaling of each output by the targets there are."""
    holes = np.isnan(y)
    settings: dict[str, Any] = {"constant_scale": 1.0}
    if not holes.any():
        return fit_scaling(y, enabled, weights=weights, **settings)
    parts = []
    for column, missing in zip(y.T, holes.T, strict=True):
        counts = None if weights is None else weights[~missing]
        parts.append(fit_scaling(column[~missing], enabled, weights=counts, **settings))
    shifts, scales = zip(*parts, strict=True)
    return Scaling(np.array(shifts), np.array(scales))


def check_table(X: Any, y: np.ndarray, mean: Any, outputs: str) -> None:
    """Refuse for a table beyond memory what needs one in memory; before anything is tuned."""
    if not isinstance(X, RowTable):
        return
    if mean != "zero":
        msg = f'models of a RowTable have mean="zero"; got {describe(mean)}. Pass an array.'
        raise ValueError(msg)
    if outputs != "independent":
        msg = f'models of a RowTable have outputs="independent"; got {outputs!r}. Pass an array.'
        raise ValueError(msg)
    if np.isnan(y).any():
        msg = (
            "y misses targets, and rows of a RowTable have all of them. Pass an array, or a table "
            "of the rows that have."
        )
        raise ValueError(msg)


def fitted_mean(model: Any) -> Any:
    """The mean that a model was fitted with, whatever its parameter says now."""
    # Files of before 2026-11-23 have the parameter alone.
    return getattr(model, "_mean", model.mean)


def own_mean(mean: Any, X: Any, shape: tuple[int, ...]) -> np.ndarray | float:
    """Values of a mean function of the user's own at rows, shape (n,) or (n, p); 0 for others.

    Raises
    ------
    ValueError
        If it does not give one finite number for each target.
    """
    if not callable(mean) or len(X) == 0:
        return 0.0
    values = np.asarray(mean(X))
    if values.dtype.kind not in "biuf" or values.shape != shape or not np.isfinite(values).all():
        msg = (
            f"mean must return one finite number for each target, shape {shape}; got "
            f"{describe(values)}. It is given the rows as they are, shape {X.shape}."
        )
        raise ValueError(msg)
    return values.astype(np.float64)


def without_own_mean(mean: Any, X: Any, y: np.ndarray, constant: Any = True) -> np.ndarray:
    """Targets less a mean function of the user's own at rows; as they are for others.

    Exactly 0 for outputs that may be `constant`, shape () or (p,), where only rounding errors of
    float64 are left in every row. What differs by more may be signal, also from a function that
    works in float32.
    """
    own = np.asarray(own_mean(mean, X, y.shape))
    if not own.ndim:
        return y
    left, size = y - own, np.fmax(np.abs(y), np.abs(own))
    # Errors in a row whose terms cancel are those of a typical row. A large row says nothing of
    # others.
    unit = 8 * np.finfo(np.float64).eps
    rounding = unit * size + unit * np.median(size, axis=0)
    vanished = np.all((np.abs(left) <= rounding) | np.isnan(left), axis=0)
    return np.where(constant & vanished, 0 * left, left)


def _residual(y: np.ndarray, fitted: np.ndarray, eps: Any) -> np.ndarray:
    """`y - fitted`, shape (n,), and exactly 0 where only errors of least squares are left.

    Standardisation and tuning would take these for a signal. They are of one size in all rows.
    """
    left = y - fitted
    largest = [np.fmax.reduce(np.abs(part)) for part in (left, y, fitted)]
    return np.where(largest[0] <= 8 * eps * (largest[1] + largest[2]), 0 * left, left)


def without_trend(mean: Any, X: Any, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Targets without the trend that ordinary least squares finds, for tuning.

    Parameters
    ----------
    mean
        ``"constant"`` or ``"linear"``; any other leaves y alone.
    X, y
        Standardised; shapes (n, d), and (n,) or (n, p) with NaN where targets are missing.
    weight
        Of the rows, shape (n,), in the sense of `gplsq.kernels.Weighted`, or None.

    Returns
    -------
    ndarray
        Shaped like y; exactly 0 for an output of which only rounding errors are left.
    """
    if mean not in MEANS:
        return y
    basis = np.ones((len(y), 1))
    if mean == "linear":
        basis = np.column_stack([basis, np.asarray(X, np.float64)])
    weight = np.ones(len(y)) if weight is None else weight
    left = y.reshape(len(y), -1).astype(np.float64)
    for column in left.T:
        there = ~np.isnan(column)
        w = weight[there]
        fitted = np.linalg.lstsq(w[:, None] * basis[there], w * column[there], rcond=None)[0]
        column[:] = _residual(column, basis @ fitted, np.finfo(y.dtype).eps)
    return left.reshape(y.shape).astype(y.dtype)


def is_constant(y: np.ndarray) -> np.ndarray:
    """Whether an output never changes; one answer for each output."""
    return np.nanmax(y, axis=0) == np.nanmin(y, axis=0)


def correlated_kernel(kernel: AbstractKernel | None, y: np.ndarray, d: int) -> AbstractKernel:
    """A kernel over pairs of a point and an output; one that is there already is kept.

    Parameters
    ----------
    kernel
        Of points, or of pairs; None for the default one.
    y
        Standardised targets, shape (n, p), NaN where they are missing.
    d
        Columns of the points.
    """
    for part in parts_of_type(kernel, Coregionalised):
        if part.num_outputs != y.shape[1]:
            msg = (
                f"kernel is of {part.num_outputs} outputs (`Coregionalised.num_outputs`), and y "
                f"has {y.shape[1]}. Make it of {y.shape[1]}, or pass the kernel of points alone."
            )
            raise ValueError(msg)
        return kernel  # type: ignore[return-value]
    inner = Matern32(jnp.ones(d)) if kernel is None else kernel
    p = y.shape[1]
    rank = min(2, max(1, p - 1))
    mixing, kappa = _factor(_correlations(y), rank)
    return Coregionalised(inner, p, mixing=mixing, kappa=kappa)


def _correlations(y: np.ndarray) -> np.ndarray:
    """Of outputs at the rows where two are observed; 1/2 where there are too few."""
    there = ~np.isnan(y)
    filled = np.where(there, y, 0.0)
    joint = there.T.astype(float) @ there
    products = filled.T @ filled
    squares = (filled**2).T @ there
    norms = np.sqrt(squares * squares.T)
    enough = (joint >= _FEWEST_JOINT_ROWS) & (norms > 0)
    found = np.where(enough, products / np.where(enough, norms, 1.0), 0.5)
    np.fill_diagonal(found, 1.0)
    return found


def _factor(correlations: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """`mixing` and `kappa` with `mixing mixing^T + diag(kappa)` close to the correlations."""
    values, vectors = np.linalg.eigh(correlations)
    largest = np.maximum(values[::-1][:rank], 0.05)
    mixing = vectors[:, ::-1][:, :rank] * np.sqrt(0.9 * largest)
    return mixing, np.maximum(1 - np.sum(mixing**2, axis=1), 0.1)
