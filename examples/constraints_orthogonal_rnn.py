"""A recurrent net that remembers five symbols for 200 steps, its recurrent matrix kept orthogonal.

    python examples/constraints_orthogonal_rnn.py
    python examples/constraints_orthogonal_rnn.py --delay 300
    python examples/constraints_orthogonal_rnn.py --quick

Question: is it enough to *start* a recurrent matrix orthogonal, or should it stay so? The copying
task of Hochreiter & Schmidhuber (1997): five symbols, a long silence, a signal, the five symbols
again. The net is linear in time (Henaff et al. 2016), so that gradients shrink and grow as powers
of the matrix alone.

Answer: a start is enough at a small learning rate, where the matrix stays near by itself. At five
times that rate only the constraint learns: its gradients are as long at the first symbol as after
the silence, the others' a millionth. A random start learns at neither. Saves orthogonal_rnn.png;
the last lines check the result.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gplsq.constraints import Orthogonality, constrained

SYMBOLS, LENGTH, HIDDEN, BATCH = 8, 5, 64, 64
WAYS = ("random start", "orthogonal start", "constraint")


def sequences(key, num, delay):
    """Inputs (time, num, 10), one-hot: symbols, silence 0, a signal 9, silence; and the symbols."""
    symbols = jax.random.randint(key, (LENGTH, num), 1, SYMBOLS + 1)
    silence, signal = jnp.zeros((1, num), int), jnp.full((1, num), SYMBOLS + 1)
    parts = [symbols, silence.repeat(delay - 1, 0), signal, silence.repeat(LENGTH, 0)]
    return jax.nn.one_hot(jnp.concatenate(parts), SYMBOLS + 2), symbols - 1


def logits(params, inputs, shocks):
    """Of the last five steps. `shocks` are added to the hidden states, for gradients in these."""

    def step(h, arriving):
        h = h @ params["W"].T + arriving
        return h, h

    arriving = inputs @ params["U"].T + params["b"] + shocks
    hidden = jax.lax.scan(step, jnp.zeros(arriving.shape[1:]), arriving)[1]
    return hidden[-LENGTH:] @ params["V"].T + params["c"]


def loss_at(params, inputs, symbols, shocks=0.0):
    """Cross-entropy a symbol; log 8 = 2.08 for a guess."""
    found = logits(params, inputs, shocks)
    return optax.softmax_cross_entropy_with_integer_labels(found, symbols).mean()


def start(key, orthogonal):
    """Parameters; a random W has the entries' variance that an orthogonal one has."""
    of_W, of_U, of_V = jax.random.split(key, 3)
    W = jax.random.normal(of_W, (HIDDEN, HIDDEN)) / HIDDEN**0.5
    return {
        "W": jnp.linalg.qr(W)[0] if orthogonal else W,
        "U": 0.3 * jax.random.normal(of_U, (HIDDEN, SYMBOLS + 2)),
        "b": jnp.zeros(HIDDEN),
        "V": jax.random.normal(of_V, (SYMBOLS, HIDDEN)) / HIDDEN**0.5,
        "c": jnp.zeros(SYMBOLS),
    }


