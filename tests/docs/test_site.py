"""The documentation hangs together: links, equations and their code, public names, the site."""

import ast
import importlib
import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DERIVATIONS = sorted((ROOT / "docs" / "derivations").glob("*.md"))


def anchors_of(path: pathlib.Path) -> set[str]:
    """What a link may point to: functions and classes of a file, headings of a page."""
    text = path.read_text()
    if path.suffix == ".py":
        kinds = ast.FunctionDef | ast.ClassDef
        return {node.name for node in ast.parse(text).body if isinstance(node, kinds)}
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_anchors_of_links_exist(page: pathlib.Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            path = (page.parent / target).resolve() if target else page
            assert anchor in anchors_of(path), f"{page.name}: {target}#{anchor}"


def equations_of(page: pathlib.Path) -> set[int]:
    text = page.read_text()
    tagged = re.findall(r"\\tag\{(\d+)\}", text) + re.findall(r"^    .* \((\d+)\)$", text, re.M)
    return set(map(int, tagged))


@pytest.mark.parametrize("page", DERIVATIONS, ids=lambda p: p.stem)
def test_equations_are_numbered_without_gaps_and_each_has_its_code(page: pathlib.Path) -> None:
    numbers = equations_of(page)
    assert numbers == set(range(1, len(numbers) + 1))
    last = page.read_text().split("## Where each equation is")[1].split("\n## ")[0]
    named = set(map(int, re.findall(r"\((\d+)\)", last)))
    for first, end in re.findall(r"\((\d+)\) to \((\d+)\)", last):
        named |= set(range(int(first), int(end) + 1))
    assert named == numbers


def equations_and_code() -> list[tuple[pathlib.Path, list[str], pathlib.Path, str]]:
    """A page, the numbers of a row of its table, and a function or class that the row links to."""
    found = []
    for page in DERIVATIONS:
        table = page.read_text().split("## Where each equation is")[1].split("\n## ")[0]
        for row in re.findall(r"^\| (.+?) \| (.+) \|$", table, flags=re.MULTILINE):
            numbers = re.findall(r"\(\d+\)", row[0])
            links = re.findall(r"\]\((\.\./\.\./gplsq/[^)#]+\.py)#(\w+)\)", row[1])
            found += [(page, numbers, (page.parent / f).resolve(), name) for f, name in links]
    return [entry for entry in found if entry[1]]


@pytest.mark.parametrize(
    ("page", "numbers", "file", "name"),
    equations_and_code(),
    ids=[f"{entry[0].stem}-{entry[3]}" for entry in equations_and_code()],
)
def test_a_function_names_its_equation(page, numbers, file, name) -> None:
    (node,) = (n for n in ast.parse(file.read_text()).body if getattr(n, "name", "") == name)
    text = ast.get_docstring(node) or ""
    assert f"docs/derivations/{page.name}" in text, f"{name} names no equation of {page.name}"
    assert all(number in text for number in numbers), f"{name}: {numbers}"


@pytest.mark.parametrize("page", DERIVATIONS, ids=lambda p: p.stem)
def test_code_that_a_derivation_points_to_points_back(page: pathlib.Path) -> None:
    text = page.read_text()
    files = set(re.findall(r"\]\((\.\./\.\./gplsq/[^)#]+\.py)", text))
    assert files
    for file in files:
        source = (page.parent / file).resolve().read_text()
        assert f"docs/derivations/{page.name}" in source, f"{file} does not name {page.name}"


def public_packages() -> list[str]:
    """Packages of gplsq without an underscore that hold public names."""
    folders = [p for p in (ROOT / "gplsq").iterdir() if (p / "__init__.py").exists()]
    return sorted(p.name for p in folders if not p.name.startswith("_"))


def test_every_name_of_every_public_package_has_a_line() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for package in public_packages():
        tree = ast.parse((ROOT / "gplsq" / package / "__init__.py").read_text())
        exported = {
            alias.asname
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname == alias.name
        }
        own = f"gplsq.{package}"
        module = own if f"## {own}\n" in text else "gplsq"
        section = text.split(f"## {module}\n")[1].split("\n## ")[0]
        described = set(re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE))
        private = {"fitted_rows", "column_names"}  # of `estimators`, for `plotting`
        assert exported - private <= described, package


@pytest.mark.parametrize("module", ["gplsq.interop.torch", "gplsq.testing"])
def test_modules_that_are_imported_on_their_own_are_described(module: str) -> None:
    if module.endswith("torch"):
        pytest.importorskip("torch")
    found = importlib.import_module(module)
    names = {
        name
        for name, value in vars(found).items()
        if not name.startswith("_")
        and (str(getattr(value, "__module__", module)).startswith(module) or name.isupper())
    }
    text = (ROOT / "docs" / "api.md").read_text()
    section = text.split(f"## {module}\n")[1].split("\n## ")[0]
    described = set(re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE))
    assert described == {name for name in names if not isinstance(vars(found)[name], type(ast))}


@pytest.fixture(scope="module")
def hooks():
    """What `make docs` adds to the pages; needs the extra `docs`."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "_site" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_that_loads_from_another_host_fails_the_build(hooks, tmp_path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<a href="https://example.org">a link</a><img src="picture.png">')
    hooks.on_post_build({"site_dir": tmp_path})
    for bad in (
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img alt="" src="http://example.org/a.png">',
    ):
        page.write_text(bad)
        with pytest.raises(hooks.PluginError, match="another host"):
            hooks.on_post_build({"site_dir": tmp_path})


def test_equations_become_mathml_with_numbers(hooks) -> None:
    out = hooks.on_page_content(
        '<div class="arithmatex">\\[x = A^+ b \\tag{3}\\]</div> '
        '<span class="arithmatex">\\(a &lt; b\\)</span>',
        None,
        None,
        None,
    )
    assert 'id="eq-3"' in out
    assert '<span class="number">(3)</span>' in out
    assert out.count("<math") == 2
    assert "arithmatex" not in out


def test_includes_bring_the_section_and_its_links(hooks) -> None:
    section = hooks._included("docs/index.md", "../README.md", "Measured")
    assert "| yacht |" in section
    assert "](images/solver_curves.png)" in section
    with pytest.raises(hooks.PluginError, match="no such section"):
        hooks._included("docs/index.md", "../README.md", "Nothing")
