"""A differential equation solved by a net whose boundary values are a hard constraint.

    python examples/constraints_boundary_condition.py
    python examples/constraints_boundary_condition.py --steps 4000
    python examples/constraints_boundary_condition.py --quick

Question: Poisson's equation on the unit square, with given values on its edges. Is the solution
better with the values as a constraint than with a penalty on them, whatever its weight?

Answer: yes. A small weight leaves the edges loose, a large one drowns the equation; the constraint
has edges ten times tighter than the best of them, and an error below it. The net cannot meet 60
values to the last digit at once, since many of them say almost the same: a damped, loose solve
corrects what matters at every step and leaves the rest for the next. Saves boundary_condition.png;
the last lines check the result.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gplsq.constraints import Constraint, check_constraint, constrained
from gplsq.solvers import LSMR


def solution(point):
    """What is to be found, and gives the values on the edges."""
    x, y = point
    return jnp.exp(x) * jnp.sin(jnp.pi * y) + 0.5 * jnp.cos(3 * x * y)


def right_hand_side(point):
    """Its Laplacian."""
    x, y = point
    smooth = (1 - jnp.pi**2) * jnp.exp(x) * jnp.sin(jnp.pi * y)
    return smooth - 4.5 * (x**2 + y**2) * jnp.cos(3 * x * y)


def laplacian(u, point):
    """The sum of second derivatives of a function of a point."""
    return jnp.trace(jax.hessian(u)(point))


def edges(num):
    """Points on the four edges, `num` on each."""
    t, zeros, ones = (jnp.arange(num) + 0.5) / num, jnp.zeros(num), jnp.ones(num)
    sides = [(t, zeros), (t, ones), (zeros, t), (ones, t)]
    return jnp.concatenate([jnp.stack(side, axis=1) for side in sides])


def network() -> eqx.nn.MLP:
    """Two hidden layers of 32, the first with larger weights: smooth features tell less apart."""
    net = eqx.nn.MLP(2, "scalar", 32, 2, jnp.tanh, key=jax.random.key(0))
    return eqx.tree_at(lambda net: net.layers[0].weight, net, 4 * net.layers[0].weight)


def rms(values) -> float:
    """Root mean square."""
    return float(jnp.sqrt(jnp.mean(values**2)))


def train(optimizer, steps):
    """The net, its equation's residual least squares at fresh random points of every step."""
    params, static = eqx.partition(network(), eqx.is_inexact_array)

    def loss(params, points):
        net = eqx.combine(params, static)
        left = jax.vmap(lambda p: laplacian(net, p) - right_hand_side(p))(points)
        return jnp.mean(left**2)

    def step(carry, key):
        params, state = carry
        gradient = jax.grad(loss)(params, jax.random.uniform(key, (128, 2)))
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params, state):
        return jax.lax.scan(step, (params, state), jax.random.split(jax.random.key(1), steps))[0]

    params, _ = run(params, optimizer.init(params))
    return eqx.combine(params, static)


@eqx.filter_jit
def errors(net, points):
    """Of the net, at points."""
    return jax.vmap(net)(points) - jax.vmap(solution)(points)


def draw(table: dict, path: str) -> None:
    """The solution, and errors on the square and along its edges."""
    import matplotlib.pyplot as plt

    grid = jnp.linspace(0, 1, 81)
    points = jnp.stack(jnp.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    penalties = [way for way in table if way != "constraint"]
    best = min(penalties, key=lambda way: table[way]["error"])
    figure, axes = plt.subplots(
        1, 4, figsize=(14, 3.4), width_ratios=[1, 1, 1, 1.4], layout="constrained"
    )
    image = axes[0].pcolormesh(grid, grid, jax.vmap(solution)(points).reshape(81, 81))
    axes[0].set_title("Solution")
    figure.colorbar(image, ax=axes[0])
    found = {way: errors(table[way]["net"], points).reshape(81, 81) for way in (best, "constraint")}
    limit = float(jnp.abs(found[best]).max())
    for axis, (way, error) in zip(axes[1:], found.items(), strict=False):
        image = axis.pcolormesh(grid, grid, error, cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set_title(f"Error, {way}")
    figure.colorbar(image, ax=axes[1:3])
    for axis in axes[:3]:
        axis.set(aspect="equal", xticks=[0, 1], yticks=[0, 1])
    around = edges(200)
    for way, color in ((best, "#0072B2"), ("constraint", "#D55E00")):
        error = jnp.abs(errors(table[way]["net"], around)) + 1e-9
        axes[3].plot(np.arange(800) / 200, error, color=color, lw=1, label=way)
    axes[3].set(yscale="log", xlabel="along the edges", title="Error on the edges", xlim=(0, 4))
    axes[3].set_xticks([0.5, 1.5, 2.5, 3.5], ["bottom", "top", "left", "right"])
    axes[3].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--weights", type=float, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--quick", action="store_true", help="200 steps, one weight")
    options = parser.parse_args()
    steps, weights = options.steps, options.weights
    if options.quick:
        steps, weights = 200, [1000]
    known = edges(15)
    params, static = eqx.partition(network(), eqx.is_inexact_array)
    values = jax.vmap(solution)(known)
    boundary = Constraint(lambda p: jax.vmap(eqx.combine(p, static))(known) - values)
    adam = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    if not options.quick:
        print(check_constraint(boundary, params).report() + "\n")
    ways = {
        # A penalty is weight / 2 times a sum, the weight here that of the mean square.
        f"penalty {weight:g}": constrained(
            adam, boundary, method="penalty", penalty=2 * weight / len(known)
        )
        for weight in weights
    }
    ways["constraint"] = constrained(
        adam,
        boundary,
        damp=optax.linear_schedule(0.1, 0.01, steps),
        solver=LSMR(rtol=1e-2, max_steps=10),
        rank_every=0,
    )
    inside = jax.random.uniform(jax.random.key(2), (4000, 2))
    exact = jax.vmap(solution)(inside)
    spread, table = rms(exact - exact.mean()), {}
    print(f"{'':>14s}  relative error  error on the edges, between the points  seconds")
    for way, optimizer in ways.items():
        began = time.perf_counter()
        net = train(optimizer, steps)
        seconds = time.perf_counter() - began
        error, edge = rms(errors(net, inside)) / spread, rms(errors(net, edges(200)))
        table[way] = {"error": error, "edge": edge, "net": net}
        print(f"{way:>14s}  {error:14.1e}  {edge:38.1e}  {seconds:7.1f}", flush=True)
    draw(table, "boundary_condition.png")
    print("\nPicture: boundary_condition.png")
    hard = table.pop("constraint")
    assert hard["edge"] < min(run["edge"] for run in table.values()) / 4
    assert hard["error"] < min(run["error"] for run in table.values())
