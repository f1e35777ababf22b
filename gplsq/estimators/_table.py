"""Validation of training data: scikit-learn's for arrays, the same for tables beyond memory."""

from typing import Any

import jax
import numpy as np
from sklearn.utils.validation import check_array, validate_data

from gplsq.gp import memory_budget
from gplsq.operators import RowTable


def validate_training(model: Any, X: Any, y: Any) -> tuple[np.ndarray | RowTable, np.ndarray]:
    """X as it will be used, y in float64; sets the number of columns of the model.

    A memory map of more than a quarter of the model's budget becomes a `RowTable`, whose numbers
    are verified as they are read.
    """
    if isinstance(X, np.memmap) and X.nbytes > memory_budget(model.memory) / 4:
        with jax.enable_x64(X.dtype != np.float32):
            X = RowTable(X)
    if not isinstance(X, RowTable):
        given: Any = X
        X, y = validate_data(
            model, given, y, dtype=(np.float64, np.float32), y_numeric=True, ensure_min_samples=2
        )
        return np.asarray(X), np.asarray(y, np.float64)
    target = np.asarray(check_array(y, ensure_2d=False, dtype="numeric", input_name="y"))
    if target.shape != X.shape[:1] or X.shape[0] < 2:
        msg = (
            f"y must have one number for each of the {X.shape[0]} rows of the table, at least 2; "
            f"got shape {target.shape}."
        )
        raise ValueError(msg)
    model.n_features_in_ = X.shape[1]
    return X, target.astype(np.float64)
