"""The page on architecture says what each folder of tests holds."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def test_every_folder_of_tests_has_its_line_and_every_line_its_folder() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split("\n## Where the tests are\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, flags=re.MULTILINE)
    # What only an earlier version left behind holds compiled files, and no source.
    there = {path.relative_to(ROOT / "tests").parts[0] for path in ROOT.glob("tests/*/**/*.py")}
    assert sorted(name for name, _ in lines) == sorted(there)


def test_every_floor_of_the_package_has_a_line() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.split("\n| floor |")[1].split("\n## ")[0]
    floors = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
    there = {path.parent.name for path in ROOT.glob("gplsq/*/__init__.py")}
    assert floors == there - {"testing"}  # seen by tests, benchmarks and examples only
