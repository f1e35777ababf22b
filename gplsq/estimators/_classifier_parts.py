"""What a classifier's fit consists of: checked parameters, labels, tuning, and its summary."""

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets

from gplsq._core import LoadError, describe
from gplsq.estimators._parameters import also_fixed, check_common_parameters
from gplsq.estimators._summary import (
    SummaryRow,
    closing_rows,
    column_names,
    formula,
    hyperparameters,
    number,
)
from gplsq.estimators._tuning import tuned_so_far
from gplsq.gp import CLASS_SOLVERS, LaplacePosterior
from gplsq.kernels import RBF, AbstractKernel, Scaled
from gplsq.tuning import (
    AbstractClassObjective,
    ClassLeaveOneOut,
    History,
    Level,
    as_class_loss,
    start_from_data,
)

# Variance of a latent function, in squared logits, that tuning starts from: two classes, and more.
_START_VARIANCE = 10.0, 30.0
_NOISE = "noise_variance"
# Levels of the tuner: (rows, steps). All rows of a small table; of a large one fresh subsets.
_SMALL = 600
CALIBRATION_ROWS = 2000


def check_class_parameters(model: Any) -> None:
    """Refuse parameters of a `GPClassifier` that are of the wrong type or out of range."""
    check_common_parameters(model, CLASS_SOLVERS)
    as_class_loss(model.loss)
    objective = model.objective
    automatic = objective is None or (isinstance(objective, str) and objective == "auto")
    if not automatic and not isinstance(objective, AbstractClassObjective):
        msg = (
            'objective must be "auto", None or an objective for classes such as '
            f"gplsq.tuning.ClassHoldout(); got {describe(objective)}."
        )
        raise TypeError(msg)
    for name in ("bounds", "priors"):
        given = getattr(model, name)
        if isinstance(given, dict) and _NOISE in given:
            msg = f"{name} names {_NOISE!r}: a classifier has no such hyperparameter."
            raise ValueError(msg)


def encode_classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted labels and the number of each row's."""
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        msg = (
            f"y holds one class only, {classes.tolist()[0]!r}; a classifier needs rows of at least "
            "two classes."
        )
        raise ValueError(msg)
    return classes, codes.astype(np.int32)


def tune_classes(
    model: Any, X: np.ndarray, codes: np.ndarray, num_classes: int, rng: np.random.Generator
) -> tuple[AbstractKernel, History]:
    """The kernel of a `GPClassifier` for standardised data, tuned unless it asks not to."""
    kernel, n = model.kernel, len(codes)
    if kernel is None:
        kernel = start_kernel(X, num_classes, rng)
    if model.objective is None:
        history = History()
        history.message = "not tuned: objective=None"
        return kernel, history
    objective = ClassLeaveOneOut() if model.objective == "auto" else model.objective
    objective = dataclasses.replace(objective, num_classes=num_classes)
    result = tuned_so_far(
        kernel,
        X,
        codes.astype(X.dtype),
        objective=objective,
        loss=as_class_loss(model.loss),
        noise_variance=1.0,
        optimizer=model.optimizer,
        levels=class_levels(n) if model.levels is None else model.levels,
        num_restarts=model.num_restarts,
        bounds=model.bounds,
        fixed=also_fixed(model.fixed, _NOISE),
        priors=model.priors,
        constraints=model.constraints,
        random_state=rng,
        verbose=model.verbose,
        checkpoint=model.checkpoint,
    )
    return result.kernel, result.history


def class_levels(n: int) -> list[Level]:
    """The tuner's default schedule for n rows.

    A step makes some ten factorisations. Small tables are used whole; of larger ones fresh subsets
    are drawn at every step, and a few larger ones at last.
    """
    if n <= _SMALL:
        return [Level(n, 60)]
    return [Level(500, 50), Level(min(n, 1000), 5)]


def start_kernel(X: np.ndarray, num_classes: int, rng: np.random.Generator) -> AbstractKernel:
    """A squared-exponential kernel with one lengthscale a column, read off the data."""
    d = X.shape[1]
    # The target serves for the variance only, which is set here.
    blank = np.zeros(len(X))
    started: Any = start_from_data(Scaled(jnp.asarray(1.0), RBF(jnp.ones(d))), X, blank, rng)[0]
    return Scaled(jnp.asarray(_START_VARIANCE[num_classes > 2]), started.kernel)


