"""Central differences, the judge of every derivative."""

from collections.abc import Callable

import numpy as np


def central_difference(
    fn: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5
) -> np.ndarray:
    """Gradient of a scalar function by central differences in float64, entry by entry.

    The step is `step` times the larger of 1 and the entry; the error is of order step^2.
    """
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        h = step * max(1.0, abs(float(x[index])))
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        gradient[index] = (float(fn(up)) - float(fn(down))) / (2 * h)
    return gradient
