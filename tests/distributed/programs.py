"""Programs for eight devices; `python programs.py NAME` prints a line of JSON."""

import json
import os
import pickle
import re
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import sklearn.base

from gplsq import GPRegressor, lstsq
from gplsq.gp import condition
from gplsq.kernels import RBF, Matern32
from gplsq.operators import Dense, Features, Inducing, Kernel, RowTable, ShardedDamping
from gplsq.solvers import LSMR, RandomlyPivotedCholesky, root_of_rows
from gplsq.tuning import Holdout, mse, nlpd, tune

jax.config.update("jax_enable_x64", os.environ.get("GPLSQ_X64", "1") == "1")
X64 = jax.config.jax_enable_x64
DTYPE = np.float64 if X64 else np.float32
# Rows that 8 does not divide; devices in a grid, whose axes are all used.
ROWS = 203
NOISE = 0.04
RTOL = 1e-10 if X64 else 1e-5
WAYS = {
    "kept": {"solver": "lsmr", "form": "dense"},
    "tiled": {"solver": "lsmr", "form": "tiled"},
    "inducing": {"solver": "inducing", "inducing": 24},
    # More than twice as many rows as the sample of 16 a function, whose solve comes first.
    "sample first": {"solver": "inducing", "inducing": 5},
    "features": {"solver": "features", "num_features": 24},
}
RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (ROWS, 2)).astype(DTYPE)
Y = (np.sin(2 * X[:, 0]) + 0.2 * RNG.standard_normal(ROWS)).astype(DTYPE)
AT = RNG.uniform(-2, 2, (13, 2)).astype(DTYPE)
KERNEL = 1.5 * Matern32(0.9)


def grid() -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), ("rows", "more_rows"))


def difference(a, b) -> float:
    """Largest difference, relative to the largest entry."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    return float(np.max(np.abs(a - b)) / np.max(np.abs(a)))


def posteriors() -> dict:
    """Answers of eight devices against those of one."""
    out = {}
    for name, options in WAYS.items():
        options = {"noise_variance": NOISE, "rtol": RTOL, **options}
        one = condition(KERNEL, X, Y, **options)
        eight = condition(KERNEL, X, Y, mesh=grid(), **options)

        def compare(answer, one=one, eight=eight):
            return difference(answer(one), answer(eight))

        rows = np.arange(0, ROWS, 7)
        out[name] = {
            "mean": compare(lambda p: p.mean(AT)),
            "variance": compare(lambda p: p.variance(AT)),
            "leave-one-out residual": compare(lambda p, rows=rows: p.leave_one_out(rows)[0]),
            "leave-one-out variance": compare(lambda p, rows=rows: p.leave_one_out(rows)[1]),
            "residual norm": compare(lambda p: p.solution.stats.residual_norm),
        }
        if name == "inducing":
            more = AT, np.ones(13, DTYPE)
            out[name]["update"] = compare(lambda p, more=more: p.update(*more).mean(AT))
        steps = [int(p.solution.stats.num_steps) for p in (one, eight)]
        out[name]["steps"] = abs(steps[0] - steps[1])
        out[name]["ok"] = bool(eight.solution.ok)
        if name == "inducing":
            table = condition(KERNEL, RowTable(X), Y, mesh=grid(), **options)
            out["table"] = {"mean": difference(one.mean(AT), table.mean(AT))}
    return out


def gradients() -> dict:
    """Gradients of solves in hyperparameters, noise and data, of eight devices against one."""
    weights = RNG.standard_normal(24).astype(DTYPE)

    def exact(form):
        def value(lengthscale, sigma, points, mesh):
            operator = Kernel(RBF(lengthscale), points, form, mesh=mesh)
            settings = {"solver": LSMR(rtol=RTOL), "throw": False}
            recipe = RandomlyPivotedCholesky(rank=20, block=5)
            c = lstsq(operator, Y, damp=sigma, preconditioner=recipe, **settings).value
            return jnp.sum(jnp.sin(jnp.arange(ROWS)) * c) + jnp.sum(operator.mv(c) ** 2)

        return value

    def low_rank(make):
        def value(lengthscale, sigma, points, mesh):
            operator = make(RBF(lengthscale), points, mesh)
            solver = LSMR(rtol=RTOL)
            v = lstsq(operator, Y, damp=sigma, solver=solver, throw=False).value
            return jnp.sum(jnp.tanh(operator.mv(v))) + weights[: v.size] @ v

        return value

    def whole(lengthscale, sigma, points, mesh):
        options = {"noise_variance": sigma**2, "rtol": RTOL, "mesh": mesh}
        posterior = condition(
            RBF(lengthscale), points, Y, solver="inducing", inducing=AT, **options
        )
        return jnp.sum(jnp.cos(posterior.mean(AT + 0.1)))

    values = {
        "kept": exact("dense"),
        "tiled": exact("tiled"),
        "inducing": low_rank(lambda kernel, points, mesh: Inducing(kernel, points, AT, mesh=mesh)),
        "features": low_rank(lambda kernel, points, mesh: Features(kernel, points, 24, mesh=mesh)),
        "condition": whole,
    }
    out = {}
    for name, value in values.items():
        gradient = jax.jit(jax.grad(value, argnums=(0, 1, 2)), static_argnums=3)
        arguments = DTYPE(0.8), DTYPE(0.5), jnp.asarray(X)
        pairs = zip(gradient(*arguments, None), gradient(*arguments, grid()), strict=True)
        names = ("lengthscale", "noise", "points")
        out[name] = {key: difference(*pair) for key, pair in zip(names, pairs, strict=True)}
    return out


def collectives(function, *arguments) -> list:
    """What a compiled program moves between devices: operation and how many numbers."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    kinds = (
        "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    )
    found = []
    for line in text.splitlines():
        match = re.search(rf"= (.*?) ({kinds})(-start)?\(", line)
        if match:
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            sizes = [int(np.prod([int(k) for k in s.split(",") if k])) for s in shapes]
            found.append([match[2], sum(sizes)])
    return found


