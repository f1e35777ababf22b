"""What every benchmark shares: where data are, fits in processes of their own, tables.

Imports neither JAX nor gplsq until asked for versions: a peer's process shall not pay for them.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

_BEGAN = "GPLSQ_BENCHMARK_BEGAN"  # variable of the environment: when the process was started
_CONTENTS = {
    "uci": "uci/NAME/data.csv.gz and test_mask.csv.gz, as in github.com/treforevans/uci_datasets",
    "mnist": "mnist/t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz",
}


def data_folder(argument: str | None, sets: str = "uci") -> Path:
    """The folder that holds these sets: the argument, else GPLSQ_DATA, else ../shared/data."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(argument or os.environ.get("GPLSQ_DATA", default))
    if not (folder / sets).is_dir():
        sys.exit(
            f"No folder '{sets}' in {folder}. Point --data or GPLSQ_DATA at a folder with "
            f"{_CONTENTS[sets]}."
        )
    return folder


def load_uci(folder: Path, name: str, split: int, dtype: str) -> tuple[np.ndarray, ...]:
    """`X, y, X_test, y_test` of one split, not standardised."""
    table = np.loadtxt(folder / "uci" / name / "data.csv.gz", delimiter=",")
    mask = np.loadtxt(folder / "uci" / name / "test_mask.csv.gz", delimiter=",")
    test = mask[:, split].astype(bool)
    X, y = table[:, :-1].astype(dtype), table[:, -1].astype(dtype)
    return X[~test], y[~test], X[test], y[test]


def environment() -> str:
    """One line: versions, machine size and date."""
    import jax

    version = importlib.metadata.version
    return (
        f"gplsq {version('gplsq')}, jax {version('jax')}, scikit-learn {version('scikit-learn')}, "
        f"NumPy {np.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores "
        f"{platform.machine()}, {jax.devices()[0].platform}, {datetime.date.today()}"
    )


def in_own_process(*command: str, env: dict[str, str] | None = None) -> dict:
    """Run a Python script that prints one JSON record last.

    Adds `seconds`, from the start of Python to its end unless the record has them
    (`seconds_so_far`), and what it wrote to `stderr`.
    """
    env = dict(os.environ if env is None else env)
    # A user's Python keeps compiled modules: without them each process compiles all files of gplsq.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env=env | {_BEGAN: str(time.time())},
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed\n{done.stderr}")
    record = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": seconds, "stderr": done.stderr.strip()} | record


def seconds_so_far() -> float:
    """Seconds since `in_own_process` started the Python of this process."""
    return time.time() - float(os.environ[_BEGAN])


def peak_megabytes() -> int:
    """The highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def nlpd(residual: np.ndarray, variance: np.ndarray | float) -> float:
    """Negative log predictive density, nats per row."""
    return float(np.mean(0.5 * np.log(2 * np.pi * variance) + 0.5 * residual**2 / variance))


def progress(*words: object) -> None:
    """What is done so far, on stderr: `python benchmarks/NAME.py > FILE` keeps the tables alone."""
    print(*words, file=sys.stderr, flush=True)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table, aligned, between blank lines."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in [header, ["-" * w for w in widths], *rows]
    ]
    print("\n" + "\n".join(lines) + "\n", flush=True)
