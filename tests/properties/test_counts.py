"""The page on reliability has the numbers of cases that the tests try."""

import importlib
import pathlib
import re
import sys

import pytest
from cases import LONGER, planned

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "concepts" / "reliability.md").read_text()


def number(pattern: str) -> int:
    """The number in the only place of the page that fits."""
    found = re.findall(pattern.replace("#", r"([\d,]+)"), PAGE)
    assert len(found) == 1, f"{pattern}: {found}"
    return int(found[0].replace(",", ""))


def constants_of(path: str, monkeypatch: pytest.MonkeyPatch):
    """A test file as a module."""
    file = ROOT / "tests" / path
    monkeypatch.syspath_prepend(str(file.parent))
    sys.modules.pop("conftest", None)
    return importlib.import_module(file.stem)


def counted_files() -> list[str]:
    """The other files of this folder that count their cases."""
    files = sorted({*pathlib.Path(__file__).parent.glob("test_*.py")} - {pathlib.Path(__file__)})
    return [file.stem for file in files if "check_counts(__name__)" in file.read_text()]


@pytest.mark.parametrize("file", counted_files())
def test_the_page_has_the_number_of_random_cases(file):
    importlib.import_module(file)
    row = rf"\| `tests/properties/{file}.py` \|[^|]*\| {len(planned[file])} \| # \|"
    assert number(row) == sum(planned[file].values())
    # LONGER times as many by hand.
    assert number("tries # times as many") == LONGER


def test_the_page_has_the_numbers_of_faults(monkeypatch):
    faults = constants_of("estimators/test_faults.py", monkeypatch)
    assert number(r"\*\*# mutated files\*\*") == faults.MUTATIONS
    states = constants_of("core/test_state_file_fuzz.py", monkeypatch)
    assert number(r"\*\*# of them") == states.MUTATIONS
    assert number(r"\*\*# threads\*\*") == faults.THREADS
    assert number(r"\*\*# calls\*\* of `predict`") == faults.PREDICTIONS


def test_the_page_has_the_numbers_of_kills(monkeypatch):
    kills = constants_of("tuning/test_checkpoint.py", monkeypatch)
    assert number(r"\*\*# times\*\* by `make kills`") == kills.KILLS_LONG
    assert number(r"# times by `make test-all`") == kills.KILLS


def test_the_page_has_the_number_of_systems_in_the_zoo(monkeypatch):
    zoo = constants_of("solvers/test_zoo.py", monkeypatch)
    names = [
        name
        for shape in zoo.SHAPES
        for damped in zoo.DAMPED
        for name in zoo.zoo_of(zoo.np.dtype("float32"), shape, damped).names
    ]
    assert number(r"\*\*# systems\*\*") == len(names)
