"""How much accuracy does a LeNet lose with 90 to 99 % of its weights exactly zero?

    python examples/constraints_sparse_lenet.py
    python examples/constraints_sparse_lenet.py --net lenet-300-100 --seeds 3
    python examples/constraints_sparse_lenet.py --mnist folder/with/t10k-files
    python examples/constraints_sparse_lenet.py --quick

Takes scikit-learn's digits (1,797 images), enlarged to 28 x 28 pixels, or MNIST's test images where
a folder is given. Compares the `Sparsity` constraint, which grows while the net is trained, with
one-shot magnitude pruning: half of the steps dense, a cut, the other half for what is left.
`benchmarks/sparsity.py` compares five ways on MNIST. Saves sparse_lenet.png; the last lines check
the result.

Answer: half a point of 97.6 % with 90 % zeros, seven points with 98 %; one-shot pruning loses up to
a point more.
"""

import argparse
import gzip
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gplsq.constraints import Sparsity, constrained, restore_feasibility

BATCH, RATE = 128, 2e-3


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


NETS = {"lenet-5": LeNet5, "lenet-300-100": LeNet300}


def weights(net):
    """What is made sparse; the biases of convolutions have three axes too."""
    return [layer.weight for layer in (*getattr(net, "convolutions", ()), *net.layers)]


def digits(seed):
    """`X, y, X_test, y_test` of scikit-learn's digits: pixels from 0 to 1, (n, 1, 28, 28)."""
    X, y = load_digits(return_X_y=True)
    large = np.kron(X.reshape(-1, 8, 8) / 16, np.ones((1, 3, 3)))
    X = np.pad(large, ((0, 0), (2, 2), (2, 2)))[:, None].astype("f4")
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, random_state=seed, stratify=y)
    return X, y.astype("i4"), X_test, y_test.astype("i4")


def mnist(folder, training=8000):
    """The same of MNIST's 10,000 test images, of which the first 8,000 are trained with."""
    with gzip.open(Path(folder) / "t10k-images-idx3-ubyte.gz") as file:
        X = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(Path(folder) / "t10k-labels-idx1-ubyte.gz") as file:
        y = np.frombuffer(file.read(), np.uint8, offset=8).astype("i4")
    X = X.astype("f4") / 255
    return X[:training], y[:training], X[training:], y[training:]


def adam(steps):
    """Adam with a rate that falls to 0 over those steps."""
    return optax.adam(optax.cosine_decay_schedule(RATE, steps))


def train(net, optimizer, data, steps, key):
    """Cross-entropy on random batches, in one compiled scan."""
    params, static = eqx.partition(net, eqx.is_inexact_array)
    X, y = map(jnp.asarray, data)

    def loss(params, rows):
        logits = jax.vmap(eqx.combine(params, static))(X[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (BATCH,), 0, len(y))
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params, state, keys):
        return jax.lax.scan(step, (params, state), keys)[0]

    params, _ = run(params, optimizer.init(params), jax.random.split(key, steps))
    return eqx.combine(params, static)


def growing(fraction, steps):
    """So many zeros after 70 % of the steps, more and more until then."""
    return Sparsity(fraction, where=weights, scope="global", end_step=int(0.7 * steps))


def by_constraint(start, fraction, data, steps, key):
    """Zeros grow while the net is trained."""
    return train(start, constrained(adam(steps), growing(fraction, steps)), data, steps, key)


def by_one_shot(start, fraction, data, steps, key):
    """The smallest weights of a dense net are cut, and the others trained again."""
    half = steps // 2
    fixed = Sparsity(fraction, where=weights, scope="global")
    dense = train(start, adam(half), data, half, key)
    params, static = eqx.partition(dense, eqx.is_inexact_array)
    cut, _ = restore_feasibility(params, fixed)
    optimizer = constrained(adam(half), fixed)
    return train(eqx.combine(cut, static), optimizer, data, half, jax.random.fold_in(key, 1))


def score(net, X, y):
    """Test accuracy, and the share of weights at zero."""
    right = jnp.mean(jax.vmap(net)(jnp.asarray(X)).argmax(axis=1) == y)
    zero = np.concatenate([np.ravel(weight) == 0 for weight in weights(net)])
    return float(right), float(np.mean(zero))


def draw(accuracies, path):
    """Accuracy against the share of zeros, mean and range over seeds."""
    import matplotlib.pyplot as plt

    dense = np.mean(accuracies["dense", 0.0])
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.axhline(dense, color="0.5", linestyle=":", label="dense")
    for way, mark, color in (("constraint", "o-", "#0072B2"), ("one-shot", "s--", "#D55E00")):
        fractions = sorted(fraction for name, fraction in accuracies if name == way)
        values = np.array([accuracies[way, fraction] for fraction in fractions])
        left = [f"{1 - fraction:.0%}" for fraction in fractions]
        axis.plot(left, values.mean(axis=1), mark, color=color, label=way)
        axis.fill_between(left, values.min(axis=1), values.max(axis=1), color=color, alpha=0.2)
    axis.set(xlabel="weights that are left", ylabel="test accuracy", title="Sparse LeNet")
    axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="lenet-5", choices=NETS)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.9, 0.98])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--mnist", help="folder with t10k-images-idx3-ubyte.gz and its labels")
    parser.add_argument("--quick", action="store_true", help="LeNet-300-100, 98 %% zeros only")
    options = parser.parse_args()
    if options.quick:
        options.net, options.fractions, options.steps = "lenet-300-100", [0.98], 200
    accuracies, zeros = {}, {}
    for seed in range(options.seeds):
        X, y, X_test, y_test = mnist(options.mnist) if options.mnist else digits(seed)
        key = jax.random.key(seed)
        start = NETS[options.net](key)
        nets = {("dense", 0.0): train(start, adam(options.steps), (X, y), options.steps, key)}
        for fraction in options.fractions:
            task = start, fraction, (X, y), options.steps, key
            nets["constraint", fraction] = by_constraint(*task)
            nets["one-shot", fraction] = by_one_shot(*task)
        for name, net in nets.items():
            right, zeros[name] = score(net, X_test, y_test)
            accuracies.setdefault(name, []).append(right)
    print(f"{options.net}, {len(X):,} images, {options.steps} steps, seeds: {options.seeds}\n")
    print(f"{'':>12s}  zero weights  test accuracy  spread")
    for name, values in accuracies.items():
        print(f"{name[0]:>12s}  {zeros[name]:12.1%}  {np.mean(values):13.4f}  {np.std(values):.4f}")
    draw(accuracies, "sparse_lenet.png")
    print("\nPicture: sparse_lenet.png")
    for fraction in options.fractions:
        assert zeros["constraint", fraction] >= fraction - 1e-4
    sparsest = max(options.fractions)
    assert np.mean(accuracies["constraint", sparsest]) > np.mean(accuracies["one-shot", sparsest])
