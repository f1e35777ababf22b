"""A right preconditioner of a tall operator from the Gram matrix of a sample of its rows."""

import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gplsq._core import add_parts, check_count, describe, matmul, tile_rows, triangular_inverse
from gplsq.operators import AbstractEvaluation, Dense
from gplsq.solvers._precondition import AbstractPreconditioner, check_euclidean

# Rows for each column by default. The condition number left is (1 + q) / (1 - q), q^2 one over
# this number, where rows are alike: 1.7, and some ten LSMR steps to six digits.
_ROWS_PER_COLUMN = 16
# Rows for each column that a first factor is made of.
_FIRST_ROWS_PER_COLUMN = 2
# Entries of a block of rows, and panels of columns, of a Gram matrix: what products are quick at.
_BLOCK_ENTRIES = 4_200_000
_PANELS = 4


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
    TypeError, ValueError
        If `num_rows` is no whole number from 1 on; if `build` gets an operator without
        ``rows_at(index)``, such as `gplsq.operators.Inducing` has it.

    Notes
    -----
    Cost: s rows of A, 2.5 s n^2 flops, and 6 n^3 for R and R^-1, which is kept: n^2 numbers and
    4 n^2 flops a step. Singular values below rounding are raised to it.
    """

    num_rows: int | None = eqx.field(default=None, static=True)
    key: PRNGKeyArray | None = None

    def __check_init__(self):
        if self.num_rows is not None:
            check_count("num_rows", self.num_rows, minimum=1)

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
        return Dense(triangular_inverse(root_of_rows(operator, sample_rows(key, m, count), damp)))


def sample_rows(key: Array, m: int, count: int) -> Int[Array, " s"]:
    """`count` different row numbers out of m, in order."""
    if count == m:
        return jnp.arange(m, dtype=jnp.int32)
    order = jnp.argsort(jax.random.bits(key, (m,), jnp.uint32))
    return jnp.sort(order[:count]).astype(jnp.int32)


def root_of_rows(
    operator: HasRows, index: Int[Array, " s"], damp: Array | None
) -> Float[Array, "n n"]:
    """R with `R^T R = (m / s) A_s^T A_s + damp^2 I`, upper triangular, A_s rows `index` of A.

    A Gram matrix in float32 would lose all singular values below ``sqrt(eps)`` of the largest. So
    two rows for each column are factorised by QR, and the Gram matrix is that of all s rows times
    the inverse of that factor, whose condition number is about 6 ("randomised Cholesky QR",
    Balabanov 2022; Fan, Guo & Lin 2021). Singular values below ``4 eps`` times the Frobenius norm
    are raised to it: R is regular always.

    Cost: 2.5 s n^2 flops, 6 n^3 for the first factor. Memory: 4 n^2 numbers and a block of rows.
    """
    m, n, count = *operator.shape, index.shape[0]
    first = min(count, _FIRST_ROWS_PER_COLUMN * n)
    few = index if first == count else index[jnp.arange(first) * count // first]
    rows = operator.rows_at(few) * math.sqrt(m / first)
    floor = 4 * float(jnp.finfo(rows.dtype).eps) * jnp.sqrt(jnp.sum(rows * rows))
    # Of a matrix of zeros R would be singular.
    floor = jnp.where(floor > 0, floor, 1)
    sigma = floor if damp is None else jnp.maximum(damp, floor)
    damping = sigma * jnp.eye(n, dtype=rows.dtype)
    R = jnp.linalg.qr(jnp.concatenate([rows, damping]), mode="r")
    if first == count:
        return R
    inverse = triangular_inverse(R)
    gram = _gram(operator, index, inverse) * (m / count)
    shrunk = sigma * inverse
    lower = jax.lax.linalg.cholesky(gram + matmul(shrunk.T, shrunk))
    return matmul(lower.T, R)


def _gram(operator: HasRows, index: Int[Array, " s"], right: Array) -> Float[Array, "n n"]:
    """`(A_s right)^T A_s right`, `right` upper triangular; devices that share rows share it."""
    mesh = getattr(operator, "mesh", None)
    if mesh is None:
        return _gram_of_part(index, operator.rows_at, right)
    assert isinstance(operator, AbstractEvaluation)
    # Rows of the sample lie anywhere, so their data go everywhere.
    numbers = jnp.arange(index.shape[0], dtype=jnp.int32)
    numbers = jnp.pad(numbers, (0, -index.shape[0] % mesh.size), constant_values=-1)
    return add_parts(_gram_of_part, mesh, numbers, operator.sampled(index), right)


def _gram_of_part(index: Array, rows_at: Callable, right: Array) -> Array:
    """Block by block; the number -1 is that of no row."""
    n, count = right.shape[0], index.shape[0]
    height = tile_rows(count, n, _BLOCK_ENTRIES)
    blocks = -(-count // height)
    padded = jnp.pad(index, (0, blocks * height - count), constant_values=-1)
    # `right` is triangular and the sum symmetric: by panels five eighths of the flops are left.
    cuts = [n * i // _PANELS for i in range(_PANELS + 1)]
    panels = [(low, high) for low, high in itertools.pairwise(cuts) if low < high]

    def add(totals, block):
        rows = jnp.where(block[:, None] >= 0, rows_at(jnp.maximum(block, 0)), 0)
        parts = [matmul(rows[:, :high], right[:high, low:high]) for low, high in panels]
        rows = jnp.concatenate(parts, axis=1)
        terms = [matmul(rows[:, low:].T, rows[:, low:high]) for low, high in panels]
        return jax.tree.map(jnp.add, totals, terms), None

    start = [jnp.zeros((n - low, high - low), right.dtype) for low, high in panels]
    totals = jax.lax.scan(add, start, padded.reshape(blocks, height))[0]
    whole = [
        jnp.pad(total, ((low, 0), (0, 0))) for total, (low, _) in zip(totals, panels, strict=True)
    ]
    lower = jnp.tril(jnp.concatenate(whole, axis=1))
    return lower + jnp.tril(lower, -1).T
