"""Predictive distributions beyond mean and standard deviation: quantiles, covariance, draws."""

from typing import Any

import jax
import numpy as np
from scipy.special import ndtri
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from gplsq._core import check_choice, check_count, describe
from gplsq.estimators._outcome import with_clipped
from gplsq.estimators._scaling import Scaling
from gplsq.estimators._state import to_jax, to_numpy
from gplsq.estimators._targets import fitted_mean, own_mean
from gplsq.gp import CorrelatedOutputs

# Rows up to which draws are exact: their covariance takes 8 MiB, and its factor half a second.
_EXACT_ROWS = 1000


class SamplingMixin:
    """Quantiles, intervals and joint draws for estimators with a calibrated normal prediction."""

    predict: Any
    posterior_: Any
    calibration_: Any
    variance: str
    solver_report_: str
    _y_scaling: Scaling
    _points: Any
    _rows: Any
    _joint: Any
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
            ``"exact"``: by the joint covariance, m^2 numbers and m^3 flops; (m p)^2 and (m p)^3 of
            correlated outputs. ``"pathwise"``: any number of rows, by functions that are drawn once
            and evaluated at X (`gplsq.gp.Posterior.sample_paths`): with ``include_noise=False`` and
            the same int as `random_state` they are **the same functions in every call, for any
            X**. ``"auto"``: exact up to 1000 rows, and where `sample_functions` refuses.
        num_features : int, default=2048
            Random features of ``"pathwise"``: the more, the closer the draws are to exact ones.

        Returns
        -------
        ndarray of shape (m, n_samples) or (m, p, n_samples)
            Draws of correlated outputs are correlated.

        Raises
        ------
        NotImplementedError
            With ``"pathwise"``, where `sample_functions` refuses.
        MemoryError
            With ``"exact"``, if the covariance does not fit into memory.
        """
        check_count("n_samples", n_samples, minimum=1)
        check_choice("method", method, ("auto", "exact", "pathwise"))
        random = check_random_state(random_state)
        rows = self._rows(X)
        Z = self._points(rows)
        if method == "pathwise" or (method == "auto" and len(Z) > _EXACT_ROWS):
            try:
                functions = self.sample_functions(n_samples, random, num_features=num_features)
            except NotImplementedError:
                if method == "pathwise":
                    raise
            else:
                draws = functions._at(Z, rows)
                if include_noise:
                    spread = np.sqrt(self.calibration_.noise_variance) * self._y_scaling.scale
                    draws = draws + spread[..., None] * random.standard_normal(draws.shape)
                return draws.astype(Z.dtype)
        with jax.enable_x64(Z.dtype == np.float64):
            draws = self._exact_draws(Z, n_samples, random, include_noise)
        return self.predict(X)[..., None] + draws

    def _exact_draws(self, Z: np.ndarray, num: int, random: Any, include_noise: bool) -> np.ndarray:
        """Draws of the target around its mean, by the eigenvectors of joint covariances."""
        latent, noise = self.calibration_
        noise = noise if include_noise else 0.0
        scale = self._y_scaling.scale
        if isinstance(self.posterior_, CorrelatedOutputs):
            values, vectors = _eigh(self._joint(Z, noise))
            normal = random.standard_normal((len(values), num))
            draws = vectors @ (np.sqrt(values)[:, None] * normal)
            return draws.reshape(len(Z), -1, num).astype(Z.dtype)
        full = np.asarray(self.posterior_.covariance(Z))
        # Outputs that share all rows share their eigenvectors.
        values, vectors = _eigh(full if full.ndim == 2 else np.moveaxis(full, 2, 0))
        latent, noise, scale = (np.reshape(part, (-1, 1)) for part in (latent, noise, scale))
        spread = scale * np.sqrt(latent * values + noise)
        draws = vectors @ (spread[..., None] * random.standard_normal((*spread.shape, num)))
        shape = (len(Z), *np.shape(self._y_scaling.scale), num)
        return np.moveaxis(draws, 0, 1).reshape(shape).astype(Z.dtype)

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
            ``functions(X)`` is what `sample_y` would give, of shape (m, n_samples) or
            (m, p, n_samples), and the same for the same row in every call. Later fits of the model
            do not change it.

        Raises
        ------
        NotImplementedError
            If no random features are known for the kernel, or outputs are correlated or are not
            observed at the same rows.
        NotFittedError
            Before `fit`.

        Notes
        -----
        See `gplsq.gp.Posterior.sample_paths`, which this scales and calibrates.
        """
        check_is_fitted(self, "posterior_")
        check_count("n_samples", n_samples, minimum=1)
        posterior = self.posterior_
        if not hasattr(posterior, "sample_paths"):
            msg = (
                "functions are drawn of outputs that are independent and observed at the same "
                "rows. Use sample_y with method='exact', or fit the outputs one by one."
            )
            raise NotImplementedError(msg)
        seed = check_random_state(random_state).randint(2**31 - 1)
        with jax.enable_x64(posterior.X.dtype == np.float64):
            key = jax.random.key(seed)
            paths = posterior.sample_paths(key, n_samples, num_features=num_features)
        # A copy as the model is now: `copy` would leave behind what pickles do.
        model = object.__new__(type(self))
        model.__dict__.update(self.__dict__)
        return SampledFunctions(model, paths)

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

    def __init__(self, model: Any, paths: Any):
        self._model, self._paths = model, paths

    def __getstate__(self) -> dict[str, Any]:
        return to_numpy(dict(vars(self)))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(to_jax(state))

    def __call__(self, X: Any) -> np.ndarray:
        """Values at X, array-like of shape (m, d), in the units of y.

        Returns
        -------
        ndarray of shape (m, n_samples) or (m, p, n_samples)

        Raises
        ------
        ValueError
            For another number of columns, or numbers that are not finite.
        """
        rows = self._model._rows(X)
        return self._at(self._model._points(rows), rows)

    def _at(self, Z: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Values at standardised points, which are those of rows in the units of the user."""
        model = self._model
        with jax.enable_x64(Z.dtype == np.float64):
            mean = np.asarray(model.posterior_.mean(Z), np.float64)
            paths = np.moveaxis(np.asarray(self._paths(Z), np.float64), 0, -1)
        shift, scale = (np.asarray(part)[..., None] for part in model._y_scaling)
        own = np.asarray(own_mean(fitted_mean(model), rows, mean.shape))[..., None]
        spread = np.sqrt(model.calibration_.latent_scale)[..., None]
        mean = mean[..., None]
        return ((mean + spread * (paths - mean)) * scale + shift + own).astype(Z.dtype)


def _eigh(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, none negative, and eigenvectors, in float64."""
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    return np.maximum(values, 0), vectors


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
