"""Hyperparameters of an estimator's kernel as its parameters: ``kernel__lengthscale``."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gplsq._core import describe, map_parameters, parameters_of
from gplsq.kernels import AbstractKernel

_PREFIX = "kernel__"


class KernelParametersMixin:
    """`get_params` and `set_params` that reach into the kernel, as scikit-learn's searches do.

    A kernel is not changed in place: `set_params` gives the estimator another one.
    """

    kernel: Any

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; with `deep` hyperparameters of the kernel too.

        Parameters
        ----------
        deep : bool, default=True
            Add those of a given kernel as ``kernel__`` and their dotted names with ``__`` for the
            dots, as arrays: ``kernel__left__variance``.
        """
        params = super().get_params(deep=deep)  # pyright: ignore[reportAttributeAccessIssue]
        if deep and isinstance(self.kernel, AbstractKernel):
            for parameter in parameters_of(self.kernel):
                name = _PREFIX + parameter.name.replace(".", "__")
                params[name] = np.asarray(parameter.value)
        return params

    def set_params(self, **params: Any) -> "KernelParametersMixin":
        """Set parameters by name, those of the kernel by ``kernel__``.

        Parameters
        ----------
        **params
            As `get_params` names them. A name of the kernel may also be the end of several:
            ``kernel__lengthscale`` sets all lengthscales. Values are numbers or arrays that
            broadcast to the shape there is.

        Raises
        ------
        ValueError
            For names that do not exist, and values that are no such hyperparameter.
        """
        inside = {n: v for n, v in params.items() if n.startswith(_PREFIX)}
        super().set_params(**{n: v for n, v in params.items() if n not in inside})  # pyright: ignore
        if inside:
            self.kernel = _with_values(self.kernel, inside)
        return self


def _with_values(kernel: Any, values: Mapping[str, Any]) -> Any:
    """A kernel with other hyperparameters."""
    if not isinstance(kernel, AbstractKernel):
        msg = (
            f"{next(iter(values))} sets a hyperparameter of a kernel; got kernel="
            f"{describe(kernel)}. Pass kernel=gplsq.kernels.RBF() or another first."
        )
        raise ValueError(msg)
    names = [parameter.name for parameter in parameters_of(kernel)]
    meant: dict[str, tuple[str, Any]] = {}
    # An exact name goes before one that several end in, in whatever order they came.
    for exact in (False, True):
        for given, value in values.items():
            name = given.removeprefix(_PREFIX).replace("__", ".")
            found = [n for n in names if (n == name if exact else n.endswith(f".{name}"))]
            if not exact and name not in names and not found:
                known = ", ".join(_PREFIX + n.replace(".", "__") for n in names)
                msg = f"{given} is no hyperparameter of the kernel. There are: {known}."
                raise ValueError(msg)
            if exact or name not in names:
                meant |= dict.fromkeys(found, (given, value))

    def change(parameter: Any) -> Any:
        if parameter.name not in meant:
            return parameter.value
        given, value = meant[parameter.name]
        shape = parameter.value.shape
        try:
            number = np.broadcast_to(np.asarray(value, float), shape)
        except (TypeError, ValueError) as error:
            msg = f"{given} must be a number, or an array of shape {shape}; got {describe(value)}."
            raise ValueError(msg) from error
        if not np.all(np.isfinite(number)) or (parameter.positive and not np.all(number > 0)):
            kind = "positive and finite" if parameter.positive else "finite"
            msg = f"{given} must be {kind}; got {value!r}."
            raise ValueError(msg)
        return jnp.asarray(number, parameter.value.dtype)

    return map_parameters(kernel, change)
