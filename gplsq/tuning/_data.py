"""Targets and groups of a tuning run, as callers pass them."""

from typing import Any

import numpy as np

from gplsq.gp import OutputGroup, check_observed, group_outputs


def as_groups_of_outputs(y: np.ndarray, observed: Any) -> tuple[list[OutputGroup], np.ndarray]:
    """Outputs in groups, and the targets with NaN where they are missing."""
    if y.ndim == 1 and observed is None:
        return [OutputGroup((), np.arange(len(y)))], y
    mask = check_observed(observed, y.shape)
    if np.any(mask.sum(axis=0) < 2):
        few = np.flatnonzero(mask.sum(axis=0) < 2).tolist()
        msg = (
            f"tuning needs two targets of each output; the outputs {few} have one. Leave them out."
        )
        raise ValueError(msg)
    return group_outputs(mask), y if mask.all() else np.where(mask, y, np.nan)


def check_groups(groups: Any, n: int) -> np.ndarray | None:
    """Groups as whole numbers from 0."""
    if groups is None:
        return None
    labels = np.asarray(groups)
    if labels.shape != (n,):
        msg = f"groups must have one label for each of the {n} rows; got shape {labels.shape}."
        raise ValueError(msg)
    found, numbers = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        msg = "groups must hold at least two different labels: one group cannot predict itself."
        raise ValueError(msg)
    return numbers.astype(np.int32)
