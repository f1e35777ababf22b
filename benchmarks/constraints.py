"""Do constrained optimisers keep the constraint, reach the constrained optimum, and at what cost?

    python benchmarks/constraints.py linear
    python benchmarks/constraints.py step
    python benchmarks/constraints.py periodic --seeds 1

`linear`: a quadratic loss under linear equations, 300 steps in float32. `step`: the time of a step
of a classifier against that of the optimiser alone. `periodic`: the sine on [-pi, pi] with
periodicity at 2,000 points as an over-determined constraint (2-layer tanh MLP, 321 parameters).
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _harness import environment, print_table

import gplsq
from gplsq.constraints import Constraint, Orthogonality, Sparsity, UnitNorm, constrained


def linear() -> None:
    """Violation and projected gradient at the end, by explicit projector in float64."""
    rng = np.random.default_rng(0)
    n, p, steps = 6, 2, 300
    A, b = rng.standard_normal((p, n)).astype("f4"), rng.standard_normal(p).astype("f4")
    H, target = rng.uniform(0.3, 3, n).astype("f4"), rng.standard_normal(n).astype("f4")
    constraint = Constraint(lambda w: A @ w - b)
    projector = np.eye(n) - np.linalg.pinv(A.astype(float)) @ A
    decay = optax.cosine_decay_schedule(0.3, steps)
    optimizers = {"SGD": optax.sgd(0.3), "Adam": optax.adam(decay), "AdamW": optax.adamw(decay)}
    rows = []
    for name, optimizer in optimizers.items():
        wrapped = {
            "constrained": constrained(optimizer, constraint),
            "constrained, one solve": constrained(optimizer, constraint, projection="metric"),
        }
        for way, transform in wrapped.items():
            if name == "SGD" and "one" in way:
                continue

            def step(carry, _, transform=transform):
                w, state = carry
                updates, state = transform.update(H * (w - target), state, w)
                return (w + updates, state), jnp.linalg.norm(A @ (w + updates) - b)

            w = jnp.zeros(n, "f4")
            run = jax.jit(lambda s, step=step: jax.lax.scan(step, s, None, length=steps))
            (w, _), violations = run((w, transform.init(w)))
            slope = np.abs(projector @ (H * (np.asarray(w, float) - target))).max()
            worst = float(violations[1:].max()) / np.linalg.norm(b)
            rows.append([name, way, f"{worst:.1e}", f"{slope:.1e}"])
    print_table(["optimiser", "way", "worst relative violation", "projected gradient"], rows)


def step_time() -> None:
    """Seconds of a step, medians, optimisers in turns."""
    model = eqx.nn.MLP(784, 10, 300, 2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    x = jax.random.normal(jax.random.key(1), (256, 784))
    y = jax.random.randint(jax.random.key(2), (256,), 0, 10)
    half = x[:128]

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    def mirrored(params):
        logits = apply(params, half[:32])
        return (logits - apply(params, half[:32, ::-1])).mean(axis=1)

    adam = optax.adam(1e-3)
    loose = gplsq.LSMR(rtol=1e-2, max_steps=10)
    few = Constraint(mirrored)
    ways = {
        "Adam alone": adam,
        "90 % sparsity": constrained(adam, Sparsity(0.9)),
        "300 unit rows, LSMR": constrained(adam, UnitNorm(lambda m: m.layers[1].weight)),
        "orthogonal output layer (55 residuals), factorised": constrained(
            adam, Orthogonality(lambda m: m.layers[2].weight)
        ),
        "32 residuals of images, factorised": constrained(adam, few, solver=gplsq.Direct()),
        "32 residuals of images, LSMR 1e-2": constrained(adam, few, solver=loose),
        "32 residuals of images, LSMR 1e-2, one solve": constrained(
            adam, few, solver=loose, projection="metric"
        ),
    }  # fmt: skip
    runs = {}
    for name, optimizer in ways.items():

        @jax.jit
        def step(params, state, optimizer=optimizer):
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        carry = jax.block_until_ready(step(params, optimizer.init(params)))
        runs[name] = step, carry, []
    for _ in range(15):
        for name, (step, carry, times) in runs.items():
            begin = time.perf_counter()
            carry = jax.block_until_ready(step(*carry))
            times.append(time.perf_counter() - begin)
            runs[name] = step, carry, times
    alone = np.median(runs["Adam alone"][2])
    rows = []
    for name, (_, carry, times) in runs.items():
        middle, after = np.median(times), ""
        if name != "Adam alone":
            after = f"{float(carry[1].report.violation_after):.1e}"
        rows.append([name, f"{1e3 * middle:.1f}", f"{middle / alone:.1f}", after])
    print_table(["one step of a 328,810-parameter MLP", "ms", "ratio", "violation"], rows)


def periodic(seeds: int, steps: int = 5000) -> None:
    """RMSE on [-3 pi, 3 pi] and RMS violation, strict and with adaptive damping."""
    x = jnp.linspace(-jnp.pi, jnp.pi, 500)
    wide = jnp.linspace(-3 * jnp.pi, 3 * jnp.pi, 1500)
    rows = []
    for seed in range(seeds):
        of_net, of_points = jax.random.split(jax.random.key(seed))
        net = eqx.nn.MLP("scalar", "scalar", 16, 2, jnp.tanh, key=of_net)
        start, static = eqx.partition(net, eqx.is_inexact_array)
        points = 4 * jax.random.normal(of_points, (2000,)) - 2 * jnp.pi

        def f(params, x, static=static):
            return jax.vmap(eqx.combine(params, static))(x)

        constraint = Constraint(
            lambda p, f=f, points=points: f(p, points + 2 * jnp.pi) - f(p, points)
        )
        late = 3 * steps // 5
        decay = optax.cosine_decay_schedule(3e-3, steps - late)
        adam = optax.adam(optax.join_schedules([optax.constant_schedule(3e-3), decay], [late]))
        loose = gplsq.LSMR(rtol=1e-2, max_steps=20)
        ways = {
            "strict": constrained(adam, constraint, solver=loose, warn=False),
            "adaptive": constrained(
                adam, constraint, damp="adaptive", tolerance=0.015, correction_rate=0.01,
                solver=loose, warn=False,
            ),
        }  # fmt: skip
        for way, optimizer in ways.items():

            def step(carry, _, optimizer=optimizer, f=f):
                params, state = carry
                gradient = jax.grad(lambda p: 0.5 * jnp.mean((f(p, x) - jnp.sin(x)) ** 2))(params)
                updates, state = optimizer.update(gradient, state, params)
                return (optax.apply_updates(params, updates), state), None

            run = jax.jit(lambda s, step=step: jax.lax.scan(step, s, None, length=steps)[0])
            begin = time.perf_counter()
            params, state = jax.block_until_ready(run((start, optimizer.init(start))))
            seconds = time.perf_counter() - begin
            error = float(jnp.sqrt(jnp.mean((f(params, wide) - jnp.sin(wide)) ** 2)))
            after = float(state.report.violation_after)
            rows.append([str(seed), way, f"{error:.3f}", f"{after:.4f}", f"{seconds:.0f}"])
    print_table(["seed", "way", "RMSE on [-3pi, 3pi]", "RMS violation", "s"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["linear", "step", "periodic"])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(environment() + "\n")
    if arguments.what == "linear":
        linear()
    elif arguments.what == "step":
        step_time()
    else:
        periodic(arguments.seeds)
