"""Standardisation of a table or a target."""

from typing import NamedTuple

import numpy as np

from gplsq._core import savable
from gplsq.operators import RowTable

# Divided by this a column is 0 in float32 and float64 alike.
_HUGE = 1e300


@savable
class Scaling(NamedTuple):
    """`(values - shift) / scale`, column by column; both in float64."""

    shift: np.ndarray
    scale: np.ndarray

    def apply(self, values: np.ndarray, dtype: np.dtype, name: str | None = None) -> np.ndarray:
        """To standardised units, computed in float64 and then cast.

        Values beyond the range in which squares of `dtype` are finite are moved to its edge, which
        is as far away for a prediction; of data with a `name` they are refused.
        """
        limit = 1e-4 * float(np.sqrt(np.finfo(dtype).max))
        scaled = (values.astype(np.float64) - self.shift) / self.scale
        if name is not None and np.nanmax(np.abs(scaled), initial=0.0) > limit:
            msg = (
                f"{name} holds values of {np.nanmax(np.abs(scaled)):.1e} in units of the model; in "
                f"{dtype} squares of those beyond {limit:.0e} overflow. Pass standardize=True, or "
                "float64."
            )
            raise ValueError(msg)
        return np.clip(scaled, -limit, limit).astype(dtype)


def fit_scaling(
    values: np.ndarray | RowTable,
    enabled: bool,
    *,
    constant_scale: float,
    weights: np.ndarray | None = None,
) -> Scaling:
    """Mean and standard deviation of each column.

    Parameters
    ----------
    values
        Shape (n, d) or (n,); or a table, which is read once.
    enabled
        Without it the scaling changes nothing.
    constant_scale
        Scale of a column that is constant up to rounding. Infinity makes it exactly 0: an input
        that never changed says nothing, and its rounding errors must not be blown up.
    weights
        How often each row counts, shape (n,); once by default.
    """
    if not enabled:
        return Scaling(np.zeros(values.shape[1:]), np.ones(values.shape[1:]))
    eps = np.finfo(values.dtype).eps
    if isinstance(values, RowTable):
        shift, scale = values.moments()
        constant = scale <= 10 * eps * np.abs(shift)
        return Scaling(shift, np.where(constant, min(constant_scale, _HUGE), scale))
    # Divided by the largest entry, so that squares of 1e200 stay finite.
    largest = np.max(np.abs(values), axis=0).astype(np.float64)
    unit = np.where(largest > 0, largest, 1.0)
    reduced = values.astype(np.float64) / unit
    shift = np.average(reduced, axis=0, weights=weights)
    scale = np.sqrt(np.average((reduced - shift) ** 2, axis=0, weights=weights))
    constant = scale <= 10 * eps * np.abs(shift)
    return Scaling(shift * unit, np.where(constant, constant_scale, scale * unit))
