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

# Bounds on the logarithms: the range in which float32 predictions make sense in standardised units.
_LOG_BOUNDS = (-25.0, 12.0)


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
    mean_square = max(float(np.mean(r2)), 1e-10)
    mean_variance = max(float(np.mean(v)), 1e-10)

    def loss(log: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = np.exp(log)
        total = a * v + b
        inner = 0.5 * (1 / total - r2 / total**2)
        value = float(np.mean(0.5 * np.log(total) + 0.5 * r2 / total))
        return value, np.array([np.mean(inner * v) * a, np.mean(inner) * b])

    ratio = mean_square / mean_variance
    starts = [
        (ratio, 1e-3 * mean_square),
        (1e-6 * ratio, mean_square),
        (ratio / 2, mean_square / 2),
    ]
    fits = [
        minimize(
            loss,
            np.clip(np.log(start), *_LOG_BOUNDS),
            jac=True,
            method="L-BFGS-B",
            bounds=[_LOG_BOUNDS] * 2,
        )
        for start in starts
    ]
    best = min(fits, key=lambda fit: fit.fun)
    return Calibration(*(float(number) for number in np.exp(best.x)))
