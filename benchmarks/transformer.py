"""What does a constrained step cost a transformer of 50 million parameters?

    python benchmarks/transformer.py
    python benchmarks/transformer.py --layers 2 --width 128 --repeat 5     # a quick look

A decoder (equinox) on sequences of random tokens, cross-entropy of the next one, AdamW, float32.
Constraints: 90 % sparsity of all matrices; and 32 residuals of a mini-batch, the mean logit
difference between a sequence and the same sequence with two tokens of its prefix exchanged, on half
of the loss's sequences. Every way runs in a process of its own; "ratio" is the median time of a
step against that of AdamW alone; "MB more" what the compiled step takes (arguments and temporaries)
beyond that of AdamW alone, in copies of the parameters in brackets.

Not measured: GPUs, mixed precision, training to the end.
"""

import argparse
import json
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _harness import environment, in_own_process, print_table, progress

import gplsq
from gplsq.constraints import Constraint, Sparsity, constrained

VOCABULARY, RESIDUALS = 256, 32


class Block(eqx.Module):
    """Pre-norm attention and a network of one hidden layer."""

    norms: list
    attention: eqx.nn.MultiheadAttention
    layers: list

    def __init__(self, width, key):
        a, b, c = jax.random.split(key, 3)
        self.norms = [eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)]
        self.attention = eqx.nn.MultiheadAttention(width // 32, width, key=a)
        hidden = 4 * width
        self.layers = [
            eqx.nn.Linear(width, hidden, key=b),
            eqx.nn.Linear(hidden, width, key=c),
        ]

    def __call__(self, x, mask):
        inside = jax.vmap(self.norms[0])(x)
        x = x + self.attention(inside, inside, inside, mask=mask)
        inside = jax.vmap(self.layers[0])(jax.vmap(self.norms[1])(x))
        return x + jax.vmap(self.layers[1])(jax.nn.gelu(inside))


class Transformer(eqx.Module):
    """Tokens to logits of the next token."""

    embedding: jax.Array
    position: jax.Array
    blocks: Block  # of all layers, stacked
    head: eqx.nn.Linear

    def __init__(self, layers, width, length, key):
        a, b, c, d = jax.random.split(key, 4)
        self.embedding = jax.random.normal(a, (VOCABULARY, width)) * 0.02
        self.position = jax.random.normal(b, (length, width)) * 0.02
        self.blocks = eqx.filter_vmap(lambda k: Block(width, k))(jax.random.split(c, layers))
        self.head = eqx.nn.Linear(width, VOCABULARY, key=d)

    def __call__(self, tokens):
        x = self.embedding[tokens] + self.position
        mask = jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        x, _ = jax.lax.scan(lambda x, layer: (eqx.combine(layer, static)(x, mask), None), x, arrays)
        return jax.vmap(self.head)(x)


LOOSE = gplsq.LSMR(rtol=0.1, max_steps=5)
WAYS = {
    "AdamW alone": lambda adam, few: adam,
    "90 % sparsity": lambda adam, few: constrained(adam, Sparsity(0.9)),
    "32 residuals, two solves": lambda adam, few: constrained(adam, few, solver=LOOSE),
    "32 residuals, one solve": lambda adam, few: constrained(
        adam, few, solver=LOOSE, projection="metric"
    ),
}


def run_one(way: str, layers: int, width: int, batch: int, length: int, repeat: int) -> None:
    """Steps of one way; prints a record."""
    model = Transformer(layers, width, length, jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    del model
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, VOCABULARY, (batch, length + 1)))

    def logits(params, tokens):
        return jax.vmap(eqx.combine(params, static))(tokens)

    def loss(params, tokens):
        scores = optax.softmax_cross_entropy_with_integer_labels(
            logits(params, tokens[:, :-1]), tokens[:, 1:]
        )
        return scores.mean()

    def exchanged(params, tokens):
        """A quarter of the sequences as they are and with two tokens exchanged: half of all."""
        plain = tokens[:, :-1]
        other = plain.at[:, jnp.array([0, 1])].set(plain[:, jnp.array([1, 0])])
        both = logits(params, jnp.concatenate([plain, other]))
        difference = (both[: len(plain)] - both[len(plain) :])[:, -1]
        return difference.reshape(RESIDUALS, -1).mean(axis=1)

    quarter = tokens[: batch // 4]
    few = Constraint(exchanged, batch_like=quarter)
    optimizer = WAYS[way](optax.adamw(1e-4), few)
    more = {"constraint_batch": quarter} if "residuals" in way else {}
    state = optimizer.init(params)

    @eqx.filter_jit(donate="all")
    def step(params, state):
        gradient = jax.grad(loss)(params, tokens)
        updates, state = optimizer.update(gradient, state, params, **more)
        return optax.apply_updates(params, updates), state

    began = time.perf_counter()
    step = step.lower(params, state).compile()
    compiled = time.perf_counter() - began
    memory = step.compiled.memory_analysis()
    params, state = jax.block_until_ready(step(params, state))
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        params, state = jax.block_until_ready(step(params, state))
        times.append(time.perf_counter() - began)
    record = {
        "parameters": count,
        "seconds": float(np.median(times)),
        "first": compiled,
        "megabytes": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**20,
        "loss": float(loss(params, tokens)),
    }
    if way != "AdamW alone":
        report = state.report
        record |= {
            "before": float(report.violation_before),
            "after": float(report.violation_after),
            "steps": int(report.num_steps),
        }
    print(json.dumps(record))


def main() -> None:
    """Every way in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [options.layers, options.width, options.batch, options.length, options.repeat]
    if options.one:
        run_one(options.one, *sizes)
        return
    flags = ["--layers", "--width", "--batch", "--length", "--repeat"]
    records = {}
    for way in WAYS:
        command = ["-W", "ignore", __file__, "--one", way]
        for flag, size in zip(flags, sizes, strict=True):
            command += [flag, str(size)]
        records[way] = in_own_process(*command)
        progress(way, records[way])
    print(environment())
    alone = records["AdamW alone"]
    copy = alone["parameters"] * 4 / 2**20
    table = []
    for way, record in records.items():
        more = record["megabytes"] - alone["megabytes"]
        violation = f"{record['before']:.1e}, {record['after']:.1e}" if "before" in record else ""
        table.append(
            [
                way,
                f"{record['seconds']:.2f}",
                f"{record['seconds'] / alone['seconds']:.1f}",
                f"{more:.0f} ({more / copy:.1f})",
                violation,
                str(record.get("steps", "")),
                f"{record['first']:.0f}",
            ]
        )
    print(f"{alone['parameters']:,} parameters, {copy:.0f} MB a copy")
    head = ["a step of", "s", "ratio", "MB more (copies)", "violation before, after"]
    print_table([*head, "solver steps", "s to compile"], table)


if __name__ == "__main__":
    main()
