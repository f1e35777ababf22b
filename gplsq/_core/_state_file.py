"""Any pytree of numbers in one file, written as a whole or not at all: states of training."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gplsq._core._archive import LoadError
from gplsq._core._checks import describe
from gplsq._core._saved_file import read_saved, write_saved

_PYTHON = {"bool": bool, "int": int, "float": float, "str": str}


def save_state(path: Any, tree: Any) -> None:
    """Write the state of a training loop to one file, without pickle.

    Parameters
    ----------
    path : str or path-like
        A file there is replaced, once the new one is complete and on the disk.
    tree
        Any pytree, such as `(step, params, optimizer_state)`: JAX and NumPy arrays of any dtype,
        random keys, numbers (no complex ones outside arrays) and text. Other leaves, such as
        functions, are not stored.

    Raises
    ------
    TypeError
        If an array lies on devices of several processes or holds Python objects, or a leaf is a
        number or a string of another type, such as a complex number, an enumeration or bytes: by
        its name.
    OSError
        If the file cannot be written; one that was there before is as it was.

    Notes
    -----
    `load_state` gives the same numbers bit for bit, so that a loop that was killed goes on as if
    it had not been. Cost: the bytes of the arrays, written and put on the disk.

    Examples
    --------
    >>> import gplsq, jax.numpy as jnp, tempfile
    >>> state = {"step": 3, "weights": jnp.arange(4.0)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gplsq.save_state(f"{folder}/run", state)
    ...     again = gplsq.load_state(f"{folder}/run", state)
    >>> again["step"], again["weights"]
    (3, Array([0., 1., 2., 3.], dtype=float32))
    """
    write_saved(path, "state", pack_tree(tree))


def load_state(path: Any, like: Any) -> Any:
    """Read what `save_state` wrote.

    Parameters
    ----------
    path : str or path-like
    like
        A pytree of the same structure, shapes and dtypes, for example the state that training
        starts from. Its leaves that were not stored are taken over, and arrays are put on the
        devices of its arrays.

    Returns
    -------
    PyTree

    Raises
    ------
    LoadError
        If the file is damaged or of another kind, or does not match `like`: by the name of the
        leaf. Nothing in a file is executed.
    OSError
        If the file cannot be read.
    """
    packed = read_saved(path, "state")
    try:
        return unpack_tree(packed, like)
    except LoadError as error:
        msg = f"{path} does not fit to 'like': {error}"
        raise LoadError(msg) from None


def pack_tree(tree: Any) -> list[dict[str, Any]]:
    """The leaves of a pytree in what an `Encoder` can express, each with its name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    packed = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path)
        try:
            packed.append({"name": name, **_packed(leaf)})
        except TypeError as error:
            msg = f"the leaf {name!r} cannot be saved: {error}"
            raise TypeError(msg) from None
    return packed


