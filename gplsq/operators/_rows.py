"""A tall matrix whose rows are generated block by block, used and forgotten."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from gplsq._core import check_count, describe, like_columns, matmul, matmul_adjoint, tile_rows
from gplsq.operators._base import AbstractEuclideanOperator
from gplsq.operators._program import Program, trace


class Rows(AbstractEuclideanOperator):
    """A matrix of m rows that a function makes from m pieces of data, a block at a time.

    Feature maps, basis functions, windows of a long series: `A[i] = fn(data[i])`. No more than one
    block of A exists at any time, in products and in their derivatives.

    Parameters
    ----------
    fn
        Maps a block of `data` with t rows to the rows of A that belong to it, shape (t, n), real
        floating-point. Row i of the result may depend on row i of the block only. Arrays it closes
        over, or holds as a callable pytree (`eqx.Module`, `jax.tree_util.Partial`), may be traced
        and differentiated.
    data
        An array, or a pytree of arrays, with a common leading axis of length m.
    num_columns
        n. Found by tracing `fn` on one row if `None`.
    block
        Rows of a block at most; all blocks have the same height, the last one is filled up. The
        default is 32 to 1024 rows, about a million numbers where that leaves a choice.

    Raises
    ------
    TypeError
        If `fn` is not callable, its result is not one real floating-point array, `data` holds no
        arrays, or `num_columns` or `block` is not an integer.
    ValueError
        If the leading axes of `data` differ or are empty, the result of `fn` has not the shape
        (t, n), or `num_columns` or `block` is not positive.

    Notes
    -----
    Cost of a product with k columns: every block once, and 2 k m n flops; `sweep` does both of its
    products (4 k m n flops) with every block once. Memory: t n numbers beside the vectors.
    A derivative generates every block again instead of keeping it, so its memory does not grow with
    m n either; gradients with respect to `data` and to what is inside `fn` cost a few products.

    `fn` is called only to trace it. A fresh operator of the same operations on the same shapes
    compiles nothing anew, whatever arrays `fn` closes over. (Python numbers are part of the
    program, and so are arrays that a function jitted inside `fn` closes over.)

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from gplsq.operators import Rows
    >>> x = jnp.linspace(0.0, 1.0, 1000)
    >>> powers = Rows(lambda x: x[:, None] ** jnp.arange(3), x, block=64)
    >>> powers.shape
    (1000, 3)
    >>> float(powers.mv(jnp.array([1.0, 2.0, 4.0]))[-1])
    7.0
    """

    fn: Program
    data: PyTree[Array]
    size: tuple[int, int] = eqx.field(static=True)
    number_type: Any = eqx.field(static=True)
    height: int = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable,
        data: PyTree,
        num_columns: int | None = None,
        *,
        block: int | None = None,
    ):
        if not callable(fn):
            msg = f"fn must be a function of a block of data; got {describe(fn)}. Pass a callable."
            raise TypeError(msg)
        self.data = jax.tree.map(_as_array, data)
        m = _common_length(self.data)
        if num_columns is None:
            n = _checked_result(fn, _block_struct(self.data, 1), 1, None).shape[1]
        else:
            n = check_count("num_columns", num_columns, minimum=1)
        most = tile_rows(m, n) if block is None else check_count("block", block, minimum=1)
        self.height = -(-m // -(-m // most))  # as high as the others: less to fill up
        struct = _block_struct(self.data, self.height)
        self.fn = trace(lambda rows: fn(rows), struct)
        self.number_type = _checked_result(self.fn, struct, self.height, n).dtype
        self.size = (m, n)

    @property
    def shape(self):
        return self.size

    @property
    def dtype(self):
        return self.number_type

    def mv(self, v):
        if v.ndim == 2 and v.shape[1] == 1:
            return self.mv(v[:, 0])[:, None]
        return self._over_blocks(lambda rows, _, __: (matmul(rows, v), None), None, None)[0]

    def rmv(self, u):
        if u.ndim == 2 and u.shape[1] == 1:
            return self.rmv(u[:, 0])[:, None]

        def product(rows, _, part):
            return None, matmul_adjoint(rows, part)  # rows that only fill up meet zeros of u

        return self._over_blocks(product, u, self._zeros(u))[1]

    def sweep(self, v, shift):
        """`w = A v - shift` and `A* w`, every block generated once for both."""
        if v.ndim == 2 and v.shape[1] == 1:
            w, back = self.sweep(v[:, 0], shift[:, 0])
            return w[:, None], back[:, None]

        def both(rows, inside, part):
            w = matmul(rows, v) - part
            w = jnp.where(like_columns(inside, w), w, 0)
            return w, matmul_adjoint(rows, w)

        return self._over_blocks(both, shift, self._zeros(v, shift))

    def _zeros(self, *arguments: Array) -> Array:
        """Where `A* u` is added up."""
        shape = (self.size[1], *arguments[0].shape[1:])
        return jnp.zeros(shape, jnp.result_type(self.dtype, *arguments))

    def _over_blocks(
        self, product: Callable, part: Array | None, start: Array | None
    ) -> tuple[Any, Any]:
        """Concatenate and add up the results of `product(rows, inside, part[rows])` over blocks.

        `inside` is false for the rows that fill up the last block.
        """
        m, blocks = self.size[0], -(-self.size[0] // self.height)
        missing = blocks * self.height - m

        def split(array: Array, filling: str) -> Array:
            if missing:
                widths = ((0, missing), *((0, 0) for _ in array.shape[1:]))
                array = jnp.pad(array, widths, mode=filling)
            return array.reshape(blocks, self.height, *array.shape[1:])

        # Only the block is recomputed in reverse mode: it alone is larger than its inputs.
        recomputed = jax.checkpoint(
            lambda data, *others: product(self.fn(data), *others), prevent_cse=False
        )

        def step(total, inputs):
            stacked, term = recomputed(*inputs)
            return jax.tree.map(jnp.add, total, term), stacked

        inputs = (
            # `fn` is known to accept the last row, so copies of it do for filling up.
            jax.tree.map(lambda leaf: split(leaf, "edge"), self.data),
            (np.arange(blocks * self.height) < m).reshape(blocks, self.height),
            None if part is None else split(part, "constant"),
        )
        total, stacked = jax.lax.scan(step, start, inputs)
        if stacked is not None:
            stacked = stacked.reshape(blocks * self.height, *stacked.shape[2:])[:m]
        return stacked, total


def _as_array(leaf: Any) -> Array:
    if not eqx.is_array_like(leaf):
        msg = f"data must hold arrays only; got {describe(leaf)}. Close over it in fn instead."
        raise TypeError(msg)
    return jnp.asarray(leaf)


def _common_length(data: PyTree) -> int:
    """m, the length of the leading axis that all leaves share."""
    leaves = jax.tree.leaves(data)
    if not leaves:
        msg = "data must hold at least one array; got none. Pass for example jnp.arange(m)."
        raise TypeError(msg)
    shapes = [leaf.shape for leaf in leaves]
    if not all(shape and shape[0] == shapes[0][0] > 0 for shape in shapes):
        msg = (
            "data must be arrays with one common leading axis, of length m > 0; got shapes "
            f"{shapes}. Let fn close over what all rows share."
        )
        raise ValueError(msg)
    return shapes[0][0]


def _block_struct(data: PyTree, height: int) -> PyTree:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((height, *leaf.shape[1:]), leaf.dtype), data
    )


def _checked_result(
    fn: Callable, struct: PyTree, height: int, num_columns: int | None
) -> jax.ShapeDtypeStruct:
    """Shape and dtype of `fn` on a block, refused if they are not those of rows of A."""
    result = jax.eval_shape(lambda block: fn(block), struct)
    if not isinstance(result, jax.ShapeDtypeStruct):
        msg = (
            f"fn must return one array of shape (t, n) for t rows; got {describe(result)}. "
            "Concatenate the parts along the last axis."
        )
        raise TypeError(msg)
    expected = (height, "n" if num_columns is None else num_columns)
    if len(result.shape) != 2 or any(
        want not in ("n", got) for want, got in zip(expected, result.shape, strict=True)
    ):
        msg = (
            f"fn must return an array of shape (t, n), here ({expected[0]}, {expected[1]}), for a "
            f"block of {height} rows; got shape {result.shape}. Apply jax.vmap to a function of "
            "one row."
        )
        raise ValueError(msg)
    if not jnp.issubdtype(result.dtype, jnp.floating):
        msg = (
            f"fn must return real floating-point numbers; got dtype {result.dtype}. Cast the "
            "result, or stack real and imaginary parts as columns."
        )
        raise TypeError(msg)
    return result
