"""Matérn profiles as functions of a squared distance, with exact derivatives at zero.

With s = sqrt(q)::

    h(q) = exp(-s)                    h' = -h / (2 s)      (set to 0 at q = 0, where it has a kink)
    g(q) = (1 + s) exp(-s)            g' = -h / 2
    f(q) = (1 + s + q / 3) exp(-s)    f' = -g / 6

Autodiff through `sqrt` gives NaN at q = 0, and the usual guard gives 0 where g' = -1/2. The chain
f -> g -> h is exact there, so second derivatives of Matérn 3/2 and 5/2 at coinciding points (the
covariance of derivatives of the process) are right too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import safe_divide, safe_sqrt


@jax.custom_jvp
def matern12_profile(q: Array) -> Array:
    """h(q)."""
    return jnp.exp(-jnp.sqrt(q))


@jax.custom_jvp
def matern32_profile(q: Array) -> Array:
    """g(q)."""
    s = jnp.sqrt(q)
    return (1 + s) * jnp.exp(-s)


@jax.custom_jvp
def matern52_profile(q: Array) -> Array:
    """f(q)."""
    s = jnp.sqrt(q)
    return (1 + s + q / 3) * jnp.exp(-s)


@matern12_profile.defjvp
def _matern12_jvp(primals, tangents):
    (q,), (t,) = primals, tangents
    value = matern12_profile(q)
    return value, safe_divide(-value, 2 * safe_sqrt(q)) * t


@matern32_profile.defjvp
def _matern32_jvp(primals, tangents):
    (q,), (t,) = primals, tangents
    return matern32_profile(q), -matern12_profile(q) / 2 * t


@matern52_profile.defjvp
def _matern52_jvp(primals, tangents):
    (q,), (t,) = primals, tangents
    return matern52_profile(q), -matern32_profile(q) / 6 * t
