"""Hyperparameters: which leaves of a model are tuned, and their bijection to the real line."""

import dataclasses
from collections.abc import Callable
from numbers import Number
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gplsq._core._numerics import is_traced

_KEY = "gplsq_positive"


def _as_parameter(value: Any) -> Any:
    """Convert numbers and arrays to floating-point arrays; let pytree placeholders pass."""
    if not isinstance(value, bool | Number | list | tuple | np.ndarray | np.generic | Array):
        return value
    number = value if isinstance(value, Array) else np.asarray(value)
    if not (jnp.issubdtype(number.dtype, jnp.floating) or number.dtype.kind in "iu"):
        msg = f"a hyperparameter must be a real number; got {value!r}. Pass a float or an array."
        raise TypeError(msg)
    # Whole numbers, and what has no dtype of its own, get the default one; kernels cast to their
    # data.
    own = hasattr(value, "dtype") and jnp.issubdtype(number.dtype, jnp.floating)
    return jnp.asarray(value, dtype=None if own else float)


def _as_positive(value: Any) -> Any:
    """The same; numbers that can be looked at must be positive."""
    number = _as_parameter(value)
    if isinstance(number, Array) and not is_traced(number) and not np.all(np.asarray(number) > 0):
        msg = f"a positive hyperparameter must be above 0; got {value!r}. Pass a larger number."
        raise ValueError(msg)
    return number


def positive(**kwargs: Any) -> Any:
    """Declare a dataclass field of a kernel as a positive hyperparameter.

    The tuner works on its logarithm, so it stays positive. Fields that are floating-point arrays
    without this mark are tuned as they are.

    Examples
    --------
    >>> import gplsq, jax.numpy as jnp
    >>> class Triangle(gplsq.kernels.AbstractPairKernel):
    ...     width: object = gplsq.kernels.positive(default=1.0)
    ...     def pair(self, x, z):
    ...         return jnp.maximum(1 - jnp.abs(x - z).sum() / self.width, 0)
    """
    return eqx.field(converter=_as_positive, metadata={_KEY: True}, **kwargs)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One hyperparameter of a model: its dotted name, its value, and whether it is positive."""

    name: str
    value: Array
    positive: bool


def _map(tree: Any, name: str, is_positive: bool, fn: Callable[[Parameter], Any]) -> Any:
    """Rebuild `tree` with `fn` applied to every floating-point array leaf."""
    if isinstance(tree, eqx.Module):
        replaced = {}
        for field in dataclasses.fields(tree):
            if field.metadata.get("static", False):
                continue
            child = getattr(tree, field.name)
            label = f"{name}.{field.name}" if name else field.name
            replaced[field.name] = _map(child, label, field.metadata.get(_KEY, False), fn)
        names = list(replaced)
        return eqx.tree_at(
            lambda module: [getattr(module, key) for key in names],
            tree,
            [replaced[key] for key in names],
            is_leaf=lambda leaf: leaf is None,
        )
    if type(tree) in (list, tuple):
        return type(tree)(
            _map(child, f"{name}[{i}]", is_positive, fn) for i, child in enumerate(tree)
        )
    if isinstance(tree, dict):
        return {key: _map(child, f"{name}.{key}", is_positive, fn) for key, child in tree.items()}
    if eqx.is_inexact_array(tree):
        leaf: Any = tree
        return fn(Parameter(name, leaf, is_positive))
    return tree


def parameters_of(model: Any) -> list[Parameter]:
    """All hyperparameters of a model (a module, or a tuple of modules), in field order."""
    found: list[Parameter] = []

    def record(parameter: Parameter) -> Any:
        found.append(parameter)
        return parameter.value

    _map(model, "", False, record)
    return found


def parts_of_type(model: Any, kind: type) -> list[Any]:
    """The model itself and the parts it is made of that are of a class, outermost only."""
    leaves = jax.tree.leaves(model, is_leaf=lambda part: isinstance(part, kind))
    return [part for part in leaves if isinstance(part, kind)]


def map_parameters(model: Any, fn: Callable[[Parameter], Any]) -> Any:
    """The same model with every hyperparameter replaced by what `fn` makes of it."""
    return _map(model, "", False, fn)


def unconstrain(model: Any) -> Any:
    """The same model with every positive hyperparameter replaced by its logarithm."""
    return _map(model, "", False, lambda p: jnp.log(p.value) if p.positive else p.value)


def constrain(model: Any) -> Any:
    """Inverse of `unconstrain`."""
    return _map(model, "", False, lambda p: jnp.exp(p.value) if p.positive else p.value)


def cast(model: Any, dtype: Any) -> Any:
    """The same model with every floating-point leaf in `dtype`."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_inexact_array(leaf) else leaf, model
    )
