"""Calibrated class probabilities: two numbers fitted to held-out predictions."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_expit, log_softmax

from gplsq._core import savable

_LOG_TEMPERATURE = (-3.0, 3.0)


@savable
class ClassCalibration(NamedTuple):
    """Temperature that logits are divided by, and scale of the latent variance, from 0 to 1."""

    temperature: float
    latent_scale: float


def calibrate_classes(
    mean: np.ndarray, variance: np.ndarray, codes: np.ndarray
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

    Notes
    -----
    Minimises the mean log loss by L-BFGS (SciPy), with a standard normal prior of one row's weight
    on the logarithm of the temperature, which keeps it finite where every row is right.
    """
    F = np.asarray(mean, np.float64)
    v = np.maximum(np.asarray(variance, np.float64), 0)[:, None]
    share = np.pi / 8 if F.shape[1] == 1 else np.pi / 4
    rows = np.arange(len(codes))

    def loss(parameters: np.ndarray) -> float:
        log_temperature, scale = parameters
        logits = F / np.sqrt(1 + share * scale * v) * np.exp(-log_temperature)
        if F.shape[1] == 1:
            hits = log_expit(np.where(codes == 1, logits[:, 0], -logits[:, 0]))
        else:
            hits = log_softmax(logits, axis=1)[rows, codes]
        return float(-np.mean(hits) + log_temperature**2 / (2 * len(codes)))

    bounds = [_LOG_TEMPERATURE, (0.0, 1.0)]
    starts = [(0.0, 1.0), (0.0, 0.0), (-1.0, 0.1)]
    fits = [minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts]
    best = min(fits, key=lambda fit: fit.fun)
    return ClassCalibration(float(np.exp(best.x[0])), float(best.x[1]))
