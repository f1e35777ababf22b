"""How fast this machine is at the four things a fit consists of: a short measurement, cached."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from gplsq._core import matmul

_ROWS, _COLUMNS = 1024, 8
_REPEATS = 5


@dataclass(frozen=True)
class Rates:
    """Rates in float32, rounded to powers of two so that noise rarely changes a plan.

    Attributes
    ----------
    entries
        Kernel entries made and multiplied by a vector, in a second.
    flops
        Of a product of two matrices, in a second.
    factor_flops
        Of a Cholesky factorisation, in a second.
    bytes
        Of a matrix read once in a product with a vector, in a second.
    """

    entries: float
    flops: float
    factor_flops: float
    bytes: float


# Two cores of a server processor, 2026; used where nothing was measured.
NOMINAL = Rates(entries=2.0**30, flops=2.0**37, factor_flops=2.0**36, bytes=2.0**34)


@functools.cache
def machine_rates() -> Rates:
    """The rates of this machine: from this process, or the cache file, or measured now.

    The measurement takes under a second beside compiling four small programs, and is kept in
    ``$GPLSQ_CACHE_DIR`` (default ``$XDG_CACHE_HOME/gplsq`` or ``~/.cache/gplsq``), one file for
    each kind of machine and `XLA_FLAGS`. Set ``GPLSQ_CACHE_DIR`` to the empty string to keep no
    file. Where the folder cannot be written the measurement is kept for the process only. What was
    measured while other programs ran stays: delete the file then.
    """
    path = _cache_path()
    if path is not None:
        try:
            return Rates(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            pass
    rates = measure_rates()
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Renamed into place: another process never reads half a file.
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(dataclasses.asdict(rates)))
            part.replace(path)
        except OSError:
            pass
    return rates


def measure_rates() -> Rates:
    """Measure now; the best of a few short runs each."""
    X = jax.random.normal(jax.random.key(0), (_ROWS, _COLUMNS), jnp.float32)
    square = X @ X.T + 2 * _ROWS * jnp.eye(_ROWS, dtype=jnp.float32)
    tall = jnp.tile(square, (16, 1))  # 64 MiB: beyond most caches
    v = jnp.ones(_ROWS, jnp.float32)

    def tiles(X, v):
        def tile(total, shift):
            q = jnp.sum(X * X, 1)[:, None] + shift + jnp.sum(X * X, 1) - 2 * matmul(X, X.T)
            s = jnp.sqrt(jnp.maximum(q, 0))
            return total + matmul((1 + s) * jnp.exp(-s), v), None

        return jax.lax.scan(tile, jnp.zeros_like(v), jnp.arange(8, dtype=X.dtype))[0]

    n = _ROWS
    return Rates(
        entries=_rounded(8 * n * n / _best(tiles, X, v)),
        flops=_rounded(2 * n**3 / _best(matmul, square, square)),
        factor_flops=_rounded(n**3 / 3 / _best(jnp.linalg.cholesky, square)),
        bytes=_rounded(tall.size * 4 / _best(matmul, tall, v)),
    )


def _best(fn: Callable, *arguments: jax.Array) -> float:
    """Seconds of the quickest of a few runs."""
    run = jax.jit(fn).lower(*arguments).compile()
    jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)


def _rounded(rate: float) -> float:
    return 2.0 ** round(math.log2(max(rate, 1.0)))


def _cache_path() -> Path | None:
    folder = os.environ.get("GPLSQ_CACHE_DIR")
    if folder == "":
        return None
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(home, "gplsq")
    device = jax.devices()[0]
    kind = "".join(c if c.isalnum() else "-" for c in device.device_kind.lower())
    cores = f"-{len(os.sched_getaffinity(0))}" if hasattr(os, "sched_getaffinity") else ""
    # Flags may slow down what is compiled: other flags, other rates.
    flags = os.environ.get("XLA_FLAGS", "")
    other = f"-{hashlib.sha256(flags.encode()).hexdigest()[:8]}" if flags else ""
    return Path(folder) / f"rates-{kind}{cores}-jax-{jax.__version__}{other}.json"
