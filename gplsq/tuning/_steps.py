"""What the tuner compiles: its loss, and one step of an optimiser on it.

A model is the pair (unconstrained kernel, log noise variance).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import cast, constrain, jit_quickly, unconstrain
from gplsq.kernels import AbstractKernel
from gplsq.tuning._restrictions import Restrictions


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
    updates, new_state = optimizer.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
    value = jnp.where(finite, value, jnp.nan)
    return value, rules.project(eqx.apply_updates(model, rules.keep(updates))), new_state
