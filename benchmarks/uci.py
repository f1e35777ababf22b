"""How good and how fast is `GPRegressor()` with default settings on published data sets?

    python benchmarks/uci.py                                   # nine sets, split 0
    python benchmarks/uci.py --sets bike pol --splits 0 1 2 --out table.md
    python benchmarks/uci.py --sets airfoil yacht --peer       # next to scikit-learn's GP

Each fit runs in a process of its own: its seconds go from the start of Python to the last
prediction (imports, reading the file and compilation included). Errors are in units of
the training target's standard deviation. Tables of over 5000 rows are passed as float32, smaller
ones as float64. Two references for the NLPD: predicting the training mean with the training
variance, and the model's own mean with one constant variance (both calibrated on training rows
only).

Not measured: energy, other machines, tuning of the peer beyond its defaults.
"""

import argparse
import json
import warnings

import numpy as np
from _harness import (
    data_folder,
    environment,
    in_own_process,
    load_uci,
    nlpd,
    peak_megabytes,
    print_table,
    progress,
    seconds_so_far,
)

SETS = ["yacht", "energy", "concrete", "airfoil", "wine", "pol", "bike", "kin40k", "protein"]
FLOAT32_ROWS = 5000


def run_one(options: argparse.Namespace) -> None:
    """Fit one model in this process and print one JSON line."""
    folder, name, split = data_folder(options.data), options.sets[0], options.splits[0]
    X, y, X_test, y_test = load_uci(folder, name, split, "float64")
    if options.max_rows and len(X) > options.max_rows:
        keep = np.random.default_rng(0).permutation(len(X))[: options.max_rows]
        X, y = X[keep], y[keep]
    dtype = options.dtype
    if dtype == "auto":
        dtype = "float32" if len(X) > FLOAT32_ROWS else "float64"
    X, y, X_test, y_test = (a.astype(dtype) for a in (X, y, X_test, y_test))
    scale = float(np.std(y))
    record = {"set": name, "split": split, "n": len(X), "d": X.shape[1], "dtype": dtype}
    if options.peer:
        mean, std, report = fit_peer(X, y, X_test)
        seconds, constant = seconds_so_far(), None
    else:
        from gplsq import GPRegressor  # after reading, so that a peer's process never imports JAX

        model = GPRegressor(random_state=options.seed, form=options.form, loss=options.loss)
        model.fit(X, y)
        mean, std = model.predict(X_test, return_std=True)
        seconds = seconds_so_far()
        report = model.solver_report_
        rows = np.random.default_rng(0).permutation(len(X))[:1000]
        import jax

        with jax.enable_x64(dtype == "float64"):
            held_out = np.asarray(model.posterior_.leave_one_out(rows)[0])
        constant = float(np.mean(held_out**2))
    residual = (y_test - mean).astype(float) / scale
    std = np.asarray(std, float) / scale
    baseline = (y_test - y.mean()).astype(float) / scale
    record |= {
        "seconds": seconds,
        "rmse": float(np.sqrt(np.mean(residual**2))),
        "nlpd": nlpd(residual, std**2),
        "nlpd_mean_only": nlpd(baseline, 1.0),
        "nlpd_constant": None if constant is None else nlpd(residual, constant),
        "coverage": float(np.mean(np.abs(residual) <= 1.96 * std)),
        "megabytes": peak_megabytes(),
        "report": report,
    }
    print(json.dumps(record))


def fit_peer(X: np.ndarray, y: np.ndarray, X_test: np.ndarray):
    """scikit-learn's GP: Matérn 3/2, a lengthscale a column, noise; marginal likelihood."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    shift, scale = X.mean(0), np.where(X.std(0) > 0, X.std(0), 1)
    kernel = ConstantKernel(1.0, (1e-4, 1e4)) * Matern(
        np.ones(X.shape[1]), (1e-2, 1e4), nu=1.5
    ) + WhiteKernel(0.1, (1e-8, 10))
    peer = GaussianProcessRegressor(kernel, normalize_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lengthscales of useless inputs run into their bound
        peer.fit((X - shift) / scale, y)
    mean, std = peer.predict((X_test - shift) / scale, return_std=True)
    return mean, std, f"scikit-learn GP, {peer.kernel_}"


def fit(options: argparse.Namespace, name: str, split: int, peer: bool) -> dict:
    """One fit in a fresh process, all of it timed."""
    command = [__file__, "--one", "--sets", name, "--splits", str(split)]
    command += ["--dtype", options.dtype, "--form", options.form, "--seed", str(options.seed)]
    command += ["--loss", options.loss]
    command += ["--peer"] if peer else []
    command += ["--data", str(data_folder(options.data))]
    command += ["--max-rows", str(options.max_rows)] if options.max_rows else []
    return in_own_process(*command)


def row(record: dict) -> list[str]:
    """One line of the table."""
    constant = record["nlpd_constant"]
    return [
        record["set"],
        str(record["split"]),
        f"{record['n']} x {record['d']}",
        record["model"],
        f"{record['rmse']:.4f}",
        f"{record['nlpd']:.3f}",
        f"{record['nlpd_mean_only']:.3f}",
        "" if constant is None else f"{constant:.3f}",
        f"{100 * record['coverage']:.1f} %",
        f"{record['seconds']:.1f}",
        str(record["megabytes"]),
    ]


HEADER = ["set", "split", "n x d", "model", "RMSE", "NLPD", "NLPD mean only"]
HEADER += ["NLPD const. var.", "in 95 %", "seconds", "MB"]


def over_splits(records: list[dict]) -> list[list[str]]:
    """A line for each set and model: mean and standard deviation over splits, median seconds."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        groups.setdefault((record["set"], record["model"]), []).append(record)
    lines = []
    for (name, model), group in groups.items():
        cells = [name, model, str(len(group))]
        for key in ("rmse", "nlpd"):
            values = [record[key] for record in group]
            cells.append(f"{np.mean(values):.4f} ± {np.std(values):.4f}")
        cells.append(f"{100 * np.mean([record['coverage'] for record in group]):.1f} %")
        cells.append(f"{np.median([record['seconds'] for record in group]):.1f}")
        lines.append(cells)
    return lines


def main() -> None:
    """Run the sets and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--splits", nargs="+", type=int, default=[0], choices=range(10))
    parser.add_argument("--max-rows", type=int, help="use a random subset of the training rows")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "float64"])
    parser.add_argument("--form", default="auto", choices=["auto", "dense", "tiled"])
    parser.add_argument("--loss", default="mse", choices=["mse", "nlpd", "crps"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", action="store_true", help="also scikit-learn's GP (n < 5000)")
    parser.add_argument("--data", help="folder with uci/ (default: GPLSQ_DATA, ../shared/data)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options)
        return
    records = []
    for name in options.sets:
        for split in options.splits:
            record = fit(options, name, split, peer=False)
            progress(f"{name} {split}: {record['report']} {record['stderr']}")
            records.append(record | {"model": "gplsq"})
            if options.peer and record["n"] < FLOAT32_ROWS:
                peer = fit(options, name, split, peer=True)
                records.append(peer | {"model": "scikit-learn"})
    print(environment())
    print_table(HEADER, [row(record) for record in records])
    if len(options.splits) > 1:
        header = ["set", "model", "splits", "RMSE", "NLPD", "in 95 %", "seconds"]
        print_table(header, over_splits(records))


if __name__ == "__main__":
    main()
