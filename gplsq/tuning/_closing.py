"""Where the last steps begin of a loss that looks at the variance.

A likelihood has minima where noise explains what a shorter lengthscale would, and others, of
repeated rows, that no squared error knows. So the levels run by both, and the last steps by the
loss begin at the end of the squared error, unless the other's likelihood is clearly better.
"""

import functools
import math
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from gplsq._core import parameters_of
from gplsq.tuning._losses import nlpd
from gplsq.tuning._run import Run

_LEARNING_RATE = 0.05
# Nats a row by which the loss's own end must be better. On the 280 rows of the UCI set yacht
# differences of up to 0.16 were overfitted; those that pay are 0.9 and more (wine).
_MARGIN = 0.2
# A factor of all that a kernel is; the second where rows are weighted.
_WHOLE_VARIANCE = ("variance", "kernel.variance")


@functools.lru_cache(maxsize=32)
def closing_optimizer(steps: int) -> optax.GradientTransformation:
    """For a level that starts near its minimum."""
    return optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps, alpha=0.05))


def closing_start(run: Run, first: Any, by_squares: Run, by_loss: Run) -> Any:
    """The model from which ``run`` does the last steps: the end of one of the two others.

    Parameters
    ----------
    run
        The last level, by the loss.
    first
        The model from which both others start.
    by_squares, by_loss
        The levels before by squared error and by the loss.
    """
    squares = calibrated(run, by_squares.search(first)[1])
    own = by_loss.search(first)[1]
    rows, key = run.draw(run.levels[0]), run.new_key()
    found, other = (run.exam(end, rows, key, nlpd) for end in (squares, own))
    return own if other < found - _MARGIN else squares


def calibrated(run: Run, model: Any) -> Any:
    """Variances of kernel and noise that fit the held-out errors, with the same mean.

    A squared error does not see a factor of both.
    """
    names = [p.name for p in parameters_of(model[0]) if p.name in _WHOLE_VARIANCE]
    if len(names) != 1 or run.rules.priors:  # a prior would be in the ratio
        return model
    ratio = run.exam(model, run.draw(run.levels[0]), run.new_key(), _squares_over_variance)
    if not 0 < ratio < math.inf:
        return model
    numbers, rest = eqx.partition(model, eqx.is_inexact_array)
    change = eqx.tree_at(
        lambda tree: (operator.attrgetter(names[0])(tree[0]), tree[1]),
        jax.tree.map(jnp.zeros_like, numbers),
        replace_fn=lambda zero: zero + math.log(ratio),
    )
    moved = jax.tree.map(jnp.add, numbers, run.rules.keep(change))
    return run.allowed(eqx.combine(moved, rest))


def _squares_over_variance(y: Any, mean: Any, variance: Any) -> Any:
    return jnp.mean((y - mean) ** 2 / variance)
