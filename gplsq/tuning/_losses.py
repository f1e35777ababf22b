"""Predictive losses: functions of (y, mean, variance), each in the units given; lower is better."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from gplsq._core import check_choice


def mse(
    y: Float[Array, " s"], mean: Float[Array, " s"], variance: Float[Array, " s"]
) -> Float[Array, ""]:
    """Mean squared error, in squared units of y. Does not look at the variance."""
    del variance
    return jnp.mean((y - mean) ** 2)


def nlpd(
    y: Float[Array, " s"], mean: Float[Array, " s"], variance: Float[Array, " s"]
) -> Float[Array, ""]:
    """Negative log predictive density of a normal prediction, in nats per row."""
    return jnp.mean(0.5 * jnp.log(2 * jnp.pi * variance) + 0.5 * (y - mean) ** 2 / variance)


def crps(
    y: Float[Array, " s"], mean: Float[Array, " s"], variance: Float[Array, " s"]
) -> Float[Array, ""]:
    """Continuous ranked probability score of a normal prediction, in units of y.

    Gneiting & Raftery (2007), eq. 21.
    """
    std = jnp.sqrt(variance)
    z = (y - mean) / std
    return jnp.mean(std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - jnp.pi**-0.5))


# A new loss is one function and one line here.
LOSSES: dict[str, Callable] = {"mse": mse, "nlpd": nlpd, "crps": crps}


def as_loss(loss: Any) -> Callable:
    """A loss by name, or any callable of (y, mean, variance).

    Raises
    ------
    ValueError
        If `loss` is neither.
    """
    if callable(loss):
        return loss
    return LOSSES[check_choice("loss", loss, LOSSES)]
