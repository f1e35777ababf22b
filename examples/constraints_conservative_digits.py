"""A score model of handwritten digits that is the gradient of a density, and what it draws.

    python examples/constraints_conservative_digits.py
    python examples/constraints_conservative_digits.py --quick

Question: a network that takes noise off 8 x 8 images is the score of their density, if its Jacobian
is symmetric. What holds it symmetric at images that were not seen? Four ways: plain training; a
penalty on the asymmetry; `Conservative` at random probes of every batch; and a constraint on the
weights, that the outer ones of a hidden unit are parallel to its inner ones, which makes the
Jacobian symmetric everywhere (as the tied weights of a denoising autoencoder do, Vincent 2011).
Saves conservative_digits.png with samples; the last lines check the result.

Answer: the constraint on the weights, to rounding, at the plain net's loss (0.499 and 0.493). The
penalty halves the asymmetry at the price of the loss; probes of a batch say nothing of other
images.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import gplsq
from gplsq.constraints import Conservative, Constraint, constrained

SPREAD, LEAST, MOST = 0.5, 0.05, 5.0  # of pixels; of noise in training
BATCH, CONSTRAINED = 256, 16
HIDDEN = 512
LOOSE = gplsq.LSMR(rtol=1e-2, max_steps=10)  # the next step corrects what is left
WAYS = ("plain", "penalty", "constraint at probes", "constraint on weights")


class Denoiser(eqx.Module):
    """What is under the noise, one hidden layer, with the scalings of Karras et al. (2022).

    It starts with a symmetric Jacobian; units of both signs, else the potential would be convex.
    """

    inner: jax.Array
    outer: jax.Array
    of_noise: jax.Array
    bias: jax.Array

    def __init__(self, key: jax.Array, hidden: int = HIDDEN):
        of_inner, of_noise = jax.random.split(key)
        self.inner = jax.random.normal(of_inner, (hidden, 64)) / 8
        signs = jnp.where(jnp.arange(hidden) % 2 == 0, 1.0, -1.0)
        self.outer = (64 / hidden) ** 0.5 * signs * self.inner.T
        self.of_noise = jax.random.normal(of_noise, (hidden, 4))
        self.bias = jnp.zeros(64)

    def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        total = noise**2 + SPREAD**2
        level = jnp.log(noise)
        features = jnp.stack([jnp.ones_like(level), level, jnp.sin(level), jnp.cos(level)])
        hidden = jax.nn.softplus(self.inner @ x / total**0.5 + self.of_noise @ features)
        change = self.outer @ hidden + self.bias
        return SPREAD**2 / total * x + noise * SPREAD / total**0.5 * change

    def score(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        """Gradient of the logarithm of the density of noisy images (Tweedie's formula)."""
        return (self(x, noise) - x) / noise**2


def apart(model):
    """The part of every unit's outer weights that is not parallel to its inner ones."""
    length = jnp.linalg.norm(model.inner, axis=1, keepdims=True)
    along = model.inner / length
    outer = model.outer.T
    return outer - jnp.sum(outer * along, axis=1, keepdims=True) * along


def noisy(key, images, num):
    """Images, the same with noise, and its standard deviations."""
    of_rows, of_level, of_noise = jax.random.split(key, 3)
    clean = images[jax.random.randint(of_rows, (num,), 0, len(images))]
    level = jax.random.uniform(of_level, (num,), minval=jnp.log(LEAST), maxval=jnp.log(MOST))
    noise = jnp.exp(level)
    return clean, clean + noise[:, None] * jax.random.normal(of_noise, clean.shape), noise


def matching_loss(model, key, images, num):
    """Denoising score matching (Vincent 2011), weighted so that all levels count alike."""
    clean, dirty, noise = noisy(key, images, num)
    off = jax.vmap(model)(dirty, noise) - clean
    weight = (noise**2 + SPREAD**2) / (noise * SPREAD) ** 2
    return jnp.mean(weight * jnp.mean(off**2, axis=1))


def asymmetry(model, key, images):
    """Root mean square of the antisymmetric part of the score's Jacobian, relative to the whole."""
    _, dirty, noise = noisy(key, images, 300)
    J = jax.vmap(jax.jacfwd(model.score))(dirty, noise)
    J = J * noise[:, None, None] ** 2  # no level outweighs the others
    apart = jnp.sqrt(jnp.sum((J - jnp.swapaxes(J, 1, 2)) ** 2)) / 2
    return float(apart / jnp.sqrt(jnp.sum(J**2)))


def optimizer_of(way, steps):
    """Adam, alone or under a constraint."""
    adam = optax.adam(optax.cosine_decay_schedule(4e-3, steps))
    if way == "plain":
        return optax.with_extra_args_support(adam)
    if way == "constraint on weights":
        return constrained(adam, Constraint(apart), solver=LOOSE)

    def change(model, row):
        """As the score, times the variance of the noise, of which no derivative is wanted."""
        x, noise = row[:-1], jnp.exp(jax.lax.stop_gradient(row[-1]))
        return jnp.append(model(x, noise), 0.0)

    probes = Conservative(change, probes=1)
    if way == "penalty":
        return constrained(adam, probes, method="penalty", penalty=1.0)
    return constrained(adam, probes, solver=LOOSE)


def train(way, images, seed, steps):
    """The trained model."""
    start, training = jax.random.split(jax.random.key(seed))
    optimizer = optimizer_of(way, steps)

    def step(carry, key):
        model, state = carry
        of_loss, of_rows, of_probes = jax.random.split(key, 3)
        gradient = jax.grad(matching_loss)(model, of_loss, images, BATCH)
        extra = {}
        if way in ("penalty", "constraint at probes"):
            _, dirty, noise = noisy(of_rows, images, CONSTRAINED)
            rows = jnp.concatenate([dirty, jnp.log(noise)[:, None]], axis=1)
            extra["constraint_batch"] = rows, of_probes
        updates, state = optimizer.update(gradient, state, model, **extra)
        return (optax.apply_updates(model, updates), state), None

    @jax.jit
    def run(model, state):
        return jax.lax.scan(step, (model, state), jax.random.split(training, steps))[0][0]

    model = Denoiser(start)
    return run(model, optimizer.init(model))


def samples(model, key, num):
    """Images from noise along the probability flow, by Heun's method (Karras et al. 2022)."""
    levels = jnp.geomspace(MOST, LEAST, 60)

    def step(x, pair):
        high, low = pair
        slope = -high * jax.vmap(model.score, (0, None))(x, high)
        there = x + (low - high) * slope
        other = -low * jax.vmap(model.score, (0, None))(there, low)
        return x + (low - high) * (slope + other) / 2, None

    x = MOST * jax.random.normal(key, (num, 64))
    x, _ = jax.lax.scan(step, x, (levels[:-1], levels[1:]))
    return jax.vmap(model, (0, None))(x, levels[-1])


def compare(seed, steps, ways=WAYS):
    """Models and figures, a line for each way."""
    X = load_digits().data / 16
    X = jnp.asarray((X - X.mean()) / X.std() * SPREAD, jnp.float32)
    X = X[jax.random.permutation(jax.random.key(seed), len(X))]
    seen, unseen = X[:1437], X[1437:]
    found = {}
    for way in ways:
        began = time.perf_counter()
        model = jax.block_until_ready(train(way, seen, seed, steps))
        found[way] = {
            "seconds": time.perf_counter() - began,
            "model": model,
            "asymmetry": asymmetry(model, jax.random.key(7), unseen),
            "loss": float(matching_loss(model, jax.random.key(8), unseen, 20_000)),
        }
    return found


def draw(found, path):
    """Samples of every model from the same noise."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(3 * len(found), 3.6), layout="constrained")
    for axis, (way, line) in zip(axes, found.items(), strict=True):
        images = samples(line["model"], jax.random.key(3), 36).reshape(6, 6, 8, 8)
        images = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=jnp.nan)
        axis.imshow(images.swapaxes(1, 2).reshape(60, 60), cmap="gray_r", vmin=-0.5, vmax=1.0)
        axis.set(title=f"{way}\nasymmetry {line['asymmetry']:.0e}", xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--quick", action="store_true", help="150 steps, no penalty")
    options = parser.parse_args()
    ways = [way for way in WAYS if not (options.quick and way == "penalty")]
    found = compare(0, 150 if options.quick else options.steps, ways)
    print(f"{'':>22s}  asymmetry at unseen images  held-out loss  seconds")
    for way, line in found.items():
        print(
            f"{way:>22s}  {line['asymmetry']:26.1e}  {line['loss']:13.4f}  {line['seconds']:7.1f}"
        )
    draw(found, "conservative_digits.png")
    print("Picture: conservative_digits.png")
    plain, tied = found["plain"], found["constraint on weights"]
    assert plain["asymmetry"] > 100 * tied["asymmetry"]
    assert tied["loss"] < (1.5 if options.quick else 1.1) * plain["loss"]