def unpack_tree(packed: Any, like: Any) -> Any:
    """The inverse of `pack_tree`, for a pytree of the same structure, shapes and dtypes."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = [jax.tree_util.keystr(name) for name, _ in leaves]
    try:
        found = [node["name"] for node in packed]
        for name in [*wanted, *found]:
            if (name in wanted) != (name in found):
                where = "the file alone" if name in found else "'like' alone"
                msg = f"the leaf {name!r} is in {where}. Pass the state it was saved from."
                raise LoadError(msg)
        if wanted != found:
            msg = "its leaves have another order. Pass the state it was saved from."
            raise LoadError(msg)
        made = [_unpacked(node, leaf) for node, (_, leaf) in zip(packed, leaves, strict=True)]
    except LoadError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        msg = f"its leaves are not those of a pytree ({error!r})."
        raise LoadError(msg) from error
    return jax.tree.unflatten(structure, made)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct)


def _is_key(leaf: Any) -> bool:
    known = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    return known and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _packed(leaf: Any) -> dict[str, Any]:
    if type(leaf) in _PYTHON.values():
        return {"kind": type(leaf).__name__, "value": leaf}
    if _is_key(leaf):
        data = np.asarray(jax.random.key_data(leaf))
        return {"kind": f"key {jax.random.key_impl(leaf)}", "value": data}
    if not _is_array(leaf):
        if isinstance(leaf, numbers.Number | str | bytes | bytearray):
            msg = f"it is {describe(leaf)}. Make it an array, or a plain int, float or str."
            raise TypeError(msg)
        return {"kind": "not stored", "value": None}
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        msg = "it lies on devices of several processes. Save what one process holds."
        raise TypeError(msg)
    value = np.asarray(leaf)
    if value.dtype.hasobject or value.dtype == jax.dtypes.float0:
        msg = f"it is {describe(leaf)}. Save arrays of numbers."
        raise TypeError(msg)
    value = value.astype(value.dtype.newbyteorder("="), copy=False)
    kind = {"kind": f"array {value.dtype.name}", "shape": list(value.shape)}
    kind["weak"] = bool(getattr(leaf, "weak_type", False))
    if value.dtype.kind not in "biuf":  # complex numbers, bfloat16 and its like
        value = np.frombuffer(value.tobytes(), np.uint8)
    return {**kind, "value": value}


def _unpacked(node: dict[str, Any], like: Any) -> Any:
    value = node["value"]
    if _is_key(like):
        return _unpacked_key(node, like)
    wanted = _packed_kind(like)
    if node["kind"] != wanted:
        msg = f"the leaf {node['name']!r} is {node['kind']!r}, and in 'like' {wanted!r}."
        raise LoadError(msg)
    if wanted == "not stored":
        return like
    if wanted in _PYTHON:
        if wanted != "float" and type(value) is not _PYTHON[wanted]:
            msg = f"the leaf {node['name']!r} is said to be of type {wanted}, and is {value!r}."
            raise LoadError(msg)
        return _PYTHON[wanted](value)
    _check_shape(node["name"], tuple(node["shape"]), like.shape)
    dtype = np.dtype(like.dtype)
    if value.dtype == np.uint8:
        value = np.frombuffer(value.tobytes(), dtype.newbyteorder("="))
    value = value.reshape(like.shape).astype(dtype, copy=False)
    if isinstance(like, np.generic):
        return value[()]
    if isinstance(like, np.ndarray):
        return value.copy()
    return _on_device(value, node["weak"], like)


def _unpacked_key(node: dict[str, Any], like: Any) -> jax.Array:
    kind, _, impl = node["kind"].partition(" ")
    # A shape alone, as of `jax.eval_shape`, has the dtype of a key and no name of its algorithm.
    key = jax.random.wrap_key_data(jnp.asarray(node["value"]), impl=impl) if kind == "key" else None
    if key is None or key.dtype != like.dtype:
        msg = f"the leaf {node['name']!r} is {node['kind']!r}, and in 'like' a {like.dtype}."
        raise LoadError(msg)
    _check_shape(node["name"], key.shape, like.shape)
    return key


def _packed_kind(like: Any) -> str:
    if _is_array(like):
        return f"array {np.dtype(like.dtype).name}"
    return _packed(like)["kind"]


def _check_shape(name: str, found: tuple, wanted: tuple) -> None:
    if found != wanted:
        msg = f"the leaf {name!r} has the shape {found}, and in 'like' {wanted}."
        raise LoadError(msg)


def _on_device(value: np.ndarray, weak: bool, like: Any) -> jax.Array:
    """An array of its own dtype whatever JAX's x64 flag is, weakly typed if it was."""
    with jax.enable_x64(value.dtype.itemsize >= (16 if value.dtype.kind == "c" else 8)):
        made = jnp.asarray(value)
        if weak:  # or the same step would be compiled for another type, and may round otherwise
            scalar: Any = {"f": 0.0, "i": 0, "b": False}.get(value.dtype.kind, 0j)
            made = jnp.broadcast_to(jnp.asarray(scalar), value.shape).at[...].set(made)
    if made.dtype != value.dtype:
        msg = f"a leaf of dtype {value.dtype} is said to be of weak type, which it cannot be."
        raise LoadError(msg)
    # Only arrays that are bound to their devices: others would be compiled for anew.
    return jax.device_put(made, like.sharding) if getattr(like, "committed", False) else made
