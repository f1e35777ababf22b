"""The page of releases states the versions and licences that are tested and installed.

The lowest versions are compared in tests/architecture/test_versions.py.
"""

import importlib.metadata
import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "release.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / "tests" / "release" / "locked.txt").read_text().splitlines()
    if not line.startswith("#")
}


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(heading: str) -> dict[str, list[str]]:
    """Cells of the table of a section by the name of a package; a line may have several names."""
    lines = re.findall(r"^\| (.+) \|$", section(heading), flags=re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {canonicalize_name(name): rest for names, *rest in cells for name in names.split(", ")}


SUPPORTED = {name: cells for name, cells in rows("Supported versions").items() if name}
LICENCES = rows("Licences")
del LICENCES["needed to run"]
# "... PyTorch 2.13.0 (Apache-2.0 AND ...)", over the ends of lines.
OPTIONAL = {
    {"pytorch": "torch"}.get(name.lower(), name): (version, licence)
    for name, version, licence in re.findall(
        r"(\w+) ([\d.]+) \(([^)]+)\)", " ".join(section("Licences").split("Optional:")[1].split())
    )
}


def licence_of(name: str) -> str:
    """What the metadata say: the expression, or a field of one line, a title, a classifier."""
    said = importlib.metadata.metadata(name)
    if said["License-Expression"]:
        return said["License-Expression"]
    text = (said["License"] or "").strip()
    if text and "\n" not in text:
        return text
    title = re.match(r"(\w+ License)\s+(?:Version ([\d.]+))?", text)
    if title:
        return " ".join(part for part in title.groups() if part)
    found = [c for c in said.get_all("Classifier") or [] if c.startswith("License :: ")]
    return found[0].split(" :: ")[-1]


def needed_by(name: str) -> set[str]:
    """What an installed package requires on Linux, without extras."""
    linux = {"extra": "", "platform_system": "Linux", "sys_platform": "linux", "os_name": "posix"}
    wanted = map(Requirement, importlib.metadata.requires(name) or [])
    return {
        canonicalize_name(one.name)
        for one in wanted
        if one.marker is None or one.marker.evaluate(linux)
    }


def skip_unless_locked(name: str, version: str) -> None:
    """Metadata of another version may say something else; `make test` installs this one."""
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if installed != version:
        pytest.skip(f"{name} {installed} is installed, and the page is about {version}")


def test_every_requirement_is_supported_and_nothing_else() -> None:
    wanted = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert set(SUPPORTED) == wanted | {"python"}


@pytest.mark.parametrize("name", sorted(set(SUPPORTED) - {"python"}))
def test_the_tested_version_is_the_locked_one(name: str) -> None:
    assert SUPPORTED[name][1] == LOCKED[name]


def test_the_tested_python_is_one_that_is_allowed() -> None:
    assert SpecifierSet(PROJECT["requires-python"]).contains(SUPPORTED["python"][1])


def test_the_upper_limits_are_those_of_the_project() -> None:
    limits = {
        canonicalize_name(one.name): part.version
        for one in map(Requirement, PROJECT["dependencies"])
        for part in one.specifier
        if part.operator in ("<", "<=", "==", "~=", "!=")
    }
    found = {
        name: limit[1]
        for name, cells in SUPPORTED.items()
        if (limit := re.search(r", below ([\d.]+)", cells[0]))
    }
    assert found == limits


@pytest.mark.parametrize("name", sorted(LICENCES))
def test_version_and_licence_are_those_of_the_locked_package(name: str) -> None:
    version, licence, _ = LICENCES[name]
    assert version == LOCKED[name]
    skip_unless_locked(name, version)
    assert licence == licence_of(name)


def test_the_table_has_all_that_is_needed_to_run() -> None:
    for name in sorted(LICENCES):
        skip_unless_locked(name, LICENCES[name][0])
    direct = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    found, new = set(), direct
    while new:
        found |= new
        new = {need for name in new for need in needed_by(name)} - found
    assert set(LICENCES) == found
    for name, (_, _, users) in LICENCES.items():
        assert bool(users) == (name not in direct)
        for user in users.split(", ") if users else []:
            assert name in needed_by(user), f"{user} does not need {name}"


def test_every_extra_for_users_has_its_licence() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = {Requirement(text).name for e in ("plot", "torch", "parquet") for text in extras[e]}
    assert set(OPTIONAL) == wanted


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_version_and_licence_of_an_extra(name: str) -> None:
    version, licence = OPTIONAL[name]
    assert LOCKED.get(name, version) == version
    skip_unless_locked(name, version)
    assert licence == licence_of(name)
