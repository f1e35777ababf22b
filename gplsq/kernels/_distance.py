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
    expansion = _expanded(X - centre, Z - centre)
    cut = jax.lax.stop_gradient(jnp.minimum(expansion, 0))
    return expansion - cut


@jax.custom_jvp
def _expanded(X: Array, Z: Array) -> Array:
    """`|x|^2 + |z|^2 - 2 x.z`, the product last: that of a point with itself leaves least."""
    # With a row more than is used XLA cannot write what follows over the product, which its older
    # emitters would do one number at a time: a kernel matrix then takes four times as long.
    product = matmul(jnp.pad(X, ((0, 1), (0, 0))), Z.T)[: X.shape[0]]
    return _squared_lengths(X) + _squared_lengths(Z).T - 2 * product


@_expanded.defjvp
def _expanded_jvp(primals, tangents):
    """That of `[x, |x|^2, 1] [-2 z, 1, |z|^2]^T`, whose transpose is two products.

    Autodiff of the sum would add up the rows and columns of a cotangent besides, a pass over n m
    numbers for each: a fifth of a tuning step.
    """
    (X, Z), (t_X, t_Z) = primals, tangents
    left, t_left = jax.jvp(_left, (X,), (t_X,))
    right, t_right = jax.jvp(_right, (Z,), (t_Z,))
    return _expanded(X, Z), matmul(t_left, right.T) + matmul(left, t_right.T)


def _left(X: Array) -> Array:
    return jnp.concatenate([X, _squared_lengths(X), _ones(X)], axis=1)


def _right(Z: Array) -> Array:
    return jnp.concatenate([-2 * Z, _ones(Z), _squared_lengths(Z)], axis=1)


def _ones(X: Array) -> Array:
    return jnp.ones((X.shape[0], 1), X.dtype)


def _squared_lengths(X: Array) -> Array:
    return jnp.sum(X * X, axis=1, keepdims=True)