def train(way, rate, steps, delay):
    """Losses of all steps, and what is said of the trained net."""
    schedule = optax.cosine_decay_schedule(rate, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    if way == "constraint":
        # A step along the tangent leaves the curved set a little: two Newton corrections.
        optimizer = constrained(
            optimizer,
            Orthogonality(lambda params: params["W"]),
            restoration_steps=2,
            tolerance=1e-6,
            rank_every=0,
        )

    def step(carry, key):
        params, state = carry
        batch = sequences(key, BATCH, delay)
        loss, gradient = jax.value_and_grad(loss_at)(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        gram = jnp.matmul(params["W"].T, params["W"], precision="highest")
        return (params, state), (loss, jnp.abs(gram - jnp.eye(HIDDEN)).max())

    @jax.jit
    def run():
        params = start(jax.random.key(0), way != "random start")
        keys = jax.random.split(jax.random.key(1), steps)
        carry = params, optimizer.init(params)
        (params, _), (losses, departures) = jax.lax.scan(step, carry, keys)
        inputs, symbols = sequences(jax.random.key(2), 256, delay)
        shocks = jnp.zeros((*inputs.shape[:2], HIDDEN))
        loss, by_time = jax.value_and_grad(loss_at, 3)(params, inputs, symbols, shocks)
        right = jnp.all(logits(params, inputs, shocks).argmax(axis=2) == symbols, axis=0)
        return {
            "losses": losses,
            "loss": loss,
            "right": jnp.mean(right),
            "departure": departures.max(),
            "gradients": jnp.sqrt(jnp.mean(jnp.sum(by_time**2, axis=2), axis=1)),
        }

    return jax.tree.map(np.asarray, run())


def draw(table: dict, delay: int, path: str) -> None:
    """Losses, and lengths of gradients through time, a row of panels for each learning rate."""
    import matplotlib.pyplot as plt

    rates = sorted({rate for _, rate in table})
    colors = dict(zip(WAYS, ("0.5", "#0072B2", "#D55E00"), strict=True))
    size = (10, 0.6 + 2.8 * len(rates))
    figure, grid = plt.subplots(len(rates), 2, figsize=size, squeeze=False, layout="constrained")
    for (left, right), rate in zip(grid, rates, strict=True):
        for way in WAYS:
            if (way, rate) not in table:
                continue
            run = table[way, rate]
            blocks = run["losses"][: len(run["losses"]) // 10 * 10].reshape(-1, 10)
            at = 10 * np.arange(len(blocks)) + 5
            left.plot(at, np.median(blocks, axis=1), color=colors[way], label=way)
            gradients = run["gradients"]
            ends = gradients[LENGTH + delay - 1]
            right.plot(np.arange(len(gradients)), gradients / ends, color=colors[way], label=way)
        left.axhline(np.log(SYMBOLS), color="black", lw=0.8, ls=":", label="a guess")
        left.set(yscale="log", ylim=(1e-6, 20), xlabel="training step", ylabel="loss")
        left.set_title(f"Learning rate {rate:g}")
        right.axvspan(0, LENGTH, color="0.9", lw=0)
        right.axvspan(LENGTH + delay, 2 * LENGTH + delay, color="0.9", lw=0)
        right.set(yscale="log", xlabel="time in a sequence (shaded: symbols)")
        right.set(ylabel="length of the gradient", title="In the hidden state; 1 after the silence")
    grid[0, 0].legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=int, default=200)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 5e-3])
    parser.add_argument(
        "--quick", action="store_true", help="delay 50, 150 steps, the constraint alone"
    )
    options = parser.parse_args()
    delay, steps, rates, ways = options.delay, options.steps, options.rates, WAYS
    if options.quick:
        delay, steps, rates, ways = 50, 150, [1e-2], WAYS[2:]
    table = {(way, rate): train(way, rate, steps, delay) for rate in rates for way in ways}
    print(f"Five of {SYMBOLS} symbols after {delay} steps; {steps} steps of Adam; log 8 = 2.08\n")
    print(
        f"{'':>16s}  learning rate     loss  all right  worst |W'W - I|  "
        "gradient at the first symbol / after the silence"
    )
    for (way, rate), run in table.items():
        ratio = run["gradients"][0] / run["gradients"][LENGTH + delay - 1]
        print(
            f"{way:>16s}  {rate:13g}  {run['loss']:7.4f}  {run['right']:9.1%}  "
            f"{run['departure']:15.1e}  {ratio:.1e}"
        )
    draw(table, delay, "orthogonal_rnn.png")
    print("\nPicture: orthogonal_rnn.png")
    for rate in rates:
        run = table["constraint", rate]
        ratio = run["gradients"][0] / run["gradients"][LENGTH + delay - 1]
        assert run["departure"] < 3e-5
        assert 0.5 < ratio < 2
        assert run["right"] > 0.9
    if not options.quick and (options.delay, options.steps) == (200, 600):
        assert table["orthogonal start", max(rates)]["right"] < 0.5
