"""Problems with known answers: prescribed spectra, draws from known Gaussian processes."""

from typing import Any

import numpy as np

from gplsq.kernels import AbstractKernel


def matrix_with_spectrum(
    rng: np.random.Generator, m: int, n: int, singular_values: Any, dtype: Any = np.float64
) -> np.ndarray:
    """An (m, n) matrix with these singular values (zeros filled up), random singular vectors."""
    values = np.asarray(singular_values, np.float64)
    left = np.linalg.qr(rng.standard_normal((m, m)))[0][:, : len(values)]
    right = np.linalg.qr(rng.standard_normal((n, n)))[0][:, : len(values)]
    return ((left * values) @ right.T).astype(dtype)


def gp_draw(
    rng: np.random.Generator,
    kernel: AbstractKernel,
    X: np.ndarray,
    noise_variance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """A latent function drawn from the prior at X, and noisy observations of it; both (n,)."""
    K = np.asarray(kernel(X), np.float64)
    values, vectors = np.linalg.eigh(K)
    latent = vectors @ (np.sqrt(np.maximum(values, 0)) * rng.standard_normal(len(X)))
    noisy = latent + np.sqrt(noise_variance) * rng.standard_normal(len(X))
    return latent.astype(X.dtype), noisy.astype(X.dtype)
