"""More rows for a fitted regressor."""

from typing import Any, Self

import jax
import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from gplsq.estimators._outcome import (
    calibrate_by_rows,
    check_finite_mean,
    solver_report,
    targets_of,
    working_dtype,
)
from gplsq.estimators._table import validate_rows
from gplsq.estimators._targets import (
    fitted_mean,
    rows_with_target,
    take_rows,
    without_own_mean,
    without_trend,
)
from gplsq.estimators._weights import is_weighted, with_weights
from gplsq.gp import CorrelatedOutputs
from gplsq.operators import RowTable


class UpdateMixin:
    """`update`, for estimators with a posterior that takes in rows."""

    posterior_: Any
    calibration_: Any
    noise_variance_: Any
    solver_report_: str
    mean: Any
    random_state: Any
    _X_scaling: Any
    _y_scaling: Any

    def update(self, X: Any, y: Any) -> Self:
        """Take in more rows, with the hyperparameters and the scaling of the fit.

        Parameters
        ----------
        X : array-like of shape (s, d)
        y : array-like of shape (s,) or (s, p)
            Rows without a target are left out with ``missing="drop"``; of several outputs those
            that are correlated alone can miss some.

        Returns
        -------
        self
            With the posterior of all rows (the new ones of weight one), to the solver's tolerance,
            and calibrated anew. The solve starts from the one there is; see
            `gplsq.gp.Posterior.update`.

        Raises
        ------
        ValueError, TypeError
            For tables that do not fit to that of `fit`, or after a fit of a `RowTable`. The model
            is then as it was.
        NotFittedError
            Before `fit`.
        """
        points, target, _ = self._standardised(X, y)
        if np.any(np.isnan(target)) and not isinstance(self.posterior_, CorrelatedOutputs):
            msg = "y misses some targets: independent outputs take in rows with all. Fit anew."
            raise ValueError(msg)
        if len(target) == 0:
            return self
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        rng = np.random.default_rng(seed)
        with jax.enable_x64(points.dtype == np.float64):
            points = with_weights(points) if is_weighted(self) else points
            posterior = self.posterior_.update(points, target)
            check_finite_mean(posterior)
            settings = rng, self._still_constant(posterior), self.noise_variance_
            calibration, report = calibrate_by_rows(posterior, *settings), solver_report(posterior)
        self.posterior_, self.calibration_, self.solver_report_ = posterior, calibration, report
        return self

    def _standardised(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows that have a target, in the units of the fit, and which of those given they are."""
        check_is_fitted(self, "posterior_")
        if isinstance(X, RowTable):
            msg = "X must be an array, of rows for a fitted model; got a RowTable. Read some rows."
            raise TypeError(msg)
        X, y = validate_rows(self, X, y, reset=False)
        there = rows_with_target(y)
        X, y, _ = take_rows(X, y, None, there)
        like = np.shape(self._y_scaling.scale)
        if y.shape[1:] != like:
            msg = f"y must have shape {('s', *like)}, as in fit; got {y.shape}.".replace("'", "")
            raise ValueError(msg)
        dtype = working_dtype(self.posterior_)
        left = without_own_mean(fitted_mean(self), X, y, self._uncalibrated())
        scaled = self._X_scaling.apply(X, dtype, "X"), self._y_scaling.apply(left, dtype, "y")
        return *scaled, there

    def _uncalibrated(self) -> np.ndarray:
        """Which outputs had nothing to calibrate by: they never changed. Shape () or (p,)."""
        latent_scale, noise = (np.asarray(part) for part in self.calibration_)
        return (latent_scale == 1) & (noise == self.noise_variance_)

    def _still_constant(self, posterior: Any) -> np.ndarray:
        """Which outputs had nothing to calibrate by, and have not with more rows."""
        constant = self._uncalibrated()
        if not constant.any():
            return constant
        mean = "linear" if fitted_mean(self) == "linear" else "constant"
        left = []
        for points, target in targets_of(posterior):
            weight = np.ones_like(target)
            if is_weighted(self):
                points, weight = points[:, :-1], points[:, -1]
            left.append(without_trend(mean, points, target / weight, weight).any())
        return constant & ~np.reshape(left, constant.shape)
