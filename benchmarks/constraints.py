"""Do constrained optimisers keep the constraint, reach the constrained optimum, and at what cost?

    python benchmarks/constraints.py linear --seeds 3
    python benchmarks/constraints.py inequalities
    python benchmarks/constraints.py step
    python benchmarks/constraints.py periodic --seeds 1

`linear`: a quadratic loss under linear equations, 300 steps in float32. `inequalities`: under
linear inequalities and a box, by each of the ways that there are. `step`: the time of a step of a
classifier against that of the optimiser alone. `periodic`: the sine on [-pi, pi] with periodicity
at 2,000 points as an over-determined constraint (2-layer tanh MLP, 321 parameters).
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from _harness import environment, print_table

import gplsq
from gplsq.constraints import (
    Box,
    Constraint,
    Linear,
    Orthogonality,
    Sparsity,
    UnitNorm,
    constrained,
    null_space,
)


def linear(seeds: int) -> None:
    """Violation and projected gradient at the end, by explicit projector in float64."""
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in range(seeds):
        for key, found in _linear_once(seed).items():
            figures.setdefault(key, []).append(found)
    rows = []
    for key, found in figures.items():
        middle, spread = np.mean(found, axis=0), np.std(found, axis=0)
        rows.append([*key, *(f"{m:.1e} ± {s:.0e}" for m, s in zip(middle, spread, strict=True))])
    print_table(["optimiser", "way", "worst relative violation", "projected gradient"], rows)


def _linear_once(seed: int) -> dict[tuple[str, str], tuple[float, float]]:
    """The two figures of every optimiser and way on one random problem."""
    rng = np.random.default_rng(seed)
    n, p, steps = 6, 2, 300
    A, b = rng.standard_normal((p, n)).astype("f4"), rng.standard_normal(p).astype("f4")
    H, target = rng.uniform(0.3, 3, n).astype("f4"), rng.standard_normal(n).astype("f4")
    constraint = Constraint(lambda w: A @ w - b)
    projector = np.eye(n) - np.linalg.pinv(A.astype(float)) @ A
    decay = optax.cosine_decay_schedule(0.3, steps)
    optimizers = {"SGD": optax.sgd(0.3), "Adam": optax.adam(decay), "AdamW": optax.adamw(decay)}
    project = null_space(constraint, correction_rate=0.0, warn=False)
    figures = {}
    for name, optimizer in optimizers.items():
        wrapped = {
            "constrained": constrained(optimizer, constraint),
            "constrained, one solve": constrained(optimizer, constraint, projection="metric"),
            "gradient projected only": optax.chain(project, optimizer),
            "update projected only": optax.chain(optimizer, null_space(constraint, warn=False)),
        }
        for way, transform in wrapped.items():
            if name == "SGD" and ("one" in way or "gradient" in way):
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
            figures[name, way] = worst, float(slope)
    return figures


def inequalities(steps: int = 400) -> None:
    """Violation and distance to the optimum that SciPy finds in float64."""
    rng = np.random.default_rng(0)
    n, p = 30, 12
    A, b = rng.standard_normal((p, n)).astype("f4"), np.abs(rng.standard_normal(p)).astype("f4")
    target = 2 * rng.standard_normal(n).astype("f4")
    rows_of = {"type": "ineq", "fun": lambda w: b - A @ w, "jac": lambda w: -A}
    best = scipy.optimize.minimize(
        lambda w: 0.5 * np.sum((w - target) ** 2), np.zeros(n), jac=lambda w: w - target,
        bounds=[(-1, 1)] * n, constraints=[rows_of], method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    ).x  # fmt: skip
    both = Linear(A, b, kind="inequality") + Box(-1, 1)
    decay = optax.cosine_decay_schedule(0.1, steps)
    ways = {
        "active set, SGD": constrained(optax.sgd(0.3), both),
        "active set, Adam": constrained(optax.adam(decay), both),
        "slack, SGD": constrained(optax.sgd(0.3), both, inequalities="slack"),
        "slack, Adam": constrained(optax.adam(decay), both, inequalities="slack"),
        "augmented Lagrangian, SGD": constrained(
            optax.sgd(0.03), both, method="augmented_lagrangian"
        ),
        "penalty 10, SGD": constrained(optax.sgd(0.003), both, method="penalty", penalty=10.0),
    }
    rows = []
    for way, optimizer in ways.items():

        def step(carry, _, optimizer=optimizer):
            w, state = carry
            updates, state = optimizer.update(w - target, state, w)
            return (w + updates, state), jnp.max(A @ (w + updates) - b)

        w = jnp.zeros(n, "f4")
        run = jax.jit(lambda s, step=step: jax.lax.scan(step, s, None, length=steps))
        (w, _), excess = run((w, optimizer.init(w)))
        distance = np.abs(np.asarray(w) - best).max()
        worst, last = float(jnp.maximum(excess, 0).max()), max(float(excess[-1]), 0)
        outside = float(jnp.maximum(jnp.abs(w) - 1, 0).max())
        rows.append([way, f"{worst:.1e}", f"{last:.1e}", f"{outside:.1e}", f"{distance:.1e}"])
    header = ["way", "worst violation", "last violation", "outside the box", "from the optimum"]
    print_table(header, rows)


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
        decay = optax.cosine_decay_schedule(1e-2, steps - late)
        adam = optax.adam(optax.join_schedules([optax.constant_schedule(1e-2), decay], [late]))
        tightening = optax.exponential_decay(1.0, late, 0.012, end_value=0.012)
        loose = gplsq.LSMR(rtol=1e-2, max_steps=20)
        ways = {
            "strict": constrained(adam, constraint, solver=loose, warn=False),
            "adaptive": constrained(
                adam, constraint, damp="adaptive", tolerance=0.012, correction_rate=0.01,
                solver=loose, warn=False,
            ),
            "adaptive, tolerance from 1": constrained(
                adam, constraint, damp="adaptive", tolerance=tightening, correction_rate=0.01,
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
    parser.add_argument("what", choices=["linear", "inequalities", "step", "periodic"])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(environment() + "\n")
    if arguments.what == "linear":
        linear(arguments.seeds)
    elif arguments.what == "inequalities":
        inequalities()
    elif arguments.what == "step":
        step_time()
    else:
        periodic(arguments.seeds)
