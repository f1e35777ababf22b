"""Can a network learn features from which ten points tell a whole function?

    python examples/layer_in_a_network.py
    python examples/layer_in_a_network.py --quick

Functions are sines of random height, phase and frequency, seen at ten noisy points. A small network
makes features of x; the last layer is a ridge regression on the ten points, solved by `lstsq` anew
for each function. The loss is the error elsewhere on the function: its gradient goes through the
solve into the features and the penalty, so the network learns features that suit the solve. The
peer is the same network with an ordinary last layer, trained by Adam on as many functions and then
tuned to the ten points by Adam. Saves layer_in_a_network.png; the last lines check the result.

Answer: yes. New functions are off by 0.09 on average where the noise is 0.1, and by 0.28 where the
last layer is tuned to the ten points by steps instead.

Ridge regression as the last layer of a network that learns from few examples: Bertinetto,
Henriques, Torr & Vedaldi, "Meta-learning with differentiable closed-form solvers", ICLR 2019.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gplsq import lstsq

NOISE, GIVEN, ELSEWHERE, FUNCTIONS, WIDTH = 0.1, 10, 20, 32, 40


def functions(key, number, grid=None):
    """x and y of noisy points on random sines: (number, points) each; on a grid without noise."""
    keys = jax.random.split(key, 5)
    height = jax.random.uniform(keys[0], (number, 1), minval=0.5, maxval=2.0)
    phase = jax.random.uniform(keys[1], (number, 1), maxval=2 * np.pi)
    frequency = jax.random.uniform(keys[2], (number, 1), minval=0.8, maxval=1.2)
    x = jax.random.uniform(keys[3], (number, GIVEN + ELSEWHERE), minval=-4.0, maxval=4.0)
    noise = NOISE * jax.random.normal(keys[4], x.shape)
    data = x, height * jnp.sin(frequency * x + phase) + noise
    return data if grid is None else (*data, height * jnp.sin(frequency * grid + phase))


class RidgeNet(eqx.Module):
    """Features and the logarithm of the damping; the weights of the last layer are solved for."""

    features: eqx.nn.MLP
    log_damp: jax.Array

    def __init__(self, key):
        self.features = eqx.nn.MLP(1, WIDTH, WIDTH, 2, activation=jnp.tanh, key=key)
        self.log_damp = jnp.zeros(())

    def predict(self, x, y, x_new):
        """Predictions at x_new of the function through the points (x, y)."""
        rows = jax.vmap(self.features)
        weights = lstsq(rows(x[:, None]), y, damp=jnp.exp(self.log_damp)).value
        return rows(x_new[:, None]) @ weights

    def loss(self, x, y):
        """Squared error at the points that were not given."""
        predicted = jax.vmap(self.predict)(x[:, :GIVEN], y[:, :GIVEN], x[:, GIVEN:])
        return jnp.mean((predicted - y[:, GIVEN:]) ** 2)


class PlainNet(eqx.Module):
    """The same features, and a last layer that is trained like the rest."""

    features: eqx.nn.MLP
    last: eqx.nn.Linear

    def __init__(self, key):
        self.features = eqx.nn.MLP(1, WIDTH, WIDTH, 2, activation=jnp.tanh, key=key)
        self.last = eqx.nn.Linear(WIDTH, "scalar", key=jax.random.fold_in(key, 1))

    def predict(self, x):
        """Predictions at x, shape (m,)."""
        return jax.vmap(lambda point: self.last(self.features(point)))(x[:, None])

    def loss(self, x, y):
        """Squared error at all points of all functions."""
        return jnp.mean((jax.vmap(self.predict)(x) - y) ** 2)


def train(net, steps: int):
    """The net after `steps` of Adam, each on 32 new functions, and the losses."""
    params, static = eqx.partition(net, eqx.is_inexact_array)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def step(carry, key):
        params, state = carry
        x, y = functions(key, FUNCTIONS)
        loss, gradient = jax.value_and_grad(lambda p: eqx.combine(p, static).loss(x, y))(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), loss

    @jax.jit
    def run(params, keys):
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)

    (params, _), losses = run(params, jax.random.split(jax.random.key(1), steps))
    return eqx.combine(params, static), np.asarray(losses)


@eqx.filter_jit
def tuned_predictions(net: PlainNet, x, y, grid, steps: int = 300):
    """Predictions on the grid after every ten steps of Adam on the points of one function."""
    params, static = eqx.partition(net, eqx.is_inexact_array)
    optimizer = optax.adam(3e-3)

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda p: jnp.mean((eqx.combine(p, static).predict(x) - y) ** 2))(
            params
        )
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    def ten(carry, _):
        carry, _ = jax.lax.scan(step, carry, length=10)
        return carry, eqx.combine(carry[0], static).predict(grid)

    return jax.lax.scan(ten, (params, optimizer.init(params)), length=steps // 10)[1]


def draw(losses, grid, examples: list[tuple], path: str) -> None:
    """The loss of the net with a solved layer, and three new functions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(14, 4), layout="constrained")
    smooth = losses[: len(losses) // 10 * 10].reshape(-1, 10).mean(axis=1)
    axes[0].plot(10 * np.arange(1, len(smooth) + 1), np.sqrt(smooth), color="#0072B2")
    axes[0].axhline(NOISE, color="grey", lw=1, ls=":", label="noise")
    axes[0].set(xlabel="step", ylabel="RMSE off the given points", title="Training through lstsq")
    axes[0].legend()
    for axis, (x, y, truth, solved, tuned) in zip(axes[1:], examples, strict=True):
        axis.plot(grid, truth, color="black", lw=1, label="truth")
        axis.plot(grid, solved, color="#0072B2", lw=2, label="last layer solved")
        axis.plot(grid, tuned, color="#D55E00", lw=1.5, label="tuned by Adam")
        axis.plot(x, y, "o", color="black", ms=4, label="given")
        axis.set(xlabel="x", title="A new function")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=4)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train both nets and compare them on new functions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args()
    steps = 400 if options.quick else 3000
    ridge, losses = train(RidgeNet(jax.random.key(0)), steps)
    plain, _ = train(PlainNet(jax.random.key(0)), steps)

    grid = jnp.linspace(-4, 4, 100)
    x, y, truth = functions(jax.random.key(2), 100, grid)
    x, y = x[:, :GIVEN], y[:, :GIVEN]
    solved = jax.jit(jax.vmap(ridge.predict, (0, 0, None)))(x, y, grid)
    tuned = jax.vmap(tuned_predictions, (None, 0, 0, None))(plain, x, y, grid)
    # The peer gets the number of steps that is best on these functions, which it could not know.
    errors = jnp.sqrt(jnp.mean((tuned - truth[:, None]) ** 2, axis=(0, 2)))
    best = int(errors.argmin())
    untuned = plain.predict(grid)
    rows = {
        "not tuned to the points": float(jnp.sqrt(jnp.mean((untuned - truth) ** 2))),
        f"tuned by {10 * (best + 1)} steps of Adam": float(errors[best]),
        "last layer solved": float(jnp.sqrt(jnp.mean((solved - truth) ** 2))),
    }
    print(f"100 new functions from {GIVEN} points each (noise {NOISE}); RMSE on a grid\n")
    for name, error in rows.items():
        print(f"{name:>28s}  {error:.3f}")
    print(f"\nDamping that was learnt: {float(jnp.exp(ridge.log_damp)):.3f} (start 1)")
    parts = [np.asarray(part) for part in (x, y, truth, solved, tuned[:, best])]
    shown = list(zip(*(part[:3] for part in parts), strict=True))
    draw(losses, grid, shown, "layer_in_a_network.png")
    print("\nPicture: layer_in_a_network.png")
    without, by_adam, by_solve = rows.values()
    assert by_solve < 0.5 * by_adam < 0.5 * without


if __name__ == "__main__":
    main()
