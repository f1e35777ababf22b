"""Randomly pivoted Cholesky: a low-rank-plus-diagonal preconditioner of a kernel matrix.

Equation (18) of docs/derivations/function-space.md.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gplsq._core import matmul, savable, symmetric_eigen
from gplsq.operators import AbstractEuclideanOperator
from gplsq.operators import Kernel as KernelOperator


class AbstractPreconditioner(eqx.Module):
    """A recipe for a preconditioner of an operator and its damping."""

    @abc.abstractmethod
    def build(self, operator: Any, damp: Array | None) -> Any:
        """The preconditioner itself, a pytree."""


def check_euclidean(name: str, operator: Any) -> None:
    """Refuse kernel operators, whose unknown is a function."""
    if not isinstance(operator, AbstractEuclideanOperator):
        msg = (
            f"{name} is for operators between Euclidean spaces; got {type(operator).__name__}. "
            "Pass RandomlyPivotedCholesky for a kernel."
        )
        raise TypeError(msg)


@savable
class LowRankPlusDiagonal(eqx.Module):
    """`P = U diag(values) U^T + shift I`, with orthonormal U; `solve` applies `shift P^-1`.

    The positive factor in front changes nothing in a preconditioner and keeps the numbers near 1.
    """

    basis: Float[Array, "n r"]
    shrink: Float[Array, " r"]  # values / (values + shift)

    def solve(self, u: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """`shift P^-1 u`. Cost: 4 n r k flops, two passes over U."""
        return u - matmul(self.basis, self.shrink[:, None] * matmul(self.basis.T, u))


class RandomlyPivotedCholesky(AbstractPreconditioner):
    """`K + damp^2 I` preconditioned by `L L^T + damp^2 I`, L from randomly pivoted Cholesky.

    Pivots are drawn in proportion to the diagonal that is not explained yet (Chen, Epperly, Tropp &
    Webber 2022), in blocks thinned by rejection so that their joint law is the sequential one
    (Epperly, Tropp & Webber 2024, "Embrace rejection").

    Parameters
    ----------
    rank
        Columns of L at most.
    block
        Pivots proposed at a time.
    key
        A JAX random key; a fixed one by default.

    Notes
    -----
    Cost: n rank kernel entries, n rank^2 flops, n rank numbers of memory.
    """

    rank: int = eqx.field(default=200, static=True)
    block: int = eqx.field(default=50, static=True)
    key: PRNGKeyArray | None = None

    def build(self, operator, damp):
        if not isinstance(operator, KernelOperator):
            msg = (
                "RandomlyPivotedCholesky preconditions kernel operators; got "
                f"{type(operator).__name__}. Pass an operator that applies an inverse instead."
            )
            raise TypeError(msg)
        if damp is None:
            msg = "RandomlyPivotedCholesky needs damp > 0, the noise standard deviation; got 0."
            raise ValueError(msg)
        key = jax.random.key(0) if self.key is None else self.key
        factor = randomly_pivoted_cholesky(operator, self.rank, self.block, key)
        return _invert(factor, damp)


def _invert(factor: Float[Array, "n r"], damp: Array) -> LowRankPlusDiagonal:
    """Orthonormalise L by the eigenvectors of its Gram matrix."""
    values, vectors = symmetric_eigen(matmul(factor.T, factor))
    eps = jnp.finfo(factor.dtype).eps
    largest = values[-1]
    # Directions below rounding have no accurate orthonormal vector: leave them to the shift.
    usable = values > 4 * eps * largest * factor.shape[1]
    safe = jnp.where(usable, values, 1)
    basis = matmul(factor, vectors * jnp.where(usable, 1 / jnp.sqrt(safe), 0))
    # A shift below what rounding resolves would make P^-1 indefinite in floating point.
    shift = jnp.maximum(damp**2, 32 * eps * largest)
    return LowRankPlusDiagonal(basis, jnp.where(usable, values / (values + shift), 0))


def randomly_pivoted_cholesky(
    operator: KernelOperator, rank: int, block: int, key: Array
) -> Float[Array, "n r"]:
    """The factor L of a rank-`rank` approximation `K ≈ L L^T`; unused columns are zero."""
    return pivoted_factor(operator, rank, block, key)[0]


def pivoted_factor(
    operator: KernelOperator, rank: int, block: int, key: Array
) -> tuple[Float[Array, "n r"], Int[Array, " r"], Int[Array, ""]]:
    """L, its pivots, and how many of its columns are used."""
    n = operator.shape[0]
    rank = min(rank, n)
    block = min(block, rank)
    diagonal = operator.diagonal()
    floor = jnp.finfo(diagonal.dtype).eps * jnp.max(diagonal) * 10
    width = rank + block  # the last block may start just below `rank`

    def unfinished(carry):
        rounds, filled, residual = carry[:3]
        return (filled < rank) & (rounds < 4 * (rank // block + 1)) & jnp.any(residual > floor)

    def add_block(carry):
        rounds, filled, residual, L, chosen, key = carry
        key, draw, thin = jax.random.split(key, 3)
        weight = jnp.where(residual > floor, residual, 0)
        pivots = jax.random.categorical(draw, jnp.log(weight), shape=(block,))
        columns = operator.columns(pivots) - matmul(L, L[pivots].T)
        core = columns[pivots]
        uniform = jax.random.uniform(thin, (block,), diagonal.dtype)
        # Propose with the old residual, accept with the share that the block has left of it.
        accepted, lower = _thinned_cholesky(core, weight[pivots] * uniform, floor)
        new = jax.scipy.linalg.solve_triangular(lower, columns.T, lower=True).T
        new = jnp.where(accepted, new, 0)
        order = jnp.argsort(~accepted, stable=True)
        L = jax.lax.dynamic_update_slice(L, new[:, order], (jnp.zeros((), filled.dtype), filled))
        chosen = jax.lax.dynamic_update_slice(chosen, pivots[order].astype(jnp.int32), (filled,))
        residual = jnp.maximum(residual - jnp.sum(new * new, axis=1), 0)
        residual = residual.at[pivots].set(jnp.where(accepted, 0, residual[pivots]))
        return rounds + 1, filled + jnp.sum(accepted, dtype=filled.dtype), residual, L, chosen, key

    zero = jnp.zeros((), jnp.int32)
    blank = jnp.zeros((n, width), diagonal.dtype)
    start = (zero, zero, diagonal, blank, jnp.zeros(width, jnp.int32), key)
    _, filled, _, L, chosen, _ = jax.lax.while_loop(unfinished, add_block, start)
    used = jnp.arange(width) < filled
    # Unused pivots repeat the first one.
    chosen = jnp.where(used, chosen, chosen[0])
    return jnp.where(used, L, 0)[:, :rank], chosen[:rank], jnp.minimum(filled, rank)


def _thinned_cholesky(core: Array, threshold: Array, floor: Array) -> tuple[Array, Array]:
    """Cholesky of the accepted rows of `core`; rejected ones get the unit vector.

    Row i is accepted if what the accepted ones before it left of its diagonal is above
    `threshold[i]` and above rounding.
    """
    size = core.shape[0]
    index = jnp.arange(size)

    def row(i, carry):
        accepted, lower, rest = carry
        left = rest[i, i]
        take = (left >= threshold[i]) & (left > floor)
        column = jnp.where(index >= i, rest[:, i], 0) / jnp.sqrt(jnp.where(take, left, 1))
        column = jnp.where(take, column, jnp.where(index == i, 1, 0).astype(core.dtype))
        rest = rest - jnp.where(take, 1, 0).astype(core.dtype) * jnp.outer(column, column)
        return accepted.at[i].set(take), lower.at[:, i].set(column), rest

    start = (jnp.zeros(size, bool), jnp.zeros_like(core), core)
    accepted, lower, _ = jax.lax.fori_loop(0, size, row, start)
    # Rejected rows must not feel the accepted ones: their row is the unit vector.
    lower = jnp.where(accepted[:, None], lower, jnp.eye(size, dtype=core.dtype))
    return accepted, lower
