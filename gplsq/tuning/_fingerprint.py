"""Digests of settings and data, the same in every process: whether a run is that of a file."""

import dataclasses
import functools
import hashlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gplsq._core import describe


def fingerprint(value: Any) -> str:
    """A digest of numbers, arrays, containers, modules, and functions with what they enclose.

    Two functions of the same code have the same digest, whichever file they stand in. What a
    function reads from global variables does not count. Other objects are what pickle would
    make them from.

    Raises
    ------
    TypeError
        For an object of which nothing is known but its class.
    """
    digest = hashlib.sha256()
    _feed(digest, value, set())
    return digest.hexdigest()


def _feed(digest: Any, value: Any, open_ids: set[int]) -> None:
    def put(*parts: Any) -> None:
        digest.update(repr(parts).encode())

    if isinstance(value, jax.sharding.Mesh):
        value = None  # where numbers lie is no part of what they are
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        put(type(value).__name__, value)
        return
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        put(getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
        return
    if type(value) is np.ndarray or isinstance(value, np.generic | jax.Array):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.dtype != object:
            put("array", array.dtype.str, array.shape)
            digest.update(np.ascontiguousarray(array).tobytes())
            return
        value = array.tolist()
    put(type(value).__module__, type(value).__qualname__)
    if id(value) in open_ids:  # a cycle
        return
    parts = _parts(value)
    if isinstance(value, dict | list | tuple | set | frozenset):
        parts += sorted(getattr(value, "__dict__", {}).items())
    put(len(parts))
    for part in parts:
        _feed(digest, part, open_ids | {id(value)})


def _parts(value: Any) -> list[Any]:
    """What a value consists of."""
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    if isinstance(value, types.FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, np.random.Generator):
        return [value.bit_generator.state]
    if hasattr(value, "__wrapped__"):
        return [value.__wrapped__]
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    try:
        recipe = value.__reduce_ex__(4)
    except Exception:  # a class may raise anything
        if known := getattr(value, "__dict__", None):
            return sorted(known.items())
        msg = (
            f"a checkpoint cannot tell {describe(value)} from another one. Pass arrays, numbers, "
            "functions or dataclasses, or tune without checkpoint."
        )
        raise TypeError(msg) from None
    # A name, or what to call with which arguments, a state, and iterators of contents.
    return [recipe] if isinstance(recipe, str) else _listed(recipe)


def _listed(recipe: tuple) -> list[Any]:
    return [list(part) if hasattr(part, "__next__") else part for part in recipe]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that is not bound yet
        return None