def check_finite_mode(posterior: LaplacePosterior) -> None:
    """Refuse a posterior that is not finite; warn of one that missed its tolerance."""
    if not np.all(np.isfinite(np.asarray(posterior.coefficients))):
        msg = (
            f"the latent functions are not finite: {posterior.report()}. Pass float64 data, or "
            "bounds that keep the kernel's variance smaller."
        )
        raise np.linalg.LinAlgError(msg)
    if not posterior.ok:
        message = (
            f"Newton's method missed its tolerance: {posterior.report()}. The model is usable; its "
            "logits are off by about the decrement."
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=5)


def check_loaded_classifier(model: Any) -> None:
    """Refuse a classifier that cannot predict: its parts have wrong types, shapes or dtypes."""
    posterior, d = model.posterior_, model.n_features_in_
    sound = (
        isinstance(posterior, LaplacePosterior)
        and isinstance(model.kernel_, AbstractKernel)
        and isinstance(d, int)
        and isinstance(model.solver_report_, str)
        and all(isinstance(number, float) for number in model.calibration_)
        and [np.shape(part) for part in model._X_scaling] == [(d,), (d,)]
        and model.classes_.shape == (posterior.num_classes,)
        and getattr(model, "feature_names_in_", np.empty(d)).shape == (d,)
    )
    if not sound:
        msg = f"its parts are not those of a classifier of {d!r} columns"
        raise LoadError(msg)
    dtype, n = np.dtype(posterior.X.dtype), posterior.X.shape[0]
    arrays = (posterior.coefficients, posterior.values, posterior.weights)
    same = dtype in (np.float32, np.float64) and all(a.dtype == dtype for a in arrays)
    if not same or posterior.X.shape != (n, d) or posterior.codes.shape != (n,):
        msg = f"its arrays are not those of a posterior of {n} rows and {d} columns"
        raise LoadError(msg)
    with jax.enable_x64(dtype == np.float64):
        out = jax.eval_shape(posterior.probabilities, jax.ShapeDtypeStruct((3, d), dtype))
        held_out = jax.eval_shape(lambda: posterior.leave_one_out(np.zeros(3, int)))
    k = posterior.values.shape[1]
    shapes = [out.shape, held_out[0].shape, held_out[1].shape]
    if shapes != [(3, posterior.num_classes), (3, k), (3,)] or out.dtype != dtype:
        msg = f"its predictions would have the shapes {shapes}"
        raise LoadError(msg)
    if not np.all(np.isfinite(np.asarray(posterior.coefficients))):
        msg = "its coefficients are not finite"
        raise LoadError(msg)


def summary_rows(model: Any) -> Iterator[SummaryRow]:
    """The lines of a classifier's summary."""
    posterior = model.posterior_
    names = column_names(model)
    counts = np.bincount(np.asarray(posterior.codes), minlength=posterior.num_classes)
    shown = [f"{label}: {count:,}" for label, count in zip(model.classes_, counts, strict=True)]
    more = ", ..." if len(shown) > 10 else ""
    yield SummaryRow("rows", f"{posterior.X.shape[0]:,}")
    yield SummaryRow("classes", ", ".join(shown[:10]) + more)
    yield SummaryRow("inputs", f"{len(names)}")
    yield SummaryRow("dtype", str(np.dtype(posterior.X.dtype)))
    yield SummaryRow("kernel", formula(model.kernel_, names))
    for row in hyperparameters(model.kernel_, names, model._X_scaling.scale, 1.0):
        yield row._replace(unit=row.unit.replace("target", "logit"))
    yield SummaryRow("temperature", number(model.calibration_.temperature))
    yield SummaryRow(
        "latent scale", number(model.calibration_.latent_scale), "× posterior variance"
    )
    log_loss, accuracy, rows = model.held_out_
    how = f"nats, {rows:,} rows, each predicted from the others"
    yield SummaryRow("held-out log loss", number(log_loss), how)
    yield SummaryRow("held-out accuracy", f"{accuracy:.1%}")
    yield from closing_rows(model)
