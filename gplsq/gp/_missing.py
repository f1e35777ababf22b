"""Outputs that are observed at the same rows, which share their solves."""

from typing import Any, NamedTuple

import numpy as np

from gplsq._core import describe


class OutputGroup(NamedTuple):
    """Some outputs, and the rows at which all of them are observed and no others."""

    columns: tuple[int, ...]
    rows: np.ndarray


def check_observed(observed: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Which entries of targets of a shape (n, p) there are; all of them by default.

    Raises
    ------
    ValueError
        If it is no boolean table of that shape, or an output has none.
    """
    if observed is None:
        return np.ones(shape, bool)
    mask = np.asarray(observed)
    if mask.dtype != bool or mask.shape != shape or len(shape) != 2:
        msg = (
            f"observed must say True or False for each of the targets, shape (n, p); got "
            f"{describe(observed)} for targets of shape {shape}. Pass for example np.isfinite(y)."
        )
        raise ValueError(msg)
    if not mask.any(axis=0).all():
        missing = np.flatnonzero(~mask.any(axis=0)).tolist()
        msg = f"observed has no target of the outputs {missing}. Leave them out of y."
        raise ValueError(msg)
    return mask


def group_outputs(observed: np.ndarray) -> list[OutputGroup]:
    """Groups of the columns of a mask of shape (n, p), in the order of their first columns."""
    groups: dict[bytes, list[int]] = {}
    for column in range(observed.shape[1]):
        groups.setdefault(observed[:, column].tobytes(), []).append(column)
    return [
        OutputGroup(tuple(columns), np.flatnonzero(observed[:, columns[0]]))
        for columns in groups.values()
    ]
