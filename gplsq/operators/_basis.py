"""Finite-dimensional spaces of functions, and the operator that evaluates them at many rows."""

import abc
import collections
import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int, UInt32

from gplsq._core import as_points
from gplsq.operators._base import AbstractEuclideanOperator
from gplsq.operators._rows import Rows
from gplsq.operators._sharded import ShardedRows
from gplsq.operators._table import RowTable


class AbstractBasis(eqx.Module):
    """An orthonormal basis of r functions: `f(x) = features(x) . v`, and |v| is the norm of f.

    Where the basis is made from simpler functions, `f(x) = sections(x) . coefficients(v)` costs
    less for many points than `features`.
    """

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """r, the number of functions."""

    @abc.abstractmethod
    def sections(self, points: Float[Array, "t d"]) -> Float[Array, "t r"]:
        """The simpler functions at points."""

    @abc.abstractmethod
    def coefficients(self, v: Float[Array, "r *k"]) -> Float[Array, "r *k"]:
        """From coordinates in the basis to coefficients of the sections."""

    @abc.abstractmethod
    def whiten(self, a: Float[Array, "r *k"]) -> Float[Array, "r *k"]:
        """The transpose of `coefficients`."""

    @abc.abstractmethod
    def features(self, points: Float[Array, "t d"]) -> Float[Array, "t r"]:
        """The basis functions at points."""


class AbstractEvaluation(AbstractEuclideanOperator):
    """`A v = (f(x_1), ..., f(x_n))` for functions of a basis; rows are generated and forgotten."""

    basis: eqx.AbstractVar[AbstractBasis]
    cross: eqx.AbstractVar[Rows | ShardedRows]  # of the sections
    table: "eqx.AbstractVar[TableRows | None]"  # where X is not an array

    @property
    def shape(self):
        return self.cross.shape

    @property
    def dtype(self):
        return self.cross.dtype

    @property
    def X(self) -> Float[Array, "n d"] | RowTable:
        """The rows of data."""
        return self.cross.data[: self.shape[0]] if self.table is None else self.table.table

    @property
    def mesh(self) -> Mesh | None:
        """The devices that the rows are spread over."""
        return self.cross.mesh if isinstance(self.cross, ShardedRows) else None

    def features(self, points: Float[Array, "t d"]) -> Float[Array, "t r"]:
        """Rows of the operator for any points."""
        return self.basis.features(points)

    def rows_at(self, index: Any) -> Float[Array, "t r"]:
        """Chosen rows of the operator as a matrix."""
        if self.table is None:
            return self.features(self.cross.data[index])
        return self.features(self.table(jnp.asarray(index)))

    def sampled(self, index: Int[Array, " s"]) -> Callable:
        """`i -> rows_at(index[i])`, as a callable pytree that holds the data of these rows."""
        if self.table is None:
            return jax.tree_util.Partial(_features_at, self.basis, self.cross.data[index])
        return jax.tree_util.Partial(_features_at, self.basis, self.table(index))

    def mv(self, v):
        return self.cross.mv(self.basis.coefficients(v))

    def rmv(self, u):
        return self.basis.whiten(self.cross.rmv(u))

    def sweep(self, v, shift):
        w, back = self.cross.sweep(self.basis.coefficients(v), shift)
        return w, self.basis.whiten(back)


def _features_at(basis: AbstractBasis, points: Array, index: Array) -> Array:
    return basis.features(points[index])


class TableRows(eqx.Module):
    """The rows of a `RowTable` in compiled programs: a function of row numbers."""

    key: UInt32[Array, "4"]  # a leaf, so that programs are the same for all tables
    keeper: "_Keeper" = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, table: RowTable):
        _tables[table.key] = table
        _last_used.append(table)
        self.key = jnp.asarray(np.frombuffer(table.key, np.uint32))
        self.keeper = _Keeper(table)
        self.shape, self.dtype = table.shape, table.dtype

    def __call__(self, index: Int[Array, " t"]) -> Float[Array, "t d"]:
        """Rows `index`, read when the program runs."""
        struct = jax.ShapeDtypeStruct((*index.shape, self.shape[1]), self.dtype)
        return jax.pure_callback(_fetch, struct, self.key, index, vmap_method="sequential")

    @property
    def table(self) -> RowTable:
        """The table itself."""
        return _find(self.key)


def as_rows(name: str, X: ArrayLike | RowTable) -> Float[Array, "n d"] | TableRows:
    """A table of points, in memory or not."""
    return TableRows(X) if isinstance(X, RowTable) else as_points(name, X)


def rows_of_sections(
    basis: AbstractBasis,
    X: Float[Array, "n d"] | TableRows,
    block: int | None,
    mesh: Mesh | None = None,
) -> Rows | ShardedRows:
    """`basis.sections` of all points."""
    fn, data = basis.sections, X
    if isinstance(X, TableRows):
        fn, data = _SectionsOfTable(basis, X), jnp.arange(X.shape[0], dtype=jnp.int32)
    if mesh is None:
        return Rows(fn, data, basis.size, block=block)
    return ShardedRows(fn, data, basis.size, block=block, mesh=mesh)


class _SectionsOfTable(eqx.Module):
    basis: AbstractBasis
    X: TableRows

    def __call__(self, index: Int[Array, " t"]) -> Float[Array, "t r"]:
        return self.basis.sections(self.X(index))


class Evaluation(AbstractEvaluation):
    """`A v = (f(x_1), ..., f(x_n))` for functions of a basis that exists already.

    Parameters
    ----------
    basis
        The functions, in the dtype of X.
    X
        Rows of data, shape (n, d), or a `RowTable`.
    block
        Rows made at a time, see `gplsq.operators.Rows`.
    mesh
        Devices to spread the rows over, see `gplsq.operators.ShardedRows`.
    """

    basis: AbstractBasis
    cross: Rows | ShardedRows
    table: TableRows | None

    def __init__(
        self,
        basis: AbstractBasis,
        X: ArrayLike | RowTable,
        *,
        block: int | None = None,
        mesh: Mesh | None = None,
    ):
        points = as_rows("X", X)
        self.basis = basis
        self.cross = rows_of_sections(basis, points, block, mesh)
        self.table = points if isinstance(points, TableRows) else None


class _Keeper:
    """Keeps a table alive with its operator. All keepers are equal: no part of a program.

    What comes out of a compiled function has the keeper of the function's first call. So rows are
    always found by the key.
    """

    def __init__(self, table: RowTable):
        self.table = table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keeper)

    def __hash__(self) -> int:
        return hash(_Keeper)


_tables: weakref.WeakValueDictionary[bytes, RowTable] = weakref.WeakValueDictionary()
# JAX returns before a program has run, and the operator may be dropped by then.
_last_used: collections.deque[RowTable] = collections.deque(maxlen=16)


def _find(key: Any) -> RowTable:
    table = _tables.get(np.asarray(key).tobytes())
    if table is None:
        msg = "the RowTable of an operator is gone. Keep the table as long as results are computed."
        raise RuntimeError(msg)
    return table


def _fetch(key: Any, index: Any) -> np.ndarray:
    """Rows of the table of a key."""
    table, rows = _find(key), np.asarray(index)
    start, last = (int(rows.flat[i]) for i in (0, -1)) if rows.size else (0, -1)
    # Blocks are contiguous; the last one is filled up with copies of its last row.
    steps = np.minimum(np.arange(rows.size), last - start)
    if 0 <= start <= last < table.shape[0] and np.array_equal(rows.ravel() - start, steps):
        block = table.read(start, last + 1)[steps]
    else:
        block = table.take(rows.ravel())
    return block.reshape(*rows.shape, table.shape[1])
