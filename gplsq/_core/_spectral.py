"""Spectral factorisations that return whatever the numbers are.

LAPACK's iterations need not end on NaN or infinity: `sgesdd` of jaxlib 0.10.2 was seen to run for
ever on a 3 x 6 matrix with one infinite entry, inside a call that no signal interrupts.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def reduced_svd(
    A: Float[Array, "*batch m n"],
) -> tuple[Float[Array, "*batch m r"], Float[Array, "*batch r"], Float[Array, "*batch r n"]]:
    """Reduced singular value decomposition, r = min(m, n); all NaN where `A` is not finite."""
    A, finite = _sound(A)
    U, s, Vt = jnp.linalg.svd(A, full_matrices=False)
    nan = jnp.asarray(jnp.nan, A.dtype)
    return (
        jnp.where(finite, U, nan),
        jnp.where(finite[..., 0], s, nan),
        jnp.where(finite, Vt, nan),
    )


def symmetric_eigen(
    A: Float[Array, "*batch n n"],
) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n n"]]:
    """Eigenvalues, ascending, and eigenvectors; all NaN where `A` is not finite."""
    A, finite = _sound(A)
    values, vectors = jnp.linalg.eigh(A)
    nan = jnp.asarray(jnp.nan, A.dtype)
    return jnp.where(finite[..., 0], values, nan), jnp.where(finite, vectors, nan)


def _sound(A: Array) -> tuple[Array, Array]:
    """`A`, or zeros in its place, and whether it is finite, shape (*batch, 1, 1)."""
    finite = jnp.all(jnp.isfinite(A), axis=(-2, -1), keepdims=True)
    return jnp.where(finite, A, 0), finite
