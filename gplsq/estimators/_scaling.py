"""Standardisation of a table or target, and the dtype of all work."""

from typing import NamedTuple

import numpy as np


class Scaling(NamedTuple):
    """`(values - shift) / scale`, column by column."""

    shift: np.ndarray
    scale: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """To standardised units, keeping the dtype."""
        return ((values - self.shift) / self.scale).astype(values.dtype, copy=False)


def fit_scaling(values: np.ndarray, enabled: bool) -> Scaling:
    """Mean and standard deviation, computed in float64; a constant column is only shifted."""
    if not enabled:
        return Scaling(np.zeros(values.shape[1:]), np.ones(values.shape[1:]))
    wide = values.astype(np.float64)
    shift, scale = wide.mean(axis=0), wide.std(axis=0)
    # A column that is constant up to rounding carries nothing: do not blow rounding up.
    noise = 10 * np.finfo(values.dtype).eps * np.abs(shift)
    return Scaling(shift, np.where(scale > noise, scale, 1.0))
