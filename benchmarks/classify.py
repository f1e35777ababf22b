"""How good and how fast is `GPClassifier()` with default settings beside scikit-learn's?

    python benchmarks/classify.py                              # three sets, split 0
    python benchmarks/classify.py --sets digits --splits 0 1 2 --peer --out table.md

Breast cancer (569 rows) and digits (1797) come with scikit-learn, four fifths of them for training;
the third set is made: 20,000 rows for training and 5,000 for the test, 10 inputs, 3 classes,
float32. Each fit runs in a process of its own: its seconds are those of the whole process, imports
and compilation included. The peer is `GaussianProcessClassifier` on standardised inputs with a
tuned variance and a single lengthscale, given at most `--peer-rows` random training rows: its time
grows with their cube.

Not measured: energy, other machines, other kernels of the peer.
"""

import argparse
import json
import warnings

import numpy as np
from _harness import environment, in_own_process, peak_megabytes, print_table, progress
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.model_selection import train_test_split

SETS = ["breast-cancer", "digits", "synthetic"]


def load(name: str, split: int) -> tuple[np.ndarray, ...]:
    """`X, X_test, y, y_test` of one split."""
    if name == "synthetic":
        X, y = make_classification(
            25_000,
            10,
            n_informative=6,
            n_redundant=2,
            n_classes=3,
            n_clusters_per_class=3,
            flip_y=0.05,
            random_state=split,
        )
        X = X.astype(np.float32)
        return X[:20_000], X[20_000:], y[:20_000], y[20_000:]
    X, y = (load_digits if name == "digits" else load_breast_cancer)(return_X_y=True)
    return tuple(train_test_split(X, y, test_size=0.2, random_state=split, stratify=y))


def run_one(options: argparse.Namespace) -> None:
    """Fit one model in this process and print one JSON line."""
    name, split = options.sets[0], options.splits[0]
    X, X_test, y, y_test = load(name, split)
    if options.peer:
        keep = np.random.default_rng(0).permutation(len(X))[: options.peer_rows]
        X, y = X[keep], y[keep]
        p, report = fit_peer(X, y, X_test)
    else:
        from gplsq import GPClassifier  # so that a peer's process makes no use of JAX

        model = GPClassifier(random_state=options.seed).fit(X, y)
        p, report = model.predict_proba(X_test), model.solver_report_
    p = np.maximum(np.asarray(p, float), 1e-300)
    record = {
        "set": name,
        "split": split,
        "n": len(X),
        "d": X.shape[1],
        "classes": p.shape[1],
        "accuracy": float(np.mean(np.argmax(p, axis=1) == y_test)),
        "log_loss": float(-np.mean(np.log(p[np.arange(len(y_test)), y_test]))),
        "megabytes": peak_megabytes(),
        "report": report,
    }
    print(json.dumps(record))


def fit_peer(X: np.ndarray, y: np.ndarray, X_test: np.ndarray):
    """scikit-learn's classifier, one-versus-rest, by marginal likelihood."""
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    shift, scale = X.mean(0), np.where(X.std(0) > 0, X.std(0), 1)
    start = np.sqrt(X.shape[1])
    kernel = ConstantKernel(10.0, (1e-2, 1e4)) * RBF(start, (1e-2, 1e3))
    peer = GaussianProcessClassifier(kernel, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters at a bound
        peer.fit((X - shift) / scale, y)
    return peer.predict_proba((X_test - shift) / scale), "scikit-learn GP classifier"


def fit(options: argparse.Namespace, name: str, split: int, peer: bool) -> dict:
    """One fit in a fresh process, all of it timed."""
    command = [__file__, "--one", "--sets", name, "--splits", str(split)]
    command += ["--seed", str(options.seed), "--peer-rows", str(options.peer_rows)]
    command += ["--peer"] if peer else []
    return in_own_process(*command)


def row(record: dict, model: str) -> list[str]:
    """One line of the table."""
    return [
        record["set"],
        str(record["split"]),
        f"{record['n']} x {record['d']}",
        str(record["classes"]),
        model,
        f"{100 * record['accuracy']:.1f} %",
        f"{record['log_loss']:.4f}",
        f"{record['seconds']:.1f}",
        str(record["megabytes"]),
    ]


HEADER = ["set", "split", "n x d", "classes", "model", "accuracy", "log loss", "seconds", "MB"]


def main() -> None:
    """Run the sets and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--splits", nargs="+", type=int, default=[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", action="store_true", help="also scikit-learn's classifier")
    parser.add_argument("--peer-rows", type=int, default=1500, help="training rows of the peer")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options)
        return
    rows = []
    for name in options.sets:
        for split in options.splits:
            record = fit(options, name, split, peer=False)
            progress(f"{name} {split}: {record['report']} {record['stderr']}")
            rows.append(row(record, "gplsq"))
            if options.peer:
                rows.append(row(fit(options, name, split, peer=True), "scikit-learn"))
    print(environment())
    print_table(HEADER, rows)


if __name__ == "__main__":
    main()
