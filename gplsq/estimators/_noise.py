"""Noise that differs between rows, learnt from the residuals of a fit: outliers, and a function."""

from typing import Any

import jax
import numpy as np
from scipy.special import digamma
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from gplsq._core import check_count
from gplsq.estimators._weights import is_weighted
from gplsq.gp import LowRankPosterior, Posterior, robust

# The logarithm of a squared standard normal number has this mean (and the variance pi^2 / 2).
_LOG_MEAN = float(digamma(0.5) + np.log(2))
# Rows whose residuals the noise is learnt from.
_RESIDUALS = 5000
# Squared residuals below this share of their median tell no more than that they are small.
_SMALLEST = 1e-4


class NoiseMixin:
    """`outlier_weights` and `noise_model`, for estimators that take weights and noise of rows."""

    set_params: Any
    fit: Any
    posterior_: Any
    kernel_: Any
    noise_variance_: Any
    random_state: Any
    _X_scaling: Any
    _y_scaling: Any

    def outlier_weights(self, X: Any, y: Any, *, df: float = 4.0) -> np.ndarray:
        """Weights of rows under Student-t noise: near 1 where they fit, near 0 for outliers.

        For ``fit(X, y, sample_weight=...)``, with the fitted kernel and a noise of its own.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        df : float, default=4.0
            Degrees of freedom, see `gplsq.gp.robust`.

        Returns
        -------
        ndarray of shape (n,)
            Between 0 and 1.

        Raises
        ------
        ValueError, TypeError
            As `fit`, and for a `df` that is not positive.
        NotFittedError
            Before `fit`.

        Warns
        -----
        ConvergenceWarning
            If `gplsq.gp.robust` did not converge.
        """
        model = self._untuned().fit(X, y)
        posterior = model.posterior_
        with jax.enable_x64(posterior.X.dtype == np.float64):
            fit = robust(
                *(posterior.kernel, posterior.X, posterior.y),
                noise_variance=float(self.noise_variance_),
                df=df,
                key=jax.random.key(0),
                **{name: getattr(self, name) for name in _SETTINGS},
            )
            weights = np.asarray(fit.weights, np.float64)
        return weights * (df / (df + 1))

    def noise_model(
        self, X: Any, y: Any, *, num_rounds: int = 2, model: Any = None
    ) -> "NoiseModel":
        """The noise variance as a function of the inputs, learnt from leave-one-out residuals.

        For ``fit(X, y, noise_variance=noise.variance(X))``.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        num_rounds : int, default=2
            How often residuals are taken, noise learnt, and the mean fitted again with it.
        model : GPRegressor, default=None
            Not fitted: for the logarithm of the noise variance. By default one with the settings of
            this, and a kernel and a noise of its own.

        Returns
        -------
        NoiseModel
            ``noise.variance(X)``, in squared units of y, and ``noise.predictive_std(gp, X)``.

        Raises
        ------
        ValueError, TypeError
            As `fit`.
        NotFittedError
            Before `fit`.

        Notes
        -----
        A "most likely" heteroscedastic process (Kersting, Plagemann, Pfaff & Burgard 2007): logs of
        squared residuals, less what the uncertainty of the mean adds and the mean of a logarithmic
        chi-squared variable, are smoothed by a second process; then scaled so that squared
        residuals are as large as predicted. Cost: of a fit on at most 5000 rows, and a solve, for
        each round.
        """
        check_count("num_rounds", num_rounds, minimum=1)
        current = self._untuned().fit(X, y)
        if model is None:
            own = {"kernel": None, "noise_variance": "auto", "objective": "auto", "loss": "mse"}
            model = clone(self).set_params(**own, inducing=None, bounds=None, fixed=None)  # type: ignore[type-var]
        random = check_random_state(self.random_state)
        n = current.posterior_.y.shape[0]
        rows = np.sort(random.permutation(n)[:_RESIDUALS])
        chosen = _take(X, rows)
        for left in reversed(range(num_rounds)):
            squares = _noise_parts(current, rows)
            typical = max(float(np.median(squares)), np.finfo(float).tiny)
            logs = np.log(np.maximum(squares, _SMALLEST * typical)) - _LOG_MEAN
            fresh: Any = clone(model)
            noise = NoiseModel(fresh.fit(chosen, logs), 1.0)
            noise.scale = float(np.mean(squares / noise.variance(chosen)))
            if not left:
                return noise
            current = self._untuned().fit(X, y, noise_variance=noise.variance(X))
        raise AssertionError

    def _untuned(self) -> Any:
        """The same model, not fitted, with the hyperparameters of the fit."""
        check_is_fitted(self, "posterior_")
        if not isinstance(self.posterior_, Posterior | LowRankPosterior) or np.ndim(
            self._y_scaling.scale
        ):
            msg = (
                "the noise of rows is told apart for one output, around no mean function or a "
                "function of one's own. Fit one output alone, with mean='zero'."
            )
            raise NotImplementedError(msg)
        found = {"kernel": self.kernel_, "noise_variance": self.noise_variance_}
        return clone(self).set_params(**found, objective=None)  # type: ignore[type-var]


_SETTINGS = ("solver", "rtol", "form", "inducing", "num_features", "memory", "mesh")


class NoiseModel:
    """The variance of the noise as a function of the inputs; made by `GPRegressor.noise_model`.

    Attributes
    ----------
    model
        The fitted regressor of the logarithm of the noise variance.
    scale
        What its exponential is multiplied by.
    """

    def __init__(self, model: Any, scale: float):
        self.model, self.scale = model, scale

    def variance(self, X: Any) -> np.ndarray:
        """Noise variances at X, array-like of shape (m, d), in squared units of y; shape (m,)."""
        return self.scale * np.exp(self.model.predict(X).astype(np.float64))

    def predictive_std(self, gp: Any, X: Any) -> np.ndarray:
        """Standard deviation of new observations at X, whose noise is that of X; shape (m,).

        Parameters
        ----------
        gp : GPRegressor
            Fitted with ``noise_variance=noise.variance(...)``. Its own `predict` gives the standard
            deviation of an observation of typical noise.
        X : array-like of shape (m, d)
        """
        unit = float(gp._y_scaling.scale) ** 2
        _, latent = gp.predict(X, return_std=True, include_noise=False)
        share = self.variance(X) / (gp.noise_variance_ * unit)
        return np.sqrt(
            latent.astype(np.float64) ** 2 + gp.calibration_.noise_variance * unit * share
        )


def _noise_parts(model: Any, rows: np.ndarray) -> np.ndarray:
    """Squared leave-one-out residuals, less the share of the mean's own uncertainty; units of y.

    The share is that of the model itself, which needs no scale: calibration may explain equal noise
    by either of its two numbers.
    """
    posterior, scale = model.posterior_, float(model._y_scaling.scale)
    with jax.enable_x64(posterior.X.dtype == np.float64):
        residual, latent = (np.asarray(part, np.float64) for part in posterior.leave_one_out(rows))
        weight = np.asarray(posterior.X[:, -1])[rows] if is_weighted(model) else 1.0
        noise = float(posterior.noise_variance)
    return (scale * residual / weight) ** 2 * noise / (noise + latent)


def _take(X: Any, rows: np.ndarray) -> Any:
    """Rows of an array or a table with names."""
    return X.iloc[rows] if hasattr(X, "iloc") else np.asarray(X)[rows]
