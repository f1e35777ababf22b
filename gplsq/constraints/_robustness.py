"""Bounds on how much an output changes."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from gplsq._core import check_choice, check_finite_scalar, describe
from gplsq.constraints._base import AbstractBatchConstraint, pair_of


class Robustness(AbstractBatchConstraint):
    """The output moves by no more than `bound` under the perturbations of a batch: an inequality.

    Parameters
    ----------
    apply
        ``apply(params, x)``: the output for **one** input.
    bound
        Largest Euclidean norm of the change of an output; positive.
    measure
        `"output"`: of ``f(x + e) - f(x)``; `"jacobian"`: of ``J(x) e``, which for e of unit length
        bounds the gain in that direction.
    batch_like
        An example of a batch, as in `Constraint`.

    Notes
    -----
    The batch is ``(inputs, perturbations)``, of one shape. Residuals are
    ``(change^2 - bound^2) / (2 bound)``, one for each input: close to the bound how much the change
    exceeds it.
    """

    apply: Callable = eqx.field(static=True)
    bound: Array
    measure: str = eqx.field(static=True)
    example: PyTree

    def __init__(
        self,
        apply: Callable,
        bound: float,
        measure: str = "output",
        batch_like: PyTree = None,
    ):
        if not callable(apply):
            msg = f"apply must be a function of params and one input; got {describe(apply)}."
            raise TypeError(msg)
        self.apply = apply
        self.bound = jnp.asarray(check_finite_scalar("bound", bound, minimum=0.0, strict=True))
        self.measure = check_choice("measure", measure, ("output", "jacobian"))
        self.example = batch_like

    @property
    def kind(self):
        return "inequality"

    def residuals(self, params, batch=None, step=None):
        del step
        inputs = pair_of(batch, "(inputs, perturbations)", "Pass two arrays of one shape.")

        def change(x, e):
            def f(z):
                return self.apply(params, z)

            if self.measure == "jacobian":
                moved = jax.jvp(f, (x,), (e,))[1]
            else:
                moved = jax.tree.map(jnp.subtract, f(x + e), f(x))
            squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(moved)]
            return jnp.sum(jnp.stack(squares))

        squared = jax.vmap(change)(*inputs)
        bound = self.bound.astype(squared.dtype)
        return (squared / bound - bound) / 2
