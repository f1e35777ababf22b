"""Values as JSON and named arrays, and back: numbers, text, containers and registered classes.

Nothing in a file names code. A class is made only if this program registered it by
`gplsq.savable`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gplsq._core._archive import LoadError
from gplsq._core._checks import describe
from gplsq._core._registry import savable_by_name, savable_class

# Arrays of up to so many numbers are written into the manifest, where people can read them.
_SMALL = 16
_REAL = "biuf"


class Encoder:
    """Makes JSON of values; `arrays` collects what is too large for it, by its place."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        # An object that is met twice is stored once; kept, so that no other gets its id.
        self._known: dict[int, tuple[Any, dict[str, Any]]] = {}

    def encode(self, value: Any, place: str) -> Any:
        """JSON of a value at a place such as ``"fitted/kernel_"``.

        Raises
        ------
        TypeError
            If it cannot be stored.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"type": "float", "value": repr(value)}
        if type(value) is list:
            return [self.encode(item, f"{place}/{i}") for i, item in enumerate(value)]
        if type(value) is tuple:
            items = [self.encode(item, f"{place}/{i}") for i, item in enumerate(value)]
            return {"type": "tuple", "items": items}
        if type(value) is dict and all(type(key) is str for key in value):
            items = {key: self.encode(item, f"{place}/{key}") for key, item in value.items()}
            return {"type": "dict", "items": items}
        if isinstance(value, np.generic) and value.dtype.kind in _REAL:
            return {"type": "scalar", **_inline(np.asarray(value))}
        if type(value) is np.ndarray or isinstance(value, jax.Array):
            return self._array(value, place)
        entry = savable_class(value)
        if entry is None:
            msg = (
                f"{place} cannot be saved: got {describe(value)}. Register its class with "
                "@gplsq.savable."
            )
            raise TypeError(msg)
        fields = {
            name: self.encode(item, f"{place}/{name}") for name, item in entry.pack(value).items()
        }
        return {"type": "object", "class": entry.name, "fields": fields}

    def _array(self, value: Any, place: str) -> dict[str, Any]:
        if id(value) in self._known:
            return self._known[id(value)][1]
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            msg = f"{place} lies on devices of several processes. Save what one process fitted."
            raise TypeError(msg)
        if value.dtype.kind not in _REAL or value.dtype.itemsize > 8:
            msg = f"{place} cannot be saved: got {describe(value)}. Make it an array of numbers."
            raise TypeError(msg)
        array = np.asarray(value)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        node = {"type": "array", "of": "numpy" if type(value) is np.ndarray else "jax"}
        if array.size <= _SMALL:
            node |= _inline(array)
        else:
            triangle = _is_lower_triangle(array)
            node |= {"member": place, "part": "lower triangle" if triangle else "all"}
            self.arrays[place] = _packed_triangle(array) if triangle else array
        self._known[id(value)] = value, node
        return node


class Decoder:
    """The inverse of `Encoder`; `array` reads a stored array by its name."""

    def __init__(self, array: Callable[[str], np.ndarray]) -> None:
        self._read = array
        self._known: dict[tuple[str, str], Any] = {}

    def decode(self, node: Any) -> Any:
        """The value of JSON.

        Raises
        ------
        LoadError
            For a class that is not registered.
        KeyError, TypeError, ValueError
            For what no `Encoder` writes.
        """
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if isinstance(node, list):
            return [self.decode(item) for item in node]
        kind = node["type"]
        if kind == "float":
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[node["value"]]
        if kind == "tuple":
            return tuple(self.decode(item) for item in node["items"])
        if kind == "dict":
            return {key: self.decode(item) for key, item in node["items"].items()}
        if kind == "scalar":
            return _from_inline(node)[()]
        if kind == "array":
            return self._array(node)
        if kind == "object":
            return self._object(node)
        msg = f"a value of the type {kind!r}"
        raise ValueError(msg)

    def _object(self, node: dict[str, Any]) -> Any:
        entry = savable_by_name(node["class"])
        if entry is None:
            msg = (
                f"it needs the class {node['class']!r}, which this program has not registered. "
                "Import the module that defines it with @gplsq.savable before loading."
            )
            raise LoadError(msg)
        return entry.unpack({name: self.decode(item) for name, item in node["fields"].items()})

    def _array(self, node: dict[str, Any]) -> Any:
        key = node["of"], node.get("member", "")
        if key[1] and key in self._known:
            return self._known[key]
        array = self._read(node["member"]) if key[1] else _from_inline(node)
        if key[1] and node["part"] == "lower triangle":
            array = _unpacked_triangle(array)
        if node["of"] == "jax":
            # In its own dtype, whatever JAX's x64 flag is here.
            with jax.enable_x64(True):
                array = jnp.asarray(array)
        elif not array.flags.writeable:
            array = array.copy()
        if key[1]:
            self._known[key] = array
        return array


def _inline(array: np.ndarray) -> dict[str, Any]:
    """Python prints floats so that they are read again exactly."""
    values = [
        v if not isinstance(v, float) or math.isfinite(v) else repr(v)
        for v in array.ravel().tolist()
    ]
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": values}


def _from_inline(node: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(node["dtype"])
    if dtype.kind not in _REAL:
        msg = f"an array of dtype {dtype}"
        raise ValueError(msg)
    values = [float(v) if isinstance(v, str) else v for v in node["values"]]
    return np.array(values, dtype).reshape(tuple(node["shape"]))


def _is_lower_triangle(array: np.ndarray) -> bool:
    """Whether everything above the diagonal is +0, as in a Cholesky factor."""
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.dtype.kind != "f":
        return False
    above = (row[i + 1 :] for i, row in enumerate(array))
    return not any(np.any(row != 0) or np.any(np.signbit(row)) for row in above)


def _packed_triangle(array: np.ndarray) -> np.ndarray:
    return np.concatenate([row[: i + 1] for i, row in enumerate(array)])


def _unpacked_triangle(packed: np.ndarray) -> np.ndarray:
    n = (math.isqrt(8 * packed.size + 1) - 1) // 2
    if packed.ndim != 1 or n * (n + 1) // 2 != packed.size:
        msg = f"a triangle of {packed.size} numbers"
        raise ValueError(msg)
    array = np.zeros((n, n), packed.dtype)
    start = 0
    for i in range(n):
        array[i, : i + 1] = packed[start : start + i + 1]
        start += i + 1
    return array
