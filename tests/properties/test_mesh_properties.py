"""Fits of tables and kernels drawn at random, spread over eight devices, are those of one."""

import json
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

X64 = os.environ.get("GPLSQ_X64", "1") == "1"
HERE = pathlib.Path(__file__).parent
FLAGS = runpy.run_path(str(HERE.parent / "distributed" / "conftest.py"))["FLAGS"]
# Of every way of solving one; the rows of one are fewer than the devices.
NUMBERS = (27, 31, 2)


@pytest.fixture(scope="module")
def fits():
    """What the program prints; all draws share one process."""
    done = subprocess.run(
        [sys.executable, str(HERE / "mesh_program.py"), *map(str, NUMBERS)],
        env={**os.environ, "XLA_FLAGS": FLAGS},
        capture_output=True,
        text=True,
        check=False,
        timeout=350,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]


def test_the_draws_differ_in_what_matters(fits):
    assert len(fits) == len(NUMBERS)
    assert all(fit["devices"] == 8 for fit in fits)
    assert min(fit["rows"] for fit in fits) < 8 < max(fit["rows"] for fit in fits)
    for name in ("rows", "columns", "kernel", "way", "mesh"):
        assert len({str(fit[name]) for fit in fits}) > 1, name


@pytest.mark.parametrize("which", range(len(NUMBERS)))
def test_eight_devices_give_the_answers_of_one(fits, which):
    fit = fits[which]
    assert fit["ok"]
    assert set(fit["differences"]) == {"mean", "variance"}
    for answer, difference in fit["differences"].items():
        assert difference < (1e-9 if X64 else 5e-4), (answer, fit)
