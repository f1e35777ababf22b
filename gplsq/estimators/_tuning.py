"""The tuner with the parameters of an estimator."""

from typing import Any

import numpy as np

from gplsq.constraints import AbstractConstraint
from gplsq.estimators._parameters import also_fixed
from gplsq.estimators._targets import is_constant
from gplsq.gp import as_pairs
from gplsq.kernels import AbstractKernel, Weighted
from gplsq.operators import RowTable
from gplsq.tuning import (
    History,
    TuningInterrupted,
    TuningResult,
    choose_objective,
    default_kernel,
    tune,
)

# Rows that a table larger than memory is tuned on: levels draw up to 2000 of them for each step.
_TUNING_ROWS = 50_000


def tuned_so_far(*arguments: Any, **settings: Any) -> TuningResult:
    """`tune`; after Ctrl-C what it has so far, with a mark that `raise_if_interrupted` finds."""
    try:
        return tune(*arguments, **settings)
    except TuningInterrupted as interrupted:
        return interrupted.result


def raise_if_interrupted(history: History) -> None:
    """Hand on a Ctrl-C of the tuner, once the model of what it had so far is complete."""
    if history.message == TuningInterrupted.MESSAGE:
        msg = (
            "tuning was interrupted; the model is fitted with the best hyperparameters of "
            f"{len(history)} steps, and can be used."
        )
        raise KeyboardInterrupt(msg)


def tune_or_keep(
    model: Any,
    kernel: AbstractKernel | None,
    X: Any,
    y: np.ndarray,
    groups: Any,
    weighted: bool,
    rng: np.random.Generator,
    known_noise: float | None,
) -> tuple[AbstractKernel, float, History]:
    """Kernel and noise of a `GPRegressor` for standardised data, tuned unless it asks not to.

    Parameters
    ----------
    model
        The estimator.
    kernel
        To start from; None for the default one.
    X, y
        Shapes (n, d), an array or a `RowTable`, and (n,) or (n, p), NaN where a target is missing.
    groups
        A label for each row, or None.
    rng
        Draws subsets and splits.
    weighted
        Whether the last column of X is a weight, by which y is multiplied already.
    known_noise
        Noise variance that is not tuned, or None.
    """
    kernel = default_kernel(X.shape[1] - weighted) if kernel is None else kernel
    noise_variance = model.noise_variance if known_noise is None else known_noise
    if model.objective is None or np.all(is_constant(y)):
        # A constant target has no held-out loss to improve.
        noise = 0.01 if isinstance(noise_variance, str) else float(noise_variance)
        history = History()
        reason = "objective=None" if model.objective is None else "the target is constant"
        history.message = f"not tuned: {reason}"
        return kernel, noise, history
    if isinstance(X, RowTable):
        chosen = rng.choice(len(y), size=min(len(y), _TUNING_ROWS), replace=False)
        X, y = X.take(chosen), y[chosen]
        groups = None if groups is None else np.asarray(groups)[chosen]
    observed = None if y.ndim == 1 else ~np.isnan(y)
    if model.outputs == "correlated":
        assert observed is not None
        groups = None if groups is None else np.asarray(groups)[np.nonzero(observed)[0]]
        (X, y), observed = as_pairs(X, y, observed, X.shape[1] - weighted), None
    result = tuned_so_far(
        Weighted(kernel) if weighted else kernel,
        X,
        y,
        objective=choose_objective(
            model.objective, X.shape[0], model.mesh, groups=groups is not None
        ),
        loss=model.loss,
        noise_variance=noise_variance,
        optimizer=model.optimizer,
        levels=model.levels,
        start="data" if model.kernel is None else "given",
        num_restarts=model.num_restarts,
        bounds=model.bounds,
        fixed=model.fixed if known_noise is None else also_fixed(model.fixed, "noise_variance"),
        priors=model.priors,
        constraints=_of_kernel(model.constraints, weighted),
        groups=groups,
        observed=observed,
        random_state=rng,
        verbose=model.verbose,
        checkpoint=model.checkpoint,
    )
    found: Any = result.kernel
    return found.kernel if weighted else found, result.noise_variance, result.history


class _OfWeighted(AbstractConstraint):
    """A constraint on a kernel as one on that kernel with weights of rows."""

    inner: AbstractConstraint

    @property
    def kind(self):
        return self.inner.kind

    def residuals(self, params, batch=None, step=None):
        return self.inner.residuals(params.kernel, batch, step)

    def parts(self):
        return tuple(_OfWeighted(part) for part in self.inner.parts())


def _of_kernel(constraints: Any, weighted: bool) -> Any:
    """Constraints as the tuner takes them, which refuses what are bounds."""
    plain = (AbstractConstraint.box, AbstractConstraint.pinned)
    if not weighted or constraints is None:
        return constraints
    if any((type(part).box, type(part).pinned) != plain for part in constraints.parts()):
        return constraints
    return _OfWeighted(constraints)
