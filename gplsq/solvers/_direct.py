"""The dense solver: the oracle of every test, and the choice for small problems."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import STATUS, column_norm, matmul, safe_divide
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._solution import Stats


class SingularFactors(NamedTuple):
    """Reduced singular value decomposition of the operator."""

    U: Float[Array, "m r"]
    values: Float[Array, " r"]
    Vt: Float[Array, "r n"]


class CholeskyFactor(NamedTuple):
    """Lower Cholesky factor of `K + damp^2 I`."""

    lower: Float[Array, "n n"]


class Direct(AbstractLeastSquares):
    """Dense least squares: SVD of a matrix, Cholesky of a kernel matrix plus noise.

    Any shape and any rank; singular values below ``eps max(m, n)`` times the largest count as zero
    when there is no damping. Cost: O(m n min(m, n)) for a matrix, n^3 / 3 flops and n^2 numbers for
    a kernel. A kernel matrix that is not positive definite in the dtype gives the status
    ``BREAKDOWN`` and NaN, never a silent jitter.
    """

    def prepare(self, operator, damp, preconditioner):
        if isinstance(preconditioner, CholeskyFactor | SingularFactors):
            return preconditioner  # a factorisation made before
        if isinstance(operator, KernelOperator):
            return CholeskyFactor(cholesky_of_kernel(operator, damp))
        return SingularFactors(*jnp.linalg.svd(operator.as_matrix(), full_matrices=False))

    def run(self, prepared, operator, damp, f, g, x0):
        del x0  # nor for a start
        if isinstance(operator, KernelOperator):
            return _by_cholesky(prepared.lower, operator, damp, f)
        return _by_svd(prepared, damp, f, g)


def cholesky_of_kernel(operator: KernelOperator, damp: Array | None) -> Float[Array, "n n"]:
    """Lower Cholesky factor of `K + damp^2 I`; NaN where it does not exist."""
    K = operator.gram
    if K is None:
        K = operator.kernel.cross(operator.X, operator.X)
    n = K.shape[0]
    diagonal = operator.diagonal() + (0 if damp is None else damp**2)
    return jax.lax.linalg.cholesky(
        K.at[jnp.arange(n), jnp.arange(n)].set(diagonal), symmetrize_input=False
    )


def _by_cholesky(lower: Array, operator: KernelOperator, damp: Array | None, f: Array):
    x = jax.scipy.linalg.cho_solve((lower, True), f)
    sigma = jnp.zeros((), f.dtype) if damp is None else damp
    diagonal = jnp.diagonal(lower)
    broken = ~jnp.all(jnp.isfinite(diagonal))
    finite = jnp.all(jnp.isfinite(x), axis=0)
    status = jnp.where(finite, STATUS.EXACT, STATUS.NON_FINITE)
    status = jnp.where(broken, STATUS.BREAKDOWN, status).astype(jnp.int32)
    # S x through its factor: what rounding left of the residual, for n^2 flops.
    product = matmul(lower, matmul(lower.T, x))
    residual = column_norm(f - product)
    largest, smallest = jnp.max(diagonal), jnp.min(diagonal)
    norm_f = column_norm(f)
    ones = jnp.ones_like(norm_f)
    stats = Stats(
        num_steps=jnp.zeros(norm_f.shape, jnp.int32),
        residual_norm=column_norm(f - product + sigma**2 * x),
        normal_residual_norm=residual,
        rhs_norm=norm_f,
        norm_estimate=largest * ones,
        condition_estimate=largest / smallest * ones,
        error_measure=safe_divide(residual, norm_f),
        tolerance=jnp.finfo(f.dtype).eps * ones,
    )
    return x, status, stats


def _by_svd(factors: SingularFactors, damp: Array | None, f: Array, g: Array | None):
    U, s, Vt = factors
    eps = float(jnp.finfo(f.dtype).eps)
    cutoff = eps * max(U.shape[0], Vt.shape[1]) * jnp.max(s, initial=0.0)
    if damp is None:
        kept = s > cutoff
        inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)
        inverse_square = inverse**2
    else:
        square = s**2 + damp**2
        inverse, inverse_square = safe_divide(s, square), safe_divide(jnp.ones_like(s), square)
    x = matmul(Vt.T, inverse[:, None] * matmul(U.T, f))
    sigma = jnp.zeros((), f.dtype) if damp is None else damp
    if g is not None:
        inside = matmul(Vt, g)
        x = x - matmul(Vt.T, inverse_square[:, None] * inside)
        if damp is not None:  # outside the row space A* A vanishes and only damping acts
            x = x - (g - matmul(Vt.T, inside)) / damp**2
    finite = jnp.all(jnp.isfinite(x), axis=0)
    r = f - matmul(U, s[:, None] * matmul(Vt, x))
    normal = matmul(Vt.T, s[:, None] * matmul(U.T, r)) - sigma**2 * x
    if g is not None:
        normal = normal - g
    norm_f, ones = column_norm(f), jnp.ones(f.shape[1], f.dtype)
    largest = jnp.sqrt(jnp.max(s, initial=0.0) ** 2 + sigma**2)
    kept_s = jnp.where(s > cutoff, s, jnp.inf)
    smallest = jnp.sqrt(jnp.min(kept_s, initial=jnp.inf) ** 2 + sigma**2)
    size = largest * column_norm(x) + norm_f
    stats = Stats(
        num_steps=jnp.zeros(f.shape[1], jnp.int32),
        residual_norm=column_norm(r),
        normal_residual_norm=column_norm(normal),
        rhs_norm=norm_f,
        norm_estimate=largest * ones,
        condition_estimate=safe_divide(largest, smallest) * ones,
        error_measure=safe_divide(column_norm(normal), largest * size),
        tolerance=eps * ones,
    )
    status = jnp.where(finite, STATUS.EXACT, STATUS.NON_FINITE).astype(jnp.int32)
    return x, status, stats
