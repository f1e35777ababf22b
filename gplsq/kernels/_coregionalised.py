"""Several correlated outputs, as a kernel on one more column."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import check_count, matmul, positive, savable
from gplsq.kernels._base import AbstractKernel


@savable
class Coregionalised(AbstractKernel):
    """`B[i, j] k(x, z)` for points whose last column is the number of an output, i or j.

    The intrinsic model of coregionalisation: p outputs are mixtures of independent draws of one
    process, with covariance `B = mixing mixing^T + diag(kappa)` between them (Bonilla, Chai &
    Williams 2007; Álvarez, Rosasco & Lawrence 2012, section 4.2.2). A sum of such kernels is the
    linear model of coregionalisation.

    Parameters
    ----------
    kernel
        Of the other columns.
    num_outputs
        p, at least 1. Outputs are counted from 0; the number of one that is not there has
        covariance 0 with everything.
    rank
        r, columns of `mixing`: how many directions of correlation there are.
    mixing
        Shape (p, r), of any sign; tuned as it is. By default the first column has equal numbers, so
        that all outputs have correlation 1/2, and further columns are small waves.
    kappa
        Shape (p,), positive: variance of each output that it does not share; 1/2 by default.

    Notes
    -----
    The scale of B and that of the kernel are one number: a kernel inside needs no variance of its
    own. Cost: that of the kernel, and 2 p flops more an entry.
    """

    kernel: AbstractKernel
    mixing: Float[Array, "p r"]
    kappa: Float[Array, " p"] = positive()

    def __init__(
        self,
        kernel: AbstractKernel,
        num_outputs: int,
        rank: int = 1,
        *,
        mixing: ArrayLike | None = None,
        kappa: ArrayLike | None = None,
    ):
        p = check_count("num_outputs", num_outputs, minimum=1)
        r = check_count("rank", rank, minimum=1) if mixing is None else np.shape(mixing)[-1]
        self.kernel = kernel
        self.mixing = _numbers("mixing", _waves(p, r) if mixing is None else mixing, (p, r))
        self.kappa = _numbers("kappa", np.full(p, 0.5) if kappa is None else kappa, (p,))

    @property
    def num_outputs(self) -> int:
        """p."""
        return self.kappa.shape[0]

    @property
    def covariance(self) -> Float[Array, "p p"]:
        """B, the covariance between outputs."""
        return matmul(self.mixing, self.mixing.T) + jnp.diag(self.kappa)

    def pair(self, x, z):
        return self.cross(x[None], z[None])[0, 0]

    def cross(self, X, Z):
        # Products with indicators: the derivative of a gather is a scatter of n m numbers.
        between = matmul(matmul(self._indicators(X), self.covariance), self._indicators(Z).T)
        return between * self.kernel.cross(X[:, :-1], Z[:, :-1])

    def diagonal(self, X):
        variances = jnp.sum(self.mixing**2, axis=1) + self.kappa
        return matmul(self._indicators(X), variances) * self.kernel.diagonal(X[:, :-1])

    def _indicators(self, X: Float[Array, "n d"]) -> Float[Array, "n p"]:
        """1 where a row is of an output, 0 elsewhere."""
        outputs = jnp.arange(self.num_outputs, dtype=X.dtype)
        return (jnp.round(X[:, -1:]) == outputs).astype(X.dtype)


def _waves(p: int, r: int) -> np.ndarray:
    """Orthogonal columns: a constant one, then cosines of growing frequency."""
    angle = np.pi * (np.arange(p)[:, None] + 0.5) * np.arange(r) / p
    return np.sqrt(0.5) * np.cos(angle) * np.where(np.arange(r) > 0, 0.3, 1.0)


def _numbers(name: str, values: Any, shape: tuple[int, ...]) -> Array:
    array = jnp.asarray(values)
    if array.shape != shape:
        msg = f"{name} must have shape {shape}; got {array.shape}. Pass one row for each output."
        raise ValueError(msg)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
