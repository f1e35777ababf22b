"""A sparse matrix as an operator: gather, multiply, add up by rows or by columns."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse
from jaxtyping import Array, Float, Int

from gplsq._core import describe, is_traced, like_columns
from gplsq.operators._base import AbstractEuclideanOperator

# Consecutive numbers come from this many distant parts of the matrix. In row order the sums of a
# long row wait for each other, one number after the other; eight rows at a time do not.
_STREAMS = 8
# Entries of the temporary array (numbers times columns) of one product: 16 MiB in float32, which
# allocators still recycle instead of asking the system for fresh pages every time.
_MAX_ENTRIES = 4_000_000
_MAX_SIZE = 2**31 - 1


class Sparse(AbstractEuclideanOperator):
    """A sparse real matrix, given by its non-zero numbers and their places.

    Parameters
    ----------
    matrix
        Shape (m, n): a `jax.experimental.sparse.BCOO` or `BCSR` without batch and dense dimensions,
        or any scipy.sparse matrix or array. Integers become floating-point numbers of the default
        dtype. Places named twice are added up; padding (places outside the matrix) is dropped.

    Attributes
    ----------
    data
        Shape (nnz,): the numbers, in an order chosen for speed. A differentiable leaf.
    rows, columns
        Shape (nnz,), int32: the places of `data`.

    Raises
    ------
    TypeError
        If the matrix is of another type, or complex.
    ValueError
        If it is not two-dimensional, has batch or dense dimensions, or a side of 2^31 or more.

    Notes
    -----
    Coordinate format (Saad 2003, "Iterative Methods for Sparse Linear Systems", section 3.4): a
    product gathers the entries of its argument, multiplies, and adds up with a scatter, in both
    directions. Nothing is padded or stored twice. Cost of a product with k columns: 2 k nnz flops.
    Memory: 3 nnz numbers kept, a temporary of nnz k numbers (bounded: wide blocks are split).

    Differentiable in `data` (and so in the data of a BCOO or BCSR it is made from) and in the
    vectors, forward and reverse, at the cost of such products.

    Places that are traced (construction under `jit`) are taken as they come: they are not put in
    order, and places named twice stay in `data` twice. The products are the same.

    A second operator with the same shape and `num_nonzero` compiles nothing anew.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> from gplsq.operators import Sparse
    >>> A = Sparse(scipy.sparse.eye_array(3, 4, k=1, dtype=np.float32))
    >>> A.shape, A.num_nonzero
    ((3, 4), 3)
    >>> A.mv(np.arange(4, dtype=np.float32)).tolist()
    [1.0, 2.0, 3.0]
    """

    data: Float[Array, " nnz"]
    rows: Int[Array, " nnz"]
    columns: Int[Array, " nnz"]
    size: tuple[int, int] = eqx.field(static=True)

    def __init__(self, matrix: Any):
        data, rows, columns, shape = _coordinates(matrix)
        if jnp.issubdtype(data.dtype, jnp.complexfloating):
            msg = f"matrix must be real; got dtype {data.dtype}. Stack real and imaginary parts."
            raise TypeError(msg)
        if max(shape) > _MAX_SIZE or data.shape[0] > _MAX_SIZE:
            msg = (
                f"matrix must have fewer than 2^31 rows, columns and numbers; got shape {shape} "
                f"and {data.shape[0]} numbers. Split it, and stack the parts with Stacked."
            )
            raise ValueError(msg)
        if not jnp.issubdtype(data.dtype, jnp.floating):
            data = data.astype(float)
        self.size = shape
        order = _as_they_come if is_traced(rows) or is_traced(columns) else _in_fast_order
        self.data, self.rows, self.columns = order(data, rows, columns, shape)

    @property
    def shape(self):
        return self.size

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def num_nonzero(self) -> int:
        """How many numbers are kept, zeros among them included."""
        return self.data.shape[0]

    def mv(self, v):
        return _product(self.data, self.columns, self.rows, v, self.size[0])

    def rmv(self, u):
        return _product(self.data, self.rows, self.columns, u, self.size[1])


def _product(data: Array, source: Array, target: Array, x: Array, size: int) -> Array:
    """`y[target] += data * x[source]`, in groups of columns that bound the temporary array."""
    x = jnp.asarray(x)
    width = max(1, _MAX_ENTRIES // max(data.shape[0], 1))
    if x.ndim == 1 or x.shape[1] <= width:
        return _scatter_product(data, source, target, x, size)
    columns = x.shape[1]
    groups = -(-columns // width)
    width = -(-columns // groups)
    padded = jnp.pad(x, ((0, 0), (0, groups * width - columns)))
    # Recompute instead of keeping in reverse mode, or the groups would bound nothing.
    one_group = jax.checkpoint(
        lambda part: _scatter_product(data, source, target, part, size), prevent_cse=False
    )
    out = jax.lax.map(one_group, jnp.moveaxis(padded.reshape(-1, groups, width), 1, 0))
    return jnp.moveaxis(out, 0, 1).reshape(size, groups * width)[:, :columns]


def _scatter_product(data: Array, source: Array, target: Array, x: Array, size: int) -> Array:
    terms = like_columns(data, x) * x.at[source].get(mode="promise_in_bounds")
    return jax.ops.segment_sum(terms, target, size, mode="promise_in_bounds")


def _coordinates(matrix: Any) -> tuple[Array, Any, Any, tuple[int, int]]:
    """Numbers, row numbers, column numbers and shape of any supported matrix."""
    if isinstance(matrix, sparse.BCOO | sparse.BCSR):
        if matrix.ndim != 2 or matrix.n_batch or matrix.n_dense:
            msg = (
                "matrix must be two-dimensional without batch and dense dimensions; got shape "
                f"{tuple(matrix.shape)}, n_batch={matrix.n_batch}, n_dense={matrix.n_dense}. "
                "Change it with jax.experimental.sparse.bcoo_update_layout."
            )
            raise ValueError(msg)
        coo = matrix if isinstance(matrix, sparse.BCOO) else matrix.to_bcoo()
        m, n = matrix.shape
        return coo.data, coo.indices[:, 0], coo.indices[:, 1], (int(m), int(n))
    if not hasattr(matrix, "tocoo"):
        msg = (
            "matrix must be a jax.experimental.sparse BCOO or BCSR, or a scipy.sparse matrix; got "
            f"{describe(matrix)}. For an explicit matrix use gplsq.operators.Dense."
        )
        raise TypeError(msg)
    if len(matrix.shape) != 2:
        msg = f"matrix must be two-dimensional, shape (m, n); got shape {tuple(matrix.shape)}."
        raise ValueError(msg)
    coo = matrix.tocoo()
    m, n = coo.shape
    return jnp.asarray(coo.data), coo.row, coo.col, (int(m), int(n))


def _as_they_come(
    data: Array, rows: Array, columns: Array, shape: tuple[int, int]
) -> tuple[Array, Array, Array]:
    """Traced places: padding cannot be dropped, so it becomes a zero at place (0, 0)."""
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    return (
        jnp.where(inside, data, 0),
        jnp.where(inside, rows, 0).astype(jnp.int32),
        jnp.where(inside, columns, 0).astype(jnp.int32),
    )


def _in_fast_order(
    data: Array, rows: Any, columns: Any, shape: tuple[int, int]
) -> tuple[Array, Array, Array]:
    """Known places: drop padding, add up what is named twice, and deal the rows out in streams."""
    rows, columns = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    place = np.where(inside, rows * shape[1] + columns, -1)
    order = np.argsort(place, kind="stable")[np.count_nonzero(~inside) :]
    place = place[order]
    first = np.ones(len(place), bool)
    first[1:] = place[1:] != place[:-1]
    count = int(np.count_nonzero(first))
    length = -(-count // _STREAMS)
    dealt = np.arange(length * _STREAMS).reshape(_STREAMS, length).T.ravel()
    dealt = dealt[dealt < count]
    if count == len(place):
        data = data[order[dealt]]
    else:
        data = jax.ops.segment_sum(data[order], np.cumsum(first) - 1, count)[dealt]
    kept = order[first][dealt]
    return data, jnp.asarray(rows[kept], jnp.int32), jnp.asarray(columns[kept], jnp.int32)
