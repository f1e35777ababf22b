"""What the tuner compiles: its loss, and one step of an optimiser on it.

A model is the pair (unconstrained kernel, log noise variance).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from gplsq._core import cast, constrain, jit_quickly, unconstrain
from gplsq.kernels import AbstractKernel
from gplsq.tuning._restrictions import Restrictions

_NO_LINE_SEARCH = (
    "optimizer searches along a line, which needs the loss of all outputs in one program; they are "
    "observed at different rows here, one program for each group. Pass for example optax.adam(0.1)."
)


@eqx.filter_jit
def start_model(kernel: AbstractKernel, noise: Array, rules: Restrictions) -> tuple[Any, Array]:
    """The model that a run starts from."""
    return rules.project((unconstrain(cast(kernel, noise.dtype)), jnp.log(noise)))


def _value(model, data, key, rules, objective, loss):
    X, y, groups, share = data
    kernel, noise = constrain(model[0]), jnp.exp(model[1])
    value = objective(kernel, noise, X, y, key, loss, groups)
    value = value + rules.penalty(kernel, noise)
    return value if share is None else share * value


evaluate = jit_quickly(_value)


@jit_quickly
def add_gradient(total, *arguments):
    """Value and gradient of one group of outputs, added to those of others."""
    both = eqx.filter_value_and_grad(_value)(*arguments)
    return jax.tree.map(jnp.add, total, both)


@jit_quickly
def take_step(model, state, data, key, rules, objective, loss, optimizer, limit, others):
    """One optimiser step; a gradient that is not finite makes the value NaN."""
    optimizer = optimizer if limit is None else limit.optimizer(optimizer)
    arguments = data, key, rules, objective, loss
    value, gradient = both = eqx.filter_value_and_grad(_value)(model, *arguments)
    if others is not None:
        value, gradient = jax.tree.map(jnp.add, others, both)
    gradient = rules.keep(gradient)
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient)]))
    params, rest = eqx.partition(model, eqx.is_inexact_array)

    def value_at(params):
        if others is not None:
            raise ValueError(_NO_LINE_SEARCH)
        return _value(rules.project(eqx.combine(params, rest)), *arguments)

    # Line searches, as that of L-BFGS, ask for these.
    extra = {"value": value, "grad": gradient, "value_fn": value_at}
    searching = optax.with_extra_args_support(optimizer)
    updates, new_state = searching.update(gradient, state, params, **extra)
    value = jnp.where(finite, value, jnp.nan)
    return value, rules.project(eqx.apply_updates(model, rules.keep(updates))), new_state
