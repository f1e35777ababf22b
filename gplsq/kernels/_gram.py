"""K + noise, whole."""

from jaxtyping import Array, ArrayLike, Float

from gplsq._core import with_diagonal
from gplsq.kernels._base import AbstractKernel


def noisy_gram(
    kernel: AbstractKernel, noise_variance: ArrayLike, X: Float[Array, "n d"]
) -> Float[Array, "n n"]:
    """`k(X, X) + noise_variance I`, its diagonal exact: distances by expansion round it."""
    return with_diagonal(kernel.cross(X, X), kernel.diagonal(X) + noise_variance)
