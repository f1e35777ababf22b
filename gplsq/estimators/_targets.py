"""Targets: one or several outputs, some of them missing, and how outputs are put together."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gplsq._core import describe
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
    if isinstance(X, RowTable):
        msg = (
            "y has rows without a target, and rows of a RowTable cannot be dropped. Pass a table "
            "of the other rows."
        )
        raise ValueError(msg)
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


def check_table_mean(X: Any, mean: Any) -> None:
    """Refuse a mean function for a table beyond memory."""
    if isinstance(X, RowTable) and mean != "zero":
        msg = f'models of a RowTable have mean="zero"; got {describe(mean)}. Pass an array.'
        raise ValueError(msg)


def own_mean(mean: Any, X: Any, shape: tuple[int, ...]) -> np.ndarray | float:
    """Values of a mean function of the user's own at rows, shape (n,) or (n, p); 0 for others.

    Raises
    ------
    ValueError
        If it does not give one finite number for each target.
    """
    if not callable(mean):
        return 0.0
    values = np.asarray(mean(X))
    if values.dtype.kind not in "biuf" or values.shape != shape or not np.isfinite(values).all():
        msg = (
            f"mean must return one finite number for each target, shape {shape}; got "
            f"{describe(values)}. It is given the rows as they are, shape {X.shape}."
        )
        raise ValueError(msg)
    return values.astype(np.float64)


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
        column -= basis @ fitted
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
    if kernel is not None and has_outputs(kernel):
        return kernel
    inner = Matern32(jnp.ones(d)) if kernel is None else kernel
    p = y.shape[1]
    rank = min(2, max(1, p - 1))
    mixing, kappa = _factor(_correlations(y), rank)
    return Coregionalised(inner, p, mixing=mixing, kappa=kappa)


def has_outputs(kernel: AbstractKernel) -> bool:
    """Whether a kernel, or one it is made of, is over pairs of a point and an output."""

    def is_node(node: Any) -> bool:
        return isinstance(node, Coregionalised)

    return any(map(is_node, jax.tree.leaves(kernel, is_leaf=is_node)))


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
