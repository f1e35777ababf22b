"""Operators whose rows are spread over the devices of a mesh."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree

from gplsq._core import (
    add_parts,
    check_mesh,
    fill_rows,
    on_parts,
    place,
    spread_and_total,
    tile_rows,
)
from gplsq.operators._base import AbstractEuclideanOperator
from gplsq.operators._rows import Rows


class ShardedRows(AbstractEuclideanOperator):
    """`Rows` whose data lie on several devices, each of which makes its own rows.

    `A v` needs no communication: v is whole on every device, and the result is spread like the
    data. `A* u` adds up one vector of n numbers over the devices, and so does `sweep`.

    Parameters
    ----------
    fn, data, num_columns, block
        As for `Rows`, but `fn` holds its arrays as a callable pytree (`eqx.Module`,
        `jax.tree_util.Partial`) and closes over none. A device makes `block` rows at a time.
    mesh
        A `jax.sharding.Mesh`. The rows are spread over all its axes; where the number of devices
        does not divide m, copies of the last row fill up, and are masked out.

    Raises
    ------
    TypeError, ValueError
        As `Rows`, and if `mesh` is no mesh.

    Notes
    -----
    Cost: that of `Rows` divided by the number of devices; n k numbers added up over the devices for
    `rmv` and `sweep` of k columns, and for the gradient of any product.
    """

    fn: Callable
    filled: PyTree[Array]  # the data, and below them what fills up
    inside: Bool[Array, " M"] | None  # false where a row only fills up; None if none does
    size: tuple[int, int] = eqx.field(static=True)
    number_type: Any = eqx.field(static=True)
    block: int = eqx.field(static=True)
    mesh: Mesh = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable,
        data: PyTree,
        num_columns: int,
        *,
        mesh: Mesh,
        block: int | None = None,
    ):
        checked = check_mesh(mesh)
        assert checked is not None
        m = jax.tree.leaves(data)[0].shape[0]
        height = -(-m // checked.size)
        self.mesh, self.fn, self.size = checked, fn, (m, num_columns)
        self.block = tile_rows(height, num_columns) if block is None else block
        self.filled = place(fill_rows(data, checked), checked, spread=True)
        real = np.arange(height * checked.size) < m
        self.inside = None if real.all() else place(real, checked, spread=True)
        # `Rows` refuses what is no function, block or number of columns.
        one = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape[1:]), leaf.dtype), data)
        self.number_type = Rows(fn, one, num_columns, block=block).dtype

    @property
    def shape(self):
        return self.size

    @property
    def dtype(self):
        return self.number_type

    @property
    def data(self) -> PyTree[Array]:
        """The data, and below them what fills up."""
        return self.filled

    def mv(self, v):
        spread = self.filled, self.inside
        out = on_parts(
            lambda part, fn, v: self._part(fn, *part).mv(v), self.mesh, spread, self.fn, v
        )
        return out[: self.size[0]]

    def rmv(self, u):
        def back(part: Any, fn: Any) -> Array:
            return self._part(fn, *part[:2]).rmv(part[2])

        spread = self.filled, self.inside, self._fill(u)
        return add_parts(back, self.mesh, spread, self.fn)

    def sweep(self, v, shift):
        """`w = A v - shift` and `A* w`, every block generated once for both."""

        def both(part: Any, fn: Any, v: Array) -> tuple[Array, Array]:
            w, back = self._part(fn, *part[:2]).sweep(v, part[2])
            return w, jax.lax.psum(back, self.mesh.axis_names)

        spread = self.filled, self.inside, self._fill(shift)
        w, back = on_parts(both, self.mesh, spread, self.fn, v, out=spread_and_total(self.mesh))
        return w[: self.size[0]], back

    def _part(self, fn: Any, data: Any, inside: Array | None) -> Rows:
        """The rows of one device, made where its arrays are: inside `jax.shard_map`."""
        if inside is None:
            return Rows(fn, data, self.size[1], block=self.block)

        def masked(part: Any) -> Array:
            return jnp.where(part[1][:, None], fn(part[0]), 0)

        return Rows(masked, (data, inside), self.size[1], block=self.block)

    def _fill(self, u: Array) -> Array:
        missing = -self.size[0] % self.mesh.size
        return jnp.pad(u, ((0, missing), *((0, 0) for _ in u.shape[1:]))) if missing else u


class ShardedDamping(AbstractEuclideanOperator):
    """`[A; damp I]` for an A whose rows are spread over devices, the rows of damping spread too.

    Least squares with damping is least squares with n more rows. One above the other, the two would
    have to move between devices in every step; here every device has its part of both, and what it
    lacks to an equal share are rows of zeros.

    Parameters
    ----------
    operator
        Shape (m, n), its rows spread over the devices of `mesh`.
    damp
        A scalar.
    mesh
        The mesh of the operator.
    """

    operator: AbstractEuclideanOperator
    damp: Float[Array, ""]
    mesh: Mesh = eqx.field(static=True)

    @property
    def shape(self):
        return (self.mesh.size * sum(self._heights()), self.operator.shape[1])

    @property
    def dtype(self):
        return self.operator.dtype

    def mv(self, v):
        return self._join(self.operator.mv(v), self.damp * v)

    def rmv(self, u):
        above, below = self._part(u)
        return self.operator.rmv(above) + self.damp * below

    def sweep(self, v, shift):
        above, below = self._part(shift)
        w, back = self.operator.sweep(v, above)
        damped = self.damp * v - below
        return self._join(w, damped), back + self.damp * damped

    def right_hand_side(self, b: Float[Array, "m *k"]) -> Float[Array, "s *k"]:
        """`[b; 0]`."""
        return self._join(b, jnp.zeros((self.shape[1], *b.shape[1:]), b.dtype))

    def _heights(self) -> tuple[int, int]:
        """Rows of A, and of damping, on a device."""
        m, n = self.operator.shape
        return -(-m // self.mesh.size), -(-n // self.mesh.size)

    def _join(self, above: Array, below: Array) -> Array:
        def split(u: Array, height: int) -> Array:
            missing = height * self.mesh.size - u.shape[0]
            u = jnp.pad(u, ((0, missing), *((0, 0) for _ in u.shape[1:])))
            return u.reshape(self.mesh.size, height, *u.shape[1:])

        parts = [
            split(u, height) for u, height in zip((above, below), self._heights(), strict=True)
        ]
        return jnp.concatenate(parts, axis=1).reshape(self.shape[0], *above.shape[1:])

    def _part(self, u: Array) -> tuple[Array, Array]:
        height = self._heights()[0]
        rest = u.shape[1:]
        parts = u.reshape(self.mesh.size, -1, *rest)
        above, below = parts[:, :height].reshape(-1, *rest), parts[:, height:].reshape(-1, *rest)
        m, n = self.operator.shape
        return above[:m], below[:n]
