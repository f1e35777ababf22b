"""A bound on the Euclidean norm of parameters, or its value."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import check_choice, check_finite_scalar
from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._select import check_where, flattened


class NormBall(AbstractConstraint):
    """`|theta| <= radius`, or `|theta| = radius`, theta the picked leaves together.

    Parameters
    ----------
    radius
        Positive.
    where
        Picks leaves of params; all of them by default.
    kind
        `"inequality"` for the ball, `"equality"` for the sphere.

    Notes
    -----
    The residual is ``(|theta|^2 - radius^2) / (2 radius)``: close to the boundary the distance from
    it, and smooth at the origin.
    """

    radius: Array
    where: Callable | None = eqx.field(static=True)
    condition: str = eqx.field(static=True)

    def __init__(self, radius: float, where: Callable | None = None, kind: str = "inequality"):
        check_where(where)
        self.radius = jnp.asarray(check_finite_scalar("radius", radius, minimum=0.0, strict=True))
        self.where = where
        self.condition = check_choice("kind", kind, ("equality", "inequality"))

    @property
    def kind(self):
        return self.condition

    def residuals(self, params, batch=None, step=None):
        del batch, step
        theta = flattened(self.where, params)
        radius = self.radius.astype(theta.dtype)
        return (jnp.sum(theta**2) / radius - radius) / 2
