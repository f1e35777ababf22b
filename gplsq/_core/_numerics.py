"""Dtype-aware elementary numerics: products, norms, safe division and square root, Givens."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

# Half the width of a 95 % interval of a normal distribution, in standard deviations.
NINETY_FIVE = 1.959964


def is_traced(value: Any) -> bool:
    """Whether a value is being traced, so that its numbers are not there to look at."""
    return isinstance(value, jax.core.Tracer)


def stop_gradient(tree: Any) -> Any:
    """`jax.lax.stop_gradient` on the floating-point arrays of any pytree; the rest passes."""
    return jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def matmul(a: Array, b: Array) -> Array:
    """`a @ b` at full precision of the dtype on every device.

    The default float32 product of some accelerators uses reduced precision, which costs the
    orthogonality that Krylov methods live on.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def matmul_adjoint(A: Float[Array, "m n"], u: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
    """`A^T u`, with one column as a row vector times A.

    That reads A in the order it is stored in. Of `A.T @ u` XLA would first make a copy of A the
    other way round: at 15,642 x 500 fourteen times as long, for an eighth of the rounding error.
    """
    if u.ndim == 2 and u.shape[1] == 1:
        return matmul(u[:, 0], A)[:, None]
    return matmul(u, A) if u.ndim == 1 else matmul(A.T, u)


def column_norm(a: Float[Array, "n k"]) -> Float[Array, " k"]:
    """Euclidean norms of the columns, safe against overflow and underflow.

    Dividing by the largest entry first keeps float32 columns scaled by 1e±30 finite.
    """
    scale = jnp.max(jnp.abs(a), axis=0, initial=0.0)
    divisor = usable_divisor(scale)
    return divisor * safe_sqrt(jnp.sum((a / divisor) ** 2, axis=0))


def plain_norm(a: Float[Array, "n k"]) -> Float[Array, " k"]:
    """Euclidean norms of columns whose squares neither over- nor underflow.

    The derivative at 0 is taken as 0, so that an unrolled solve that has converged stays finite.
    """
    return safe_sqrt(jnp.sum(a * a, axis=0))


def usable_divisor(scale: Array) -> Array:
    """`scale` where it is positive and finite, 1 elsewhere."""
    return jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)


def safe_divide(a: Array, b: Array) -> Array:
    """`a / b`, and 0 where `b` is 0."""
    zero = b == 0
    return jnp.where(zero, 0, a / jnp.where(zero, 1, b))


def safe_sqrt(x: Array) -> Array:
    """Square root whose derivative at 0 is 0 instead of infinite.

    Right wherever the root enters through an even function, as distances do.
    """
    zero = x <= 0  # NaN is not, and stays NaN
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def with_diagonal(matrix: Float[Array, "n n"], diagonal: Array | float) -> Float[Array, "n n"]:
    """A square matrix with another diagonal, shape (n,) or one number."""
    # By comparison, which XLA fuses with what makes the matrix and what reads it; a scatter is a
    # loop over rows, and its derivative one more matrix.
    rows = jax.lax.broadcasted_iota(jnp.int32, matrix.shape, 0)
    columns = jax.lax.broadcasted_iota(jnp.int32, matrix.shape, 1)
    values = jnp.asarray(diagonal, matrix.dtype)
    return jnp.where(rows == columns, like_columns(values, matrix), matrix)


def like_columns(values: Any, table: Any) -> Any:
    """Numbers of rows, shape (n,), so that they multiply a vector or every column of a table."""
    return values.reshape(values.shape + (1,) * (table.ndim - values.ndim))


def default_rtol(dtype) -> float:
    """The relative tolerance a solve in `dtype` can be expected to reach: `eps ** 0.75`.

    6.4e-6 in float32, 1.8e-12 in float64.
    """
    return float(jnp.finfo(dtype).eps) ** 0.75
