"""Likelihoods of classes: logistic for one latent function, softmax for several.

Latent values have the shape (n, k): k = 1 for two classes (the logit of the second), else one
column a class. Targets Y have the same shape: the indicator of the class that was observed.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def indicators(codes: Int[Array, " n"], num_classes: int, dtype: Any) -> Float[Array, "n k"]:
    """Targets from numbers of classes, 0 to `num_classes` - 1."""
    if num_classes == 2:
        return codes[:, None].astype(dtype)
    return (codes[:, None] == jnp.arange(num_classes)).astype(dtype)


def probabilities(F: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Of the classes given the latent values; of the second class where k = 1."""
    return jax.nn.sigmoid(F) if F.shape[1] == 1 else jax.nn.softmax(F)


def residual(F: Float[Array, "n k"], Y: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Gradient of the log likelihood."""
    return Y - probabilities(F)


def curvature(F: Float[Array, "n k"], D: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """`W D`, W minus the Hessian of the log likelihood: a k x k block for each row."""
    p = probabilities(F)
    if F.shape[1] == 1:
        return p * jax.nn.sigmoid(-F) * D
    return p * (D - jnp.sum(p * D, axis=1, keepdims=True))


def row_weights(F: Float[Array, "n k"]) -> Float[Array, " n"]:
    """One weight for each row: W itself for one latent function, a bound of it for several.

    `2 max_c p_c (1 - p_c)` is at least the largest eigenvalue of ``diag(p) - p p^T`` by
    Gershgorin's discs, and equal to it for two classes. It is never below a small multiple of the
    root of the dtype's rounding unit, so that quotients by it are defined: the mode does not depend
    on it.
    """
    p = probabilities(F)
    several = F.shape[1] > 1
    weight = 2 * jnp.max(p * (1 - p), axis=1) if several else (p * jax.nn.sigmoid(-F))[:, 0]
    return jnp.maximum(weight, 0.1 * float(jnp.finfo(F.dtype).eps) ** 0.5)


def averaged_logits(mean: Float[Array, "n k"], variance: Float[Array, " n"]) -> Float[Array, "n k"]:
    """Logits of the probabilities averaged over normal latent values of a common variance.

    `mean / sqrt(1 + pi variance / 8)` for one function (MacKay 1992). The difference of two
    functions has twice the variance, hence a quarter for several (mean-field softmax: Lu, Ie & Sha
    2020).
    """
    share = jnp.pi / 8 if mean.shape[1] == 1 else jnp.pi / 4
    return mean / jnp.sqrt(1 + share * variance[:, None])


def class_probabilities(logits: Float[Array, "n k"]) -> Float[Array, "n c"]:
    """One column a class from logits."""
    if logits.shape[1] == 1:
        return jnp.concatenate([jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits)], axis=1)
    return jax.nn.softmax(logits)
