"""How accurate is a net with 90 to 99 % of its weights at zero, by each way of getting there?

    python benchmarks/sparsity.py
    python benchmarks/sparsity.py --net lenet-5 --fractions 0.9 0.98 --seeds 1

The 10,000 MNIST test images, the first 8,000 for training and the others for the test (so figures
are not those of the usual 60,000). Every way gets the same epochs, batches, learning rates and
seeds, and ends with exactly that share of all weights at zero; biases are left dense:

- the `Sparsity` constraint of `constrained(adam, ...)`;
- one-shot: half of the epochs dense, the smallest weights cut, the other half for what is left;
- gradual: Zhu & Gupta (2017), the smallest weights cut every 50 steps, never to return;
- penalty and augmented Lagrangian: the same constraint object, cut at the end.

Mean test accuracy, and the spread (standard deviation) over seeds.

Not measured: other nets, augmentation, longer training.
"""

import argparse
import gzip
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _harness import data_folder, environment, print_table

from gplsq.constraints import Sparsity, constrained, restore_feasibility

TRAINING, BATCH, RATE, CUT_EVERY = 8000, 128, 2e-3, 50


def weights(net: Any) -> list[Any]:
    """What is made sparse; the biases of convolutions have three axes too."""
    return [layer.weight for layer in (*getattr(net, "convolutions", ()), *net.layers)]


WAYS = ("constraint", "one-shot", "gradual", "penalty", "augmented Lagrangian")


def images(folder: Path) -> tuple[np.ndarray, ...]:
    """`X, y, X_test, y_test`: pixels from 0 to 1, shape (n, 1, 28, 28)."""
    with gzip.open(folder / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        X = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / "mnist" / "t10k-labels-idx1-ubyte.gz") as file:
        y = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int32)
    X = X.astype(np.float32) / 255
    return X[:TRAINING], y[:TRAINING], X[TRAINING:], y[TRAINING:]


class LeNet300(eqx.Module):
    """LeNet-300-100 (LeCun et al. 1998): 266,610 parameters."""

    layers: list[eqx.nn.Linear]

    def __init__(self, key: jax.Array):
        sizes = (784, 300), (300, 100), (100, 10)
        keys = jax.random.split(key, 3)
        self.layers = [eqx.nn.Linear(*s, key=k) for s, k in zip(sizes, keys, strict=True)]

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.ravel()
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class LeNet5(eqx.Module):
    """LeNet-5 with max pooling: 61,706 parameters."""

    convolutions: list[eqx.nn.Conv2d]
    layers: list[eqx.nn.Linear]
    pool: eqx.nn.MaxPool2d

    def __init__(self, key: jax.Array):
        k = jax.random.split(key, 5)
        self.convolutions = [
            eqx.nn.Conv2d(1, 6, 5, padding=2, key=k[0]),
            eqx.nn.Conv2d(6, 16, 5, key=k[1]),
        ]
        sizes = (400, 120), (120, 84), (84, 10)
        self.layers = [eqx.nn.Linear(*s, key=q) for s, q in zip(sizes, k[2:], strict=True)]
        self.pool = eqx.nn.MaxPool2d(2, 2)

    def __call__(self, x: jax.Array) -> jax.Array:
        for convolution in self.convolutions:
            x = self.pool(jax.nn.relu(convolution(x)))
        x = x.ravel()
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


NETS = {"lenet-300-100": LeNet300, "lenet-5": LeNet5}


