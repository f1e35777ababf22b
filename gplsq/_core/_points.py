"""Tables of points, as kernels and operators take them."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from gplsq._core._checks import check_real_array, describe


def as_points(name: str, X: ArrayLike) -> Float[Array, "n d"]:
    """Check that `X` is a table of points, shape (n, d), and give it a floating-point dtype."""
    points = jnp.asarray(check_real_array(name, X))
    if points.ndim != 2:
        msg = (
            f"{name} must be a table of points, shape (n, d); got {describe(points)}. "
            "Reshape one input column with X[:, None], and one point with x[None, :]."
        )
        raise ValueError(msg)
    if not jnp.issubdtype(points.dtype, jnp.floating):
        points = points.astype(float)
    return points
