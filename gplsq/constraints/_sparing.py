"""The Jacobian of a net of many parameters, with what keeps XLA from making more of its vectors.

Measured with a transformer of 50 million parameters and 32 residuals of a mini-batch: a constrained
step took 18 copies of the parameters more than one of the optimiser alone, and takes 4 so.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq.constraints._params import Movable
from gplsq.operators import AbstractEuclideanOperator

# Parameters from which on vectors as long as these are spared at the price of a product more.
MANY = 2**20


def is_many(size: int) -> bool:
    """Whether so many parameters are worth the trouble."""
    return size > MANY


class Sparing(AbstractEuclideanOperator):
    """The same operator, of whose vectors and scratch no more live at once than have to."""

    operator: AbstractEuclideanOperator

    @property
    def shape(self):
        return self.operator.shape

    @property
    def dtype(self):
        return self.operator.dtype

    def mv(self, v):
        # One vector that all readers share: otherwise XLA makes it again, leaf by leaf, of what it
        # was made of, and keeps that.
        return self.operator.mv(jax.lax.optimization_barrier(v))

    def rmv(self, u):
        # A computation of its own: the zeros that a transposed scan adds to are otherwise set aside
        # for each call at the beginning of the step.
        n = self.shape[1]
        zeros = jnp.zeros((n, *u.shape[1:]), self.dtype)
        return jax.lax.cond(jnp.any(u != 0), lambda: self.operator.rmv(u), lambda: zeros)


def after(layout: Movable, first: Array, fn: Callable[[], Any]) -> Any:
    """`fn()`; with many parameters not begun before `first` is there, nor anything of it.

    XLA orders what does not depend on each other as it likes, and would linearise the constraint
    while it still holds all that the loss's gradient needs. Barriers do not last until it does.
    """
    if not is_many(layout.size):
        return fn()
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(fn))
    never = jnp.max(jnp.abs(first)) < -1  # which XLA does not know
    return jax.lax.cond(never, lambda: blank, fn)


def at_once(layout: Movable, fn: Callable[[], Any]) -> Callable[[], Any]:
    """A function that gives `fn()`, made once; with many parameters anew each time.

    What a linearisation keeps is then not kept between two uses, for one forward pass more.
    """
    if is_many(layout.size):
        return fn
    value = fn()
    return lambda: value