def communication() -> dict:
    """Collectives of products and of solves, counted in the compiled programs."""
    mesh = grid()
    out = {}
    for rows in (1024, 1003):
        points = RNG.uniform(-2, 2, (rows, 2)).astype(DTYPE)
        target = jnp.asarray(np.sin(points[:, 0]))
        for form in ("dense", "tiled"):
            operator = Kernel(KERNEL, points, form, mesh=mesh)
            out[f"{form} product, {rows} rows"] = collectives(
                lambda A, c: A.mv(c), operator, target
            )
            recipe = RandomlyPivotedCholesky(rank=20, block=10)
            settings = {"preconditioner": recipe, "throw": False}
            out[f"{form} solve, {rows} rows"] = collectives(
                lambda A, y, s=settings: lstsq(A, y, damp=0.2, **s).value, operator, target
            )
            if form == "dense":
                shard = operator.parts.addressable_shards[0].data
                out[f"kept shard, {rows} rows"] = list(shard.shape)
        operator = Inducing(KERNEL, points, points[:24], mesh=mesh)
        index = jnp.arange(0, rows, 2, dtype=jnp.int32)
        out[f"preconditioner, {rows} rows"] = collectives(
            lambda A, i: root_of_rows(A, i, jnp.asarray(0.2, DTYPE)), operator, index
        )
        if rows == 1024:  # of other numbers XLA gathers what leaves the program
            out["inducing sweep, 1024 rows"] = collectives(
                lambda A, v, s: A.sweep(v, s), operator, jnp.zeros((24, 1), DTYPE), target[:, None]
            )

        def solve(A, y, inverse):
            system = ShardedDamping(A, jnp.asarray(0.2, DTYPE), mesh)
            rhs = system.right_hand_side(y)
            return lstsq(system, rhs, preconditioner=Dense(inverse), throw=False).value

        out[f"inducing solve, {rows} rows"] = collectives(
            solve, operator, target, jnp.eye(24, dtype=DTYPE)
        )
    return out


def tuning() -> dict:
    """Held-out losses, their gradients, and the end of tuning, of eight devices against one."""
    kernel, key = parameters_for_gradient(), jax.random.key(1)
    out = {}
    for name, loss, settings in (
        ("lsmr", nlpd, {"solver": LSMR(rtol=RTOL)}),
        ("inducing", mse, {"inducing": 20}),
    ):

        def value(model, mesh, settings=settings, loss=loss):
            objective = Holdout(mesh=mesh, **settings)
            return objective(*model, jnp.asarray(X), jnp.asarray(Y), key, loss)

        gradient = eqx.filter_jit(eqx.filter_value_and_grad(value))
        pairs = zip(*(jax.tree.leaves(gradient(kernel, m)) for m in (grid(), None)), strict=True)
        out[f"{name}, gradient"] = max(difference(*pair) for pair in pairs)
        text = gradient.lower(kernel, grid()).compile().compiled.as_text()
        out[f"{name}, shared"] = "all-gather" in text or "all-reduce" in text
    ends = [
        tune(KERNEL, X, Y, objective=Holdout(inducing=20, mesh=mesh), levels=[(ROWS, 3)])
        for mesh in (grid(), None)
    ]
    numbers = [jax.tree.leaves((end.kernel, end.noise_variance, end.loss)) for end in ends]
    out["tuned"] = max(difference(*pair) for pair in zip(*numbers, strict=True))
    return out


def parameters_for_gradient() -> tuple:
    """A kernel and a noise variance as arrays."""
    return 1.5 * Matern32(jnp.asarray([0.9, 1.2], DTYPE)), jnp.asarray(NOISE, DTYPE)


def estimator() -> dict:
    """`GPRegressor` on eight devices against one."""
    out = {}
    for name in ("auto", "inducing"):
        settings = {"kernel": KERNEL, "noise_variance": NOISE, "objective": None}
        settings |= {"solver": name, "rtol": RTOL, "random_state": 0}
        settings |= {"inducing": 24} if name == "inducing" else {}
        one = GPRegressor(**settings).fit(X, Y)
        eight = sklearn.base.clone(GPRegressor(mesh=grid(), **settings)).fit(X, Y)
        read = pickle.loads(pickle.dumps(eight))
        (mean, std), (ours, our_std) = (m.predict(AT, return_std=True) for m in (one, eight))
        out[name] = {
            "mean": difference(mean, ours),
            "std": difference(std, our_std),
            "after a pickle": difference(ours, read.predict(AT)),
            "report": eight.solver_report_,
            "pickled mesh": read.mesh,
        }
    return out


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
