"""GPRegressor: fit, tune on held-out loss, predict with calibrated uncertainty."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state

from gplsq.estimators._fitted import FittedMixin
from gplsq.estimators._kernel_parameters import KernelParametersMixin
from gplsq.estimators._outcome import (
    calibrate_by_rows,
    check_finite_mean,
    solver_report,
)
from gplsq.estimators._parameters import check_parameters
from gplsq.estimators._saving import register_estimator
from gplsq.estimators._scaling import fit_scaling
from gplsq.estimators._state import whole_fit
from gplsq.estimators._table import validate_training
from gplsq.estimators._targets import (
    check_table,
    check_targets,
    correlated_kernel,
    fit_target_scaling,
    is_constant,
    rows_with_target,
    take_rows,
    without_own_mean,
    without_trend,
)
from gplsq.estimators._tuning import raise_if_interrupted, tune_or_keep
from gplsq.estimators._weights import (
    RowWeights,
    inducing_points,
    known_noise,
    row_weights,
)
from gplsq.gp import condition_outputs
from gplsq.kernels import AbstractKernel, Weighted
from gplsq.operators import RowTable
from gplsq.solvers import AbstractLeastSquares


@register_estimator
class GPRegressor(KernelParametersMixin, FittedMixin, RegressorMixin, BaseEstimator):
    """Gaussian-process regression for tables of 100 to 1,000,000 rows.

    Inputs and target are standardised, hyperparameters are tuned by gradient on held-out loss, the
    posterior mean is solved as regularised least squares, and the predictive variance is calibrated
    on leave-one-out residuals.

    Parameters
    ----------
    kernel : gplsq kernel, default=None
        Prior covariance, in standardised units when `standardize` is on. A given kernel is tuned
        from its own values; `None` is a scaled Matérn 3/2 with one lengthscale a column, started
        from the data.
    noise_variance : float or "auto", default="auto"
        Variance of the observation noise the tuning starts from (and stays at, if `objective` is
        None), in squared standardised units of the target.
    objective : "auto", objective or None, default="auto"
        Where held-out loss comes from: leave-one-out in closed form up to 2000 rows, repeated
        hold-out beyond; or e.g. `gplsq.tuning.Holdout(0.1)`. None does not tune.
    loss : {"mse", "nlpd", "crps", "pinball"} or callable, default="mse"
        What is tuned: a function of (y, mean, variance) in standardised units.
    solver : {"auto", "direct", "lsmr", "inducing", "features"} or solver, default="auto"
        Planned by `gplsq.plan`: dense Cholesky up to 5000 rows, preconditioned function-space LSMR
        beyond, and inducing points where that would take over half a minute.
    inducing : int or array-like of shape (m, d), default=None
        Inducing points in the units of X, or how many to choose from the data: asks for that model;
        see `gplsq.gp.condition`.
    num_features : int, default=None
        How many random features: asks for that model.
    memory : float or str, default=None
        What the posterior may take beside the table: bytes, or text such as "2 GiB"; half of what
        is free by default.
    variance : {"auto", "exact", "neighbours"}, default="auto"
        How predictive variances are computed, see `gplsq.gp.Posterior.variance`: exact with the
        direct solver; otherwise by default the upper bound from the 64 most correlated rows, which
        calibration then scales.
    mean : {"zero", "constant", "linear"} or callable, default="zero"
        What predictions go to far from the data. "zero" is the average of a standardised y.
        "constant" and "linear" are fitted by generalised least squares, see
        `gplsq.gp.MeanPosterior`; tuning works on what ordinary ones leave. A function of rows, as
        they are given, that returns numbers like y is subtracted from y, and added to predictions.
    outputs : {"independent", "correlated"}, default="independent"
        How the columns of a y of shape (n, p) are related: one model with the same kernel and
        noise for each, by one factorisation or block solve; or one process over rows and outputs
        (`gplsq.kernels.Coregionalised`, into which a kernel of points is put), whose outputs learn
        from each other, at the cost of a table of n p rows.
    missing : {"raise", "drop"}, default="raise"
        What is done about NaN in y: refuse them, or fit the targets there are.
    standardize : bool, default=True
        Shift and scale inputs and target to zero mean and unit variance before anything else.
    optimizer : optax.GradientTransformation, default=None
        For the tuner, see `gplsq.tuning.tune`; Adam with a decaying rate by default.
    levels : sequence of (rows, steps), default=None
        The tuner's schedule, see `gplsq.tuning.default_levels`.
    num_restarts : int, default=0
        Further random starts of the tuner's first level.
    bounds, fixed, priors : dict, list and dict, default=None
        Bounds ``{"lengthscale": (0.1, None)}``, names of hyperparameters that stay, and log prior
        densities, all in standardised units; see `gplsq.tuning.tune`.
    constraints : gplsq.constraints object, default=None
        On the kernel, or kernel and noise variance, in standardised units; as for `tune`.
    form : {"auto", "dense", "tiled"}, default="auto"
        Whether LSMR keeps the kernel matrix (n^2 numbers) or recomputes it in tiles.
    rtol : float, default=None
        Relative residual asked of LSMR; 1e-2 for float32 and 1e-4 for float64 tables (1e-3 with
        inducing points and features).
    mesh : jax.sharding.Mesh, default=None
        Devices that share the rows of the solve and of predictions, see `gplsq.gp.condition`. Not
        part of a pickle.
    random_state : int, RandomState or None, default=None
        Subsets and splits of the tuner. An int makes a fit reproducible.
    verbose : int, default=0
        1 shows a progress bar while tuning.
    checkpoint : path, default=None
        A file that tuning writes after every step; if it is there, a fit of the same data and
        settings goes on from it, bit for bit. Needs a `random_state`. Not part of a saved model.

    Attributes
    ----------
    kernel_, noise_variance_
        Tuned kernel and noise variance, in standardised units.
    calibration_ : Calibration
        Predictive variance of an observation = `latent_scale` times the posterior variance plus
        `noise_variance`, standardised units; arrays of shape (p,) for p outputs.
    history_ : History
        The tuner's steps; prints as a table.
    solver_report_ : str
        What was solved, how, and how well.
    num_clipped_variances_ : int
        Variances of the last prediction that rounding made negative and that were set to 0; there
        once a standard deviation was asked for.
    fit_seconds_ : float
        What the fit took.
    posterior_ : Posterior, LowRankPosterior, MeanPosterior, SeparateOutputs or CorrelatedOutputs
        The functional core's posterior, in standardised units; see `gplsq.gp`.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    float32 tables are worked on in float32, all others in float64, whatever JAX's x64 flag is; the
    flag is not touched. Time and memory: n^3 / 3 flops up to 5000 rows; n^2 numbers beyond, or O(n)
    with ``form="tiled"``.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from gplsq import GPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> gp = GPRegressor(random_state=0).fit(X[:400], y[:400])
    >>> mean, std = gp.predict(X[400:], return_std=True)
    """

    def __init__(
        self,
        kernel: AbstractKernel | None = None,
        *,
        noise_variance: float | str = "auto",
        objective: Any = "auto",
        loss: str | Callable = "mse",
        solver: AbstractLeastSquares | str = "auto",
        inducing: Any = None,
        num_features: int | None = None,
        memory: float | str | None = None,
        variance: str = "auto",
        mean: str | Callable = "zero",
        outputs: str = "independent",
        missing: str = "raise",
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
        mesh: Any = None,
        random_state: Any = None,
        verbose: int = 0,
        checkpoint: Any = None,
    ):
        self.kernel = kernel
        self.noise_variance = noise_variance
        self.objective = objective
        self.loss = loss
        self.solver = solver
        self.inducing = inducing
        self.num_features = num_features
        self.memory = memory
        self.variance = variance
        self.mean = mean
        self.outputs = outputs
        self.missing = missing
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
        self.mesh = mesh
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = self.outputs == "independent"
        return tags

    def fit(
        self,
        X: Any,
        y: Any,
        groups: Any = None,
        *,
        sample_weight: Any = None,
        noise_variance: Any = None,
    ) -> "GPRegressor":
        """Tune, solve and calibrate.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Finite real numbers; at least two rows. Or a `gplsq.operators.RowTable`, for tables
            larger than memory: it is fitted by a low-rank model. A NumPy memory map of more than a
            quarter of `memory` is taken for one.
        y : array-like of shape (n,) or (n, p)
            Finite real numbers, a column for each of p outputs; NaN with ``missing="drop"``.
        groups : array-like of shape (n,), default=None
            A label for each row; `gplsq.tuning.GroupHoldout` holds out rows of a label together.
        sample_weight : array-like of shape (n,), default=None
            A row of weight w has a w-th of the noise variance, and counts w times in the scaling:
            whole weights give the mean of repeated rows. Held-out errors count as often. Rows of
            weight 0 are left out.
        noise_variance : array-like of shape (n,), default=None
            The known noise variance of every row, in squared units of y; positive. It is not
            tuned. Not together with `sample_weight`.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For tables that are not finite, real and of matching lengths, unknown parameter values,
            or a `memory` that is too little for every plan.
        FloatingPointError
            If no step of the tuner had a finite loss.
        numpy.linalg.LinAlgError
            If the kernel matrix with its noise is not positive definite in the dtype of X.
        LoadError, OSError
            If the file of `checkpoint` is damaged, or cannot be written.

        Warns
        -----
        ConvergenceWarning
            If the final solve missed its tolerance, or hyperparameters ended at a bound; the model
            is fitted and usable.

        Notes
        -----
        Ctrl-C while tuning ends it: the model is completed with the best hyperparameters so far,
        and the `KeyboardInterrupt` is handed on. A second one leaves the estimator as it was.
        """
        with whole_fit(self):
            self._validated_fit(X, y, groups, sample_weight, noise_variance)
        raise_if_interrupted(self.history_)
        return self

    def _validated_fit(
        self, X: Any, y: Any, groups: Any, sample_weight: Any, noise_variance: Any
    ) -> None:
        check_parameters(self)
        X, y = validate_training(self, X, y)
        there = rows_with_target(y)
        rows = row_weights(X, there, sample_weight, noise_variance)
        check_table(X, y, self.mean, self.outputs)
        X, y, groups = take_rows(X, y, groups, there if rows is None else rows.used)
        check_targets(y, self.outputs)
        y = without_own_mean(self.mean, X, y)
        repeats = None if rows is None else rows.repeats
        if np.nanmax(np.abs(y)) > np.finfo(X.dtype).max:
            msg = f"Input y holds values too large for {X.dtype}, X's dtype. Pass X as float64."
            raise ValueError(msg)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        self._X_scaling = fit_scaling(X, self.standardize, constant_scale=np.inf, weights=repeats)
        self._y_scaling = fit_target_scaling(y, self.standardize, repeats)
        self._mean = self.mean
        target = self._y_scaling.apply(y, X.dtype, "y")
        with jax.enable_x64(X.dtype == np.float64):
            if isinstance(X, RowTable):
                self._fit(X.standardised(*self._X_scaling), target, groups, rng)
            else:
                self._fit(self._X_scaling.apply(X, X.dtype, "X"), target, groups, rng, rows)

    def _fit(
        self,
        X: Any,
        y: np.ndarray,
        groups: Any,
        rng: np.random.Generator,
        rows: RowWeights | None = None,
    ) -> None:
        """Everything after validation, in standardised units and inside the dtype's scope."""
        correlated = self.outputs == "correlated"
        start = correlated_kernel(self.kernel, y, X.shape[1]) if correlated else self.kernel
        tuned = without_trend(self.mean, X, y, None if rows is None else rows.weight)
        data = X, tuned, groups, False
        if rows is not None and self.objective is not None:
            data = *rows.apply(X, tuned), groups, True
        outcome = tune_or_keep(self, start, *data, rng, known_noise(rows, self._y_scaling.scale))
        kernel, noise, self.history_ = outcome
        self.kernel_, self.noise_variance_ = kernel, noise
        place = X.shape[1]
        if rows is not None:
            kernel, (X, y) = Weighted(kernel), rows.apply(X, y)
        self.posterior_ = condition_outputs(
            *(kernel, X, y),
            observed=None if y.ndim == 1 else ~np.isnan(y),
            correlated=correlated,
            column=place,
            mean="zero" if callable(self.mean) else self.mean,
            weighted=rows is not None,
            noise_variance=noise,
            solver=self.solver,
            rtol=self.rtol,
            form=self.form,
            inducing=inducing_points(self, weighted=rows is not None),
            num_features=self.num_features,
            memory=self.memory,
            mesh=self.mesh,
            key=jax.random.key(int(rng.integers(2**31))),
        )
        check_finite_mean(self.posterior_)
        self.calibration_ = calibrate_by_rows(self.posterior_, rng, is_constant(tuned), noise)
        self.solver_report_ = solver_report(self.posterior_)
