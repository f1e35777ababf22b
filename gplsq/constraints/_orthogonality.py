"""Orthonormal rows or columns of weight matrices, and rows of unit length."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gplsq._core import describe, matmul
from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._select import check_where, selected


class Orthogonality(AbstractConstraint):
    """Weight matrices with orthonormal columns (tall and square ones) or rows (wide ones).

    Parameters
    ----------
    where
        Picks one or more matrices of params, for example ``lambda mlp: mlp.layers[1].weight``. Axes
        before the last two are a stack of matrices. All leaves of params by default.

    Raises
    ------
    ValueError
        If a picked leaf has fewer than two axes.

    Notes
    -----
    Residuals are the entries of ``W^T W - I`` (or ``W W^T - I``) on and above the diagonal, those
    above it times sqrt 2, so that their norm is that of the matrix: r (r + 1) / 2 of them for rank
    r, and independent at an orthogonal W.
    """

    where: Callable | None = eqx.field(static=True)

    def __init__(self, where: Callable | None = None):
        check_where(where)
        self.where = where

    def residuals(self, params, batch=None, step=None):
        del batch, step
        return [_gram_residuals(W) for W in selected(self.where, params)]


def _gram_residuals(W):
    if W.ndim < 2:
        msg = f"Orthogonality takes matrices; got {describe(W)}. Pick weight matrices with `where`."
        raise ValueError(msg)
    rows, columns = W.shape[-2:]
    transposed = jnp.swapaxes(W, -1, -2)
    gram = matmul(transposed, W) if rows >= columns else matmul(W, transposed)
    size = min(rows, columns)
    low, high = np.triu_indices(size)
    weight = jnp.asarray(np.where(low == high, 1.0, np.sqrt(2.0)), W.dtype)
    return weight * (gram - jnp.eye(size, dtype=W.dtype))[..., low, high]


class UnitNorm(AbstractConstraint):
    """Rows of unit length: `|W[i]| = 1` along one axis, for every picked array.

    Parameters
    ----------
    where
        Picks leaves of params; all of them by default.
    axis
        Along which the norm is taken; the last one by default.

    Notes
    -----
    Residuals are ``(|w|^2 - 1) / 2``, one for each row.
    """

    where: Callable | None = eqx.field(static=True)
    axis: int = eqx.field(static=True)

    def __init__(self, where: Callable | None = None, axis: int = -1):
        check_where(where)
        self.where, self.axis = where, axis

    def residuals(self, params, batch=None, step=None):
        del batch, step
        return [(jnp.sum(W**2, axis=self.axis) - 1) / 2 for W in selected(self.where, params)]
