"""Stationary kernels as mixtures of RBF kernels of random lengthscales."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import describe
from gplsq.kernels._stationary import (
    RBF,
    AbstractStationary,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    RationalQuadratic,
)


@functools.singledispatch
def mixture_scales(kernel: AbstractStationary, key: Array, num: int) -> Float[Array, " s"]:
    """Random s with `profile(q) = E exp(-s^2 q / 2)`: the kernel as a mixture of RBF kernels.

    Every profile that is a covariance in all dimensions is one (Schoenberg 1938).
    """
    del key, num
    msg = (
        f"no scale mixture is known for {describe(kernel)}. Register one with "
        "mixture_scales.register, or use inducing points."
    )
    raise NotImplementedError(msg)


@mixture_scales.register
def _(kernel: RBF, key, num):
    del key
    return jnp.ones(num, jnp.result_type(kernel.lengthscale, jnp.float32))


@mixture_scales.register
def _(kernel: Periodic, key, num):
    del key
    return jnp.ones(num, jnp.result_type(kernel.lengthscale, jnp.float32))


def _gamma(key: Array, shape: Float[Array, ""], num: int) -> Float[Array, " s"]:
    """Gamma variables, one in each of `num` strata of equal probability, in random order.

    Quantiles, so that for a given key they are smooth in the shape: `jax.random.gamma` rejects.
    """
    to_order, to_draw = jax.random.split(key)
    u = jax.random.uniform(to_draw, (num,), shape.dtype)
    u = (jax.random.permutation(to_order, num).astype(shape.dtype) + u) / num
    return _gamma_quantile(shape, u)


@jax.custom_jvp
def _gamma_quantile(shape: Float[Array, ""], u: Float[Array, " s"]) -> Float[Array, " s"]:
    """x with `gammainc(shape, x) = u`, by bisection of log x."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        below = jax.scipy.special.gammainc(shape, jnp.exp(middle)) < u
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    start = jnp.full_like(u, -40.0), jnp.full_like(u, 10.0)
    low, high = jax.lax.fori_loop(0, 50, halve, start)
    return jnp.exp((low + high) / 2)


@_gamma_quantile.defjvp
def _gamma_quantile_jvp(primals, tangents):
    """The implicit function theorem; u is not differentiated."""
    shape, u = primals
    x = _gamma_quantile(shape, u)
    slope = jax.lax.random_gamma_grad(  # pyright: ignore[reportCallIssue]
        jnp.broadcast_to(shape, x.shape), x
    )
    return x, slope * tangents[0]


def _matern_scales(nu: float, kernel: AbstractStationary, key: Array, num: int) -> Array:
    """The spectral density of a Matérn kernel is a multivariate t density with 2 nu degrees."""
    dtype = jnp.result_type(kernel.lengthscale, jnp.float32)
    return jnp.sqrt(nu / jax.random.gamma(key, nu, (num,), dtype))


@mixture_scales.register
def _(kernel: Matern12, key, num):
    return _matern_scales(0.5, kernel, key, num)


@mixture_scales.register
def _(kernel: Matern32, key, num):
    return _matern_scales(1.5, kernel, key, num)


@mixture_scales.register
def _(kernel: Matern52, key, num):
    return _matern_scales(2.5, kernel, key, num)


@mixture_scales.register
def _(kernel: RationalQuadratic, key, num):
    # `(1 + q / (2 alpha))^-alpha` is the expectation of exp(-t q / 2), t of mean 1, shape alpha.
    dtype = jnp.result_type(kernel.lengthscale, jnp.float32)
    alpha = jnp.asarray(kernel.alpha, dtype)
    return jnp.sqrt(_gamma(key, alpha, num) / alpha)
