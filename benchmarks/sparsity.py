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
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _harness import data_folder, environment, print_table, progress

from gplsq.constraints import Sparsity, constrained, restore_feasibility

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import constraints_sparse_lenet as lenet

CUT_EVERY = 50
WAYS = ("constraint", "one-shot", "gradual", "penalty", "augmented Lagrangian")


class _Pruned(NamedTuple):
    count: jax.Array
    masks: Any


def gradual_pruning(fraction: float, end_step: int) -> optax.GradientTransformation:
    """Zhu & Gupta's schedule, the end of a chain: cuts weights now and then, for good."""
    schedule = Sparsity(fraction, where=lenet.weights, scope="global", end_step=end_step)

    def init(params: Any) -> _Pruned:
        masks = jax.tree.map(lambda p: jnp.ones(p.shape, bool), params)
        return _Pruned(jnp.zeros((), jnp.int32), masks)

    def update(updates: Any, state: _Pruned, params: Any) -> tuple[Any, _Pruned]:
        def cut() -> Any:
            found = lenet.weights(schedule.masks(params, state.count))
            kept = [m & now for m, now in zip(lenet.weights(state.masks), found, strict=True)]
            return eqx.tree_at(lenet.weights, state.masks, kept)

        due = (state.count % CUT_EVERY == 0) & (state.count <= end_step)
        masks = jax.lax.cond(due, cut, lambda: state.masks)
        moved = jax.tree.map(lambda u, p, m: jnp.where(m, u, -p), updates, params, masks)
        return moved, _Pruned(state.count + 1, masks)

    return optax.GradientTransformation(init, update)


def trained_by(way: str, start: Any, fraction: float, data: Any, steps: int, key: Any) -> Any:
    """A net with that fraction of its weights at zero."""
    if way == "constraint":
        return lenet.by_constraint(start, fraction, data, steps, key)
    if way == "one-shot":
        return lenet.by_one_shot(start, fraction, data, steps, key)
    if way == "gradual":
        last_cut = int(0.7 * steps) // CUT_EVERY * CUT_EVERY
        chain = optax.chain(lenet.adam(steps), gradual_pruning(fraction, last_cut))
        return lenet.train(start, chain, data, steps, key)
    weight = optax.linear_schedule(0.0, 0.03, steps)
    method = way.replace(" ", "_").lower()
    chain = constrained(
        lenet.adam(steps), lenet.growing(fraction, steps), method=method, penalty=weight
    )
    net = lenet.train(start, chain, data, steps, key)
    params, static = eqx.partition(net, eqx.is_inexact_array)
    fixed = Sparsity(fraction, where=lenet.weights, scope="global")
    return eqx.combine(restore_feasibility(params, fixed)[0], static)


def main() -> None:
    """Every fraction, way and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="lenet-300-100", choices=("lenet-300-100", "lenet-5"))
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.9, 0.95, 0.98, 0.99])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--data", help="folder with mnist/ (default: GPLSQ_DATA, ../shared/data)")
    options = parser.parse_args()
    X, y, X_test, y_test = lenet.mnist(data_folder(options.data, "mnist") / "mnist")
    data, steps = (X, y), options.epochs * len(y) // lenet.BATCH
    scores: dict[tuple, list] = {}
    for seed in range(options.seeds):
        key = jax.random.key(seed)
        start = lenet.NETS[options.net](key)
        dense = lenet.train(start, lenet.adam(steps), data, steps, key)
        scores.setdefault(("dense", 0.0), []).append(lenet.score(dense, X_test, y_test))
        for fraction in options.fractions:
            for way in options.ways:
                began = time.perf_counter()
                net = trained_by(way, start, fraction, data, steps, key)
                result = lenet.score(net, X_test, y_test)
                scores.setdefault((way, fraction), []).append(result)
                progress(seed, fraction, way, result, f"{time.perf_counter() - began:.0f} s")
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
