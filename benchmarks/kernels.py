"""How near are tiled kernel products to what the machine can do, and to KeOps?

    python benchmarks/kernels.py
    python benchmarks/kernels.py --rows 2000 10000 --dims 8 --keops-rows 0

A product with K of n rows in tiles needs, for every tile: a matrix product of the points, the
profile of the distances (an exponential; for Matérn 3/2 a square root too), and a matrix product
with the k columns. "Bare" is the sum of the times of these three on arrays of the size of a tile,
each compiled alone and timed alone in the same process, times the number of tiles; "rate" is bare /
gplsq: 100 % is a product that costs no more than its parts. KeOps (pykeops on the CPU, if it is
installed) computes the same product in the same process; "of K" is the largest difference between
the two products, relative. Medians, float32.

Not measured: GPUs, more than one device, gradients.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from _harness import environment, print_table, progress

from gplsq.kernels import RBF, Matern32
from gplsq.operators import Kernel

try:
    import torch
    from pykeops.torch import LazyTensor
except ImportError:
    LazyTensor = None

# Heights of a tile that are tried for the bare parts; the quickest counts.
HEIGHTS = (16, 64, 256, 1024)


def seconds(fn, *arguments, repeat: int) -> float:
    """Median of `repeat` calls, after one that compiles."""
    jax.block_until_ready(fn(*arguments))
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        jax.block_until_ready(fn(*arguments))
        times.append(time.perf_counter() - began)
    return float(np.median(times))


PROFILES = {
    "RBF": jax.jit(lambda s: jnp.exp(-0.5 * s)),
    "Matérn 3/2": jax.jit(lambda s: jnp.exp(-jnp.sqrt(s))),
}
KERNELS = {"RBF": RBF(1.0), "Matérn 3/2": Matern32(1.0)}


def bare(name: str, X: jax.Array, V: jax.Array, repeat: int) -> float:
    """Seconds of the three parts for all tiles, with the best height of a tile."""
    n, best = len(X), np.inf
    product = jax.jit(lambda a, b: a @ b)
    for height in HEIGHTS:
        height = min(height, n)
        tile = jnp.abs(X[:height] @ X.T) + 0.1
        parts = [
            seconds(product, X[:height], X.T + 0.0, repeat=repeat),
            seconds(PROFILES[name], tile, repeat=repeat),
            seconds(product, tile, V, repeat=repeat),
        ]
        best = min(best, sum(parts) * n / height)
    return best


def keops(name: str, X: np.ndarray, V: np.ndarray, repeat: int) -> tuple[float, np.ndarray]:
    """Seconds and result of KeOps' product."""
    x, v = torch.from_numpy(X), torch.from_numpy(V)

    def product():
        a, b = LazyTensor(x[:, None, :]), LazyTensor(x[None, :, :])
        squared = ((a - b) ** 2).sum(-1)
        if name == "RBF":
            return (-squared / 2).exp() @ v
        r = (3 * squared).sqrt()
        return ((1 + r) * (-r).exp()) @ v

    product()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        result = product()
        times.append(time.perf_counter() - began)
    return float(np.median(times)), result.numpy()


def main() -> None:
    """One line for every kernel, number of rows and number of columns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[2000, 10_000, 30_000, 100_000])
    parser.add_argument("--columns", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--dims", type=int, default=8)
    parser.add_argument("--keops-rows", type=int, default=30_000, help="no more rows for KeOps")
    options = parser.parse_args()
    table = []
    for n in options.rows:
        rng = np.random.default_rng(n)
        X = rng.standard_normal((n, options.dims)).astype(np.float32)
        repeat = 9 if n <= 10_000 else 3 if n <= 30_000 else 1
        for name, kernel in KERNELS.items():
            operator = Kernel(kernel, jnp.asarray(X), form="tiled")
            for k in options.columns:
                V = rng.standard_normal((n, k)).astype(np.float32)
                product = jax.jit(lambda operator, v: operator.mv(v))
                ours = seconds(product, operator, jnp.asarray(V), repeat=repeat)
                parts = bare(name, jnp.asarray(X), jnp.asarray(V), repeat=9)
                line = [name, f"{n:,}", str(k), f"{1e3 * ours:.1f}", f"{1e3 * parts:.1f}"]
                line += [f"{parts / ours:.0%}", f"{n * n / ours / 1e9:.2f}"]
                if LazyTensor is None or n > options.keops_rows:
                    line += ["", "", ""]
                else:
                    theirs, result = keops(name, X, V, min(repeat, 3))
                    mine = np.asarray(product(operator, jnp.asarray(V)))
                    error = np.abs(result - mine).max() / np.abs(mine).max()
                    line += [f"{1e3 * theirs:.0f}", f"{theirs / ours:.1f}", f"{error:.0e}"]
                table.append(line)
                progress(" | ".join(line))
    print(environment())
    head = ["kernel", "rows", "columns", "ms", "bare ms", "rate", "10⁹ entries/s"]
    print_table([*head, "KeOps ms", "times ours", "of K"], table)


if __name__ == "__main__":
    main()
