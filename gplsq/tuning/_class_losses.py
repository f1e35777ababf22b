"""Losses of class probabilities: functions of (codes, probabilities); lower is better."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gplsq._core import check_choice


def log_loss(codes: Int[Array, " s"], p: Float[Array, "s c"]) -> Float[Array, ""]:
    """Mean of minus the logarithm of the observed class's probability, in nats."""
    observed = jnp.take_along_axis(p, codes[:, None], axis=1)
    return -jnp.mean(jnp.log(jnp.maximum(observed, jnp.finfo(p.dtype).tiny)))


def brier(codes: Int[Array, " s"], p: Float[Array, "s c"]) -> Float[Array, ""]:
    """Mean squared distance of the probabilities from the indicators of the observed class."""
    hit = codes[:, None] == jnp.arange(p.shape[1])
    return jnp.mean(jnp.sum((p - hit) ** 2, axis=1))


# A new loss is one function and one line here.
CLASS_LOSSES: dict[str, Callable] = {"log_loss": log_loss, "brier": brier}


def as_class_loss(loss: Any) -> Callable:
    """A loss by name, or any callable of (codes, probabilities).

    Raises
    ------
    ValueError
        If `loss` is neither.
    """
    if callable(loss):
        return loss
    return CLASS_LOSSES[check_choice("loss", loss, CLASS_LOSSES)]
