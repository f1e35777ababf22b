"""The metric of a diagonal preconditioner, read from an optimiser's state.

Equation (17) of docs/derivations/null-space.md.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from gplsq.constraints._params import Movable


def adam_metric(state: PyTree, layout: Movable, eps: Array | float) -> Float[Array, " n"]:
    """Square root of Adam's preconditioner `1 / (sqrt(nu) + eps)`, scaled to mean square 1.

    A common factor changes no projection: the bias correction of nu, which tends to 1, is left out.
    The state does not hold `eps`.

    Equation (17) of docs/derivations/null-space.md.

    Raises
    ------
    ValueError
        If the state does not hold that of exactly one `optax.scale_by_adam`.
    """

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    found = [node for node in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(node)]
    if len(found) != 1:
        msg = (
            "projection='metric' needs an optimizer with one optax.scale_by_adam, whose "
            f"preconditioner is the metric; got {len(found)} of them. Pass projection='twice'."
        )
        raise ValueError(msg)
    nu = layout.ravel(found[0].nu)
    preconditioner = 1 / (jnp.sqrt(nu) + eps)
    preconditioner = jnp.where(jnp.isfinite(preconditioner), preconditioner, 1)
    return jnp.sqrt(preconditioner / jnp.mean(preconditioner))
