"""Stationary kernels: functions of a scaled distance, with one lengthscale or one per column."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import positive, savable
from gplsq.kernels._base import AbstractKernel
from gplsq.kernels._distance import squared_distances
from gplsq.kernels._profiles import matern12_profile, matern32_profile, matern52_profile


def _divide(X: Float[Array, "n d"], scale: Float[Array, "..."], name: str) -> Float[Array, "n d"]:
    """Divide columns by one scale, or by one per column."""
    if jnp.ndim(scale) > 1 or (jnp.ndim(scale) == 1 and scale.shape[0] != X.shape[-1]):
        msg = (
            f"{name} must be a scalar or have one entry per input column, shape "
            f"({X.shape[-1]},); got shape {tuple(jnp.shape(scale))}. Use kernel.on(columns) to "
            "look at some columns only."
        )
        raise ValueError(msg)
    return X / scale


class AbstractStationary(AbstractKernel):
    """A function of the distance between embedded points: `profile(|embed(x) - embed(z)|^2)`.

    A new stationary kernel gives `embed` and `profile`.
    """

    lengthscale: eqx.AbstractVar[Array]

    @abc.abstractmethod
    def embed(self, X: Float[Array, "n d"]) -> Float[Array, "n e"]:
        """Rows mapped to where the kernel is a function of Euclidean distance."""

    @abc.abstractmethod
    def profile(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """Covariance as a function of squared distance, elementwise; 1 at 0."""

    def pair(self, x: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, ""]:
        difference = self.embed(x[None]) - self.embed(z[None])
        return self.profile(jnp.sum(difference * difference))

    def cross(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.profile(squared_distances(self.embed(X), self.embed(Z)))

    def diagonal(self, X: Float[Array, "n d"]) -> Float[Array, " n"]:
        return self.profile(jnp.zeros(X.shape[0], X.dtype))


class AbstractRadial(AbstractStationary):
    """A function of the distance between inputs divided by the lengthscale.

    A new one gives the field `lengthscale` and `profile`.
    """

    def embed(self, X):
        return _divide(X, self.lengthscale, "lengthscale")


@savable
class RBF(AbstractRadial):
    """Squared exponential: `exp(-q / 2)`, q = sum_j ((x_j - z_j) / lengthscale_j)^2.

    Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), eq. 4.9.

    Parameters
    ----------
    lengthscale
        In units of the inputs; a scalar, or shape (d,).
    """

    lengthscale: Array = positive(default=1.0)

    def profile(self, q):
        return jnp.exp(-q / 2)


@savable
class Matern12(AbstractRadial):
    """Matérn 1/2 (exponential): `exp(-r)`, r the scaled distance.

    Rasmussen & Williams (2006), eq. 4.18. Sample paths are continuous, nowhere differentiable.

    Parameters
    ----------
    lengthscale
        In units of the inputs; a scalar, or shape (d,).
    """

    lengthscale: Array = positive(default=1.0)

    def profile(self, q):
        return matern12_profile(q)


@savable
class Matern32(AbstractRadial):
    """Matérn 3/2: `(1 + s) exp(-s)`, s = sqrt(3) times the scaled distance.

    Rasmussen & Williams (2006), eq. 4.17. Sample paths are once differentiable.

    Parameters
    ----------
    lengthscale
        In units of the inputs; a scalar, or shape (d,).
    """

    lengthscale: Array = positive(default=1.0)

    def profile(self, q):
        return matern32_profile(3 * q)


@savable
class Matern52(AbstractRadial):
    """Matérn 5/2: `(1 + s + s^2 / 3) exp(-s)`, s = sqrt(5) times the scaled distance.

    Rasmussen & Williams (2006), eq. 4.17. Sample paths are twice differentiable.

    Parameters
    ----------
    lengthscale
        In units of the inputs; a scalar, or shape (d,).
    """

    lengthscale: Array = positive(default=1.0)

    def profile(self, q):
        return matern52_profile(5 * q)


@savable
class RationalQuadratic(AbstractRadial):
    """`(1 + q / (2 alpha))^(-alpha)`: a scale mixture of RBF kernels.

    Rasmussen & Williams (2006), eq. 4.19. Tends to RBF for large alpha.

    Parameters
    ----------
    lengthscale
        In units of the inputs; a scalar, or shape (d,).
    alpha
        Shape of the mixture, a positive scalar.
    """

    lengthscale: Array = positive(default=1.0)
    alpha: Array = positive(default=1.0)

    def profile(self, q):
        return jnp.exp(-self.alpha * jnp.log1p(q / (2 * self.alpha)))


@savable
class Periodic(AbstractStationary):
    """`exp(-2 sum_j sin^2(pi (x_j - z_j) / period_j) / lengthscale_j^2)`.

    MacKay (1998); Rasmussen & Williams (2006), eq. 4.31. The circle `(cos, sin)(2 pi x / period)`
    divided by the lengthscale turns it into an RBF of Euclidean distance.

    Parameters
    ----------
    lengthscale
        Dimensionless; a scalar, or shape (d,).
    period
        In units of the inputs; a scalar, or shape (d,).
    """

    lengthscale: Array = positive(default=1.0)
    period: Array = positive(default=1.0)

    def embed(self, X):
        angle = 2 * jnp.pi * _divide(X, self.period, "period")
        cosine = _divide(jnp.cos(angle), self.lengthscale, "lengthscale")
        sine = _divide(jnp.sin(angle), self.lengthscale, "lengthscale")
        return jnp.concatenate([cosine, sine], axis=-1)

    def profile(self, q):
        return jnp.exp(-q / 2)
