"""Rows of data and inducing points, as callers pass them."""

from numbers import Integral
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import as_points, check_real_array, describe
from gplsq.operators import RowTable


def take_rows(X: Float[Array, "n d"] | RowTable, index: Array) -> Float[Array, "t d"]:
    """Chosen rows, in memory."""
    return jnp.asarray(X.take(np.asarray(index))) if isinstance(X, RowTable) else X[index]


def points_like(Z: ArrayLike, X: Any) -> Float[Array, "m d"]:
    """New points as a table with the columns and the dtype of the data X."""
    points = jnp.asarray(check_real_array("Z", Z), X.dtype)
    if points.ndim != 2 or points.shape[1] != X.shape[1]:
        msg = (
            f"Z must be a table of points, shape (m, {X.shape[1]}), like the data; got "
            f"{describe(points)}."
        )
        raise ValueError(msg)
    return points


def check_rows(X: tuple[int, ...], y: tuple[int, ...]) -> None:
    """Refuse data whose shapes do not match."""
    if len(X) != 2 or y[:1] != X[:1] or len(y) > 2 or y[1:] == (0,):
        msg = (
            f"X must have shape (n, d) and y shape (n,) or (n, p); got {X} and {y}. Pass one "
            "target, or a row of targets, for each row."
        )
        raise ValueError(msg)


def rows_like(
    X: Any, columns: tuple[int, ...], more_X: ArrayLike, more_y: ArrayLike
) -> tuple[Float[Array, "s d"], Float[Array, "s *p"]]:
    """More data: points like those of X, shape (n, d), and targets of shape `(s, *columns)`."""
    points = as_points("X", more_X).astype(X.dtype)
    target = jnp.asarray(check_real_array("y", more_y), X.dtype)
    if points.shape[1] != X.shape[1] or target.shape != (points.shape[0], *columns):
        like = f"(s, {columns[0]})" if columns else "(s,)"
        msg = (
            f"X must have shape (s, {X.shape[1]}) and y shape {like}; got {points.shape} and "
            f"{target.shape}. Pass rows like those of the fit."
        )
        raise ValueError(msg)
    return points, target


def more_rows(
    X: Float[Array, "n d"], y: Float[Array, "n *p"], more_X: ArrayLike, more_y: ArrayLike
) -> tuple[Float[Array, "t d"], Float[Array, "t *p"]]:
    """The data with more of it below, verified."""
    points, target = rows_like(X, y.shape[1:], more_X, more_y)
    return jnp.concatenate([X, points]), jnp.concatenate([y, target])


def check_inducing(
    inducing: Any, X: Float[Array, "n d"] | RowTable
) -> tuple[int | None, Float[Array, "m d"] | None]:
    """How many inducing points were asked for, and the points themselves where they were given."""
    if inducing is None:
        return None, None
    if isinstance(inducing, Integral) and not isinstance(inducing, bool):
        if inducing < 1:
            msg = f"inducing must be at least 1; got {inducing}. Pass how many points to choose."
            raise ValueError(msg)
        return int(inducing), None
    if not eqx.is_array_like(inducing):
        msg = (
            "inducing must be a number of points, or the points, shape (m, d); got "
            f"{describe(inducing)}. Pass one of these."
        )
        raise TypeError(msg)
    points = as_points("inducing", inducing).astype(X.dtype)
    if points.shape[1] != X.shape[1] or points.shape[0] == 0:
        msg = (
            f"inducing must be points of the space of the data, shape (m, {X.shape[1]}); got shape "
            f"{points.shape}. Match its columns to X."
        )
        raise ValueError(msg)
    return points.shape[0], points
