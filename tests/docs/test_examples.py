"""Every example runs to its assertions, and the quick start takes other tables."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_an_example_runs_to_its_assertions(script: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command = [sys.executable, str(script)]
    command += ["--no-peer"] if script.name == "quickstart.py" else ["--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if script.name == "quickstart.py":
        assert (tmp_path / "quickstart.png").stat().st_size > 10_000
        for word in ("RMSE", "NLPD", "in 95 %", "mean only", "Solver:"):
            assert word in done.stdout


def test_the_quick_start_takes_a_table_of_the_users_own(tmp_path: pathlib.Path) -> None:
    rows = [f"{i / 10},{(i % 7)},{(i / 10) ** 2}" for i in range(60)]
    table = tmp_path / "mine.csv"
    table.write_text("a,b,price\n" + "\n".join(rows) + "\n")
    script = str(ROOT / "examples" / "quickstart.py")
    options = ["--csv", str(table), "--target", "price", "--no-peer"]
    command = [sys.executable, script, *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "48 training rows, 12 test rows, 2 inputs" in done.stdout
    bad = [sys.executable, script, "--csv", str(table), "--target", "prise"]
    done = subprocess.run(bad, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no column 'prise'. Its columns are: a, b, price" in done.stderr
