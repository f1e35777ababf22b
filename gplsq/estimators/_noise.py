"""Noise that differs between rows, learnt from the residuals of a fit: outliers, and a function."""

from typing import Any

import jax
import numpy as np
from scipy.special import digamma
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from gplsq._core import check_count
from gplsq.estimators._weights import inducing_points, is_weighted
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
    _standardised: Any
    inducing: Any
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
            Between 0 and 1; 0 for rows without a target.

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
        self._check_one_output()
        points, target, there = self._standardised(X, y)
        weights = np.zeros(len(there))
        if not there.any():
            return weights
        settings = {name: getattr(self, name) for name in _SETTINGS}
        settings["inducing"] = inducing_points(self, weighted=True)
        with jax.enable_x64(points.dtype == np.float64):
            fit = robust(
                *(self.kernel_, points, target),
                noise_variance=float(self.noise_variance_),
                df=df,
                key=jax.random.key(0),
                **settings,
            )
        weights[there] = np.asarray(fit.weights, np.float64) * (df / (df + 1))
        return weights

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
            this, and a kernel and a noise of its own, around the average of the logarithms.

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
        self._check_one_output()
        # The posterior has the rows with a target only.
        used = np.flatnonzero(self._standardised(X, y)[2])
        if model is None:
            model = clone(self).set_params(**_OWN)  # type: ignore[type-var]
        found = {"kernel": self.kernel_, "noise_variance": self.noise_variance_}
        untuned: Any = clone(self).set_params(**found, objective=None)  # type: ignore[type-var]
        random = check_random_state(self.random_state)
        rows = np.sort(random.permutation(len(used))[:_RESIDUALS])
        chosen = _take(X, used[rows])
        noise = None
        for _ in range(num_rounds):
            known = None if noise is None else noise.variance(X)
            current = untuned.fit(X, y, noise_variance=known)
            squares = _noise_parts(current, rows)
            typical = max(float(np.median(squares)), np.finfo(float).tiny)
            logs = np.log(np.maximum(squares, _SMALLEST * typical)) - _LOG_MEAN
            fresh: Any = clone(model)
            noise = NoiseModel(fresh.fit(chosen, logs), 1.0)
            noise.scale = float(np.mean(squares / noise.variance(chosen)))
        assert noise is not None
        return noise

    def _check_one_output(self) -> None:
        check_is_fitted(self, "posterior_")
        if not isinstance(self.posterior_, Posterior | LowRankPosterior) or np.ndim(
            self._y_scaling.scale
        ):
            msg = (
                "the noise of rows is told apart for one output, around no mean function or a "
                "function of one's own. Fit one output alone, with mean='zero'."
            )
            raise NotImplementedError(msg)


# What the regressor of the logarithms does not share with that of y. Their average is that of the
# standardised logarithms, so that no mean function is left to fit.
_OWN: dict[str, Any] = dict.fromkeys(
    ("kernel", "inducing", "bounds", "fixed", "priors", "constraints", "checkpoint")
) | {
    "noise_variance": "auto",
    "objective": "auto",
    "loss": "mse",
    "mean": "zero",
    "standardize": True,
}
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
