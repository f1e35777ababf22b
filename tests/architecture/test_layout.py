"""The tree keeps its promises: import floors, file sizes, public names."""

import ast
import builtins
import dis
import pathlib
import subprocess
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "gplsq"
FLOORS = ["_core", "kernels", "operators", "solvers", "gp", "tuning", "estimators"]
# Wings stand beside the floors: they import these floors only, and nothing imports them but for
# the floors that are named.
WINGS = {
    "interop": ["_core", "kernels", "operators", "solvers"],
    "plotting": FLOORS,
    "constraints": ["_core", "operators", "solvers"],  # a user of neural nets imports no GP
}
USERS = {"constraints": ["tuning", "estimators"]}
FILES = sorted(PACKAGE.rglob("*.py"))


def floor_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports_of(path: pathlib.Path) -> list[tuple[ast.AST, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gplsq"):
            found.append((node, node.module or ""))
        elif isinstance(node, ast.Import):
            found += [(node, a.name) for a in node.names if a.name.startswith("gplsq")]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_from_its_own_floor_and_from_lower_ones_only(path: pathlib.Path) -> None:
    floor = floor_of(path)
    below = FLOORS[: FLOORS.index(floor)] if floor in FLOORS else WINGS.get(floor, [])
    for _, module in imports_of(path):
        parts = module.split(".")
        target = parts[1] if len(parts) > 1 else ""
        used = floor in USERS.get(target, [])
        assert target not in WINGS or target == floor or used, f"{path}: imports a wing, {module}"
        if floor in ("", "testing"):
            continue
        assert used or target in [*below, floor], f"{path}: imports {module}"
        if target != floor:
            assert len(parts) == 2, f"{path}: reaches into another floor: {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_import_hides_inside_a_function(path: pathlib.Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inside, f"{path}: import inside {node.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_longer_than_four_hundred_lines(path: pathlib.Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_says_what_it_is_and_every_public_object_has_a_docstring(
    path: pathlib.Path,
) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no module docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_nothing_touches_global_jax_flags() -> None:
    for path in FILES:
        assert "jax.config.update" not in path.read_text(), path


def test_importing_the_package_creates_no_arrays_and_compiles_nothing() -> None:
    code = (
        "import jax, gplsq; from jax._src import xla_bridge as b; "
        "assert not b._backends, 'importing gplsq started a JAX backend'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_no_optional_library() -> None:
    code = "import sys, gplsq; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [("gplsq.interop.torch", "torch", "torch"), ("gplsq.plotting", "matplotlib", "plot")],
)
def test_a_module_names_its_extra_where_the_library_is_missing(
    module: str, library: str, extra: str
) -> None:
    code = f"import sys, gplsq; sys.modules['{library}'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert f'pip install "gplsq[{extra}]"' in last


def test_no_two_test_files_share_a_name() -> None:
    """pytest would refuse one of them: without packages it imports files by their name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_the_tests_called_slow_are_there() -> None:
    for test in (ROOT / "tests/slow.txt").read_text().splitlines():
        file, name = test.split("[")[0].split("::")[:2]
        assert f"def {name}(" in (ROOT / file).read_text(), test


def globals_of(code: types.CodeType) -> set[str]:
    """Global names that a function, and functions and classes inside of it, read."""
    read = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return read.union(*map(globals_of, inner))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_name_that_a_file_reads_exists(path: pathlib.Path) -> None:
    """What linters cannot check: to them names in shapes of arrays look undefined."""
    code = compile(path.read_text(), str(path), "exec")
    known = {*dir(builtins), "__annotations__", "__file__", "__name__"}
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            known.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            known |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            known.add(node.name)
    assert globals_of(code) <= known, globals_of(code) - known
