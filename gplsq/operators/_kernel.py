"""The evaluation operator of a kernel's function space on its training points.

Equations (2) and (3) of docs/derivations/function-space.md.
Their derivatives: docs/derivations/adjoint.md.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from gplsq._core import (
    ArrayLike,
    as_points,
    cast,
    check_choice,
    check_mesh,
    column_norm,
    default_budget,
    describe,
    fill_rows,
    gather_rows,
    jit_quickly,
    least_of_processes,
    map_row_tiles,
    map_rows,
    matmul,
    on_parts,
    place,
    safe_sqrt,
    savable,
    stop_gradient,
    tile_rows,
    usable_divisor,
)
from gplsq.kernels import AbstractKernel
from gplsq.operators._base import AbstractLinearOperator


def _packed(operator: "Kernel") -> dict[str, Any]:
    """What a saved operator is made of again: a kept matrix is not stored."""
    form = "tiled" if operator.form == "tiled" else "auto"
    return {"kernel": operator.kernel, "X": operator.X, "form": form}


def _unpacked(values: dict[str, Any]) -> "Kernel":
    with jax.enable_x64(values["X"].dtype == jnp.float64):
        return Kernel(**values)


@savable(pack=_packed, unpack=_unpacked)
class Kernel(AbstractLinearOperator):
    """Evaluation at n points, `E f = (f(x_1), ..., f(x_n))`, on the kernel's Hilbert space H.

    A function is represented by its coefficients: `f = sum_i c_i k(., x_i)`. Then `E c = K c`,
    `E* u = u`, and `<c, d>_H = c^T K d`, so one product with the kernel matrix K gives both `E c`
    and the norm of c: K is never squared.

    Equation (3) of docs/derivations/function-space.md.

    Parameters
    ----------
    kernel
        Any kernel.
    X
        Shape (n, d). Its dtype is that of the operator; hyperparameters are cast to it.
    form
        ``"tiled"`` recomputes K tile by tile in every product and never keeps it: O(n) memory.
        ``"dense"`` keeps K, built tile by tile: n^2 numbers of memory, and each product reads them
        once. ``"auto"`` keeps K if it fits into half of the memory that is free now.
    mesh
        A `jax.sharding.Mesh`: every device keeps, or makes, its share of the rows of K, and gets
        the whole product. X and vectors are whole on all devices.

    Raises
    ------
    TypeError, ValueError
        If `kernel` is no kernel, or X no table of real numbers with a row or more; for another
        form or mesh.

    Notes
    -----
    Derivatives with respect to the hyperparameters and X go through recomputed tiles in both forms:
    their memory does not grow with n^2. Cost of a product with k columns: n^2 kernel entries
    (tiled) or n^2 numbers read (dense), and 2 k n^2 flops. On a mesh of p devices a p-th of it on
    each, n k numbers gathered for a product and n k added up for its gradient.
    """

    kernel: AbstractKernel
    X: Float[Array, "n d"]
    gram: Float[Array, "n n"] | None
    rows: int = eqx.field(static=True)
    parts: Float[Array, "N n"] | None = None  # K on a mesh, and copies of its last row
    mesh: Mesh | None = eqx.field(static=True, default=None)

    def __init__(
        self,
        kernel: AbstractKernel,
        X: ArrayLike,
        form: str = "auto",
        *,
        mesh: Mesh | None = None,
    ):
        self.mesh = check_mesh(mesh)
        if not isinstance(kernel, AbstractKernel):
            msg = f"kernel must be a gplsq kernel; got {describe(kernel)}. Pass for example RBF()."
            raise TypeError(msg)
        points = as_points("X", X)
        n = points.shape[0]
        if n == 0:
            msg = "X must have at least one row; got none. Pass the rows to compare."
            raise ValueError(msg)
        check_choice("form", form, ("auto", "dense", "tiled"))
        self.X = place(points, self.mesh)
        self.kernel = cast(kernel, points.dtype)
        height = n if self.mesh is None else -(-n // self.mesh.size)
        self.rows = tile_rows(height, n)
        if form == "auto":
            budget = least_of_processes(default_budget(), self.mesh)
            form = "dense" if height * n * points.dtype.itemsize <= budget else "tiled"
        # In the dtype of X. Rounded to bfloat16 or float16, K + noise of 13,500 rows (pol, noise
        # variance 0.003) was indefinite and its solution useless; a product with one column took
        # ten times longer, too, on a CPU.
        kept = _gram(self.kernel, self.X, self.rows, self.mesh) if form == "dense" else None
        self.gram, self.parts = (kept, None) if mesh is None else (None, kept)

    @property
    def form(self) -> str:
        """`"dense"` or `"tiled"`: what was chosen."""
        return "tiled" if self._kept is None else "dense"

    @property
    def _kept(self) -> Array | None:
        return self.gram if self.mesh is None else self.parts

    @property
    def shape(self):
        return (self.X.shape[0], self.X.shape[0])

    @property
    def dtype(self):
        return self.X.dtype

    def mv(self, v):
        if self._kept is None:
            return _tiled_mv(self.kernel, self.X, v, self.rows, self.mesh)
        return _kept_mv(self.kernel, self.X, self._kept, v, rows=self.rows, mesh=self.mesh)

    def rmv(self, u):
        return u

    def domain_inner(self, v, w):
        return jnp.sum(v * self.mv(w), axis=0)

    def forward(self, v):
        product = self.mv(v)
        # Scaled first, so that the square neither overflows nor underflows.
        scale = jnp.max(jnp.abs(v), axis=0, initial=0.0)
        scale = usable_divisor(scale)
        squared = jnp.sum((v / scale) * (product / scale), axis=0)
        return product, scale * safe_sqrt(squared)

    def adjoint(self, u):
        return u, column_norm(u)

    def diagonal(self) -> Float[Array, " n"]:
        """The diagonal of K."""
        return self.kernel.diagonal(self.X)

    def columns(self, index: Array) -> Float[Array, "n r"]:
        """Chosen columns of K, computed from the kernel. Cost: n r kernel entries."""
        block = self.kernel.cross(self.X, self.X[index])
        return block.at[index, jnp.arange(index.shape[0])].set(self.diagonal()[index])


def _tile(kernel: AbstractKernel, X: Array, rows: Array, index: Array, diagonal: Array) -> Array:
    """Rows `index` of K, with the exact diagonal: distances by expansion round it."""
    tile = kernel.cross(rows, X)
    return tile.at[jnp.arange(rows.shape[0]), index].set(diagonal[index])


# Every entry is made for itself, also the second of (i, j) and (j, i). Tiles of one triangle that
# are multiplied from both sides have been measured: from 30,000 rows on a product with one column
# takes a tenth to a fifth less, but one with 16 columns a quarter more.
def _tiled_mv(kernel: AbstractKernel, X: Array, v: Array, rows: int, mesh: Mesh | None) -> Array:
    def product(part: Any, kernel: Any, X: Array, diagonal: Array, v: Array) -> Array:
        x, index = part

        def of_tile(x: Array, i: Array) -> Array:
            return matmul(_tile(kernel, X, x, index[i], diagonal), v)

        return map_row_tiles(of_tile, x, rows)

    return map_rows(product, mesh, (X, _numbers(X)), kernel, X, kernel.diagonal(X), v)


def _numbers(X: Array) -> Array:
    return jnp.arange(X.shape[0], dtype=jnp.int32)


@jit_quickly
def _gram(kernel: AbstractKernel, X: Array, rows: int, mesh: Mesh | None) -> Array:
    """K, written tile by tile into one buffer. Not differentiated: `_kept_mv` has the rule."""
    kernel, X = stop_gradient((kernel, X))

    def fill(part: Any, kernel: Any, X: Array, diagonal: Array) -> Array:
        x, index = part
        n = x.shape[0]

        def write(i, buffer):
            # The last tile overlaps the one before instead of being shorter.
            start = jnp.minimum(i * rows, n - rows)
            at = jax.lax.dynamic_slice_in_dim(index, start, rows)
            tile = _tile(kernel, X, jax.lax.dynamic_slice_in_dim(x, start, rows), at, diagonal)
            return jax.lax.dynamic_update_slice_in_dim(buffer, tile, start, 0)

        # All of it is written over. XLA would make one array of zeros here and those above the
        # diagonal of a Cholesky factor, which lies by columns, and turn it by a copy; NaN too.
        empty = jnp.full((n, X.shape[0]), jnp.inf, X.dtype)
        return jax.lax.fori_loop(0, -(-n // rows), write, empty)

    whole = kernel, X, kernel.diagonal(X)
    if mesh is None:
        return fill((X, _numbers(X)), *whole)
    return on_parts(fill, mesh, fill_rows((X, _numbers(X)), mesh), *whole)


@eqx.filter_custom_jvp
def _kept_mv(
    kernel: AbstractKernel, X: Array, gram: Array, v: Array, *, rows: int, mesh: Mesh | None
) -> Array:
    del kernel, rows
    if mesh is None:
        return matmul(gram, v)
    return gather_rows(on_parts(matmul, mesh, gram, v), mesh)[: X.shape[0]]


@_kept_mv.def_jvp
def _kept_mv_jvp(primals, tangents, *, rows, mesh):
    """K' v by recomputed tiles, K v' by the kept matrix."""
    kernel, X, gram, v = primals
    t_kernel, t_X, t_gram, t_v = tangents
    del t_gram  # the kept matrix is a cache of (kernel, X), not an argument of its own
    value = _kept_mv(kernel, X, gram, v, rows=rows, mesh=mesh)
    tangent = jnp.zeros_like(value)
    if t_v is not None:
        tangent = tangent + _kept_mv(kernel, X, gram, t_v, rows=rows, mesh=mesh)
    if jax.tree.leaves((t_kernel, t_X)):
        _, moved = eqx.filter_jvp(
            lambda k, points: _tiled_mv(k, points, v, rows, mesh), (kernel, X), (t_kernel, t_X)
        )
        tangent = tangent + moved
    return value, tangent


@jit_quickly
def cross_matvec(
    kernel: AbstractKernel,
    Z: Float[Array, "m d"],
    X: Float[Array, "n d"],
    coefficients: Float[Array, "n *k"],
    mesh: Mesh | None = None,
) -> Float[Array, "m *k"]:
    """Values at Z of the functions `sum_i c_i k(., x_i)`, tile by tile: `k(Z, X) c`.

    Cost: m n kernel entries, a share of them on each device of a mesh; memory O(m + n) beside the
    tables.

    Equation (2) of docs/derivations/function-space.md.
    """

    def values(part: Array, kernel: Any, X: Array, coefficients: Array) -> Array:
        rows = tile_rows(part.shape[0], X.shape[0])
        return map_row_tiles(lambda z, _: matmul(kernel.cross(z, X), coefficients), part, rows)

    return map_rows(values, mesh, Z, cast(kernel, X.dtype), X, coefficients)
