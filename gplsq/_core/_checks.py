"""Checks of static facts (types, shapes, choices), with uniform messages.

Every message names the argument, what was expected, what came, and what to do.
"""

import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import jax.numpy as jnp
import numpy as np


def describe(value: Any) -> str:
    """A short description of a value for an error message: type, dtype and shape, not contents."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of dtype {value.dtype} and shape {tuple(value.shape)}"
    text = repr(value)
    return f"{text[:60]}{'...' if len(text) > 60 else ''} (type {type(value).__name__})"


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value` if it is one of the strings in `choices`.

    Raises
    ------
    ValueError
        If it is not.
    """
    options = list(choices)
    if not isinstance(value, str) or value not in options:
        listed = ", ".join(repr(option) for option in options)
        msg = f"{name} must be one of {listed}; got {describe(value)}. Choose one of the list."
        raise ValueError(msg)
    return value


def check_count(name: str, value: Any, *, minimum: int = 0) -> int:
    """Return `value` as an int if it is a whole number of at least `minimum`.

    Raises
    ------
    TypeError
        If it is no whole number.
    ValueError
        If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        msg = f"{name} must be a whole number; got {describe(value)}. Pass a Python int."
        raise TypeError(msg)
    if value < minimum:
        msg = f"{name} must be at least {minimum}; got {value}. Pass a larger number."
        raise ValueError(msg)
    return int(value)


def check_finite_scalar(
    name: str, value: Any, *, minimum: float | None = None, strict: bool = False
) -> float:
    """Return `value` as a Python float if it is a finite real number within its bound.

    Parameters
    ----------
    name
        The argument's name, for the message.
    value
        What the user passed.
    minimum
        Smallest value allowed; `None` for no bound.
    strict
        Whether the bound itself is refused.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is not finite, or out of bounds.
    """
    refused = isinstance(value, np.complexfloating)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        array = np.asarray(value) if hasattr(value, "shape") else None
        if array is None or array.ndim != 0 or array.dtype.kind not in "fiu":
            refused = True
        else:
            value = array.item()
    if refused:
        msg = f"{name} must be a real number; got {describe(value)}. Pass a float."
        raise TypeError(msg)
    number = float(value)
    if not math.isfinite(number):
        msg = f"{name} must be finite; got {number}. Pass a finite number."
        raise ValueError(msg)
    if minimum is not None and (number < minimum or (strict and number == minimum)):
        relation = "greater than" if strict else "at least"
        msg = f"{name} must be {relation} {minimum}; got {number}. Pass a larger number."
        raise ValueError(msg)
    return number


def check_real_array(name: str, value: Any) -> Any:
    """Return `value`, in the byte order of the machine, if it holds real numbers that JAX has.

    Raises
    ------
    TypeError
        For text, dates, objects, complex numbers, extended precision and masked arrays.
    """
    if isinstance(value, np.ma.MaskedArray):
        msg = f"{name} must not be a masked array; got {describe(value)}. Fill or drop its entries."
        raise TypeError(msg)
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        dtype = np.asarray(value).dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        msg = f"{name} must be real; got {describe(value)}. Stack real and imaginary parts."
        raise TypeError(msg)
    real = any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    if not real or dtype.itemsize > 8:
        msg = (
            f"{name} must hold real numbers of at most 64 bits; got {describe(value)}. Convert "
            "it, for example to float32."
        )
        raise TypeError(msg)
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder("="))
    return value
