"""Checks of static facts (types, shapes, choices), with uniform messages.

Every message names the argument, what was expected, what came, and what to do.
"""

import math
from collections.abc import Iterable
from typing import Any

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
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        array = np.asarray(value) if hasattr(value, "shape") else None
        if array is None or array.ndim != 0 or array.dtype.kind not in "fiu":
            msg = f"{name} must be a real number; got {describe(value)}. Pass a float."
            raise TypeError(msg)
        value = array.item()
    number = float(value)
    if not math.isfinite(number):
        msg = f"{name} must be finite; got {number}. Pass a finite number."
        raise ValueError(msg)
    if minimum is not None and (number < minimum or (strict and number == minimum)):
        relation = "greater than" if strict else "at least"
        msg = f"{name} must be {relation} {minimum}; got {number}. Pass a larger number."
        raise ValueError(msg)
    return number
