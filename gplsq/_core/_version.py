"""The version of the library, one for all floors, and those that a file was written by."""

import platform

import jax
import numpy as np

VERSION = "0.1.0"


def written_by() -> dict[str, str]:
    """Names and versions, for the head of a file."""
    return {
        "gplsq": VERSION,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
