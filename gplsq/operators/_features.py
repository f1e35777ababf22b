"""Random features of a kernel, evaluated at many rows."""

from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from gplsq._core import cast, check_count, jit_quickly, savable
from gplsq.kernels import AbstractFeatureMap, AbstractKernel, random_features
from gplsq.operators._basis import (
    AbstractBasis,
    AbstractEvaluation,
    TableRows,
    as_rows,
    rows_of_sections,
)
from gplsq.operators._rows import Rows
from gplsq.operators._sharded import ShardedRows
from gplsq.operators._table import RowTable


@savable
class FeatureBasis(AbstractBasis):
    """Features taken for an orthonormal basis: the kernel they have is their inner product."""

    map: AbstractFeatureMap

    @property
    def size(self):
        return self.map.size

    def sections(self, points):
        return self.map(points)

    def coefficients(self, v):
        return v

    def whiten(self, a):
        return a

    def features(self, points):
        return self.map(points)


class Features(AbstractEvaluation):
    """`A v = phi(X) v`, phi random features of a kernel: `A A^T` is close to `kernel(X, X)`.

    `lstsq(A, y, damp=sigma)` is Bayesian linear regression on the features, and tends to the
    posterior mean of the Gaussian process as they become more. See `gplsq.kernels.random_features`
    for the maps and for which kernels have one.

    Parameters
    ----------
    kernel
        A kernel with a feature map.
    X
        Rows of data, shape (n, d), or a `RowTable` of them. Its dtype is that of the operator.
    num_features
        Features at most.
    key
        A JAX random key; a fixed one by default. The operator is a smooth function of the
        hyperparameters for a given key.
    block
        Rows of phi(X) made at a time, see `gplsq.operators.Rows`.
    mesh
        Devices to spread the rows over, see `gplsq.operators.ShardedRows`.

    Raises
    ------
    NotImplementedError
        For kernels without a known feature map.
    ValueError, TypeError
        If X is not two-dimensional, or `num_features` is no whole number or too small for the
        kernel.

    Notes
    -----
    phi(X) is made block by block and forgotten; `sweep`, the step of LSMR, makes every block once
    for both products. Cost: n r cosines and sines, 2 n r d flops for the angles and 4 n r k a
    sweep. Memory: a block. Differentiable in the kernel's hyperparameters and X; not in the rows of
    a `RowTable`, which are read once for every sweep.
    """

    basis: FeatureBasis
    cross: Rows | ShardedRows
    table: TableRows | None

    def __init__(
        self,
        kernel: AbstractKernel,
        X: ArrayLike | RowTable,
        num_features: int,
        *,
        key: PRNGKeyArray | None = None,
        block: int | None = None,
        mesh: Mesh | None = None,
    ):
        points = as_rows("X", X)
        self.basis = feature_basis(kernel, points, num_features, key)
        self.cross = rows_of_sections(self.basis, points, block, mesh)
        self.table = points if isinstance(points, TableRows) else None


def feature_basis(
    kernel: AbstractKernel, points: Float[Array, "n d"] | TableRows, num: int, key: Array | None
) -> FeatureBasis:
    """The basis of `Features`, in the dtype of the points."""
    check_count("num_features", num, minimum=1)
    key = jax.random.key(0) if key is None else key
    return _draw(cast(kernel, points.dtype), key, num, points.shape[1])


@jit_quickly
def _draw(kernel: AbstractKernel, key: Array, num: int, d: int) -> Any:
    return FeatureBasis(random_features(kernel, key, num, d))
