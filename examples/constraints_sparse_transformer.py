"""What does it cost a transformer to be trained with 90 % of its weights exactly zero?

    python examples/constraints_sparse_transformer.py
    python examples/constraints_sparse_transformer.py --quick
    python examples/constraints_sparse_transformer.py --layers 10 --width 640 --steps 5

Reads scikit-learn's digits row by row, as sequences of eight tokens of eight pixels. The same net
is trained by AdamW alone and under `Sparsity`, which grows for the first half and holds for the
rest. The last command is a net of 49 million, for time and memory alone. Prints accuracy,
time and memory of a step; saves sparse_transformer.png; the last lines check the result.

Answer: a point of accuracy, a third more time a step, and 1.3 more copies of the parameters.
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

from gplsq.constraints import Sparsity, constrained

BATCH = 64


class Block(eqx.Module):
    """Attention and a net of one hidden layer, each after a norm and beside the identity."""

    norms: list
    attention: eqx.nn.MultiheadAttention
    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, width: int, key):
        a, b, c = jax.random.split(key, 3)
        self.norms = [eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)]
        self.attention = eqx.nn.MultiheadAttention(max(1, width // 32), width, key=a)
        self.hidden = eqx.nn.Linear(width, 4 * width, key=b)
        self.out = eqx.nn.Linear(4 * width, width, key=c)

    def __call__(self, x):
        inside = jax.vmap(self.norms[0])(x)
        x = x + self.attention(inside, inside, inside)
        inside = jax.vmap(self.hidden)(jax.vmap(self.norms[1])(x))
        return x + jax.vmap(self.out)(jax.nn.gelu(inside))


class Transformer(eqx.Module):
    """Rows of an image to scores of ten classes."""

    embedding: eqx.nn.Linear
    position: jax.Array
    blocks: Block  # of all layers, stacked
    head: eqx.nn.Linear

    def __init__(self, layers: int, width: int, key):
        a, b, c, d = jax.random.split(key, 4)
        self.embedding = eqx.nn.Linear(8, width, key=a)
        self.position = jax.random.normal(b, (8, width)) * 0.1
        self.blocks = eqx.filter_vmap(lambda k: Block(width, k))(jax.random.split(c, layers))
        self.head = eqx.nn.Linear(width, 10, key=d)

    def __call__(self, image):
        x = jax.vmap(self.embedding)(image) + self.position
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        x, _ = jax.lax.scan(lambda x, layer: (eqx.combine(layer, static)(x), None), x, arrays)
        return self.head(x.mean(axis=0))


def matrices(net):
    """What is to be sparse: the matrices of attention and of the layers."""
    attention = net.blocks.attention
    projections = "query_proj", "key_proj", "value_proj", "output_proj"
    found = [getattr(attention, name).weight for name in projections]
    return [*found, net.blocks.hidden.weight, net.blocks.out.weight]


def train(net, optimizer, X, y, steps: int, seed: int):
    """The trained net, seconds of a step (median) and megabytes of the compiled one."""
    params, static = eqx.partition(net, eqx.is_inexact_array)

    def loss(params, rows):
        logits = jax.vmap(eqx.combine(params, static))(X[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def step(params, state, rows):
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return optax.apply_updates(params, updates), state

    # A copy of its own, whose memory the steps may take.
    params = jax.tree.map(jnp.copy, params)
    state = optimizer.init(params)
    rng = np.random.default_rng(seed)
    batches = jnp.asarray(rng.integers(0, len(y), (steps, BATCH)))
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, batches[0]).compile()
    memory = compiled.memory_analysis()
    seconds = []
    for rows in batches:
        began = time.perf_counter()
        params, state = jax.block_until_ready(compiled(params, state, rows))
        seconds.append(time.perf_counter() - began)
    taken = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    return eqx.combine(params, static), np.median(seconds), taken / 2**20


def draw(table: list, path: str) -> None:
    """Accuracies, and a corner of one matrix of both nets."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 1 + len(table), figsize=(9, 3))
    axes[0].bar([row["name"] for row in table], [row["right"] for row in table], color="#0072B2")
    axes[0].set(ylim=(0, 1), ylabel="test accuracy", title="Digits, read row by row")
    for axis, row in zip(axes[1:], table, strict=True):
        corner = np.abs(np.asarray(row["net"].blocks.hidden.weight[0])[:32, :32])
        axis.imshow(np.where(corner == 0, np.nan, corner), cmap="viridis")
        axis.set(title=f"{row['name']}: 32 x 32 weights", xticks=[], yticks=[])
        axis.title.set_fontsize("small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--quick", action="store_true", help="a smaller net, fewer steps")
    options = parser.parse_args()
    layers, width, steps = options.layers, options.width, options.steps
    if options.quick:
        layers, width, steps = 2, 64, 300

    X, y = load_digits(return_X_y=True)
    split = train_test_split(X / 16, y, test_size=0.3, random_state=0, stratify=y)
    X_train, X_test = (jnp.asarray(part, "f4").reshape(-1, 8, 8) for part in split[:2])
    y_train, y_test = (jnp.asarray(part, "i4") for part in split[2:])

    start = Transformer(layers, width, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(start, eqx.is_inexact_array)))
    adam = optax.adamw(optax.cosine_decay_schedule(2e-3, steps))
    constraint = Sparsity(options.sparsity, where=matrices, end_step=steps // 2)
    table = []
    for name, optimizer in {"dense": adam, "sparse": constrained(adam, constraint)}.items():
        net, seconds, megabytes = train(start, optimizer, X_train, y_train, steps, seed=0)
        right = float((jax.vmap(net)(X_test).argmax(axis=1) == y_test).mean())
        weights = np.concatenate([np.asarray(W).ravel() for W in matrices(net)])
        table.append({"name": name, "net": net, "right": right, "zeros": np.mean(weights == 0)})
        table[-1] |= {"ms": 1e3 * seconds, "megabytes": megabytes}

    print(f"A transformer of {layers} layers, {size:,} parameters, {steps} steps\n")
    print("         zero weights  accuracy  ms a step  MB a step")
    for row in table:
        print(
            f"{row['name']:>7s}  {row['zeros']:12.1%}  {row['right']:8.4f}  {row['ms']:9.1f}  "
            f"{row['megabytes']:9.0f}"
        )
    copies = (table[1]["megabytes"] - table[0]["megabytes"]) * 2**20 / (4 * size)
    print(f"\nBeside the dense step: {copies:.1f} copies of the parameters more")
    draw(table, "sparse_transformer.png")
    print("Picture: sparse_transformer.png")
    assert table[1]["zeros"] >= options.sparsity - 1e-3
    if steps >= 300:  # fewer teach neither net
        assert table[1]["right"] >= table[0]["right"] - 0.08
