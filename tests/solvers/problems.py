"""Systems and losses of more than one file."""

import jax.numpy as jnp
import numpy as np

from gplsq.testing import (
    matrix_with_spectrum,
)


def weigh(value):
    """A scalar that treats all entries differently."""
    flat = jnp.ravel(value)
    return jnp.sum(jnp.sin(flat) * (1 + jnp.arange(flat.size, dtype=flat.dtype)))


def problem(rng, m, n, condition=10.0, dtype=np.float64):
    A = matrix_with_spectrum(rng, m, n, np.geomspace(1, 1 / condition, min(m, n)), dtype)
    return jnp.asarray(A), jnp.asarray(rng.standard_normal(m).astype(dtype))
