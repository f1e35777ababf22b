"""How do time and memory of a fit grow from 100,000 to 1,000,000 rows?

    python benchmarks/scale.py
    python benchmarks/scale.py --rows 1000000 --inducing 2048

A seeded function of 8 inputs with noise of standard deviation 0.1, given as a float32 memory map.
Each size is tuned, fitted and used to predict 100,000 new rows with standard deviations, in a cold
process of its own: seconds count imports and compilation, MB is the highest resident memory. RMSE
is to noisy targets, whose floor is 0.1; the exponent is that of seconds against rows.

Not measured: what more inducing points would reach on rougher functions.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _harness import environment, in_own_process, peak_megabytes, print_table, progress

NOISE = 0.1
TEST_ROWS = 100_000


def truth(X: np.ndarray) -> np.ndarray:
    """Smooth, with products of inputs and inputs that matter little."""
    return (
        np.sin(3 * X[:, 0])
        + np.cos(2 * X[:, 1] * X[:, 2])
        + X[:, 3] ** 2 * X[:, 4]
        + 0.5 * np.sin(X[:, 5] + X[:, 6] * X[:, 7])
    )


def write(folder: Path, rows: int) -> None:
    """A table on disk, and another to predict."""
    rng = np.random.default_rng(rows)
    for name, count in (("train", rows), ("test", TEST_ROWS)):
        X = rng.uniform(-1, 1, (count, 8)).astype(np.float32)
        y = truth(X) + NOISE * rng.standard_normal(count)
        np.save(folder / f"{name}_X.npy", X)
        np.save(folder / f"{name}_y.npy", y.astype(np.float32))


def run_one(folder: Path, inducing: int | None) -> None:
    """Tune, fit and predict; prints a record."""
    from gplsq import GPRegressor

    names = ("train_X", "train_y", "test_X", "test_y")
    X, y, X_test, y_test = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in names)
    model = GPRegressor(random_state=0, inducing=inducing).fit(X, y)
    fitted = time.perf_counter()
    mean, std = model.predict(X_test, return_std=True)
    error = np.asarray(y_test) - mean
    record = {
        "rows": len(X),
        "predict": time.perf_counter() - fitted,
        "megabytes": peak_megabytes(),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "inside": float(np.mean(np.abs(error) < 1.96 * std)),
        "points": int(model.posterior_.Z.shape[0]),
        "steps": int(model.posterior_.solution.stats.num_steps),
        "report": model.solver_report_,
    }
    print(json.dumps(record))


def main() -> None:
    """Run every size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--inducing", type=int)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options.one, options.inducing)
        return
    table, seconds = [], []
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), rows)
            command = ["-W", "ignore", __file__, "--one", folder]
            if options.inducing is not None:
                command += ["--inducing", str(options.inducing)]
            record = in_own_process(*command)
        seconds.append(record["seconds"])
        progress(record["report"])
        table.append(
            [
                f"{rows:,}",
                str(record["points"]),
                str(record["steps"]),
                f"{record['rmse']:.4f}",
                f"{100 * record['inside']:.1f} %",
                f"{seconds[-1]:.1f}",
                f"{record['predict']:.1f}",
                str(record["megabytes"]),
            ]
        )
    print(environment())
    head = ["rows", "points", "steps", "RMSE", "in 95 %", "seconds", "of these predict", "MB"]
    print_table(head, table)
    if len(options.rows) > 1:
        exponent = np.polyfit(np.log(options.rows), np.log(seconds), 1)[0]
        print(f"seconds grow as rows to the power {exponent:.2f}")


if __name__ == "__main__":
    main()
