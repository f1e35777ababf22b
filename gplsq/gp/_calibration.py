"""Calibrated predictive variance: two numbers fitted to held-out residuals.

A kernel tuned on squared error knows its mean up to a factor of kernel and noise together, so its
variance has no scale of its own. The predictive variance of an observation is taken as

    latent_scale * (posterior variance) + noise_variance

with both numbers fitted by maximum likelihood to leave-one-out residuals. A constant variance is
the special case latent_scale = 0, so calibration can only improve on it.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from gplsq._core import savable

# Bounds on the logarithms of both numbers, in units of the mean square residual.
_LOG_BOUNDS = (-18.0, 10.0)


@savable
class Calibration(NamedTuple):
    """Scale of the latent variance (no unit) and noise variance (squared units of the target)."""

    latent_scale: float
    noise_variance: float


def calibrate(residual: np.ndarray, latent_variance: np.ndarray) -> Calibration:
    """Fit a `Calibration` to held-out residuals.

    Parameters
    ----------
    residual
        Held-out residuals y - mean, shape (s,).
    latent_variance
        Posterior variances of the latent function at the same rows, shape (s,).

    Notes
    -----
    Minimises the mean negative log predictive density over both logarithms by L-BFGS (SciPy), from
    a purely scaled, a purely constant and a mixed start. Cost: milliseconds for 1000 rows.
    """
    r2 = np.square(np.asarray(residual, np.float64))
    v = np.maximum(np.asarray(latent_variance, np.float64), 0)
    # In units of their means both numbers are near 1, whatever the units of the target.
    unit_r2 = float(np.mean(r2)) or 1.0
    unit_v = float(np.mean(v)) or 1.0
    r2, v = r2 / unit_r2, v / unit_v

    def loss(log: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = np.exp(log)
        total = a * v + b
        inner = 0.5 * (1 / total - r2 / total**2)
        value = float(np.mean(0.5 * np.log(total) + 0.5 * r2 / total))
        return value, np.array([np.mean(inner * v) * a, np.mean(inner) * b])

    starts = [(1.0, 1e-3), (1e-6, 1.0), (0.5, 0.5)]
    fits = [
        minimize(
            loss, np.log(start), jac=True, method="L-BFGS-B", bounds=[_LOG_BOUNDS, _LOG_BOUNDS]
        )
        for start in starts
    ]
    best = min(fits, key=lambda fit: fit.fun)
    scale, noise = np.exp(best.x)
    return Calibration(float(scale * unit_r2 / unit_v), float(noise * unit_r2))
