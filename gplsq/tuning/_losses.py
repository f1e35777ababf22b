"""Predictive losses: functions of (y, mean, variance), each in the units given; lower is better."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from gplsq._core import check_choice, savable


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


@savable
class Pinball(eqx.Module):
    """Pinball (quantile) loss of a normal prediction, the mean over quantiles, in units of y.

    Koenker & Bassett (1978). Over many quantiles it approaches half of `crps`.

    Parameters
    ----------
    quantiles
        Probabilities in (0, 1).
    """

    quantiles: tuple[float, ...] = eqx.field(
        default=tuple(i / 10 for i in range(1, 10)), static=True, converter=tuple
    )

    def __check_init__(self):
        inside = [isinstance(q, Real) and 0 < q < 1 for q in self.quantiles]
        if not inside or not all(inside):
            msg = f"quantiles must be numbers between 0 and 1; got {self.quantiles!r}."
            raise ValueError(msg)

    def __call__(
        self, y: Float[Array, " s"], mean: Float[Array, " s"], variance: Float[Array, " s"]
    ) -> Float[Array, ""]:
        """The loss of predictions, shape (s,) each."""
        q = jnp.asarray(self.quantiles, mean.dtype)[:, None]
        above = y - mean - jnp.sqrt(variance) * norm.ppf(q).astype(mean.dtype)
        return jnp.mean(jnp.maximum(q * above, (q - 1) * above))


# A new loss is one function and one line here.
LOSSES: dict[str, Callable] = {"mse": mse, "nlpd": nlpd, "crps": crps, "pinball": Pinball()}


def score(
    loss: Callable,
    y: Float[Array, "s *p"],
    mean: Float[Array, "s *p"],
    variance: Float[Array, " s"] | Float[Array, ""],
) -> Float[Array, ""]:
    """A loss of predictions; of several outputs, which share their variances, the mean loss."""
    if y.ndim == 1:
        return loss(y, mean, variance)
    return jnp.mean(jax.vmap(lambda a, b: loss(a, b, variance), in_axes=1)(y, mean))


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
