"""A right preconditioner of a tall operator from the Gram matrix of a sample of its rows."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gplsq._core import describe, jittered_cholesky, matmul, tile_rows
from gplsq.operators import Dense
from gplsq.solvers._precondition import AbstractPreconditioner, check_euclidean

# Rows for each column by default. The condition number left is (1 + q) / (1 - q), q^2 one over
# this number, where rows are alike: 1.7, and some ten LSMR steps to six digits.
_ROWS_PER_COLUMN = 16


@runtime_checkable
class HasRows(Protocol):
    """An operator whose rows can be made one by one."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        ...

    @property
    def dtype(self) -> Any:
        """Of its numbers."""
        ...

    def rows_at(self, index: Array) -> Array:
        """Rows `index` as a matrix."""
        ...


class SampledGram(AbstractPreconditioner):
    """Right preconditioner R with `R^T R = (m / s) A_s^T A_s + damp^2 I`, A_s s rows of A.

    For tall operators with generated rows, whose rows are alike: the Gram matrix of a uniform
    sample of s rows, scaled up, is close to that of all m. The preconditioner of FALKON (Rudi,
    Carratino & Rosasco 2017) takes the inducing points for the sample; a larger one costs s n^2
    flops once and saves passes over all rows. Rows of high leverage that the sample misses cost
    steps, never accuracy.

    Parameters
    ----------
    num_rows
        s; 16 rows for each column of A by default, and at most all.
    key
        A JAX random key for the sample; a fixed one by default.

    Raises
    ------
    TypeError
        If `build` gets an operator without ``rows_at(index)``, such as `gplsq.operators.Inducing`
        has it.

    Notes
    -----
    Cost: s rows of A, 2 s n^2 flops, and 2 n^3 for R^-1, which is kept: n^2 numbers and 4 n^2 flops
    a step. Where the Gram matrix is singular to rounding a multiple of rounding is added to it.
    """

    num_rows: int | None = eqx.field(default=None, static=True)
    key: PRNGKeyArray | None = None

    def build(self, operator: Any, damp: Array | None) -> Dense:
        check_euclidean("SampledGram", operator)
        if not isinstance(operator, HasRows):
            msg = (
                "SampledGram needs an operator with rows_at(index), for example "
                f"gplsq.operators.Inducing; got {describe(operator)}."
            )
            raise TypeError(msg)
        m, n = operator.shape
        count = min(m, _ROWS_PER_COLUMN * n if self.num_rows is None else self.num_rows)
        key = jax.random.key(0) if self.key is None else self.key
        gram = gram_of_rows(operator, sample_rows(key, m, count)) * (m / count)
        return Dense(inverse_root(gram, damp))


def sample_rows(key: Array, m: int, count: int) -> Int[Array, " s"]:
    """`count` different row numbers out of m, in order."""
    if count == m:
        return jnp.arange(m, dtype=jnp.int32)
    order = jnp.argsort(jax.random.bits(key, (m,), jnp.uint32))
    return jnp.sort(order[:count]).astype(jnp.int32)


def gram_of_rows(operator: HasRows, index: Int[Array, " s"]) -> Float[Array, "n n"]:
    """`A_s^T A_s` for rows `index`, block by block. Cost: 2 s n^2 flops."""
    n, count = operator.shape[1], index.shape[0]
    height = tile_rows(count, n)
    blocks = -(-count // height)
    padded = jnp.pad(index, (0, blocks * height - count), constant_values=-1)

    def add(total, block):
        rows = operator.rows_at(jnp.maximum(block, 0))
        rows = jnp.where(block[:, None] >= 0, rows, 0)
        return total + matmul(rows.T, rows), None

    start = jnp.zeros((n, n), operator.dtype)
    return jax.lax.scan(add, start, padded.reshape(blocks, height))[0]


def inverse_root(gram: Float[Array, "n n"], damp: Array | None) -> Float[Array, "n n"]:
    """R^-1 with `R^T R = gram + damp^2 I`, R upper triangular."""
    n, dtype = gram.shape[0], gram.dtype
    damping = jnp.zeros((), dtype) if damp is None else damp
    diagonal = jnp.diagonal(gram) + damping**2
    # Columns of unit norm: their scales cost no accuracy.
    scale = jnp.where(diagonal > 0, jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1)), 1)
    unit = gram / scale / scale[:, None]
    index = jnp.arange(n)
    unit = unit.at[index, index].add((damping / scale) ** 2)
    lower, _ = jittered_cholesky(unit, jnp.asarray(4 * jnp.finfo(dtype).eps, dtype))
    inverse = jax.scipy.linalg.solve_triangular(lower, jnp.eye(n, dtype=dtype), lower=True)
    return inverse.T / scale[:, None]
