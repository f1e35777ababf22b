"""Counters that may decide a test: compilations and compiled peak memory."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax


@contextlib.contextmanager
def count_compilations() -> Iterator[list[str]]:
    """Collect the names of functions XLA compiles inside the block."""
    names: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text.startswith("Finished XLA compilation of"):
                names.append(text.split()[4])

    logger = logging.getLogger("jax._src.dispatch")
    handler, level, propagate = Collect(level=logging.DEBUG), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield names
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def peak_memory_bytes(fn: Callable, *args: Any) -> int:
    """Bytes that the compiled `fn(*args)` needs for temporaries and results, by XLA's own count."""
    analysis = jax.jit(fn).lower(*args).compile().memory_analysis()
    assert analysis is not None, "this backend does not report memory"
    return int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)
