"""Compilation for programs that take longer to compile than to run."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from gplsq._core._numerics import is_traced

# On CPUs jaxlib 0.10 compiles each fused loop by a chain of MLIR passes. The older emitters of
# LLVM code do the same work in a half to two thirds of the time: a tuning step of hold-out on 2,500
# rows compiles in 2.0 s instead of 4.6 s of processor time, and runs as fast; so do products with
# a kernel in tiles.
_OPTIONS: Any = {"xla_cpu_use_fusion_emitters": False}
# What JAX says of options where they are not allowed.
_REFUSAL = "compiler_options"


def jit_quickly(fn: Callable) -> Callable:
    """`equinox.filter_jit` with the quickest compilation that runs as fast.

    JAX allows options of compilation at the top level only: inside another `jit`, `vmap` or `grad`
    this is `equinox.filter_jit`. With several devices too, because collectives of the older code
    wait for each other.
    """
    plain = eqx.filter_jit(fn)

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        if any(map(is_traced, jax.tree.leaves((args, kwargs)))) or not _useful():
            return plain(*args, **kwargs)
        try:
            return _compiled(fn)(*args, **kwargs)
        except ValueError as error:
            if _REFUSAL not in str(error):
                raise
            return plain(*args, **kwargs)

    return run


@functools.cache
def _compiled(fn: Callable) -> Callable:
    options: Any = {"compiler_options": _OPTIONS}
    return eqx.filter_jit(fn, **options)


@functools.cache
def _useful() -> bool:
    """Whether this is one CPU, and this version of XLA has the options."""
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return False
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=_OPTIONS)
    except jax.errors.JaxRuntimeError:
        return False
    return True
