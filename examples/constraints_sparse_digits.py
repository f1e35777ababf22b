"""A classifier of handwritten digits with 90 to 98 % of its weights exactly zero.

    python examples/constraints_sparse_digits.py
    python examples/constraints_sparse_digits.py --seeds 3

Takes scikit-learn's digits (1,797 images of 8 x 8 pixels), which need no network. Compares the
`Sparsity` constraint, which grows while the net is trained, with one-shot magnitude pruning and
fine-tuning for as many steps. The last lines check the result.
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

STEPS = 600


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


def compare(seed: int, fractions: list[float]) -> dict:
    """Test accuracy of each way at each fraction."""
    X, y = load_digits(return_X_y=True)
    split = train_test_split(X / 16, y, test_size=0.3, random_state=seed, stratify=y)
    X_train, X_test, y_train, y_test = (
        jnp.asarray(part, "f4" if part.dtype.kind == "f" else "i4") for part in split
    )
    key = jax.random.key(seed)
    adam = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))
    start, data = network(key), (X_train, y_train)
    dense = train(start, adam, data, STEPS, key)
    table = {"dense": (accuracy(dense, X_test, y_test), zeros(dense))}
    for fraction in fractions:
        growing = Sparsity(fraction, scope="global", end_step=STEPS // 2)
        net = train(start, constrained(adam, growing), data, STEPS, key)
        table["constraint", fraction] = accuracy(net, X_test, y_test), zeros(net)
        # The peer gets the dense net, and as many steps again for what pruning left.
        fixed = Sparsity(fraction, scope="global")
        pruned, _ = restore_feasibility(dense, fixed)
        tuned = train(pruned, constrained(adam, fixed), data, STEPS, key)
        table["one-shot pruning", fraction] = accuracy(tuned, X_test, y_test), zeros(tuned)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.9, 0.98])
    arguments = parser.parse_args()
    runs = [compare(seed, arguments.fractions) for seed in range(arguments.seeds)]
    print(f"Test accuracy on digits, mean of {arguments.seeds} seed(s)\n")
    print(f"{'':>24s}  zero weights  accuracy")
    for name in runs[0]:
        share = np.mean([run[name][1] for run in runs])
        right = [run[name][0] for run in runs]
        label = name if isinstance(name, str) else name[0]
        print(f"{label:>24s}  {share:11.2%}  {np.mean(right):8.4f} (spread {np.std(right):.4f})")
    for fraction in arguments.fractions:
        for run in runs:
            assert run["constraint", fraction][1] >= fraction - 1e-4
            assert run["constraint", fraction][0] >= run["dense"][0] - 0.15
