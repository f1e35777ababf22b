"""The derivative of a function at a point as an operator."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from gplsq._core import describe
from gplsq.operators._function import Function


class Jacobian(Function):
    """The Jacobian of a function at a point: `mv` is its forward derivative, `rmv` its reverse.

    Parameters
    ----------
    fn
        A differentiable function of one argument, written in JAX, with arrays for results.
    at
        The point: an array or a pytree of arrays of one real floating-point dtype. Directions and
        solutions have its structure.

    Raises
    ------
    TypeError
        If the point or a result is not real floating-point, or dtypes are mixed.

    Notes
    -----
    `fn` is evaluated once, here, and what its derivative needs is kept (`jax.linearize`). A
    Gauss-Newton step is ``lstsq(Jacobian(fn, x), -fn(x), damp=...)``. Differentiable in `at`.
    """

    def __init__(self, fn: Callable, at: PyTree):
        for leaf in jax.tree.leaves(at):
            if not (
                eqx.is_array_like(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            ):
                msg = f"at must hold real floating-point arrays; got {describe(leaf)}. Cast it."
                raise TypeError(msg)
        at = jax.tree.map(jnp.asarray, at)
        super().__init__(jax.linearize(fn, at)[1], at)
