"""Predictive variance of the latent function: by factor, by solves, or as an upper bound."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import column_norm, free_memory, map_row_tiles, matmul
from gplsq.gp._plan import format_bytes
from gplsq.kernels import AbstractKernel, noisy_gram
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers import AbstractLeastSquares

# Test points whose columns are solved for at a time.
_BLOCK = 256
# Right-hand sides of one triangular solve: n x 1024 numbers of memory.
_TRIANGULAR_BLOCK = 1024


def variance_by_factor(
    kernel: AbstractKernel, X: Array, lower: Array, Z: Float[Array, "m d"]
) -> Float[Array, " m"]:
    """`k(z, z) - |L^-1 k(X, z)|^2`. Cost: n^2 m flops; memory n x 1024."""

    def tile(z: Array, _: Array) -> Array:
        half = jax.scipy.linalg.solve_triangular(lower, kernel.cross(X, z), lower=True)
        return kernel.diagonal(z) - column_norm(half) ** 2

    return map_row_tiles(tile, Z, min(Z.shape[0], _TRIANGULAR_BLOCK))


def variance_by_solves(
    operator: KernelOperator,
    noise_variance: Array,
    solver: AbstractLeastSquares,
    prepared: object,
    Z: Float[Array, "m d"],
) -> tuple[Float[Array, " m"], Array]:
    """`k(z, z) - 2 a^T k + a^T S a` with `S a = k(X, z)` solved in blocks of 256 points.

    For any a this is the error variance of the linear predictor `a^T y`, so a solve that stops
    early gives a variance that is too large by a second-order term, never too small. Returns the
    statuses too. Cost: m / 256 block solves.
    """
    kernel, X = operator.kernel, operator.X
    damp = jnp.sqrt(noise_variance)

    def tile(z: Array, _: Array) -> Array:
        k = kernel.cross(X, z)
        outcome = solver.run(prepared, operator, damp, k, None)
        a, status = outcome[0], outcome[2]
        Sa = operator.mv(a) + noise_variance * a
        value = kernel.diagonal(z) - 2 * jnp.sum(a * k, axis=0) + jnp.sum(a * Sa, axis=0)
        return jnp.stack([value, status.astype(value.dtype)], axis=1)

    out = map_row_tiles(tile, Z, min(Z.shape[0], _BLOCK))
    return out[:, 0], out[:, 1].astype(jnp.int32)


def variance_by_neighbours(
    kernel: AbstractKernel,
    X: Float[Array, "n d"],
    noise_variance: Array,
    Z: Float[Array, "m d"],
    neighbours: int,
    exclude: Array | None = None,
    instead: Float[Array, "m d"] | None = None,
) -> Float[Array, " m"]:
    """Variance given only the `neighbours` data rows most correlated with each point.

    Conditioning a Gaussian process on fewer data never lowers a variance, so this is an **upper
    bound** of the exact one, for any kernel; it is tight where few neighbours tell nearly all
    (Vecchia 1988; Stein, Chi & Welty 2004).

    Parameters
    ----------
    exclude
        For each point the number of a data row that must not be used, for leave-one-out; shape
        (m,).
    instead
        Rows that stand for the excluded ones, instead of none: of a `Weighted` kernel the same
        ones with what is left of their weight, so that they correlate with a point as before.

    Notes
    -----
    Cost: m n kernel entries and m neighbours^3 / 3 flops.
    """
    scale = jnp.sqrt(jnp.maximum(kernel.diagonal(X), jnp.finfo(X.dtype).tiny))
    fewer = exclude is not None and instead is None
    size = min(neighbours, X.shape[0] - fewer)
    # A noise below rounding of the prior would break the small factorisations; more noise on the
    # data errs to the safe side.
    eps = jnp.finfo(X.dtype).eps

    def point(z: Array, rows: Array, i: Array) -> Array:
        near = X[rows]
        if instead is not None:
            assert exclude is not None
            near = jnp.where((rows == exclude[i])[:, None], instead[i], near)
        noise = jnp.maximum(noise_variance, 8 * eps * size * jnp.max(kernel.diagonal(near)))
        S = noisy_gram(kernel, noise, near)
        k = kernel.cross(near, z[None])
        half = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(S), k, lower=True)
        value = kernel.diagonal(z[None])[0] - jnp.sum(half**2)
        return jnp.where(jnp.isfinite(value), value, kernel.diagonal(z[None])[0])

    def tile(z: Array, i: Array) -> Array:
        likeness = jnp.abs(kernel.cross(z, X)) / scale
        if exclude is not None and instead is None:
            likeness = likeness.at[jnp.arange(z.shape[0]), exclude[i]].set(-1)
        return jax.vmap(point)(z, jax.lax.top_k(likeness, size)[1], i)

    return map_row_tiles(tile, Z, min(Z.shape[0], 128))


def check_covariance_fits(m: int, columns: int, like: Array) -> None:
    """Refuse a covariance of m points that memory has no room for, before any of it is made.

    Parameters
    ----------
    m
        Points.
    columns
        Numbers that each point takes beside its row of the covariance.
    like
        Any array of the dtype.

    Raises
    ------
    MemoryError
        With what is needed, and what to do instead.
    """
    # The covariance, its prior, their difference, its transpose, and a copy for the caller.
    needed, free = like.dtype.itemsize * m * (5.0 * m + columns), free_memory()
    if needed > free:
        msg = (
            f"the joint covariance of {m} points needs about {format_bytes(needed)} of memory, and "
            f"{format_bytes(free)} are free. Pass fewer points, take their variances alone "
            "(`variance`, `return_std=True`), or draw functions (`sample_paths`, "
            '`sample_y(method="pathwise")`).'
        )
        raise MemoryError(msg)


def covariance_by_factor(
    kernel: AbstractKernel, X: Array, lower: Array, Z: Float[Array, "m d"]
) -> Float[Array, "m m"]:
    """Joint covariance of the latent function. Cost: n^2 m + n m^2 flops; m^2 numbers."""
    half = jax.scipy.linalg.solve_triangular(lower, kernel.cross(X, Z), lower=True)
    return _symmetric(noisy_gram(kernel, 0, Z) - matmul(half.T, half))


def covariance_by_solves(
    operator: KernelOperator,
    noise_variance: Array,
    solver: AbstractLeastSquares,
    prepared: object,
    Z: Float[Array, "m d"],
) -> tuple[Float[Array, "m m"], Array]:
    """The same by one block solve, in the form that errs to larger variances; and its statuses."""
    k = operator.kernel.cross(operator.X, Z)
    a, _, status, _ = solver.run(prepared, operator, jnp.sqrt(noise_variance), k, None)
    Sa = operator.mv(a) + noise_variance * a
    mixed = matmul(a.T, k)
    full = noisy_gram(operator.kernel, 0, Z) - mixed - mixed.T + matmul(a.T, Sa)
    return _symmetric(full), status


def _symmetric(full: Array) -> Array:
    """Without what rounding made of the symmetry."""
    return (full + full.T) / 2
