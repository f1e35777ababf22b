"""What every benchmark shares: where data are, what machine this is, how a table is printed."""

import datetime
import os
import platform
import sys
from pathlib import Path

import jax
import numpy as np
import sklearn

import gplsq


def data_folder(argument: str | None) -> Path:
    """The folder with the UCI sets: the argument, else GPLSQ_DATA, else ../shared/data."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(argument or os.environ.get("GPLSQ_DATA", default))
    if not (folder / "uci").is_dir():
        sys.exit(
            f"No folder 'uci' in {folder}. Point --data or GPLSQ_DATA at a folder with "
            "uci/NAME/data.csv.gz and test_mask.csv.gz, as in github.com/treforevans/uci_datasets."
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
    return (
        f"gplsq {gplsq.__version__}, jax {jax.__version__}, scikit-learn {sklearn.__version__}, "
        f"NumPy {np.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores "
        f"{platform.machine()}, {jax.devices()[0].platform}, {datetime.date.today()}"
    )


def print_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in [header, ["-" * w for w in widths], *rows]
    ]
    text = "\n".join(lines)
    print(text, flush=True)
    return text
