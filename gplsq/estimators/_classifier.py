"""GPClassifier: fit, tune on held-out log loss, predict calibrated probabilities."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from gplsq.estimators._classifier_parts import (
    CALIBRATION_ROWS,
    check_class_parameters,
    check_finite_mode,
    check_loaded_classifier,
    encode_classes,
    summary_rows,
    tune_classes,
)
from gplsq.estimators._kernel_parameters import KernelParametersMixin
from gplsq.estimators._saving import SavingMixin, register_estimator
from gplsq.estimators._scaling import fit_scaling
from gplsq.estimators._state import whole_fit
from gplsq.estimators._summary import Summary
from gplsq.estimators._table import check_plain
from gplsq.estimators._tuning import raise_if_interrupted
from gplsq.estimators._weights import RowWeights, inducing_points, row_weights
from gplsq.gp import (
    averaged_logits,
    calibrate_classes,
    class_probabilities,
    classify,
)
from gplsq.kernels import AbstractKernel
from gplsq.solvers import AbstractLeastSquares


@register_estimator
class GPClassifier(KernelParametersMixin, SavingMixin, ClassifierMixin, BaseEstimator):
    """Gaussian-process classification, two classes or more, by Laplace's approximation.

    Inputs are standardised, hyperparameters are tuned by gradient on held-out log loss, the mode is
    found by Newton steps that are weighted regularised least-squares problems, and probabilities
    are calibrated on leave-one-out predictions.

    Parameters
    ----------
    kernel : gplsq kernel, default=None
        Prior covariance of the latent functions in squared logits, in standardised units of the
        inputs when `standardize` is on. A given kernel is tuned from its own values; `None` is a
        scaled squared exponential with one lengthscale a column, started from the data.
    objective : "auto", objective or None, default="auto"
        Where held-out loss comes from: `gplsq.tuning.ClassLeaveOneOut`, in closed form, or
        `gplsq.tuning.ClassHoldout`; their number of classes is set here. None does not tune.
    loss : {"log_loss", "brier"} or callable, default="log_loss"
        What is tuned: a function of (codes, probabilities), shapes (s,) and (s, classes).
    solver : {"auto", "direct", "lsmr", "inducing"} or solver, default="auto"
        Of the Newton steps: a Cholesky factor up to 4000 rows, inducing points beyond; see
        `gplsq.gp.classify`.
    inducing : int or array-like of shape (m, d), default=None
        Inducing points in the units of X, or how many to choose from the data: asks for that model.
    memory : float or str, default=None
        What the fit may take beside the table: bytes, or text such as "2 GiB"; half of what is free
        by default.
    standardize : bool, default=True
        Shift and scale inputs to zero mean and unit variance before anything else.
    optimizer : optax.GradientTransformation, default=None
        For the tuner; Adam with a decaying rate by default.
    levels : sequence of (rows, steps), default=None
        The tuner's schedule; by default 60 steps on all rows up to 600, and beyond 50 steps on 500
        fresh rows each and 5 on up to 1000.
    num_restarts : int, default=0
        Further random starts of the tuner's first level.
    bounds, fixed, priors : dict, list and dict, default=None
        Of hyperparameters by name, see `gplsq.tuning.tune`.
    constraints : gplsq.constraints object, default=None
        On the kernel, as for `gplsq.tuning.tune`.
    form : {"auto", "dense", "tiled"}, default="auto"
        Whether the exact model keeps the kernel matrix (n^2 numbers) or recomputes it in tiles.
    rtol : float, default=None
        Relative residual asked of LSMR; 1e-2 by default.
    random_state : int, RandomState or None, default=None
        Subsets of the tuner and inducing points. An int makes a fit reproducible.
    verbose : int, default=0
        1 shows a progress bar while tuning.
    checkpoint : path, default=None
        A file that tuning writes after every step; if it is there, a fit of the same data and
        settings goes on from it, bit for bit. Needs a `random_state`. Not part of a saved model.

    Attributes
    ----------
    classes_ : ndarray of shape (classes,)
        Labels, sorted.
    kernel_
        Tuned kernel, in standardised units.
    calibration_ : ClassCalibration
        Temperature of the logits, and scale of the latent variance.
    held_out_ : tuple
        Log loss and accuracy of calibrated leave-one-out predictions, and of how many rows.
    history_ : History
        The tuner's steps; prints as a table. Its noise variance is not used.
    solver_report_ : str
        What was solved, how, and how well.
    fit_seconds_ : float
        What the fit took.
    posterior_ : LaplacePosterior
        The functional core's posterior, in standardised units.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Several classes share the kernel, and in every Newton step a weight for each row, so that one
    factorisation serves all of them; the mode is that of the softmax likelihood all the same. See
    docs/concepts/classification.md. float32 tables are worked on in float32, all others in float64,
    whatever JAX's x64 flag is. Cost: some ten times n^3 / 3 flops and 3 n^2 numbers up to 4000
    rows; about five times 3 n m^2 flops and m (n + 6 m) numbers with m inducing points.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from gplsq import GPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = GPClassifier(levels=[(150, 5)], random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape
    (150, 3)
    """

    def __init__(
        self,
        kernel: AbstractKernel | None = None,
        *,
        objective: Any = "auto",
        loss: str | Callable = "log_loss",
        solver: AbstractLeastSquares | str = "auto",
        inducing: Any = None,
        memory: float | str | None = None,
        standardize: bool = True,
        optimizer: Any = None,
        levels: Any = None,
        num_restarts: int = 0,
        bounds: Any = None,
        fixed: Any = None,
        priors: Any = None,
        constraints: Any = None,
        form: str = "auto",
        rtol: float | None = None,
        random_state: Any = None,
        verbose: int = 0,
        checkpoint: Any = None,
    ):
        self.kernel = kernel
        self.objective = objective
        self.loss = loss
        self.solver = solver
        self.inducing = inducing
        self.memory = memory
        self.standardize = standardize
        self.optimizer = optimizer
        self.levels = levels
        self.num_restarts = num_restarts
        self.bounds = bounds
        self.fixed = fixed
        self.priors = priors
        self.constraints = constraints
        self.form = form
        self.rtol = rtol
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    def fit(self, X: Any, y: Any, *, sample_weight: Any = None) -> "GPClassifier":
        """Tune, solve and calibrate.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Finite real numbers; at least two rows.
        y : array-like of shape (n,)
            Labels: numbers, strings or booleans, of at least two classes.
        sample_weight : array-like of shape (n,), default=None
            How often each row counts: its log likelihood is multiplied by that, and whole numbers
            are repeated rows of the model and its calibration (with LSMR but for the bound that
            variances then are). The tuner counts all rows alike. 0 leaves a row out.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For tables that are not finite, real and of matching lengths, for labels of one class or
            none, or unknown parameter values.
        FloatingPointError
            If no step of the tuner had a finite loss.
        numpy.linalg.LinAlgError
            If the kernel matrix is not positive definite in the dtype of X.

        Warns
        -----
        ConvergenceWarning
            If Newton's method missed its tolerance, or hyperparameters ended at a bound; the model
            is fitted and usable.
        """
        with whole_fit(self):
            self._validated_fit(X, y, sample_weight)
        raise_if_interrupted(self.history_)
        return self

    def _validated_fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        check_class_parameters(self)
        check_plain(X=X, y=y)
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), ensure_min_samples=2)
        X = np.asarray(X)
        rows = row_weights(X, np.ones(len(X), bool), sample_weight, None)
        if rows is not None:
            X, y = X[rows.used], y[rows.used]
        repeats = None if rows is None else rows.repeats
        self.classes_, codes = encode_classes(y)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        self._X_scaling = fit_scaling(X, self.standardize, constant_scale=np.inf, weights=repeats)
        with jax.enable_x64(X.dtype == np.float64):
            self._fit(self._X_scaling.apply(X, X.dtype, "X"), codes, rng, rows)

    def _fit(
        self,
        X: np.ndarray,
        codes: np.ndarray,
        rng: np.random.Generator,
        weights: RowWeights | None = None,
    ) -> None:
        """Everything after validation, in standardised units and inside the dtype's scope."""
        count = len(self.classes_)
        counts = None if weights is None else weights.repeats
        self.kernel_, self.history_ = tune_classes(self, X, codes, count, rng)
        self.posterior_ = classify(
            *(self.kernel_, X, codes),
            num_classes=count,
            counts=counts,
            solver=self.solver,
            inducing=inducing_points(self, weighted=False),
            form=self.form,
            rtol=self.rtol,
            memory=self.memory,
            key=jax.random.key(int(rng.integers(2**31))),
        )
        check_finite_mode(self.posterior_)
        rows = rng.choice(len(codes), size=min(len(codes), CALIBRATION_ROWS), replace=False)
        mean, variance = (np.asarray(part) for part in self.posterior_.leave_one_out(rows))
        counts = None if counts is None else counts[rows]
        self.calibration_ = calibrate_classes(mean, variance, codes[rows], counts)
        p = self._calibrated(mean, variance).astype(np.float64)
        observed = np.maximum(p[np.arange(len(rows)), codes[rows]], 1e-300)
        right = np.average(np.argmax(p, axis=1) == codes[rows], weights=counts)
        log_loss = -np.average(np.log(observed), weights=counts)
        self.held_out_ = float(log_loss), float(right), len(rows)
        self.solver_report_ = self.posterior_.report()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class.

        Parameters
        ----------
        X : array-like of shape (m, d)

        Returns
        -------
        ndarray of shape (m,)
            Labels out of `classes_`.

        Raises
        ------
        ValueError
            For another number of columns, or numbers that are not finite.
        NotFittedError
            Before `fit`.
        """
        decision = self.decision_function(X)
        if decision.ndim == 1:
            return self.classes_[(decision > 0).astype(int)]
        return self.classes_[np.argmax(decision, axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (m, d)

        Returns
        -------
        ndarray of shape (m, classes)
            Columns in the order of `classes_`, in the dtype of the fit.

        Raises
        ------
        ValueError
            For another number of columns, or numbers that are not finite.
        NotFittedError
            Before `fit`.
        """
        Z = self._points(X)
        with jax.enable_x64(Z.dtype == np.float64):
            posterior = self.posterior_
            if self.calibration_.latent_scale == 0:
                variance = np.zeros(len(Z), Z.dtype)
            else:
                variance = np.asarray(posterior.variance(Z))
            return self._calibrated(np.asarray(posterior.mean(Z)), variance)

    def decision_function(self, X: Any) -> np.ndarray:
        """The latent functions: logits before calibration.

        Parameters
        ----------
        X : array-like of shape (m, d)

        Returns
        -------
        ndarray of shape (m,) for two classes, (m, classes) for more
            Positive for the second of two classes; for more the largest is of the most probable
            class.

        Raises
        ------
        ValueError
            For another number of columns, or numbers that are not finite.
        NotFittedError
            Before `fit`.
        """
        Z = self._points(X)
        with jax.enable_x64(Z.dtype == np.float64):
            mean = np.asarray(self.posterior_.mean(Z))
        return mean[:, 0] if len(self.classes_) == 2 else mean

    def summary(self) -> Summary:
        """The fitted model in one table; print it.

        Returns
        -------
        Summary
            Rows, classes, inputs and dtype; the kernel and its hyperparameters in the units of the
            columns; calibration; held-out log loss and accuracy; what the solver did; seconds.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        check_is_fitted(self, "posterior_")
        return Summary(list(summary_rows(self)))

    def _calibrated(self, mean: Any, variance: Any) -> np.ndarray:
        temperature, latent_scale = self.calibration_
        logits = averaged_logits(mean, latent_scale * variance) / temperature
        return np.asarray(class_probabilities(logits))

    def _check_loaded(self) -> None:
        check_loaded_classifier(self)

    def _points(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "posterior_")
        check_plain(X=X)
        Z = np.asarray(validate_data(self, X, reset=False, dtype=(np.float64, np.float32)))
        return self._X_scaling.apply(Z, np.dtype(self.posterior_.X.dtype))
