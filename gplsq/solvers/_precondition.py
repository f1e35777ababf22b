"""Randomly pivoted Cholesky: a low-rank-plus-diagonal preconditioner of a kernel matrix.

Equation (18) of docs/derivations/function-space.md.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gplsq._core import (
    check_count,
    column_norm,
    matmul,
    matmul_adjoint,
    savable,
    triangular_inverse,
)
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


def _packed(prepared: "LowRankPlusDiagonal") -> dict[str, Any]:
    return {"basis": prepared.basis, "root": prepared.root}


def _unpacked(values: dict[str, Any]) -> "LowRankPlusDiagonal":
    """Files of before 2026-11-22 have columns in place of rows, and the diagonal of I - root^2."""
    if "shrink" in values:
        with jax.enable_x64(values["shrink"].dtype == jnp.float64):
            left = jnp.sqrt(jnp.maximum(1 - values["shrink"], 0))
            values = {"basis": values["basis"].T, "root": jnp.diag(left)}
    return LowRankPlusDiagonal(**values)


@savable(pack=_packed, unpack=_unpacked)
class LowRankPlusDiagonal(eqx.Module):
    """`P = Q^T M Q + shift (I - Q^T Q)`, Q with orthonormal rows; `solve` applies `shift P^-1`.

    The positive factor in front changes nothing in a preconditioner and keeps the numbers near 1.

    Equation (18) of docs/derivations/function-space.md.
    """

    # By rows: sums over n are then those of a product with a matrix, in parts. Those of a row
    # vector times a matrix, one after the other, had eight times the rounding error at n = 15,642,
    # and P^-1 was not definite.
    basis: Float[Array, "r n"]
    root: Float[Array, "r r"]  # of shift M^-1 = root^T root, which rounding cannot make indefinite

    def solve(self, u: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """`shift P^-1 u`. Cost: 4 n r k flops, two passes over Q."""
        inside = matmul(self.basis, u)
        kept = matmul_adjoint(self.root, matmul(self.root, inside))
        return u + matmul_adjoint(self.basis, kept - inside)


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

    Raises
    ------
    TypeError, ValueError
        For a rank or block that is no whole number from 1 on. From `build`, for an operator that is
        not a kernel's, or without damping.

    Notes
    -----
    Cost: n rank kernel entries, 6 n rank^2 flops, n rank numbers of memory, and three times as many
    while it is made.
    """

    rank: int = eqx.field(default=200, static=True)
    block: int = eqx.field(default=50, static=True)
    key: PRNGKeyArray | None = None

    def __check_init__(self):
        check_count("rank", self.rank, minimum=1)
        check_count("block", self.block, minimum=1)

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
        factor, _, _ = pivoted_cholesky(operator, self.rank, self.block, key)
        return _invert(factor, damp)


def _invert(factor: Float[Array, "n r"], damp: Array) -> LowRankPlusDiagonal:
    """`L L^T + shift I` by the QR factorisation of L.

    What the eigenvectors of `L^T L` would make of L is orthonormal to rounding times the spread of
    its eigenvalues only: on 15,642 rows in float32, rank 1000, that took 105 steps, and this 24.
    """
    columns, upper = jnp.linalg.qr(factor)
    gram = matmul(upper, upper.T)
    # A shift below what rounding resolves would make P^-1 indefinite in floating point: there a
    # quarter of it met no tolerance.
    size = column_norm(gram.reshape(-1, 1))[0]
    shift = jnp.maximum(damp**2, 32 * jnp.finfo(factor.dtype).eps * size)
    one = jnp.eye(gram.shape[0], dtype=gram.dtype)
    inverse = triangular_inverse(jnp.linalg.cholesky(gram + shift * one).T)
    return LowRankPlusDiagonal(columns.T, jnp.sqrt(shift) * inverse.T)


def pivoted_cholesky(
    operator: KernelOperator, rank: int, block: int, key: Array
) -> tuple[Float[Array, "n r"], Int[Array, " r"], Int[Array, ""]]:
    """L of a rank-`rank` approximation `K ≈ L L^T`, its pivots, and how many columns are used.

    Unused columns are zero. Cost: n rank kernel entries and 2 n rank^2 flops.
    """
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
        # By the inverse of the distribution function: n numbers, not n for every pivot.
        share = jnp.cumsum(weight)
        proposed = jax.random.uniform(draw, (block,), weight.dtype) * share[-1]
        pivots = jnp.minimum(jnp.searchsorted(share, proposed, side="right"), n - 1)
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
