"""Vector fields that are gradients: their Jacobian is symmetric."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from gplsq._core import check_count, describe
from gplsq.constraints._base import AbstractBatchConstraint, pair_of


class Conservative(AbstractBatchConstraint):
    """The Jacobian J(x) of a field is symmetric at the inputs of a batch.

    Parameters
    ----------
    field
        ``field(params, x)``: one point to one vector of the same shape, such as a score.
    probes
        None, the default: all d (d - 1) / 2 entries of ``J - J^T`` above its diagonal, for small
        dimension; the batch is the points (n, ...). Otherwise that many random probe pairs at each
        point, and the batch is ``(points, key)``: residuals are ``u^T J v - v^T J u`` with standard
        normal u and v, whose mean square estimates that of the Frobenius norm of J - J^T.
    batch_like
        An example of a batch, as in `Constraint`.

    Notes
    -----
    Cost: d products with J a point, or two a pair.
    """

    field: Callable = eqx.field(static=True)
    probes: int | None = eqx.field(static=True)
    example: PyTree

    def __init__(self, field: Callable, probes: int | None = None, batch_like: PyTree = None):
        if not callable(field):
            msg = f"field must be a function of params and a point; got {describe(field)}."
            raise TypeError(msg)
        if probes is not None:
            check_count("probes", probes, minimum=1)
        self.field, self.probes, self.example = field, probes, batch_like

    def residuals(self, params, batch=None, step=None):
        del step
        if self.probes is None:
            return jax.vmap(lambda x: _asymmetry(lambda z: self.field(params, z), x))(batch)
        what = "(points, key) where probes are drawn"
        points, key = pair_of(batch, what, "Pass a JAX random key with the points.")
        shape = (2, points.shape[0], self.probes, *points.shape[1:])
        u, v = jax.random.normal(key, shape, points.dtype)

        def of_point(x, us, vs):
            _, along = jax.linearize(lambda z: self.field(params, z), x)
            return jax.vmap(lambda a, b: jnp.vdot(a, along(b)) - jnp.vdot(b, along(a)))(us, vs)

        return jax.vmap(of_point)(points, u, v)


def _asymmetry(f: Callable, x: Array) -> Array:
    J = jax.jacfwd(f)(x).reshape(x.size, x.size)
    low, high = np.triu_indices(x.size, 1)
    return (J - J.T)[low, high]
