"""Every example runs to its assertions, and the quick start takes other tables."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda p: p.name)
def test_an_example_runs_to_its_assertions_and_a_picture(
    script: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, str(script), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (picture,) = tmp_path.glob("*.png")
    assert picture.stat().st_size > 10_000
    assert picture.name in (ast.get_docstring(ast.parse(script.read_text())) or "")
    if script.name == "quickstart.py":
        for word in ("RMSE", "NLPD", "in 95 %", "mean only", "Solver:"):
            assert word in done.stdout


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda p: p.name)
def test_an_example_has_a_question_an_answer_and_a_number_that_is_asserted(script) -> None:
    tree = ast.parse(script.read_text())
    text = ast.get_docstring(tree) or ""
    assert "Question: " in text or text.splitlines()[0].endswith("?")
    assert "Answer: " in text
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert any(isinstance(node.test, ast.Compare | ast.BoolOp | ast.Call) for node in checks)


def test_the_gallery_shows_every_example() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text()
    for script in EXAMPLES:
        assert f"(../examples/{script.name})" in page, script.name
        picture = ROOT / "docs" / "images" / "gallery" / f"{script.stem}.png"
        assert picture.exists(), picture
        assert f"images/gallery/{picture.name}" in page


def test_the_quick_start_takes_a_table_of_the_users_own(tmp_path: pathlib.Path) -> None:
    rows = [f"{i / 10},{(i % 7)},{(i / 10) ** 2}" for i in range(60)]
    table = tmp_path / "mine.csv"
    table.write_text("a,b,price\n" + "\n".join(rows) + "\n")
    script = str(ROOT / "examples" / "quickstart.py")
    options = ["--csv", str(table), "--target", "price", "--quick"]
    command = [sys.executable, script, *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "48 training rows, 12 test rows, 2 inputs" in done.stdout
    bad = [sys.executable, script, "--csv", str(table), "--target", "prise"]
    done = subprocess.run(bad, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no column 'prise'. Its columns are: a, b, price" in done.stderr
