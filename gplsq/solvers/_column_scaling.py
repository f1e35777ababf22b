"""Column scaling: the right preconditioner that makes columns equally long."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gplsq._core import check_count, column_norm, usable_divisor
from gplsq.operators import AbstractEuclideanOperator, Dense, Diagonal
from gplsq.solvers._precondition import AbstractPreconditioner, check_euclidean


class ColumnScaling(AbstractPreconditioner):
    """`R = diag(lengths of the columns of [A; damp I])`.

    Among diagonal scalings it is within a factor sqrt(n) of the one with the smallest condition
    number (van der Sluis 1969). It helps where columns have different units, and costs next to
    nothing.

    Parameters
    ----------
    probes
        Random sign vectors for operators that are not matrices: `E (A* s)^2` is the squared length
        of each column (Hutchinson 1990). The relative error is about `sqrt(2 / probes)`, which a
        scaling forgives.
    key
        A JAX random key; a fixed one by default.

    Notes
    -----
    Undamped, A must have full column rank: a scaling changes which of many solutions is shortest.
    Cost: one pass over a `Dense` matrix; else one product of the adjoint with `probes` columns.
    """

    probes: int = eqx.field(default=16, static=True)
    key: PRNGKeyArray | None = None

    def __check_init__(self):
        check_count("probes", self.probes, minimum=1)

    def build(self, operator, damp):
        check_euclidean("ColumnScaling", operator)
        lengths = column_lengths(operator, self.probes, self.key)
        if damp is not None:
            lengths = jnp.hypot(lengths, damp)
        return Diagonal(1 / usable_divisor(lengths))


def column_lengths(
    operator: AbstractEuclideanOperator, probes: int, key: PRNGKeyArray | None
) -> Float[Array, " n"]:
    """Lengths of the columns: exact for a matrix, estimated by `probes` products otherwise."""
    if isinstance(operator, Dense):
        return column_norm(operator.matrix)
    key = jax.random.key(0) if key is None else key
    signs = jax.random.rademacher(key, (operator.shape[0], probes), operator.dtype)
    return column_norm(operator.rmv(signs).T) / jnp.sqrt(jnp.asarray(probes, operator.dtype))
