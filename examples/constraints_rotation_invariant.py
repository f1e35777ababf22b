"""A classifier of digits that does not care which side of an image is up.

    python examples/constraints_rotation_invariant.py
    python examples/constraints_rotation_invariant.py --seeds 3
    python examples/constraints_rotation_invariant.py --quick

Question: how far is f(g x) from f(x), at images that were not seen in training and at turns g that
were not, for a hard constraint, for augmentation and for a penalty? The net is an MLP of dense
layers, the images are scikit-learn's digits (8 x 8 pixels), the group is that of the quarter turns.

Answer: it depends on what is constrained. A constraint on the *weights*, which names one quarter
turn and no image, holds for every image and every turn up to rounding, at the accuracy of
augmentation with all turns. A constraint on the *outputs* at the images of a step holds for these:
at others it leaves most of what augmentation leaves. Saves rotation_invariant.png; the last lines
check the result.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gplsq.constraints import Constraint, Invariance, constrained, rotate90
from gplsq.solvers import LSMR

TURNS = np.arange(4)
# The hidden layers are images themselves, turned with the input: 2 x 2 pixels of 48 channels.
HIDDEN = (2, 2, 48)


def network(key, side: int) -> eqx.nn.MLP:
    """Pixels of a square image, two hidden layers of 192, 10 classes."""
    return eqx.nn.MLP(side**2, 10, int(np.prod(HIDDEN)), 2, key=key)


def asymmetry(model) -> list:
    """What a quarter turn does to the layers: zero where they commute with it.

    A dense layer does if turning its inputs and its outputs together leaves its weights as they
    are. What is linear in the weights needs no images. Classes are not turned.
    """
    first, second, last = model.layers
    side = round(first.in_features**0.5)
    parts = [  # weights as an array, and the axes at which an image in it begins
        (first.weight.reshape(*HIDDEN, side, side), (0, 3)),
        (second.weight.reshape(*HIDDEN, *HIDDEN), (0, 3)),
        (last.weight.reshape(10, *HIDDEN), (1,)),
        (first.bias.reshape(HIDDEN), (0,)),
        (second.bias.reshape(HIDDEN), (0,)),
    ]
    found = []
    for weights, places in parts:
        turned = weights
        for axis in places:
            turned = jnp.rot90(turned, axes=(axis, axis + 1))
        found.append(turned - weights)
    return found


def train(model, optimizer, data, steps, key, turns=(0,), num_probes=0):
    """Cross-entropy on batches of 128 images, each turned by one of `turns`."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    X, y = data

    def images(key, num, turns):
        of_rows, of_turns = jax.random.split(key)
        rows = jax.random.randint(of_rows, (num,), 0, len(y))
        drawn = jax.random.choice(of_turns, jnp.asarray(turns), (num,))
        return jax.vmap(rotate90)(drawn, X[rows]), y[rows]

    def loss(params, X, y):
        logits = jax.vmap(lambda x: eqx.combine(params, static)(x.ravel()))(X)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry, key):
        params, state = carry
        extra = {}
        if num_probes:
            extra["constraint_batch"] = images(jax.random.fold_in(key, 1), num_probes, TURNS)[0]
        gradient = jax.grad(loss)(params, *images(key, 128, turns))
        updates, state = optimizer.update(gradient, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params, state, keys):
        return jax.lax.scan(step, (params, state), keys)[0]

    params, _ = run(params, optimizer.init(params), jax.random.split(key, steps))
    return eqx.combine(params, static)


@eqx.filter_jit
def logits_of_turned(model, X):
    """Logits of images under every turn, (4, n, 10)."""
    turned = jax.vmap(lambda g: jax.vmap(lambda x: rotate90(g, x))(X))(jnp.asarray(TURNS))
    return jax.vmap(jax.vmap(lambda x: model(x.ravel())))(turned)


def score(model, X, y) -> dict:
    """Accuracies, and root mean squares of f(gx) - f(x) in units of the spread of f."""
    logits = np.asarray(logits_of_turned(model, X), np.float64)
    spread = np.std(logits[0] - logits[0].mean(axis=1, keepdims=True))
    change = np.sqrt(np.mean((logits - logits[0]) ** 2, axis=(1, 2))) / spread
    right = np.mean(logits.argmax(axis=2) == np.asarray(y), axis=1)
    return {
        "upright": right[0],
        "turned": right.mean(),
        "quarter": change[1],
        "others": np.sqrt(np.mean(change[2:] ** 2)),
    }


def digits(seed: int) -> list:
    """scikit-learn's digits: images and classes to train with, then those to test with."""
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 8, 8) / 16
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.3, random_state=seed, stratify=y
    )
    return [X_train, y_train, X_test, y_test]


