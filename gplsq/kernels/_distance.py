"""Squared distances between the rows of two tables, with derivatives right at distance zero."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import matmul


def squared_distances(X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """`|x_i - z_j|^2` by one matrix product.

    Both tables are first shifted by the mean of Z: the expansion |x|^2 - 2 x.z + |z|^2 cancels,
    and its error, about eps (|x|^2 + |z|^2), is smallest about the centre. Negative rounding
    errors are cut off in the value but not in the derivative, which stays that of the expansion
    (exact to any order, also at distance zero).

    Cost: n m (2 d + 3) flops; about a third of the time of the difference form on a CPU.
    """
    centre = jax.lax.stop_gradient(jnp.mean(Z, axis=0))
    X, Z = X - centre, Z - centre
    expansion = (
        jnp.sum(X * X, axis=1)[:, None] + jnp.sum(Z * Z, axis=1)[None, :] - 2 * matmul(X, Z.T)
    )
    cut = jax.lax.stop_gradient(jnp.minimum(expansion, 0))
    return expansion - cut
