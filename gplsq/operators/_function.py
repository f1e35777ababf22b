"""A linear function of a vector or pytree as an operator; the adjoint by transposition."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from gplsq._core import describe, is_traced
from gplsq.operators._base import AbstractEuclideanOperator
from gplsq.operators._linear import maps_zero_to_zero
from gplsq.operators._program import Program, trace


class Function(AbstractEuclideanOperator):
    """A linear function as an operator.

    Parameters
    ----------
    fn
        A linear function of one argument, written in JAX. Arrays it closes over may be traced and
        differentiated.
    like
        An example of its argument: an array or a pytree of arrays (or of `jax.ShapeDtypeStruct`).
        Only shapes and dtypes matter; all leaves must share one real floating-point dtype.

    Raises
    ------
    TypeError
        If an argument or result leaf is not real floating-point, or the dtypes are mixed; if JAX
        cannot transpose fn; if fn adds a constant.

    Notes
    -----
    The operator acts on raveled vectors. `lstsq` ravels a pytree right-hand side and gives the
    solution back in the structure of `like`. The adjoint is `jax.linear_transpose` of `fn`: only
    `fn` itself is ever called, and only once, to trace it. Where its operations do not show that
    it maps zero to zero it is evaluated there, unless it closes over traced arrays. A fresh
    `Function` of the same operations on the same shapes does not compile anew, whatever arrays it
    closes over. (Python numbers are part of the program: pass what changes as an array.)
    """

    fn: Program
    domain: PyTree = eqx.field(static=True)
    codomain: PyTree = eqx.field(static=True)

    def __init__(self, fn: Callable, like: PyTree):
        struct = jax.eval_shape(lambda: jax.tree.map(_as_array, like))
        self.domain = _hashable(struct)
        self.fn = trace(fn, struct)
        self.codomain = _hashable(jax.eval_shape(self.fn, struct))
        if not self.codomain[0]:
            msg = "fn must return an array or a pytree of arrays; got none. Return the product."
            raise TypeError(msg)
        try:
            jax.eval_shape(jax.linear_transpose(self.fn, struct), _struct(self.codomain))
        except Exception as error:
            msg = (
                "fn must be linear, and written so that jax.linear_transpose finds its adjoint; "
                f"that failed with {type(error).__name__}: {error}. Write fn as a linear function, "
                "or subclass AbstractEuclideanOperator and give both products."
            )
            raise TypeError(msg) from error
        dtypes = {leaf.dtype for leaf in (*_leaves(self.domain), *_leaves(self.codomain))}
        if len(dtypes) != 1 or not jnp.issubdtype(next(iter(dtypes)), jnp.floating):
            msg = (
                "fn must map one real floating-point dtype to itself; got "
                f"{sorted(str(dtype) for dtype in dtypes)}. Cast `like`, or the result of fn."
            )
            raise TypeError(msg)

        if not maps_zero_to_zero(self.fn.jaxpr):
            self._check_value_at_zero(struct)

    def _check_value_at_zero(self, struct: PyTree) -> None:
        """Refuse an affine function, where numbers can be looked at."""
        if any(is_traced(array) for array in self.fn.captured):
            return
        out = eqx.filter_jit(self.fn)(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), struct))
        leaves = jax.tree.leaves(out)
        if any(is_traced(leaf) for leaf in leaves):
            return
        # 0 times an infinite or missing number is no constant term: the solve reports it.
        if any(np.any(np.isfinite(leaf) & (np.asarray(leaf) != 0)) for leaf in leaves):
            msg = (
                "fn must be linear; got one that does not map zero to zero. If it is affine, "
                "v -> A v + c, pass its linear part, and b - c for b."
            )
            raise TypeError(msg)

    @property
    def shape(self):
        return (_size(self.codomain), _size(self.domain))

    @property
    def dtype(self):
        return _leaves(self.domain)[0].dtype

    def mv(self, v):
        return self._apply(lambda flat: ravel_pytree(self.fn(_unravel(self.domain, flat)))[0], v)

    def rmv(self, u):
        transpose = jax.linear_transpose(self.fn, _struct(self.domain))
        return self._apply(
            lambda flat: ravel_pytree(transpose(_unravel(self.codomain, flat))[0])[0], u
        )

    @staticmethod
    def _apply(fn, block):
        if block.ndim == 1:
            return fn(block)
        if block.shape[1] == 1:  # a batch of one is slower, and XLA copies what it closes over
            return fn(block[:, 0])[:, None]
        return jax.vmap(fn, in_axes=1, out_axes=1)(block)

    def unravel(self, flat: Array) -> PyTree:
        """A solution vector in the structure of `like`; columns stay as a trailing axis."""
        if flat.ndim == 1:
            return _unravel(self.domain, flat)
        return jax.vmap(lambda v: _unravel(self.domain, v), in_axes=1, out_axes=-1)(flat)


def _as_array(leaf: Any) -> Array:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.zeros(leaf.shape, leaf.dtype)
    if not eqx.is_array_like(leaf):
        msg = f"`like` must hold arrays only; got {describe(leaf)}. Remove other leaves."
        raise TypeError(msg)
    return jnp.asarray(leaf)


def _hashable(tree: PyTree) -> tuple:
    """Shapes and tree structure as static, hashable data."""
    leaves, structure = jax.tree.flatten(tree)
    return tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves), structure


def _leaves(static: tuple) -> tuple:
    return static[0]


def _struct(static: tuple) -> PyTree:
    return jax.tree.unflatten(static[1], static[0])


def _size(static: tuple) -> int:
    return sum(leaf.size for leaf in static[0])


def _unravel(static: tuple, flat: Array) -> PyTree:
    leaves, start = [], 0
    for leaf in static[0]:
        leaves.append(flat[start : start + leaf.size].reshape(leaf.shape))
        start += leaf.size
    return jax.tree.unflatten(static[1], leaves)
