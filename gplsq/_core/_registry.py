"""Classes that a saved model may name, and how their objects become plain fields and back."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, overload

import equinox as eqx

Class = TypeVar("Class", bound=type)


@dataclasses.dataclass(frozen=True)
class SavableClass:
    """A class under the name that stands for it in files."""

    name: str
    cls: type
    pack: Callable[[Any], dict[str, Any]]
    unpack: Callable[[dict[str, Any]], Any]


_by_name: dict[str, SavableClass] = {}
_by_class: dict[type, SavableClass] = {}


@overload
def savable(cls: Class, /) -> Class:
    """Above a class."""


@overload
def savable(
    *,
    name: str | None = None,
    pack: Callable[[Any], dict[str, Any]] | None = None,
    unpack: Callable[[dict[str, Any]], Any] | None = None,
) -> Callable[[Class], Class]:
    """Above a class, with settings."""


def savable(
    cls: Any = None,
    /,
    *,
    name: str | None = None,
    pack: Callable[[Any], dict[str, Any]] | None = None,
    unpack: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Allow objects of a class of your own in files written by an estimator's `save`; a decorator.

    `gplsq.load` makes objects of registered classes only. So the program that loads has to import
    the module in which the class is registered.

    Parameters
    ----------
    cls
        An equinox module, such as a kernel, or a named tuple. Its fields are stored, and set again
        without calling ``__init__``.
    name
        What the class is called in files; its own name by default. Keep it when the class is
        renamed or moved: files refer to it.
    pack, unpack
        For other classes, or where not all fields should be stored: an object to a dictionary of
        numbers, text, arrays, lists, tuples, dictionaries and registered objects, and back.

    Raises
    ------
    TypeError
        If `cls` has no fields and there is no `pack` and `unpack`.
    ValueError
        If another class has the name.

    Examples
    --------
    >>> import gplsq, jax.numpy as jnp
    >>> @gplsq.savable
    ... class Triangle(gplsq.kernels.AbstractPairKernel):
    ...     width: object = gplsq.kernels.positive(default=1.0)
    ...     def pair(self, x, z):
    ...         return jnp.maximum(1 - jnp.abs(x - z).sum() / self.width, 0)
    """
    if cls is None:
        return lambda decorated: _register(decorated, name, pack, unpack)
    return _register(cls, name, pack, unpack)


def savable_class(value: Any) -> SavableClass | None:
    """The entry of the exact class of an object."""
    return _by_class.get(type(value))


def savable_by_name(name: str) -> SavableClass | None:
    """The entry of a name in a file."""
    return _by_name.get(name)


def _register(cls: Any, name: Any, pack: Any, unpack: Any) -> Any:
    if not isinstance(cls, type):
        msg = f"savable decorates a class; got {cls!r}. Write @gplsq.savable above a class."
        raise TypeError(msg)
    has_fields = issubclass(cls, eqx.Module) or hasattr(cls, "_fields")
    if (pack is None) != (unpack is None) or (pack is None and not has_fields):
        msg = (
            f"savable needs both pack and unpack for {cls.__name__}, which is no equinox module "
            "and no named tuple. Pass both functions."
        )
        raise TypeError(msg)
    if name is None:
        name = cls.__name__
        if cls.__module__.split(".")[0] == "gplsq":
            name = f"gplsq.{cls.__module__.split('.')[1]}.{name}"
    known = _by_name.get(name)
    if known is not None and _place(known.cls) != _place(cls):
        msg = (
            f"the name {name!r} belongs to the class {'.'.join(_place(known.cls))} already. Pass "
            "savable(name=...) with another one."
        )
        raise ValueError(msg)
    # A class that is defined again, as in a cell of a notebook, takes the place of the first.
    entry = SavableClass(name, cls, pack or _fields, unpack or (lambda values: _make(cls, values)))
    _by_name[name] = _by_class[cls] = entry
    return cls


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, eqx.Module):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names}
    return value._asdict()


def _make(cls: Any, values: dict[str, Any]) -> Any:
    """An object with these fields; one that an older file lacks has its default."""
    if not issubclass(cls, eqx.Module):
        return cls(**values)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        msg = f"{cls.__name__} has no field {unknown[0]!r}"
        raise ValueError(msg)
    # As equinox does when it rebuilds a module from its leaves: __init__ has other arguments.
    made = object.__new__(cls)
    for name, field in fields.items():
        object.__setattr__(made, name, values[name] if name in values else _default(cls, field))
    return made


def _default(cls: type, field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        msg = f"the field {field.name!r} of {cls.__name__} is missing"
        raise ValueError(msg)
    converter = field.metadata.get("converter")
    return value if converter is None else converter(value)
