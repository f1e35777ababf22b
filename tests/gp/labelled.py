"""A table with classes, and a kernel for it."""

import jax.numpy as jnp
import numpy as np

from gplsq.kernels import Matern32, Scaled


def table(rng, n, num_classes, dtype=np.float64):
    """Rows in the plane, with classes that depend on where they are, with some noise."""
    X = rng.normal(size=(n, 2))
    slopes = rng.normal(size=(2, num_classes))
    codes = np.argmax(2 * X @ slopes + rng.gumbel(size=(n, num_classes)), axis=1)
    codes[:num_classes] = np.arange(num_classes)
    return X.astype(dtype), codes.astype(np.int32)


def kernel(variance=4.0):
    """Smooth over a distance of 1.5."""
    return Scaled(jnp.asarray(variance), Matern32(jnp.asarray(1.5)))