def compare(parts: list, seed: int, steps: int, ways: list[str] | None = None) -> dict:
    """Scores and net of every way, from the same start, with the same images and steps."""
    X_train, y_train, X_test, y_test = (
        jnp.asarray(part, "f4" if part.dtype.kind == "f" else "i4") for part in parts
    )
    key = jax.random.key(seed)
    start, data = network(key, X_train.shape[1]), (X_train, y_train)
    static = eqx.partition(start, eqx.is_inexact_array)[1]
    adam = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
    alone = optax.with_extra_args_support(adam)
    outputs = Invariance(
        lambda params, x: eqx.combine(params, static)(x.ravel()), rotate90, TURNS[1:2]
    )

    def on_outputs(num_probes, **settings):
        optimizer = constrained(adam, outputs, **settings)
        return train(start, optimizer, data, steps, key, TURNS, num_probes)

    def on_weights():
        # The first step leaves a quarter of the square of random weights: start with four times.
        def weights(model):
            return [layer.weight for layer in model.layers]

        doubled = eqx.tree_at(weights, start, [2 * W for W in weights(start)])
        optimizer = constrained(adam, Constraint(asymmetry), rank_every=0)
        return train(doubled, optimizer, data, steps, key)

    loose = LSMR(rtol=1e-2, max_steps=10)
    found = {}
    for way, net_of in {
        "plain": lambda: train(start, alone, data, steps, key),
        "augmentation, quarter turn": lambda: train(start, alone, data, steps, key, (0, 1)),
        "augmentation, all turns": lambda: train(start, alone, data, steps, key, TURNS),
        "penalty on outputs": lambda: on_outputs(32, method="penalty", penalty=0.01),
        # Every step has other images: to correct them wholly would shake the net, and that their
        # violation comes and goes is no cause for a warning.
        "constraint on outputs": lambda: on_outputs(
            8, correction_rate=0.03, solver=loose, warn=False
        ),
        "constraint on weights": on_weights,
    }.items():
        if ways is None or way in ways:
            began = time.perf_counter()
            net = net_of()
            seconds = time.perf_counter() - began
            found[way] = score(net, X_test, y_test) | {"seconds": seconds, "net": net}
    return found


def draw(table: dict, path: str) -> None:
    """The error of every way, and one hidden channel under a quarter turn."""
    import matplotlib.pyplot as plt

    shown = [way for way in ("augmentation, all turns", "constraint on weights") if way in table]
    figure = plt.figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.25, 1])
    axis = left.subplots()
    errors = [table[way]["others"] for way in table]
    colors = ["#D55E00" if way == "constraint on weights" else "#0072B2" for way in table]
    axis.scatter(errors, list(table), color=colors, zorder=2)
    axis.grid(axis="x", color="0.9")
    for i, way in enumerate(table):
        axis.text(1.8 * errors[i], i, f"{table[way]['turned']:.1%} right", va="center", size=8)
    axis.set(
        xscale="log",
        xlim=(1e-8, 200),
        xlabel="|f(gx) - f(x)| at unseen images, half and three-quarter turns",
        title="How much a turn changes the outputs",
    )
    axis.margins(y=0.1)
    axis.invert_yaxis()
    # Around the hidden image, in the order in which a quarter turn moves its pixels.
    pixels = [(0, 0), (1, 0), (1, 1), (0, 1)]
    right.suptitle("Filters of the four pixels of one hidden channel")
    grid = right.subplots(len(shown), 4, squeeze=False)
    for row, way in zip(grid, shown, strict=True):
        filters = np.asarray(table[way]["net"].layers[0].weight).reshape(*HIDDEN, 8, 8)
        channel = np.argmax(np.sum(filters**2, axis=(0, 1, 3, 4)))
        limit = np.abs(filters[:, :, channel]).max()
        for axis, (i, j) in zip(row, pixels, strict=True):
            axis.imshow(filters[i, j, channel], cmap="RdBu", vmin=-limit, vmax=limit)
            axis.set(xticks=[], yticks=[])
        relation = "each is the last one, turned" if "weights" in way else "no two are alike"
        label = row[0].set_title(f"{way}: {relation}", size=9, loc="left")
        label.set_in_layout(False)  # as wide as several pictures
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--quick", action="store_true", help="150 steps, two ways")
    options = parser.parse_args()
    steps = 150 if options.quick else options.steps
    ways = ["augmentation, all turns", "constraint on weights"] if options.quick else None
    runs = [compare(digits(seed), seed, steps, ways) for seed in range(options.seeds)]
    print(f"540 unseen images, mean of {options.seeds} seeds: accuracy, and |f(gx) - f(x)|\n")
    header = ["upright", "all turns", "quarter turn", "other turns", "seconds"]
    print(f"{'':>26s}  {'  '.join(f'{name:>12s}' for name in header)}")
    mean = {}
    for way in runs[0]:
        names = [name for name in runs[0][way] if name != "net"]
        scores = {name: np.mean([run[way][name] for run in runs]) for name in names}
        mean[way] = scores
        print(
            f"{way:>26s}  {scores['upright']:12.1%}  {scores['turned']:12.1%}  "
            f"{scores['quarter']:12.1e}  {scores['others']:12.1e}  {scores['seconds']:12.1f}"
        )
    draw(runs[0], "rotation_invariant.png")
    print("\nPicture: rotation_invariant.png")
    augmented, hard = mean["augmentation, all turns"], mean["constraint on weights"]
    assert hard["others"] < 1e-5 < augmented["others"] / 10
    assert hard["quarter"] < 1e-5
    assert hard["turned"] > augmented["turned"] - 0.02
