"""Predictive distributions beyond mean and standard deviation: quantiles, covariance, draws."""

from typing import Any

import jax
import numpy as np
from scipy.special import ndtri
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from gplsq._core import check_choice, check_count, describe
from gplsq.estimators._outcome import with_clipped
from gplsq.estimators._scaling import Scaling
from gplsq.estimators._targets import own_mean
from gplsq.estimators._weights import is_weighted, with_weights

# Rows up to which draws are exact: their covariance takes 8 MiB, and its factor half a second.
_EXACT_ROWS = 1000


class SamplingMixin:
    """Quantiles, intervals and joint draws for estimators with a calibrated normal prediction."""

    predict: Any
    posterior_: Any
    calibration_: Any
    variance: str
    solver_report_: str
    _X_scaling: Scaling
    _y_scaling: Scaling
    _points: Any
    _rows: Any
    mean: Any

    def predict_quantiles(
        self, X: Any, quantiles: Any = (0.025, 0.5, 0.975), *, include_noise: bool = True
    ) -> np.ndarray:
        """Quantiles of the predictive distribution, which is normal and calibrated.

        Parameters
        ----------
        X : array-like of shape (m, d)
        quantiles : float or sequence of q floats, default=(0.025, 0.5, 0.975)
            Strictly between 0 and 1.
        include_noise : bool, default=True
            Of a new observation; with False of the latent function.

        Returns
        -------
        ndarray of shape (m, q), or (m,) for one number
            In the units of y, and in the dtype of the fit. Of p outputs (m, p, q) or (m, p).

        Raises
        ------
        ValueError, TypeError
            For quantiles that are no numbers between 0 and 1.
        NotFittedError
            Before `fit`.
        """
        levels = _levels("quantiles", quantiles)
        mean, std = self.predict(X, return_std=True, include_noise=include_noise)
        away = np.multiply.outer(std.astype(np.float64), ndtri(levels))
        return (mean.reshape(*mean.shape, *(1,) * levels.ndim) + away).astype(mean.dtype)

    def predict_interval(
        self, X: Any, coverage: float = 0.95, *, include_noise: bool = True
    ) -> np.ndarray:
        """The central interval that holds a new observation with this probability.

        Parameters
        ----------
        X : array-like of shape (m, d)
        coverage : float, default=0.95
            Strictly between 0 and 1.
        include_noise : bool, default=True
            Of a new observation; with False of the latent function.

        Returns
        -------
        ndarray of shape (m, 2)
            Lower and upper ends, in the units of y.

        Raises
        ------
        ValueError, TypeError
            For a coverage that is no number between 0 and 1.
        """
        if np.ndim(coverage) != 0:
            msg = f"coverage must be one number; got {describe(coverage)}. Pass for example 0.9."
            raise TypeError(msg)
        tail = (1 - float(_levels("coverage", coverage))) / 2
        return self.predict_quantiles(X, (tail, 1 - tail), include_noise=include_noise)

    def sample_y(
        self,
        X: Any,
        n_samples: int = 1,
        random_state: Any = 0,
        *,
        include_noise: bool = True,
        method: str = "auto",
        num_features: int = 2048,
    ) -> np.ndarray:
        """Joint draws of the target at X.

        Parameters
        ----------
        X : array-like of shape (m, d)
        n_samples : int, default=1
        random_state : int, RandomState or None, default=0
            The same int gives the same draws in every call.
        include_noise : bool, default=True
            Draws of new observations; with False of the latent function.
        method : {"auto", "exact", "pathwise"}, default="auto"
            ``"exact"``: by the joint covariance, m^2 numbers and m^3 flops. ``"pathwise"``: any
            number of rows, by functions that are drawn once and evaluated at X
            (`gplsq.gp.Posterior.sample_paths`): with ``include_noise=False`` and the same int as
            `random_state` they are **the same functions in every call, for any X**. ``"auto"``:
            exact up to 1000 rows. See also `sample_functions`.
        num_features : int, default=2048
            Random features of ``"pathwise"``: the more, the closer the draws are to exact ones.

        Returns
        -------
        ndarray of shape (m, n_samples)

        Raises
        ------
        NotImplementedError
            With ``"pathwise"``, if no random features are known for the kernel.
        MemoryError
            With ``"exact"``, if the covariance does not fit into memory.
        """
        check_count("n_samples", n_samples, minimum=1)
        check_choice("method", method, ("auto", "exact", "pathwise"))
        random = check_random_state(random_state)
        rows = self._rows(X)
        Z = self._points(rows)
        if method == "pathwise" or (method == "auto" and len(Z) > _EXACT_ROWS):
            draws = self.sample_functions(n_samples, random, num_features=num_features)._at(Z, rows)
            if include_noise:
                spread = np.sqrt(self.calibration_.noise_variance) * float(self._y_scaling.scale)
                draws = draws + spread * random.standard_normal(draws.shape)
            return draws.astype(Z.dtype)
        mean, covariance = self.predict(X, return_cov=True, include_noise=include_noise)
        values, vectors = np.linalg.eigh(covariance.astype(np.float64))
        root = vectors * np.sqrt(np.maximum(values, 0))
        draws = mean[:, None] + root @ random.standard_normal((len(mean), n_samples))
        return draws.astype(mean.dtype)

    def sample_functions(
        self, n_samples: int = 1, random_state: Any = 0, *, num_features: int = 2048
    ) -> "SampledFunctions":
        """Functions drawn from the posterior, without noise, to be evaluated anywhere and again.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=0
        num_features : int, default=2048
            Random features: the more, the closer the draws are to exact ones.

        Returns
        -------
        SampledFunctions
            ``functions(X)`` is what `sample_y` would give, of shape (m, n_samples), and the same
            for the same row in every call. Later fits of the model do not change it.

        Raises
        ------
        NotImplementedError
            If no random features are known for the kernel.
        NotFittedError
            Before `fit`.

        Notes
        -----
        See `gplsq.gp.Posterior.sample_paths`, which this scales and calibrates.
        """
        check_is_fitted(self, "posterior_")
        check_count("n_samples", n_samples, minimum=1)
        seed = check_random_state(random_state).randint(2**31 - 1)
        posterior = self.posterior_
        if not hasattr(posterior, "sample_paths"):
            msg = (
                "functions are drawn of one output around no mean function or a function of one's "
                "own. Use sample_y with method='exact', or the posteriors of gplsq.gp."
            )
            raise NotImplementedError(msg)
        with jax.enable_x64(posterior.X.dtype == np.float64):
            key = jax.random.key(seed)
            paths = posterior.sample_paths(key, n_samples, num_features=num_features)
        scales = self._X_scaling, self._y_scaling, self.calibration_.latent_scale
        return SampledFunctions(posterior, paths, *scales, is_weighted(self), self.mean)

    def _latent_variance(self, Z: np.ndarray) -> np.ndarray:
        """Posterior variance in standardised units; how many were clipped is kept and reported."""
        raw = np.asarray(self.posterior_.raw_variance(Z, self.variance))
        self.num_clipped_variances_ = int(np.sum(raw < 0))
        self.solver_report_ = with_clipped(
            self.solver_report_, self.num_clipped_variances_, raw.size
        )
        return np.maximum(raw, 0)

    def _covariance(self, Z: np.ndarray, noise: float) -> np.ndarray:
        """Calibrated covariance in the units of y, made in place: m^2 numbers once."""
        scale = float(self._y_scaling.scale)
        covariance = np.array(self.posterior_.covariance(Z))
        covariance *= self.calibration_.latent_scale
        covariance[np.diag_indices(len(Z))] += noise
        covariance *= scale**2
        return covariance


