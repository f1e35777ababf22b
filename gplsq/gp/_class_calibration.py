"""Calibrated class probabilities: two numbers fitted to held-out predictions."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax

from gplsq._core import savable

_LOG_TEMPERATURE = (-3.0, 3.0)


@savable
class ClassCalibration(NamedTuple):
    """Temperature that logits are divided by, and scale of the latent variance, from 0 to 1."""

    temperature: float
    latent_scale: float


def calibrate_classes(
    mean: np.ndarray,
    variance: np.ndarray,
    codes: np.ndarray,
    counts: np.ndarray | None = None,
) -> ClassCalibration:
    """Fit a `ClassCalibration` to held-out latent values.

    Laplace's approximation is too modest: its mean and its variance both pull probabilities
    together (Kuss & Rasmussen 2005). One temperature (Guo et al. 2017) and a smaller share of the
    variance put that right.

    Parameters
    ----------
    mean, variance
        Of the latent values given other rows, shapes (s, k) and (s,).
    codes
        The classes, shape (s,).
    counts
        How often each of them was observed, shape (s,); once by default.

    Notes
    -----
    Minimises the mean log loss by L-BFGS (SciPy), with a standard normal prior of one row's weight
    on the logarithm of the temperature, which keeps it finite where every row is right.
    """
    F = np.asarray(mean, np.float64)
    v = np.maximum(np.asarray(variance, np.float64), 0)[:, None]
    share = np.pi / 8 if F.shape[1] == 1 else np.pi / 4
    rows = np.arange(len(codes))
    total = float(len(codes) if counts is None else np.sum(counts))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        log_temperature, scale = parameters
        spread = 1 + share * scale * v
        logits = F / np.sqrt(spread) * np.exp(-log_temperature)
        # With `slope` the derivatives of the log probabilities of what was observed, the hits.
        if F.shape[1] == 1:
            sign = np.where(codes == 1, 1.0, -1.0)[:, None]
            hits, slope = log_expit(sign * logits)[:, 0], sign * expit(-sign * logits)
        else:
            logs = log_softmax(logits, axis=1)
            hits, slope = logs[rows, codes], -np.exp(logs)
            slope[rows, codes] += 1
        along = np.sum(slope * logits, axis=1)
        by_scale = along * (share * v / (2 * spread))[:, 0]
        means = [np.average(part, weights=counts) for part in (-hits, along, by_scale)]
        value = means[0] + log_temperature**2 / (2 * total)
        return float(value), np.array([means[1] + log_temperature / total, means[2]])

    bounds = [_LOG_TEMPERATURE, (0.0, 1.0)]
    starts = [(0.0, 1.0), (0.0, 0.0), (-1.0, 0.1)]
    settings = {"jac": True, "method": "L-BFGS-B", "bounds": bounds}
    # To rounding, so that weights of rows and repeated rows give the same numbers.
    settings["options"] = {"ftol": 1e-15, "gtol": 1e-10}
    fits = [minimize(loss, start, **settings) for start in starts]
    best = min(fits, key=lambda fit: fit.fun)
    return ClassCalibration(float(np.exp(best.x[0])), float(best.x[1]))
