"""Predictions of a fitted regressor: means, standard deviations, covariances."""

from typing import Any

import jax
import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from gplsq.estimators._outcome import working_dtype
from gplsq.estimators._table import check_plain
from gplsq.estimators._targets import fitted_mean, own_mean
from gplsq.estimators._weights import is_weighted, with_weights


class PredictionMixin:
    """`predict` of one or several outputs, for estimators with a posterior."""

    posterior_: Any
    calibration_: Any
    variance: Any
    mean: Any
    _X_scaling: Any
    _y_scaling: Any
    _latent_variance: Any
    _covariance: Any

    def predict(
        self,
        X: Any,
        return_std: bool = False,
        return_cov: bool = False,
        *,
        include_noise: bool = True,
    ) -> Any:
        """Predict the target.

        Parameters
        ----------
        X : array-like of shape (m, d)
        return_std : bool, default=False
            Also return the standard deviation of each prediction.
        return_cov : bool, default=False
            Also return the joint covariance of the predictions.
        include_noise : bool, default=True
            Uncertainty of a **new observation**, as scikit-learn's models with a WhiteKernel give;
            with False that of the latent function.

        Returns
        -------
        mean : ndarray of shape (m,) or (m, p)
            Shaped like the y of the fit.
        std : ndarray of shape (m,) or (m, p), if `return_std`
        covariance : ndarray of shape (m, m) or (m, m, p), if `return_cov`
            All in the units of y, and in the dtype of the fit. The joint covariance is always
            that of the solver, to its tolerance; with LSMR and ``variance="auto"`` the standard
            deviations are those of the neighbour bound, which is a little larger. Of several
            outputs it is that of each of them at the m points; `posterior_.joint_covariance` has
            that between correlated outputs.

        Raises
        ------
        ValueError
            For another number of columns, or numbers that are not finite.
        NotFittedError
            Before `fit`.
        """
        if return_std and return_cov:
            msg = "return_std and return_cov cannot both be True. Take np.sqrt(np.diag(cov))."
            raise ValueError(msg)
        rows = self._rows(X)
        Z = self._points(rows)
        # Python numbers leave the dtype of single outputs alone.
        shift, scale = (float(v) if np.ndim(v) == 0 else v for v in self._y_scaling)
        with jax.enable_x64(Z.dtype == np.float64):
            mean = np.asarray(self.posterior_.mean(Z)) * scale + shift
            mean = (mean + own_mean(fitted_mean(self), rows, mean.shape)).astype(Z.dtype)
            latent, noise = self.calibration_
            noise = noise if include_noise else 0.0
            if return_std:
                variance = latent * self._for_outputs(self._latent_variance(Z), 1) + noise
                return mean, (np.sqrt(variance) * scale).astype(Z.dtype)
            if return_cov and np.ndim(scale) == 0:
                return mean, self._covariance(Z, noise)
            if return_cov:
                full = self._for_outputs(np.asarray(self.posterior_.covariance(Z)), 2)
                covariance = latent * full + noise * self._for_outputs(np.eye(len(Z)), 2)
                return mean, (covariance * scale**2).astype(Z.dtype)
        return mean

    def _joint(self, Z: np.ndarray, noise: Any) -> np.ndarray:
        """Covariance of all correlated outputs, point by point: (m p, m p), in the units of y."""
        scale = self._y_scaling.scale
        full = np.asarray(self.posterior_.joint_covariance(Z), np.float64)
        m, p = full.shape[:2]
        factor = np.tile(np.sqrt(self.calibration_.latent_scale) * scale, m)
        full = factor[:, None] * full.reshape(m * p, m * p) * factor
        full[np.diag_indices(m * p)] += np.tile(noise * scale**2, m)
        return full

    def _for_outputs(self, values: np.ndarray, ndim: int) -> np.ndarray:
        """Numbers that all outputs share with a last axis for outputs, where there are several."""
        shared = values.ndim == ndim and np.ndim(self._y_scaling.scale) == 1
        return values[..., None] if shared else values

    def _rows(self, X: Any) -> np.ndarray:
        """Verified rows, in the units of the user."""
        check_is_fitted(self, "posterior_")
        check_plain(X=X)
        return np.asarray(validate_data(self, X, reset=False, dtype=(np.float64, np.float32)))

    def _points(self, Z: np.ndarray) -> np.ndarray:
        """Rows as points of the posterior."""
        points = self._X_scaling.apply(Z, working_dtype(self.posterior_))
        return with_weights(points) if is_weighted(self) else points
