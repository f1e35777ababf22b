"""A table of several outputs, models whose hyperparameters are given, and their textbook."""

import numpy as np

from gplsq import GPRegressor
from gplsq.kernels import Coregionalised, Matern32, Scaled

N, M, P, NOISE = 40, 6, 3, 2.0**-5
LENGTHS = np.array([0.75, 1.5], np.float32)
KERNEL = Scaled(2.0, Matern32(LENGTHS))
MIXING, KAPPA = np.array([[1.0], [-0.75], [0.5]]), np.array([0.25, 0.5, 0.125])


def given(**settings):
    return GPRegressor(**{"kernel": KERNEL, "noise_variance": NOISE, "objective": None} | settings)


def of_pairs(**settings):
    kernel = Coregionalised(Matern32(LENGTHS), P, mixing=MIXING, kappa=KAPPA)
    return given(kernel=kernel, outputs="correlated", missing="drop", **settings)


def covariance(A, B):
    r = np.sqrt(3 * (((A[:, None] - B[None]) / LENGTHS) ** 2).sum(-1))
    return 2.0 * (1 + r) * np.exp(-r)


def textbook(K, k, prior, y):
    """Mean and covariance of the latent function; no standardisation."""
    solved = np.linalg.solve(K + NOISE * np.eye(len(K)), k)
    return solved.T @ y, prior - k.T @ solved


WAYS = {
    "direct": {"solver": "direct"},
    "kept": {"solver": "lsmr", "form": "dense", "rtol": 1e-10, "variance": "exact"},
    "tiled": {"solver": "lsmr", "form": "tiled", "rtol": 1e-10, "variance": "exact"},
}