class SampledFunctions:
    """Functions drawn from a fitted model, in its units; made by `sample_functions`."""

    def __init__(
        self,
        posterior: Any,
        paths: Any,
        X_scaling: Scaling,
        y_scaling: Scaling,
        latent_scale: float,
        weighted: bool,
        mean: Any,
    ):
        self._posterior, self._paths, self._X_scaling = posterior, paths, X_scaling
        self._y_scaling, self._latent_scale, self._weighted = y_scaling, latent_scale, weighted
        self._mean = mean

    def __call__(self, X: Any) -> np.ndarray:
        """Values at X, array-like of shape (m, d); shape (m, n_samples), in the units of y.

        Raises
        ------
        ValueError
            For another number of columns, or numbers that are not finite.
        """
        dtypes: Any = (np.float64, np.float32)
        Z = np.asarray(check_array(X, dtype=dtypes))
        columns = self._posterior.X.shape[1] - self._weighted
        if Z.shape[1] != columns:
            msg = f"X must have {columns} columns, as the fit had; got {Z.shape[1]}."
            raise ValueError(msg)
        points = self._X_scaling.apply(Z, np.dtype(self._posterior.X.dtype))
        return self._at(with_weights(points) if self._weighted else points, Z)

    def _at(self, Z: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Values at standardised points, which are those of rows in the units of the user."""
        with jax.enable_x64(Z.dtype == np.float64):
            mean = np.asarray(self._posterior.mean(Z), np.float64)[:, None]
            away = np.asarray(self._paths(Z), np.float64).T - mean
        values = mean + np.sqrt(self._latent_scale) * away
        values = values * self._y_scaling.scale + self._y_scaling.shift
        own = own_mean(self._mean, rows, values.shape[:1])
        return (values + np.reshape(own, (-1, 1))).astype(Z.dtype)


def _levels(name: str, values: Any) -> np.ndarray:
    """Probabilities strictly between 0 and 1."""
    levels = np.asarray(values)
    if levels.dtype.kind not in "fiu" or levels.ndim > 1 or levels.size == 0:
        msg = (
            f"{name} must be a number between 0 and 1, or a sequence of them; got "
            f"{describe(values)}. Pass for example [0.05, 0.95]."
        )
        raise TypeError(msg)
    wrong = ~((levels > 0) & (levels < 1))  # NaN is wrong too
    if wrong.any():
        msg = (
            f"{name} must lie strictly between 0 and 1; got {levels[wrong][0]}. Per cent are "
            "divided by 100."
        )
        raise ValueError(msg)
    return levels.astype(np.float64)
