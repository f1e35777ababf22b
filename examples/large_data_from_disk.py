"""Can a model be fitted to a table that stays on the disk?

    python examples/large_data_from_disk.py
    python examples/large_data_from_disk.py --quick

Writes 200,000 rows of 12 numbers to a memory map in a temporary directory, block by block, and
fits a Gaussian process with 512 inducing points to it: `gplsq.operators.RowTable` hands blocks of
rows to the solver where they are needed. The peer is the same model of the first 1,000 rows, in
memory. Prints the memory that the fit took; saves large_data_from_disk.png; the last lines check
the result.

Answer: yes, in 160 MB and ten seconds, with an error of 0.203 where the noise is 0.2; the first
1,000 rows alone give 0.224.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

from gplsq import GPRegressor
from gplsq.operators import RowTable

COLUMNS, NOISE, BLOCK = 12, 0.2, 10_000


def truth(X: np.ndarray) -> np.ndarray:
    """A smooth function of four of the columns."""
    return np.sin(3 * X[:, 0]) + X[:, 1] * np.cos(2 * X[:, 2]) + 0.5 * X[:, 3] ** 2


def write(path: Path, rows: int) -> np.ndarray:
    """A table on the disk, made and written a block at a time; its targets."""
    rng = np.random.default_rng(0)
    table = np.lib.format.open_memmap(path, mode="w+", dtype="f4", shape=(rows, COLUMNS))
    y = np.empty(rows, "f4")
    for start in range(0, rows, BLOCK):
        block = rng.uniform(-1, 1, (min(BLOCK, rows - start), COLUMNS)).astype("f4")
        table[start : start + len(block)] = block
        y[start : start + len(block)] = truth(block) + NOISE * rng.standard_normal(len(block))
    table.flush()
    return y


def peak() -> float:
    """Highest resident memory of this process so far, in MB."""
    unit = 1e6 if sys.platform == "darwin" else 1e3  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def draw(y: np.ndarray, predictions: dict, path: str) -> None:
    """Predictions of both models against the function without noise."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), sharey=True, layout="constrained")
    for axis, (name, mean), color in zip(
        axes, predictions.items(), ("#D55E00", "#0072B2"), strict=True
    ):
        error = np.sqrt(np.mean((mean - y) ** 2))
        axis.plot(y, mean, ".", ms=2, color=color)
        axis.axline((0, 0), slope=1, color="black", lw=1)
        axis.set(xlabel="function without noise", title=f"{name}: error {error:.3f}")
    axes[0].set(ylabel="predicted")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Write the table, fit both models, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    options = parser.parse_args()
    rows, inducing = (20_000, 256) if options.quick else (200_000, 512)
    levels = [(1000, 30)] if options.quick else [(1000, 40), (2000, 10)]

    X_new = np.random.default_rng(1).uniform(-1, 1, (2000, COLUMNS)).astype("f4")
    y_new = truth(X_new) + NOISE * np.random.default_rng(2).standard_normal(len(X_new))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.npy"
        y = write(path, rows)
        source = np.load(path, mmap_mode="r")
        print(f"{rows:,} rows of {COLUMNS} columns, {path.stat().st_size / 1e6:.1f} MB on the disk")

        # The first fit also loads and compiles what the second needs: its memory counts as base.
        settings = {"inducing": inducing, "levels": levels, "random_state": 0}
        few = GPRegressor(**settings).fit(np.array(source[:1000]), y[:1000])
        base = peak()
        model = GPRegressor(**settings).fit(RowTable(source), y)
        print(f"peak memory {peak():.0f} MB: {peak() - base:.0f} MB more than before this fit")
        print(f"fitted in {model.fit_seconds_:.1f} s; {model.solver_report_}\n")
        predictions = {"1,000 rows": few.predict(X_new), f"{rows:,} rows": model.predict(X_new)}
        # The map must be let go before its folder is (Windows insists).
        del source, model

    print(f"{'':>14s}  RMSE on 2,000 new rows (noise {NOISE})")
    errors = []
    for name, mean in predictions.items():
        errors.append(float(np.sqrt(np.mean((mean - y_new) ** 2))))
        print(f"{name:>14s}  {errors[-1]:.4f}")
    draw(truth(X_new), predictions, "large_data_from_disk.png")
    print("\nPicture: large_data_from_disk.png")
    floor = float(np.sqrt(np.mean((truth(X_new) - y_new) ** 2)))
    assert errors[1] < 1.1 * floor
    assert errors[1] < errors[0]


if __name__ == "__main__":
    main()
