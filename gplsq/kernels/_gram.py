"""The dense matrix `K + noise I` of a kernel on one table."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import map_row_tiles, with_diagonal
from gplsq.kernels._base import AbstractKernel

# Bytes of a matrix from which slabs pay. glibc's malloc keeps up to 32 MB for the next call, and
# beyond takes every page anew: a quarter of the time of a leave-one-out step on 1,000 rows of
# float64. Below, a loop costs a tenth more than it saves.
_SLABS_FROM = 2**22
_SLABS = 8


def noisy_gram(
    kernel: AbstractKernel, noise_variance: ArrayLike, X: Float[Array, "n d"]
) -> Float[Array, "n n"]:
    """`k(X, X) + noise_variance I`, its diagonal exact: distances by expansion round it."""
    return with_diagonal(kernel.cross(X, X), kernel.diagonal(X) + noise_variance)


def noisy_gram_recomputed(
    kernel: AbstractKernel, noise_variance: ArrayLike, X: Float[Array, "n d"]
) -> Float[Array, "n n"]:
    """`noisy_gram`, whose derivative computes K anew, slab by slab, where K is large.

    A gradient of a leave-one-out loss then works in 4 matrices as large as K instead of 5, that of
    a likelihood or a hold-out in 3. In a loop, because XLA computes anew what `jax.checkpoint`
    alone asks for before the memory of the factorisation is free: 6 matrices.
    """
    X = jnp.asarray(X)
    n = X.shape[0]
    if n * n * X.dtype.itemsize < _SLABS_FROM:
        return noisy_gram(kernel, noise_variance, X)
    K = map_row_tiles(lambda rows, _: kernel.cross(rows, X), X, -(-n // _SLABS))
    return with_diagonal(K, kernel.diagonal(X) + noise_variance)
