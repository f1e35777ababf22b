"""Documents tell the truth: their code runs, and every public name is described."""

import doctest
import importlib
import pathlib
import re

import jax
import pytest

import gplsq

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [
    "gplsq",
    *(f"gplsq.{m}" for m in ("kernels", "operators", "solvers", "gp", "tuning")),
    *(f"gplsq.{m}" for m in ("constraints", "plotting")),
]


def python_blocks(page: pathlib.Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: pathlib.Path, tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), namespace)


def test_the_readme_prints_what_it_says(capsys) -> None:
    """Words exactly, numbers to a hundredth; those below 1e-6 are rounding errors."""
    text = (ROOT / "README.md").read_text()
    block, said = re.search(
        r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", text, re.DOTALL
    ).groups()
    exec(compile(block, "README.md", "exec"), {})
    printed, number = capsys.readouterr().out, r"\d+(?:\.\d+)?(?:e-\d+)?"
    assert re.sub(number, "#", printed) == re.sub(number, "#", said)
    values = [[float(found) for found in re.findall(number, part)] for part in (printed, said)]
    assert values[0] == pytest.approx(values[1], rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page}: {target}"


def public_names(module: str) -> set[str]:
    names = {name for name in vars(importlib.import_module(module)) if not name.startswith("_")}
    # What is imported on its own is a name of the package once a page has imported it.
    private = {"estimators", "testing", "gplsq", "plotting", "interop"}
    return names - private


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_its_line_and_every_line_a_name(module: str) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    section = text.split(f"## {module}\n")[1].split("\n## ")[0]
    described = set(re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE))
    assert described == public_names(module)


def modules_with_examples() -> list[str]:
    files = [path for path in (ROOT / "gplsq").rglob("*.py") if ">>> " in path.read_text()]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name: str) -> None:
    if name == "gplsq.interop.torch":
        pytest.importorskip("torch")
    with jax.enable_x64(False):
        result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


def test_the_version_is_the_package_metadata_version() -> None:
    import importlib.metadata

    assert gplsq.__version__ == importlib.metadata.version("gplsq")
