"""Linear equations and inequalities in parameters."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import ArrayLike, check_choice, check_real_array, describe, matmul
from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._select import check_where, flattened


class Linear(AbstractConstraint):
    """`A theta = b`, or `A theta <= b`, theta the picked leaves one after the other.

    Parameters
    ----------
    A
        Shape (p, n), or (n,) for one equation.
    b
        Shape (p,), or a number.
    where
        Picks leaves of params; all of them by default.
    kind
        `"equality"` or `"inequality"`.

    Raises
    ------
    ValueError
        If A is not a matrix, does not fit b, or its columns are not as many as picked parameters.
    """

    A: Array
    b: Array
    where: Callable | None = eqx.field(static=True)
    condition: str = eqx.field(static=True)

    def __init__(
        self,
        A: ArrayLike,
        b: ArrayLike = 0.0,
        where: Callable | None = None,
        kind: str = "equality",
    ):
        check_where(where)
        matrix = jnp.asarray(check_real_array("A", A), float)
        matrix = matrix[None] if matrix.ndim == 1 else matrix
        right = jnp.asarray(check_real_array("b", b), float)
        if matrix.ndim != 2 or right.shape not in ((), (matrix.shape[0],)):
            msg = (
                "A must have shape (p, n) or (n,), and b shape (p,) or (); got "
                f"{describe(matrix)} and {describe(right)}. Give each row of A an entry of b."
            )
            raise ValueError(msg)
        self.A, self.b, self.where = matrix, right, where
        self.condition = check_choice("kind", kind, ("equality", "inequality"))

    @property
    def kind(self):
        return self.condition

    def residuals(self, params, batch=None, step=None):
        del batch, step
        theta = flattened(self.where, params)
        if theta.shape[0] != self.A.shape[1]:
            msg = (
                f"A must have a column for each picked parameter; got {self.A.shape[1]} columns "
                f"for {theta.shape[0]} parameters. Pick others with `where`."
            )
            raise ValueError(msg)
        return matmul(self.A.astype(theta.dtype), theta) - self.b.astype(theta.dtype)
