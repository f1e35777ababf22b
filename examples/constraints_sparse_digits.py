"""A classifier of handwritten digits with 90 to 98 % of its weights exactly zero.

    python examples/constraints_sparse_digits.py
    python examples/constraints_sparse_digits.py --seeds 3
    python examples/constraints_sparse_digits.py --quick

Takes scikit-learn's digits (1,797 images of 8 x 8 pixels), which need no network. Compares the
`Sparsity` constraint, which grows while the net is trained, with one-shot magnitude pruning and
fine-tuning for as many steps. Saves sparse_digits.png; the last lines check the result.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gplsq.constraints import Sparsity, constrained, restore_feasibility


def network(key) -> eqx.nn.MLP:
    """64 pixels, layers of 100 and 50, 10 classes."""
    return eqx.nn.MLP(64, 10, 100, 2, key=key)


def train(model, optimizer, data, steps, key):
    """Cross-entropy on random batches of 128, in one compiled scan."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    X, y = data

    def loss(params, rows):
        logits = jax.vmap(eqx.combine(params, static))(X[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (128,), 0, len(y))
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params, state, keys):
        return jax.lax.scan(step, (params, state), keys)[0]

    params, _ = run(params, optimizer.init(params), jax.random.split(key, steps))
    return eqx.combine(params, static)


def accuracy(model, X, y) -> float:
    """Share of images that are classified right."""
    return float((jax.vmap(model)(X).argmax(axis=1) == y).mean())


def zeros(model) -> float:
    """Share of the weights that are exactly zero; biases do not count."""
    weights = [np.asarray(layer.weight).ravel() for layer in model.layers]
    return float(np.mean(np.concatenate(weights) == 0))


def compare(seed: int, fractions: list[float], steps: int) -> dict:
    """Test accuracy, share of zeros, and the net of each way at each fraction."""
    X, y = load_digits(return_X_y=True)
    split = train_test_split(X / 16, y, test_size=0.3, random_state=seed, stratify=y)
    X_train, X_test, y_train, y_test = (
        jnp.asarray(part, "f4" if part.dtype.kind == "f" else "i4") for part in split
    )
    key = jax.random.key(seed)
    adam = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    start, data = network(key), (X_train, y_train)
    dense = train(start, adam, data, steps, key)

    def result(net):
        return accuracy(net, X_test, y_test), zeros(net), net

    table = {"dense": result(dense)}
    for fraction in fractions:
        growing = Sparsity(fraction, scope="global", end_step=steps // 2)
        net = train(start, constrained(adam, growing), data, steps, key)
        table["constraint", fraction] = result(net)
        # The peer gets the dense net, and as many steps again for what pruning left.
        fixed = Sparsity(fraction, scope="global")
        pruned, _ = restore_feasibility(dense, fixed)
        tuned = train(pruned, constrained(adam, fixed), data, steps, key)
        table["one-shot pruning", fraction] = result(tuned)
    return table


def draw(table: dict, path: str) -> None:
    """Accuracies, and how many weights still look at each pixel at the highest fraction."""
    import matplotlib.pyplot as plt

    names = ["dense", *(name for name in table if name != "dense")]
    nets = [table[name][2] for name in (names[0], *names[-2:])]
    figure, axes = plt.subplots(1, 4, figsize=(11, 3), width_ratios=[2, 1, 1, 1])
    labels = [name if name == "dense" else f"{name[0]}, {name[1]:.0%}" for name in names]
    axes[0].barh(labels, [table[name][0] for name in names], color="#0072B2")
    axes[0].invert_yaxis()
    axes[0].set(xlim=(0, 1), xlabel="test accuracy", title="Digits with weights set to zero")
    for axis, net, name in zip(axes[1:], nets, (labels[0], *labels[-2:]), strict=True):
        used = np.sum(np.asarray(net.layers[0].weight) != 0, axis=0).reshape(8, 8)
        axis.imshow(used, cmap="viridis", vmin=0)
        axis.set(
            title=f"{name}:\n{used.min()} to {used.max()} weights a pixel", xticks=[], yticks=[]
        )
        axis.title.set_fontsize("small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.9, 0.98])
    parser.add_argument("--quick", action="store_true", help="fewer steps, one fraction")
    options = parser.parse_args()
    steps, fractions = (200, [0.9]) if options.quick else (600, options.fractions)
    runs = [compare(seed, fractions, steps) for seed in range(options.seeds)]
    several = options.seeds > 1
    print(
        "Test accuracy on digits" + (f", mean of {options.seeds} seeds" if several else "") + "\n"
    )
    print(f"{'':>24s}  zero weights  accuracy")
    for name in runs[0]:
        share = np.mean([run[name][1] for run in runs])
        right = [run[name][0] for run in runs]
        label = name if isinstance(name, str) else name[0]
        spread = f" (spread {np.std(right):.4f})" if several else ""
        print(f"{label:>24s}  {share:12.1%}  {np.mean(right):8.4f}{spread}")
    draw(runs[0], "sparse_digits.png")
    print("\nPicture: sparse_digits.png")
    for fraction in fractions:
        for run in runs:
            assert run["constraint", fraction][1] >= fraction - 1e-4
            assert run["constraint", fraction][0] >= run["dense"][0] - 0.15
