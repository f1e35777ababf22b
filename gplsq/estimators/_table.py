"""Validation of training data: scikit-learn's for arrays, the same for tables beyond memory."""

from typing import Any

import jax
import numpy as np
from sklearn.utils.validation import check_array, column_or_1d, validate_data

from gplsq._core import describe
from gplsq.gp import memory_budget
from gplsq.operators import RowTable


def check_plain(**tables: Any) -> None:
    """Refuse what scikit-learn reads as plain numbers: masked arrays, and dates."""
    for name, table in tables.items():
        if isinstance(table, np.ma.MaskedArray):
            msg = (
                f"{name} must not be a masked array; got {describe(table)}. Pass "
                f"{name}.filled(np.nan), of targets with missing='drop'."
            )
            raise TypeError(msg)
        kind = getattr(getattr(table, "dtype", None), "kind", "")
        if kind in ("M", "m"):
            msg = (
                f"{name} must hold numbers; got {describe(table)}. Convert dates, for example to "
                "days since the first one."
            )
            raise TypeError(msg)


def validate_training(model: Any, X: Any, y: Any) -> tuple[np.ndarray | RowTable, np.ndarray]:
    """X as it will be used, y in float64 with NaN where it is missing and may be.

    Sets the number of columns of the model. A memory map of more than a quarter of the model's
    budget becomes a `RowTable`, whose numbers are verified as they are read.
    """
    check_plain(X=X, y=y)
    if isinstance(X, np.memmap) and X.nbytes > memory_budget(model.memory) / 4:
        with jax.enable_x64(X.dtype != np.float32):
            X = RowTable(X)
    if not isinstance(X, RowTable):
        return validate_rows(model, X, y, ensure_min_samples=2)
    filled, holes = _fill_holes(model, y)
    target = np.asarray(check_array(filled, ensure_2d=False, dtype="numeric", input_name="y"))
    if target.ndim not in (1, 2) or len(target) != X.shape[0] or X.shape[0] < 2:
        msg = (
            f"y must have one number for each of the {X.shape[0]} rows of the table (of several "
            f"outputs one row of numbers), at least 2; got shape {target.shape}."
        )
        raise ValueError(msg)
    model.n_features_in_ = X.shape[1]
    return X, _with_holes(target, holes)


def validate_rows(model: Any, X: Any, y: Any, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows with their targets, y in float64 with NaN where it is missing and may be."""
    check_plain(X=X, y=y)
    filled, holes = _fill_holes(model, y)
    given: Any = filled
    scalar = filled is not None and not hasattr(filled, "shape") and np.asarray(filled).ndim == 0
    if scalar:
        msg = (
            "y should be a 1d array, or a 2d array with a column for each output; got "
            f"{describe(y)} instead."
        )
        raise ValueError(msg)
    settings |= {"dtype": (np.float64, np.float32), "y_numeric": True, "multi_output": True}
    X, y = validate_data(model, X, given, **settings)
    return np.asarray(X), _with_holes(np.asarray(y), holes)


def _fill_holes(model: Any, y: Any) -> tuple[Any, np.ndarray | None]:
    """y with a number where it is NaN, and where that is; what are no numbers is left as it is."""
    try:
        # A table of pandas' own missing values becomes NaN by this method alone.
        own = getattr(y, "to_numpy", None)
        numbers = np.asarray(y)
        if numbers.dtype.kind == "O" and own is not None:
            numbers = own(dtype=float, na_value=np.nan)
        numbers = numbers.astype(float) if numbers.dtype.kind in "fO" else None
    except (TypeError, ValueError):
        numbers = None
    holes = None if numbers is None else np.isnan(numbers)
    if y is None or numbers is None or holes is None or not holes.any():
        return y, None
    if model.missing == "raise":
        msg = (
            f"Input y contains NaN: {holes.sum()} of {holes.size} targets are missing. Fill them, "
            'or pass missing="drop", which fits the targets there are.'
        )
        raise ValueError(msg)
    return np.where(holes, 0.0, numbers), holes


def _with_holes(y: np.ndarray, holes: np.ndarray | None) -> np.ndarray:
    target = y.astype(np.float64)
    if target.ndim == 2 and target.shape[1] == 1:
        target = column_or_1d(target, warn=True)
        holes = None if holes is None else holes.ravel()
    return target if holes is None else np.where(holes, np.nan, target)