def train(params: Any, static: Any, optimizer: Any, data: Any, steps: int, key: jax.Array) -> Any:
    """Cross-entropy on random batches, in one compiled scan."""
    X, y = data

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        logits = jax.vmap(eqx.combine(params, static))(X[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def step(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        rows = jax.random.randint(key, (BATCH,), 0, len(y))
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params: Any, state: Any, keys: jax.Array) -> Any:
        return jax.lax.scan(step, (params, state), keys)[0][0]

    return run(params, optimizer.init(params), jax.random.split(key, steps))


class _Pruned(NamedTuple):
    count: jax.Array
    masks: Any


def gradual_pruning(fraction: float, end_step: int) -> optax.GradientTransformation:
    """Zhu & Gupta's schedule, the end of a chain: cuts weights now and then, for good."""
    schedule = Sparsity(fraction, where=weights, scope="global", end_step=end_step)

    def init(params: Any) -> _Pruned:
        masks = jax.tree.map(lambda p: jnp.ones(p.shape, bool), params)
        return _Pruned(jnp.zeros((), jnp.int32), masks)

    def update(updates: Any, state: _Pruned, params: Any) -> tuple[Any, _Pruned]:
        def cut() -> Any:
            found = weights(schedule.masks(params, state.count))
            kept = [m & now for m, now in zip(weights(state.masks), found, strict=True)]
            return eqx.tree_at(weights, state.masks, kept)

        due = (state.count % CUT_EVERY == 0) & (state.count <= end_step)
        masks = jax.lax.cond(due, cut, lambda: state.masks)
        moved = jax.tree.map(lambda u, p, m: jnp.where(m, u, -p), updates, params, masks)
        return moved, _Pruned(state.count + 1, masks)

    return optax.GradientTransformation(init, update)


def trained_by(
    way: str, fraction: float, start: Any, static: Any, data: Any, steps: int, key: jax.Array
) -> Any:
    """A net with that fraction of its weights at zero."""

    def adam(length: int) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(RATE, length))

    fixed = Sparsity(fraction, where=weights, scope="global")
    if way == "constraint":
        growing = Sparsity(fraction, where=weights, scope="global", end_step=int(0.7 * steps))
        return train(start, static, constrained(adam(steps), growing), data, steps, key)
    if way == "gradual":
        last_cut = int(0.7 * steps) // CUT_EVERY * CUT_EVERY
        chain = optax.chain(adam(steps), gradual_pruning(fraction, last_cut))
        return train(start, static, chain, data, steps, key)
    if way == "one-shot":
        half = steps // 2
        dense = train(start, static, adam(half), data, half, key)
        cut, _ = restore_feasibility(dense, fixed)
        chain = constrained(adam(half), fixed)
        return train(cut, static, chain, data, half, jax.random.fold_in(key, 1))
    method = way.replace(" ", "_").lower()
    growing = Sparsity(fraction, where=weights, scope="global", end_step=int(0.7 * steps))
    weight = optax.linear_schedule(0.0, 0.03, steps)
    chain = constrained(adam(steps), growing, method=method, penalty=weight)
    return restore_feasibility(train(start, static, chain, data, steps, key), fixed)[0]


def score(params: Any, static: Any, X: Any, y: Any) -> tuple[float, float]:
    """Test accuracy, and the share of weights at zero."""
    right = jnp.mean(jax.vmap(eqx.combine(params, static))(X).argmax(axis=1) == y)
    zero = np.concatenate([np.ravel(weight) == 0 for weight in weights(params)])
    return float(right), float(np.mean(zero))


def main() -> None:
    """Every fraction, way and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="lenet-300-100", choices=NETS)
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.9, 0.95, 0.98, 0.99])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--data", help="folder with mnist/ (default: GPLSQ_DATA, ../shared/data)")
    options = parser.parse_args()
    X, y, X_test, y_test = map(jnp.asarray, images(data_folder(options.data, "mnist")))
    steps = options.epochs * TRAINING // BATCH
    scores: dict[tuple, list] = {}
    for seed in range(options.seeds):
        key = jax.random.key(seed)
        start, static = eqx.partition(NETS[options.net](key), eqx.is_inexact_array)
        adam = optax.adam(optax.cosine_decay_schedule(RATE, steps))
        dense = train(start, static, adam, (X, y), steps, key)
        scores.setdefault(("dense", 0.0), []).append(score(dense, static, X_test, y_test))
        for fraction in options.fractions:
            for way in options.ways:
                began = time.perf_counter()
                net = trained_by(way, fraction, start, static, (X, y), steps, key)
                result = score(net, static, X_test, y_test)
                scores.setdefault((way, fraction), []).append(result)
                print(seed, fraction, way, result, f"{time.perf_counter() - began:.0f} s")
    print(environment())
    lines = []
    for (way, _), results in scores.items():
        right, zeros = np.mean(results, axis=0)
        spread = np.std([result[0] for result in results])
        lines.append([way, f"{zeros:.2%}", f"{right:.2%}", f"{spread:.2%}"])
    lines.sort(key=lambda line: line[1])
    print(f"\n{options.net}, {options.epochs} epochs, {options.seeds} seeds")
    print_table(["way", "zeros", "accuracy", "spread"], lines)


if __name__ == "__main__":
    main()
