"""Rows spread over the devices of a mesh: where they lie, and functions of each device's part.

JAX places and moves the arrays; a function of rows runs inside `jax.shard_map`, on every device
with the rows that lie there. Rows are spread over all axes of a mesh, in the order of its devices.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from gplsq._core._checks import describe


def check_mesh(mesh: Any) -> Mesh | None:
    """The same mesh with axes that JAX partitions by itself.

    Raises
    ------
    TypeError
        If it is neither None nor a `jax.sharding.Mesh` of devices.
    """
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh) or not mesh.axis_names:
        msg = (
            f"mesh must be a jax.sharding.Mesh with devices, or None; got {describe(mesh)}. Pass "
            'for example jax.make_mesh((jax.device_count(),), ("rows",)).'
        )
        raise TypeError(msg)
    # Axes of another type would ask the solvers to name a sharding for every operation.
    return Mesh(mesh.devices, mesh.axis_names)


def place(tree: PyTree, mesh: Mesh | None, *, spread: bool = False) -> PyTree:
    """Arrays on all devices of a mesh: whole on each, or in rows if `spread`.

    Rows whose number the devices do not divide stay whole on each. In a program of several
    processes an array of one process must be the same in all; what is spread over the processes
    already stays where it is.
    """
    if mesh is None:
        return tree

    def put(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray | jax.Array):
            return leaf
        even = spread and leaf.shape[0] % mesh.size == 0
        return jax.device_put(leaf, NamedSharding(mesh, _spread(mesh) if even else PartitionSpec()))

    return jax.tree.map(put, tree)


def least_of_processes(number: float, mesh: Mesh | None) -> float:
    """The least of a number over the processes of a mesh, which must all do the same with it."""
    if mesh is None or not mesh.is_multi_process:
        return number
    return float(np.min(multihost_utils.process_allgather(np.float32(number))))


def fill_rows(tree: PyTree, mesh: Mesh) -> PyTree:
    """Rows filled up by copies of the last one until the devices divide their number."""

    def fill(leaf: Any) -> Any:
        missing = -leaf.shape[0] % mesh.size
        if not missing:
            return leaf
        library = np if isinstance(leaf, np.ndarray) else jnp  # what is on the host stays there
        return library.pad(leaf, ((0, missing), *((0, 0) for _ in leaf.shape[1:])), mode="edge")

    return jax.tree.map(fill, tree)


def map_rows(fn: Callable, mesh: Mesh | None, rows: PyTree, *shared: Any) -> PyTree:
    """`fn(rows, *shared)`, every device making its part; the whole result on each of them.

    Parameters
    ----------
    fn
        Maps arrays of t rows to arrays of t rows, row by row.
    mesh
        None for one device, where the function is just called.
    rows
        Arrays with a common leading axis.
    shared
        What every device has the whole of.
    """
    if mesh is None:
        return fn(rows, *shared)
    n = jax.tree.leaves(rows)[0].shape[0]
    # Said of the inputs too: XLA would spread what leads to them, and gather it again.
    filled, shared = gather_rows((fill_rows(rows, mesh), shared), mesh)
    out = gather_rows(on_parts(fn, mesh, filled, *shared), mesh)
    return jax.tree.map(lambda leaf: leaf[:n], out)


def gather_rows(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays as whole arrays on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())

    def gather(leaf: Any) -> Any:
        return jax.lax.with_sharding_constraint(leaf, everywhere) if eqx.is_array(leaf) else leaf

    return jax.tree.map(gather, tree)


def add_parts(fn: Callable, mesh: Mesh, rows: PyTree, *shared: Any) -> PyTree:
    """The sum over devices of `fn(part, *shared)`, on every device."""

    def total(*arguments: Any) -> PyTree:
        return jax.lax.psum(fn(*arguments), mesh.axis_names)

    return on_parts(total, mesh, rows, *shared, out=PartitionSpec())


def on_parts(fn: Callable, mesh: Mesh, rows: PyTree, *shared: Any, out: Any = None) -> PyTree:
    """`fn(part, *shared)` on every device, by default with the results one below the other.

    The number of rows must be divisible by that of devices. `out` says how the results lie.
    """
    (spread, whole), fixed = eqx.partition((rows, shared), eqx.is_array)

    def local(part: Any, others: Any) -> Any:
        part, others = eqx.combine((part, others), fixed)
        return fn(part, *others)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(_spread(mesh), PartitionSpec()),
        out_specs=_spread(mesh) if out is None else out,
        # Loops start from constants, which the check takes for something else than their results.
        check_vma=False,
    )(spread, whole)


def spread_and_total(mesh: Mesh) -> tuple[PartitionSpec, PartitionSpec]:
    """`out` of `on_parts` for a pair of rows and a sum over devices."""
    return _spread(mesh), PartitionSpec()


def _spread(mesh: Mesh) -> PartitionSpec:
    return PartitionSpec(mesh.axis_names)
