"""Sketch and precondition: R from a random embedding of a tall matrix."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gplsq._core import (
    check_choice,
    check_finite_scalar,
    column_norm,
    matmul,
    reduced_svd,
    triangular_inverse,
)
from gplsq.operators import Dense, Stacked
from gplsq.solvers._precondition import AbstractPreconditioner

# Rows that one block of the embedding gives. A block must have room for the leverage that the
# permutation sends to it, which is a random number. Measured on matrices with n rows of leverage 1:
# the condition number left is 6.6 with 32, 5.2 with 64, 5.0 with 128 (the worst of 12 draws).
_BLOCK_ROWS = 64
# Rows of A gathered at a time, so that they stay in cache.
_CHUNK_ROWS = 256
# The power method estimates from below; within a factor of two is enough.
_POWER_STEPS = 8


class Sketch(AbstractPreconditioner):
    """Right preconditioner of a tall matrix A from the R factor of a random embedding S A.

    S A has about `oversampling n` rows, and the singular values of `A R^-1` are those of a random
    matrix of that shape, whatever A is: condition number about 3.7 and 25 to 35 LSMR steps to a
    relative accuracy of 1e-6 with the default. Rokhlin & Tygert (2008); Avron, Maymounkov & Toledo
    (2010), "Blendenpik"; Meng, Saunders & Mahoney (2014), "LSRN", for rank-deficient matrices.

    Parameters
    ----------
    oversampling
        Rows of the sketch divided by columns of A, at least 1.5. More rows cost more to factorise
        and save steps: condition number about ``(c + 1) / (c - 1)`` with c its square root.
    kind
        The embedding. ``"blocks"`` (default) permutes the rows, gives them random signs, and mixes
        groups of them by a random matrix of signs; ``"gaussian"`` is dense, the best understood,
        and dozens of times the work.
    key
        A JAX random key; a fixed one by default.

    Raises
    ------
    TypeError
        If `build` gets an operator other than `gplsq.operators.Dense`: the sketch reads rows.
    ValueError
        If a setting is out of range, or A has too few rows to make a sketch smaller than A.

    Notes
    -----
    Damping is stacked below the sketch and not embedded. Cost of ``"blocks"``: 128 m n flops and
    one pass over A for the sketch, then ``oversampling n^3`` flops for R by Cholesky, n^3 for
    its inverse, which is kept: n^2 numbers, and 4 n^2 flops a step.

    Where Cholesky would lose accuracy (condition above about 2000 in float32, 5e7 in float64, of
    the sketch with unit columns) R is by QR, two to four times the work. Where R is singular to
    rounding (smallest singular value below ``eps ** 0.9``, 6e-7 in float32 and 8e-15 in float64, of
    the largest), R^-1 is ``V diag(1 / s)`` of the numerical row space, from the singular value
    decomposition of the sketch, and the solution of minimum norm stays what it was. With damping
    nothing is cut off. All three are compiled; one is run (under `jax.vmap` all are).

    Examples
    --------
    >>> import jax
    >>> from gplsq import lstsq
    >>> from gplsq.solvers import Sketch
    >>> A = jax.random.normal(jax.random.key(0), (600, 20)) * 10.0 ** -jax.numpy.arange(0, 4, 0.2)
    >>> solution = lstsq(A, A @ jax.numpy.ones(20), preconditioner=Sketch())
    >>> bool(solution.ok), bool(solution.stats.num_steps < 40)
    (True, True)
    """

    oversampling: float = eqx.field(default=3.0, static=True)
    kind: str = eqx.field(default="blocks", static=True)
    key: PRNGKeyArray | None = None

    def __check_init__(self):
        check_finite_scalar("oversampling", self.oversampling, minimum=1.5)
        check_choice("kind", self.kind, ("blocks", "gaussian"))

    def build(self, operator: Any, damp: Array | None) -> Dense:
        A = matrix_of("Sketch", operator)
        m, n = A.shape
        rows = math.ceil(self.oversampling * n)
        if m < rows:
            msg = (
                f"Sketch needs A to be tall, at least {self.oversampling:g} rows a column; got "
                f"shape {(m, n)}. Solve without a preconditioner, or with Direct()."
            )
            raise ValueError(msg)
        key = jax.random.key(0) if self.key is None else self.key
        embed = block_embedding if self.kind == "blocks" else gaussian_embedding
        return Dense(inverse_factor(embed(A, rows, key), damp))


def matrix_of(name: str, operator: Any) -> Float[Array, "m n"]:
    """The matrix of an operator that has one, with the rows of a damping by a vector below it."""
    if isinstance(operator, Stacked) and isinstance(operator.parts[0], Dense):
        return operator.as_matrix()
    if not isinstance(operator, Dense):
        msg = (
            f"{name} reads a matrix; got the operator {type(operator).__name__}. Wrap the matrix "
            "in gplsq.operators.Dense, or precondition a matrix-free operator with ColumnScaling "
            "or LearnedPreconditioner."
        )
        raise TypeError(msg)
    return operator.matrix


def gaussian_embedding(A: Float[Array, "m n"], rows: int, key: Array) -> Float[Array, "s n"]:
    """S A with independent normal entries in S. Cost: 2 s m n flops."""
    S = jax.random.normal(key, (rows, A.shape[0]), A.dtype) / math.sqrt(rows)
    return matmul(S, A)


def block_embedding(A: Float[Array, "m n"], rows: int, key: Array) -> Float[Array, "s n"]:
    """S A with S block diagonal after a random permutation and random signs of the rows of A.

    The blocks are one random matrix of signs: permutation and signs differ from block to block,
    which is enough to decorrelate them. Gives `rows` rows or a few more. Cost: 128 m n flops.
    """
    m, n = A.shape
    blocks = -(-rows // _BLOCK_ROWS)
    height = -(-rows // blocks)
    width = -(-m // blocks)
    chunks = -(-width // _CHUNK_ROWS)
    width = -(-width // chunks)
    to_permute, to_sign, to_mix = jax.random.split(key, 3)
    padding = blocks * chunks * width - m
    # Sorting random bits is several times faster than jax.random.permutation.
    order = jnp.argsort(jax.random.bits(to_permute, (m,), jnp.uint32)).astype(jnp.int32)
    signs = jax.random.rademacher(to_sign, (m,), A.dtype)
    shape = (blocks, chunks, width)
    order = jnp.pad(order, (0, padding)).reshape(shape)
    signs = jnp.pad(signs, (0, padding)).reshape(shape)  # a sign of 0 takes the padding out
    mixing = jax.random.rademacher(to_mix, (chunks, height, width), A.dtype) / math.sqrt(height)

    def block(rows_and_signs):
        def add(total, chunk):
            order, signs, mixing = chunk
            return total + matmul(mixing * signs, A[order]), None

        start = jnp.zeros((height, n), A.dtype)
        return jax.lax.scan(add, start, (*rows_and_signs, mixing))[0]

    return jax.lax.map(block, (order, signs)).reshape(blocks * height, n)


def inverse_factor(S: Float[Array, "s n"], damp: Array | None) -> Float[Array, "n n"]:
    """R^-1 with `R^T R = S^T S + damp^2 I`; on the numerical row space if S is singular."""
    n, dtype = S.shape[1], S.dtype
    eps = float(jnp.finfo(dtype).eps)
    damping = jnp.broadcast_to(jnp.zeros((), dtype) if damp is None else damp, (n,))
    # Columns of unit norm: their scales cost no accuracy, and squares stay inside the dtype.
    norms = column_norm(jnp.stack([column_norm(S), damping]))
    scale = jnp.where(norms > 0, norms, 1)
    unit_S, unit_damping = S / scale, damping / scale

    def by_cholesky() -> Array:
        gram = matmul(unit_S.T, unit_S)
        if damp is not None:
            gram = gram + jnp.diag(unit_damping**2)
        return triangular_inverse(jax.lax.linalg.cholesky(gram, symmetrize_input=False).T)

    def by_qr() -> Array:
        stacked = unit_S
        if damp is not None:
            stacked = jnp.concatenate([unit_S, jnp.diag(unit_damping)])
        R = jnp.linalg.qr(stacked, mode="r")
        X = triangular_inverse(R)
        # False for NaN and infinity too.
        regular = norm_estimate(R) * norm_estimate(X) < eps**-0.9
        return jax.lax.cond(regular, lambda: X / scale[:, None], lambda: by_svd(R * scale))

    def by_svd(R: Array) -> Array:
        # Of the columns as they came: unit columns would change which solution is the shortest.
        unit = jnp.max(scale)
        _, s, Vt = reduced_svd(R / unit)
        cutoff = eps**0.9 * s[0]
        if damp is None:  # NaN is not below the cutoff, and so it stays
            inverse = jnp.where(s <= cutoff, 0, 1 / jnp.where(s <= cutoff, 1, s))
        else:
            inverse = 1 / jnp.maximum(s, cutoff)
        return Vt.T * (inverse / unit)

    X = by_cholesky()
    # Rounding in the Gram matrix, about eps, is amplified by |X|^2.
    accurate = eps * norm_estimate(X) ** 2 < 0.1
    return jax.lax.cond(accurate, lambda: X / scale[:, None], by_qr)


def norm_estimate(M: Float[Array, "n n"]) -> Float[Array, ""]:
    """Spectral norm by the power method, from below; NaN for a zero matrix."""

    def step(_, v):
        return matmul(M, matmul(v / jnp.sqrt(jnp.sum(v * v)), M))

    start = jax.random.normal(jax.random.key(1), (M.shape[0],), M.dtype)
    v = jax.lax.fori_loop(0, _POWER_STEPS, step, start)
    return jnp.sqrt(jnp.sqrt(jnp.sum(v * v)))
