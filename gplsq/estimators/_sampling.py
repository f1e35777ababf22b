"""Joint draws of a regressor's predictions."""

from typing import Any

import numpy as np
from sklearn.utils import check_random_state


class SamplingMixin:
    """`sample_y` for estimators whose `predict` returns a joint covariance."""

    predict: Any

    def sample_y(
        self, X: Any, n_samples: int = 1, random_state: Any = 0, *, include_noise: bool = True
    ) -> np.ndarray:
        """Joint draws of the target at X.

        Parameters
        ----------
        X : array-like of shape (m, d)
        n_samples : int, default=1
        random_state : int, RandomState or None, default=0
        include_noise : bool, default=True
            Draws of new observations; with False of the latent function.

        Returns
        -------
        ndarray of shape (m, n_samples)
        """
        random = check_random_state(random_state)
        mean, covariance = self.predict(X, return_cov=True, include_noise=include_noise)
        values, vectors = np.linalg.eigh(covariance.astype(np.float64))
        root = vectors * np.sqrt(np.maximum(values, 0))
        draws = mean[:, None] + root @ random.standard_normal((len(mean), n_samples))
        return draws.astype(mean.dtype)
