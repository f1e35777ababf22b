"""A program for eight devices: fits of tables and kernels drawn at random, on all and on one.

Prints a line of JSON for each fit: what was drawn, and how far the answers are apart.
"""

import json
import os
import sys

import jax
import numpy as np

from gplsq.gp import condition
from gplsq.kernels import RBF, Constant, Linear, Matern12, Matern32, Matern52, RationalQuadratic

jax.config.update("jax_enable_x64", os.environ.get("GPLSQ_X64", "1") == "1")
X64 = jax.config.jax_enable_x64
DTYPE = np.float64 if X64 else np.float32
RTOL = 1e-11 if X64 else 1e-5
LEAVES = (RBF, Matern12, Matern32, Matern52, RationalQuadratic)
WAYS = (
    {"solver": "lsmr", "form": "tiled"},
    {"solver": "lsmr", "form": "dense"},
    {"solver": "inducing", "inducing": 9},
)
MESHES = ((8,), (4, 2), (2, 4), (2, 2, 2))


def drawn_kernel(rng, columns):
    """One to three parts, added or multiplied."""
    parts = []
    for _ in range(rng.integers(1, 4)):
        several = rng.random() < 0.5
        scale = rng.uniform(0.6, 2.5, columns) if several else rng.uniform(0.6, 2.5)
        parts.append(LEAVES[rng.integers(len(LEAVES))](scale))
    kernel = rng.uniform(0.5, 2.0) * parts[0]
    for part in parts[1:]:
        kernel = kernel + part if rng.random() < 0.5 else kernel * part
    if rng.random() < 0.5:
        kernel = kernel + (Linear(0.3) if rng.random() < 0.5 else Constant(0.5))
    return kernel


def difference(a, b):
    """Largest difference, relative to the largest entry."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.all(np.isfinite(a))
    return float(np.max(np.abs(a - b)) / np.max(np.abs(a)))


def one_fit(number):
    rng = np.random.default_rng(number)
    # Few rows, too: some devices may have none, and 8 need not divide them.
    rows, columns = int(rng.integers(3, 90)), int(rng.integers(1, 6))
    X, Z = rng.uniform(-2, 2, (rows, columns)), rng.uniform(-2, 2, (7, columns))
    y = np.sin(2 * X[:, 0]) + 0.2 * rng.standard_normal(rows)
    kernel, way = drawn_kernel(rng, columns), WAYS[number % len(WAYS)]
    noise = 10 ** rng.uniform(-1.5, 0)
    shape = MESHES[rng.integers(len(MESHES))]
    mesh = jax.make_mesh(shape, ("a", "b", "c")[: len(shape)])
    X, y, Z = (part.astype(DTYPE) for part in (X, y, Z))
    settings = {"noise_variance": noise, "rtol": RTOL, **way}
    one, many = (condition(kernel, X, y, mesh=m, **settings) for m in (None, mesh))
    return {
        "rows": rows,
        "columns": columns,
        "kernel": str(kernel),
        "way": way,
        "mesh": shape,
        "devices": len(many.solution.value.sharding.device_set),
        "ok": bool(np.all(one.solution.ok) and np.all(many.solution.ok)),
        "differences": {
            "mean": difference(one.mean(Z), many.mean(Z)),
            "variance": difference(one.variance(Z), many.variance(Z)),
        },
    }


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(one_fit(int(argument))), flush=True)
