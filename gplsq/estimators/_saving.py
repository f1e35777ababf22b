"""Saving a fitted estimator to a file, and loading it: what is stored, and what is verified."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils.validation import check_is_fitted

from gplsq._core import Encoder, LoadError, describe, read_saved, savable, write_saved
from gplsq.estimators._outcome import check_finite_mean, parts_of, working_dtype
from gplsq.estimators._state import to_jax, to_numpy
from gplsq.estimators._targets import fitted_mean
from gplsq.estimators._weights import is_weighted
from gplsq.gp import (
    Calibration,
    CorrelatedOutputs,
    LowRankPosterior,
    MeanPosterior,
    Posterior,
    SeparateOutputs,
)
from gplsq.kernels import AbstractKernel, Weighted

# scikit-learn's own notes on an estimator, which hold no numbers.
_NOT_SAVED = {"_metadata_request", "_sklearn_output_config"}
_NAMES, _CLASSES = "feature_names_in_", "classes_"
# Labels may be numbers, text, or Python objects that are one of these.
_LABELS = "biufUO"

savable(
    name="numpy.RandomState",
    pack=lambda state: {"state": state.get_state()},
    unpack=lambda values: _random_state(values["state"]),
)(np.random.RandomState)


class SavingMixin:
    """`save`, and the state of pickles, for estimators."""

    def save(self, path: Any) -> None:
        """Write the fitted model to one file, without pickle.

        Parameters
        ----------
        path : str or path-like
            A file there is replaced, once the new one is complete and on the disk.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If the kernel, the solver or the mean is of a class of your own that is not registered
            with `gplsq.savable`, or the mean is a function.
        OSError
            If the file cannot be written; one that was there before is as it was.

        Notes
        -----
        `gplsq.load` gives a model with the same predictions, bit for bit on the same machine, and
        the same `update`. Not stored: a kept kernel matrix, which is made again, devices, the rows
        of a `RowTable`, and parameters that are code (a loss, an objective or an optimizer of your
        own): these say so if the loaded model is fitted again. See docs/concepts/saving.md.
        """
        check_is_fitted(self, "posterior_")
        check_storable_mean(self)
        write_saved(path, "model", self)

    def _check_loaded(self) -> None:
        """Refuse, with a `LoadError`, what `load` made of a file and cannot predict."""
        _check_model(self)

    def __getstate__(self) -> dict[str, Any]:
        return to_numpy(dict(super().__getstate__()))  # type: ignore[call-overload]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(to_jax(state))  # type: ignore[misc]


def check_storable_mean(model: Any) -> None:
    """Refuse a mean that is code: without it the loaded model could not predict."""
    mean = fitted_mean(model) if hasattr(model, "mean") else None  # a classifier has none
    if callable(mean) and isinstance(_storable("mean", mean), str):
        msg = (
            f"mean cannot be saved: got {describe(mean)}. Make it a callable object of a "
            "class that is registered with @gplsq.savable."
        )
        raise TypeError(msg)


def load(path: Any) -> Any:
    """Load a model that `GPRegressor.save` or `GPClassifier.save` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    GPRegressor or GPClassifier
        Fitted. It works in the dtype of its fit whatever JAX's x64 flag is, as it did before.

    Raises
    ------
    LoadError
        If the file is damaged, cut off, of another kind or of a newer version of the format, or
        names a class that is not registered here. Nothing in a file is executed.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import tempfile, gplsq, numpy as np
    >>> X = np.linspace(0, 1, 20)[:, None]
    >>> gp = gplsq.GPRegressor(levels=[(20, 5)]).fit(X, np.sin(6 * X[:, 0]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gp.save(f"{folder}/model.gplsq")
    ...     again = gplsq.load(f"{folder}/model.gplsq")
    >>> bool(np.all(again.predict(X) == gp.predict(X)))
    True
    """
    return read_saved(path, "model", _check_estimator)


def pack_estimator(model: Any) -> dict[str, Any]:
    """Parameters and fitted attributes; of parameters that are code only what they were."""
    names = model.get_params(deep=False)
    parameters = {name: _storable(name, value) for name, value in names.items()}
    fitted = {
        name: value
        for name, value in vars(model).items()
        if name not in names and name not in _NOT_SAVED
    }
    if _NAMES in fitted:
        fitted[_NAMES] = fitted[_NAMES].tolist()
    if _CLASSES in fitted:
        labels = fitted[_CLASSES]
        fitted[_CLASSES] = {"dtype": labels.dtype.str, "labels": labels.tolist()}
    return {"parameters": parameters, "fitted": fitted}


def unpack_estimator(cls: Any, values: dict[str, Any]) -> Any:
    """An estimator of a class from what `pack_estimator` gave."""
    model = cls(**values["parameters"])
    fitted = dict(values["fitted"])
    if _NAMES in fitted:
        fitted[_NAMES] = np.array(fitted[_NAMES], object)
    if _CLASSES in fitted:
        dtype = np.dtype(fitted[_CLASSES]["dtype"])
        if dtype.kind not in _LABELS:
            msg = f"labels of dtype {dtype}"
            raise ValueError(msg)
        fitted[_CLASSES] = np.array(fitted[_CLASSES]["labels"], dtype)
    vars(model).update(fitted)
    return model


def _storable(name: str, value: Any) -> Any:
    if name in ("mesh", "checkpoint"):  # of this machine
        return None
    if isinstance(value, AbstractKernel):
        return value
    try:
        Encoder().encode(value, name)
    except TypeError:
        # Refused by name in the next fit, which must not tune with something else in silence.
        return f"not saved: {describe(value)}"
    return value


def _check_estimator(model: Any) -> None:
    if not isinstance(model, SavingMixin):
        msg = f"it holds {describe(model)}, and no estimator"
        raise LoadError(msg)
    model._check_loaded()


def _check_model(model: Any) -> None:
    """Refuse a model that cannot predict: its parts have wrong types, shapes or dtypes."""
    posterior, d = model.posterior_, model.n_features_in_
    kinds = {
        "posterior_": (
            posterior,
            Posterior | LowRankPosterior | MeanPosterior | SeparateOutputs | CorrelatedOutputs,
        ),
        "kernel_": (model.kernel_, AbstractKernel),
        "calibration_": (model.calibration_, Calibration),
        "n_features_in_": (d, int),
        "solver_report_": (model.solver_report_, str),
    }
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind):
            msg = f"{name} is {describe(value)}"
            raise LoadError(msg)
    outputs = np.shape(model._y_scaling.scale)
    names = getattr(model, _NAMES, None)
    shapes = [np.shape(part) for part in (*model._X_scaling, *model._y_scaling)]
    if (
        shapes != [(d,), (d,), outputs, outputs]
        or len(outputs) > 1
        or (names is not None and names.shape != (d,))
    ):
        msg = f"its scaling or its names are not those of {d} columns"
        raise LoadError(msg)
    for i, number in enumerate(model.calibration_):
        if not isinstance(number, np.ndarray if outputs else float) or np.shape(number) != outputs:
            msg = f"calibration_.{i} is {describe(number)}"
            raise LoadError(msg)
    dtype = working_dtype(posterior)
    columns = d + (is_weighted(model) and isinstance(parts_of(posterior)[0].kernel, Weighted))
    _check_outputs(posterior, outputs)
    correlated = isinstance(posterior, CorrelatedOutputs)
    for part in parts_of(posterior):
        _check_part(getattr(part, "inner", part), dtype, columns + correlated)
    point = jax.ShapeDtypeStruct((3, columns), dtype)
    with jax.enable_x64(dtype == np.float64):
        predicted = jax.eval_shape(
            lambda Z: (posterior.mean(Z), posterior.raw_variance(Z, model.variance)), point
        )
        left_out = [_shapes_left_out(part) for part in parts_of(posterior) if part.X.shape[0]]
    shared = isinstance(posterior, Posterior | LowRankPosterior | MeanPosterior)
    expected = [(3, *outputs), (3,) if shared else (3, *outputs)]
    for part in parts_of(posterior):
        expected += [(3, *part.y.shape[1:]), (3,)] if part.X.shape[0] else []
    every = [*predicted, *(values for both in left_out for values in both)]
    dtypes = {out.dtype for out in every}
    if [out.shape for out in every] != expected or dtypes != {jnp.dtype(dtype)}:
        msg = f"its predictions would have shapes and dtypes {every}"
        raise LoadError(msg)
    check_finite_mean(posterior)


def _check_outputs(posterior: Any, outputs: tuple[int, ...]) -> None:
    """Refuse a posterior of other outputs than those of the scaling."""
    if isinstance(posterior, SeparateOutputs):
        found = sorted(column for columns in posterior.columns for column in columns)
        targets = [part.y.shape[1:] for part in posterior.parts]
        fits = (len(found),) == outputs and found == list(range(len(found)))
        fits = fits and targets == [(len(columns),) for columns in posterior.columns]
    elif isinstance(posterior, CorrelatedOutputs):
        fits = (posterior.num_outputs,) == outputs
    else:
        fits = posterior.y.shape[1:] == outputs
    if not fits:
        msg = f"its posterior is not one of outputs of shape {outputs}"
        raise LoadError(msg)


def _check_part(posterior: Any, dtype: np.dtype, columns: int) -> None:
    n = posterior.X.shape[0]
    solved = posterior.solution.value
    same = {leaf.dtype for leaf in (posterior.y, posterior.noise_variance, solved)}
    low_rank = isinstance(posterior, LowRankPosterior)
    coefficients = posterior.coefficients if low_rank else posterior.y
    if (
        dtype not in (np.float32, np.float64)
        or same != {dtype}
        or posterior.y.shape[:1] != (n,)
        or posterior.X.shape != (n, columns)
        or solved.shape != coefficients.shape
        or solved.shape[1:] != posterior.y.shape[1:]
    ):
        msg = f"its arrays are not those of a posterior of {n} rows and {columns} columns"
        raise LoadError(msg)


def _shapes_left_out(part: Any) -> Any:
    """What calibration after an update needs."""
    return jax.eval_shape(part.leave_one_out, jax.ShapeDtypeStruct((3,), jnp.int32))


def _random_state(state: Any) -> np.random.RandomState:
    made = np.random.RandomState()
    made.set_state(tuple(state))
    return made


def register_estimator(cls: Any) -> Any:
    """Let `load` make estimators of this class; a decorator."""
    return savable(pack=pack_estimator, unpack=lambda values: unpack_estimator(cls, values))(cls)
