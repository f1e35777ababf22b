"""The tuner with the parameters of an estimator."""

from typing import Any

import numpy as np

from gplsq.kernels import AbstractKernel
from gplsq.operators import RowTable
from gplsq.tuning import History, default_kernel, tune

# Rows that a table larger than memory is tuned on: levels draw up to 2500 of them for each step.
_TUNING_ROWS = 50_000


def tune_or_keep(
    model: Any, X: Any, y: np.ndarray, groups: Any, rng: np.random.Generator
) -> tuple[AbstractKernel, float, History]:
    """Kernel and noise of a `GPRegressor` for standardised data, tuned unless it asks not to.

    Parameters
    ----------
    model
        The estimator.
    X, y
        Shapes (n, d), an array or a `RowTable`, and (n,).
    groups
        A label for each row, or None.
    rng
        Draws subsets and splits.
    """
    kernel = default_kernel(X.shape[1]) if model.kernel is None else model.kernel
    if model.objective is None or np.ptp(y) == 0:
        # A constant target has no held-out loss to improve.
        noise = 0.01 if isinstance(model.noise_variance, str) else float(model.noise_variance)
        history = History()
        reason = "objective=None" if model.objective is None else "the target is constant"
        history.message = f"not tuned: {reason}"
        return kernel, noise, history
    if isinstance(X, RowTable):
        chosen = rng.choice(len(y), size=min(len(y), _TUNING_ROWS), replace=False)
        X, y = X.take(chosen), y[chosen]
        groups = None if groups is None else np.asarray(groups)[chosen]
    result = tune(
        kernel,
        X,
        y,
        objective=model.objective,
        loss=model.loss,
        noise_variance=model.noise_variance,
        optimizer=model.optimizer,
        levels=model.levels,
        start="data" if model.kernel is None else "given",
        num_restarts=model.num_restarts,
        bounds=model.bounds,
        fixed=model.fixed,
        priors=model.priors,
        groups=groups,
        random_state=rng,
        verbose=model.verbose,
    )
    return result.kernel, result.noise_variance, result.history
