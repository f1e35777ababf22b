"""Runs that tests kill: `python resumed.py tuning|constrained FILE RESULT`."""

import json
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gplsq
from gplsq.constraints import Constraint, constrained
from gplsq.kernels import RBF
from gplsq.tuning import Holdout, Level, _checkpoint, tune

TRAINING_STEPS = 40
LEVELS = [Level(20, 14), Level(28, 8)]


def run(checkpoint):
    rng = np.random.default_rng(5)
    X = rng.uniform(-2, 2, (30, 2)).astype(np.float32)
    y = np.sin(3 * X[:, 0]) + np.float32(0.1) * X[:, 1]
    settings = {"objective": Holdout(0.25), "levels": LEVELS, "num_restarts": 1}
    return tune(1.0 * RBF([3.0, 3.0]), X, y, random_state=2, checkpoint=checkpoint, **settings)


def bits(result):
    """Everything but the seconds, exactly."""
    leaves = [np.asarray(leaf).tobytes().hex() for leaf in jax.tree.leaves(result.kernel)]
    records = [
        {key: np.asarray(value, float).tobytes().hex() for key, value in record.items()}
        for record in result.history
    ]
    for record in records:
        del record["seconds"]
    message = result.history.message
    return [leaves, result.noise_variance.hex(), float(result.loss).hex(), records, message]


def train(path):
    """A user's own loop: a sum of squares under a constraint, on batches drawn from a key."""
    optimizer = constrained(optax.adam(0.05), Constraint(lambda w: jnp.sum(w**2) - 2.0))

    @jax.jit
    def update(key, w, state):
        key, now = jax.random.split(key)
        batch = jax.random.normal(now, (5,))
        updates, state = optimizer.update(w - batch, state, w)
        return key, optax.apply_updates(w, updates), state

    w = jnp.linspace(0.1, 1.0, 5)
    loop = {"step": 0, "now": (jax.random.key(3), w, optimizer.init(w))}
    if path is not None and os.path.exists(path):
        loop = gplsq.load_state(path, like=loop)
    while loop["step"] < TRAINING_STEPS:
        loop = {"step": loop["step"] + 1, "now": update(*loop["now"])}
        if path is not None:
            gplsq.save_state(path, loop)
    key, w, state = loop["now"]
    leaves = jax.tree.leaves((jax.random.key_data(key), w, state))
    return [np.asarray(leaf).tobytes().hex() for leaf in leaves]


def slowly(write):
    """So that a signal meets a step before, while and after it is written."""

    def wrapped(*arguments):
        print("step", flush=True)
        time.sleep(0.01)
        write(*arguments)
        time.sleep(0.01)

    return wrapped


if __name__ == "__main__":
    kind, path, result = sys.argv[1:]
    if kind == "tuning":
        _checkpoint.write_saved = slowly(_checkpoint.write_saved)
        both = [bits(run(path)), bits(run(None))]
    else:
        gplsq.save_state = slowly(gplsq.save_state)
        both = [train(path), train(None)]
    with open(result, "w") as file:
        json.dump(both, file)
