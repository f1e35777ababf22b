"""The dense solver: the oracle of every test, and the choice for small problems."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import (
    STATUS,
    column_norm,
    matmul,
    matmul_adjoint,
    reduced_svd,
    safe_divide,
    savable,
    symmetric_cholesky,
    with_diagonal,
)
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._solution import Stats


class SingularFactors(NamedTuple):
    """Reduced singular value decomposition of the operator."""

    U: Float[Array, "m r"]
    values: Float[Array, " r"]
    Vt: Float[Array, "r n"]


@savable
class CholeskyFactor(NamedTuple):
    """Lower Cholesky factor of `K + damp^2 I`."""

    lower: Float[Array, "n n"]


@savable
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
        return SingularFactors(*reduced_svd(operator.as_matrix()))

    def run(self, prepared, operator, damp, f, x0, *, with_dual=False):
        del x0  # nothing to start from
        if isinstance(operator, KernelOperator):
            x, status, stats = _by_cholesky(prepared.lower, operator, damp, f)
            return x, None, status, stats
        x, status, stats = _by_svd(prepared, damp, f)
        dual = None
        if with_dual and damp is None:
            _, inverse = _filters(prepared, damp)
            dual = matmul(prepared.U, inverse[:, None] * matmul(prepared.Vt, x))
        return x, dual, status, stats

    def run_adjoint(self, prepared, operator, damp, g, w0):
        del operator, w0
        U, s, Vt = prepared
        square, inverse = _filters(prepared, damp)
        inside = matmul(Vt, g)
        w = matmul(Vt.T, square[:, None] * inside)
        p = matmul(U, inverse[:, None] * inside)
        if damp is not None:  # outside the row space A* A vanishes and only damping acts
            w = w + (g - matmul(Vt.T, inside)) / damp**2
        left = g - matmul(Vt.T, s[:, None] * matmul(U.T, p))
        if damp is None:
            outside = matmul(Vt.T, (s > _cutoff(prepared))[:, None] * matmul(Vt, left))
        else:
            left = outside = left - damp**2 * w
        status, stats = _outcome(prepared, damp, w, g, column_norm(left), column_norm(outside))
        return p, w, status, stats


def cholesky_of_kernel(operator: KernelOperator, damp: Array | None) -> Float[Array, "n n"]:
    """Lower Cholesky factor of `K + damp^2 I`; NaN where it does not exist."""
    K = operator.gram
    if K is None:
        K = operator.kernel.cross(operator.X, operator.X)
    diagonal = operator.diagonal() + (0 if damp is None else damp**2)
    return symmetric_cholesky(with_diagonal(K, diagonal))


def _by_cholesky(lower: Array, operator: KernelOperator, damp: Array | None, f: Array):
    x = jax.scipy.linalg.cho_solve((lower, True), f)
    sigma = jnp.zeros((), f.dtype) if damp is None else damp
    diagonal = jnp.diagonal(lower)
    # The diagonal of K bounds its other entries.
    given = operator.kernel, operator.X, operator.diagonal(), damp
    given = jax.tree.leaves(eqx.filter(given, eqx.is_inexact_array))
    sound = functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in given])
    broken = sound & ~jnp.all(jnp.isfinite(diagonal))
    finite = jnp.all(jnp.isfinite(x), axis=0)
    status = jnp.where(finite, STATUS.EXACT, STATUS.NON_FINITE)
    status = jnp.where(broken, STATUS.BREAKDOWN, status).astype(jnp.int32)
    # S x through its factor: what rounding left of the residual, for n^2 flops.
    product = matmul_adjoint(lower.T, matmul(lower.T, x))
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
        rank_estimate=jnp.full(norm_f.shape, lower.shape[0], jnp.int32),
        error_measure=safe_divide(residual, norm_f),
        tolerance=jnp.finfo(f.dtype).eps * ones,
    )
    return x, status, stats


def _cutoff(factors: SingularFactors) -> Array:
    """Singular values up to this count as zero where there is no damping."""
    U, s, Vt = factors
    eps = float(jnp.finfo(s.dtype).eps)
    return eps * max(U.shape[0], Vt.shape[1]) * jnp.max(s, initial=0.0)


def _filters(factors: SingularFactors, damp: Array | None) -> tuple[Array, Array]:
    """Diagonals of `(A* A + damp^2)^+` and of its product with A, in the singular vectors."""
    s = factors.values
    if damp is None:
        kept = s > _cutoff(factors)
        inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)
        return inverse**2, inverse
    # s / (s^2 + damp^2) without squares: they under- and overflow before the quotient does.
    length = jnp.hypot(s, damp)
    return safe_divide(safe_divide(jnp.ones_like(s), length), length), safe_divide(
        safe_divide(s, length), length
    )


def _by_svd(factors: SingularFactors, damp: Array | None, f: Array):
    U, s, Vt = factors
    x = matmul(Vt.T, _filters(factors, damp)[1][:, None] * matmul(U.T, f))
    r = f - matmul(U, s[:, None] * matmul(Vt, x))
    normal = matmul(Vt.T, s[:, None] * matmul(U.T, r))
    if damp is not None:
        normal = normal - damp**2 * x
    return x, *_outcome(factors, damp, x, f, column_norm(r), column_norm(normal))


def _outcome(factors, damp, x, rhs, residual, normal):
    """Status and stats of a solution by singular values."""
    s, eps = factors.values, float(jnp.finfo(x.dtype).eps)
    sigma = jnp.zeros((), x.dtype) if damp is None else damp
    kept = s > _cutoff(factors)
    ones = jnp.ones(x.shape[1], x.dtype)
    largest = jnp.hypot(jnp.max(s, initial=0.0), sigma)
    smallest = jnp.hypot(jnp.min(jnp.where(kept, s, jnp.inf), initial=jnp.inf), sigma)
    size = largest * column_norm(x) + column_norm(rhs)
    stats = Stats(
        num_steps=jnp.zeros(x.shape[1], jnp.int32),
        residual_norm=residual,
        normal_residual_norm=normal,
        rhs_norm=column_norm(rhs),
        norm_estimate=largest * ones,
        condition_estimate=safe_divide(largest, smallest) * ones,
        rank_estimate=jnp.broadcast_to(jnp.sum(kept, dtype=jnp.int32), (x.shape[1],)),
        error_measure=safe_divide(normal, largest * size),
        tolerance=eps * ones,
    )
    finite = jnp.all(jnp.isfinite(x), axis=0) & jnp.isfinite(largest)
    return jnp.where(finite, STATUS.EXACT, STATUS.NON_FINITE).astype(jnp.int32), stats
