"""Functions of a kernel's space that a few inducing points span, evaluated at many rows."""

import jax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import as_points, cast, savable
from gplsq.kernels import AbstractKernel, inducing_factor
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
class InducingBasis(AbstractBasis):
    """The span of the kernel sections at inducing points, made orthonormal by `k(Z, Z) = L L^T`."""

    kernel: AbstractKernel
    Z: Float[Array, "m d"]
    lower: Float[Array, "m m"]

    @property
    def size(self):
        return self.Z.shape[0]

    def sections(self, points):
        return self.kernel.cross(points, self.Z)

    def coefficients(self, v):
        return jax.scipy.linalg.solve_triangular(self.lower, v, lower=True, trans=1)

    def whiten(self, a):
        return jax.scipy.linalg.solve_triangular(self.lower, a, lower=True)

    def features(self, points):
        return self.whiten(self.sections(points).T).T


class Inducing(AbstractEvaluation):
    """`A v = (f(x_1), ..., f(x_n))` for functions `f = sum_j a_j k(., z_j)` of m inducing points.

    v are the coordinates of f in an orthonormal basis of that span: with `k(Z, Z) = L L^T` and
    `a = L^-T v`, the norm of f in the kernel's function space is |v|. So `lstsq(A, y, damp=sigma)`
    is the posterior mean of the Gaussian process restricted to the span: subset of regressors, or
    the Nystroem method (Smola & Schoelkopf 2000; Williams & Seeger 2001; Rudi, Carratino & Rosasco
    2017, "FALKON").

    Parameters
    ----------
    kernel
        Any kernel.
    X
        Rows of data, shape (n, d), or a `RowTable` of them. Its dtype is that of the operator.
    Z
        Inducing points, shape (m, d). Points that repeat, or nearly, add nothing and do no harm.
    block
        Rows of k(X, Z) made at a time, see `gplsq.operators.Rows`.
    mesh
        Devices to spread the rows over, see `gplsq.operators.ShardedRows`.

    Raises
    ------
    ValueError
        If a table is not two-dimensional, or the tables differ in their number of columns.

    Notes
    -----
    k(X, Z) is made block by block and forgotten; `sweep`, the step of LSMR, makes every entry once
    for both products. Cost: n m kernel entries and 4 n m k flops a sweep, m^3 / 3 flops for L.
    Memory: m^2 numbers and a block. Differentiable in the kernel's hyperparameters, X and Z; not in
    the rows of a `RowTable`, which are read once for every sweep.

    L is the Cholesky factor of `k(Z, Z) + jitter I`, with the smallest jitter out of
    ``(m eps)^0.6 10^i`` times the mean diagonal that makes it exist. It adds `jitter |a|^2` to the
    norm of f, and keeps rounding errors of A v small: without it a cancels to many digits.
    """

    basis: InducingBasis
    cross: Rows | ShardedRows
    table: TableRows | None

    def __init__(
        self,
        kernel: AbstractKernel,
        X: ArrayLike | RowTable,
        Z: ArrayLike,
        *,
        block: int | None = None,
        mesh: Mesh | None = None,
    ):
        points = as_rows("X", X)
        centres = as_points("Z", Z).astype(points.dtype)
        if centres.shape[1] != points.shape[1]:
            msg = (
                f"X and Z must have the same number of columns; got {points.shape[1]} and "
                f"{centres.shape[1]}. Pass inducing points of the space of the data."
            )
            raise ValueError(msg)
        self.basis = inducing_basis(kernel, centres)
        self.cross = rows_of_sections(self.basis, points, block, mesh)
        self.table = points if isinstance(points, TableRows) else None

    @property
    def Z(self) -> Float[Array, "m d"]:
        """The inducing points."""
        return self.basis.Z

    def coefficients(self, v: Float[Array, "m *k"]) -> Float[Array, "m *k"]:
        """`a = L^-T v`, the coefficients of the kernel sections."""
        return self.basis.coefficients(v)


def inducing_basis(kernel: AbstractKernel, Z: Float[Array, "m d"]) -> InducingBasis:
    """The basis of `Inducing`, in the dtype of Z."""
    kernel = cast(kernel, Z.dtype)
    return InducingBasis(kernel, Z, inducing_factor(kernel, Z))
