"""Rows that count differently, or are observed with different noise."""

from typing import Any, NamedTuple

import numpy as np

from gplsq._core import describe, like_columns
from gplsq.estimators._outcome import parts_of
from gplsq.estimators._table import check_plain
from gplsq.gp import CorrelatedOutputs
from gplsq.operators import RowTable


class RowWeights(NamedTuple):
    """Weights of rows in the sense of `gplsq.kernels.Weighted`.

    Whole weights are not turned into repeated rows anywhere: each would be predicted by its own
    copies while a model is tuned, and 300 rows of weight 2 had five times the error.

    Attributes
    ----------
    used
        Which rows of the table are used, shape (n,).
    weight
        Of the rows that are, shape (t,).
    repeats
        How often each of them counts in the scaling, or None for once.
    noise_variance
        Of a row of weight one, in squared units of y, or None where it is to be tuned.
    """

    used: np.ndarray
    weight: np.ndarray
    repeats: np.ndarray | None
    noise_variance: float | None

    def apply(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The standardised rows that are used, multiplied by their weights."""
        weight = self.weight.astype(X.dtype)
        return with_weights(X, weight), y * like_columns(weight, y)


def row_weights(
    X: np.ndarray | RowTable, there: np.ndarray, sample_weight: Any, noise_variance: Any
) -> RowWeights | None:
    """Weights from what `fit` got; None where all rows are alike.

    `there` says which rows have a target, shape (n,); the others are not used.

    Raises
    ------
    ValueError
        For numbers that are no weights or variances, or for both at once.
    """
    if sample_weight is None and noise_variance is None:
        return None
    if sample_weight is not None and noise_variance is not None:
        msg = "sample_weight and noise_variance cannot both be given: one follows from the other."
        raise ValueError(msg)
    if isinstance(X, RowTable):
        msg = "rows of a RowTable have equal weights and noise; pass an array with these arguments."
        raise ValueError(msg)
    if sample_weight is not None:
        repeats = _checked("sample_weight", sample_weight, len(there), strict=False)
        used = (repeats > 0) & there
        if used.sum() < 2:
            msg = "sample_weight is zero for all rows, or all but one; a fit needs two rows."
            raise ValueError(msg)
        return RowWeights(used, np.sqrt(repeats[used]), repeats[used], None)
    noise = _checked("noise_variance", noise_variance, len(there), strict=True)[there]
    # A typical row has weight one, so that the spread of the weights is all they change.
    typical = float(np.exp(np.mean(np.log(noise))))
    return RowWeights(there, np.sqrt(typical / noise), None, typical)


def _checked(name: str, values: Any, n: int, *, strict: bool) -> np.ndarray:
    check_plain(**{name: values})
    numbers = np.asarray(values)
    real = np.issubdtype(numbers.dtype, np.number) and not np.iscomplexobj(numbers)
    if not real or numbers.shape != (n,):
        msg = (
            f"{name} must hold one number for each of the {n} rows; got {describe(numbers)}. In "
            "cross-validation it is sliced along with them: see set_fit_request."
        )
        raise ValueError(msg)
    numbers = numbers.astype(np.float64)
    wrong = ~np.isfinite(numbers) | (numbers <= 0 if strict else numbers < 0)
    if wrong.any():
        kind = "positive" if strict else "not negative"
        msg = (
            f"{name} must be finite and {kind}; got {numbers[wrong][0]!r} in row "
            f"{np.flatnonzero(wrong)[0]} and {wrong.sum() - 1} more like it."
        )
        raise ValueError(msg)
    return numbers


def with_weights(X: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """A table with a last column of weights, one by default."""
    column = np.ones(len(X), X.dtype) if weight is None else weight
    return np.column_stack([X, column]).astype(X.dtype)


def is_weighted(model: Any) -> bool:
    """Whether a fitted estimator's posterior has one more column than its tables, of weights."""
    columns = parts_of(model.posterior_)[0].X.shape[1]
    return columns - isinstance(model.posterior_, CorrelatedOutputs) > model.n_features_in_


def fitted_rows(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a fit, standardised and without their weights."""
    X, y = np.asarray(model.posterior_.X), np.asarray(model.posterior_.y)
    return (X[:, :-1], y / like_columns(X[:, -1], y)) if is_weighted(model) else (X, y)


def inducing_points(model: Any, weighted: bool) -> Any:
    """`model.inducing`; points, in the units of X, as the model sees them."""
    try:
        points = np.asarray(model.inducing, np.float64)
    except (TypeError, ValueError):
        return model.inducing  # refused where it is used
    if points.shape[1:] != (model.n_features_in_,):
        return model.inducing
    points = model._X_scaling.apply(points, np.float64)
    return with_weights(points) if weighted else points


def known_noise(rows: RowWeights | None, scales: Any) -> float | None:
    """Noise variance of a row of weight one, if the rows' own were given."""
    if rows is None or rows.noise_variance is None:
        return None
    scale = np.unique(scales)
    if len(scale) > 1:
        msg = (
            "noise_variance is in squared units of y, but the outputs of y have different "
            "scales. Fit them one by one, or pass sample_weight, or standardize=False."
        )
        raise ValueError(msg)
    return rows.noise_variance / float(scale[0]) ** 2
