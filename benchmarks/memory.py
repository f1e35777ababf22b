"""Peak memory of a fit and prediction at n = 45,730 rows, kernel matrix kept and in tiles.

    python benchmarks/memory.py

The protein set's training rows, filled up with its test rows to 45,730 (accuracy is not the point
here; the target is real, the hyperparameters are fixed). Each form runs in a process of its own;
the number is the process's highest resident memory, everything included.
"""

import argparse
import json
import time

import numpy as np
from _harness import (
    data_folder,
    environment,
    in_own_process,
    load_uci,
    peak_megabytes,
    print_table,
    progress,
)

LIMIT = {"dense": 12 * 1024, "tiled": 2 * 1024}


def run_one(form: str, folder: str) -> None:
    """Condition on all rows and predict 4573 of them."""
    from gplsq import GPRegressor
    from gplsq.kernels import Matern32, Scaled

    X, y, X_test, y_test = load_uci(data_folder(folder), "protein", 0, "float32")
    X, y = np.concatenate([X, X_test]), np.concatenate([y, y_test])
    kernel = Scaled(0.8, Matern32(np.full(9, 0.4)))
    began = time.perf_counter()
    model = GPRegressor(kernel, objective=None, noise_variance=0.05, form=form, random_state=0)
    model.fit(X, y).predict(X_test, return_std=True)
    record = {
        "n": len(X),
        "megabytes": peak_megabytes(),
        "seconds": time.perf_counter() - began,
        "report": model.solver_report_,
    }
    print(json.dumps(record))


def main() -> None:
    """Run both forms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--forms", nargs="+", default=["dense", "tiled"], choices=list(LIMIT))
    parser.add_argument("--data")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = str(data_folder(options.data))
    if options.one:
        run_one(options.forms[0], folder)
        return
    rows = []
    for form in options.forms:
        record = in_own_process(__file__, "--one", "--forms", form, "--data", folder)
        progress(record["report"])
        ok = "yes" if record["megabytes"] < LIMIT[form] else "NO"
        numbers = [str(record["n"]), str(record["megabytes"]), str(LIMIT[form]), ok]
        rows.append([form, *numbers, f"{record['seconds']:.1f}"])
    print(environment())
    print_table(["form", "n", "peak MB", "limit MB", "below", "seconds"], rows)


if __name__ == "__main__":
    main()
