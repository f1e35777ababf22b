"""What `pyproject.toml` asks for, what tests install, and what the documents say are the same."""

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED = [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["plot"], *EXTRAS["docs"]]
LOCKED = dict(
    line.split("==")
    for line in (ROOT / "tests" / "release" / "locked.txt").read_text().splitlines()
    if not line.startswith("#")
)


@pytest.mark.parametrize("wanted", sorted(set(INSTALLED)))
def test_the_locked_version_is_one_that_is_allowed(wanted):
    requirement = Requirement(wanted)
    names = {canonicalize_name(name): version for name, version in LOCKED.items()}
    assert requirement.specifier.contains(names[canonicalize_name(requirement.name)])


def test_the_documents_name_the_lowest_versions():
    table = (ROOT / "docs" / "release.md").read_text().split("## Supported versions")[1]
    rows = re.findall(r"^\| ([\w, -]+) \| ([\d.]+)", table.split("## ")[0], flags=re.MULTILINE)
    lowest = {name: low for names, low in rows for name in names.lower().split(", ")}
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        (low,) = [part.version for part in requirement.specifier if part.operator == ">="]
        assert lowest[requirement.name] == low
    assert PROJECT["requires-python"] == f">={lowest['python']}"
