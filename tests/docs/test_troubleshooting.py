"""The troubleshooting page has an entry for what the library says at run time."""

import ast
import pathlib
import re

import pytest

from gplsq._core import STATUS, status_message

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
# Arguments of a wrong value or type: their texts say what was expected and what to do instead.
CHECKS = {"ValueError", "TypeError", "KeyError", "IndexError", "AttributeError"}
# Which argument of a call is the text.
SPEAKERS = {"warn": 0, "_warn_if": 1, "error_if": 2}


def constant_text(node: ast.AST) -> str:
    """The fixed parts of a text, with `...` for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(constant_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return constant_text(node.left) + constant_text(node.right)
    return "..."


def name_of(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def spoken() -> list[tuple[str, str]]:
    """File and text of every warning, of every runtime error, and of errors but for `CHECKS`."""
    found = set()
    for path in sorted((ROOT / "gplsq").rglob("*.py")):
        tree = ast.parse(path.read_text())
        whole = assignments(own_nodes(tree))
        for scope in ast.walk(tree):
            if isinstance(scope, ast.Module | ast.FunctionDef):
                nodes = sorted(own_nodes(scope), key=lambda node: getattr(node, "lineno", 0))
                texts = texts_of(nodes, whole | assignments(nodes))
                found |= {(str(path.relative_to(ROOT)), text) for text in texts}
    return sorted((path, text) for path, text in found if len(text.strip(". ")) > 20)


def assignments(nodes: list[ast.AST]) -> dict[str, list[ast.Assign]]:
    found: dict[str, list[ast.Assign]] = {}
    for node in nodes:
        for target in node.targets if isinstance(node, ast.Assign) else []:
            found.setdefault(name_of(target), []).append(node)
    return found


def texts_of(nodes: list[ast.AST], known: dict[str, list[ast.Assign]]) -> list[str]:
    """What the calls among `nodes` say: a variable has what it got since it was last raised."""
    found, last = [], 0
    for node in nodes:
        said = text_of(node)
        if isinstance(said, ast.Name):
            values = known.get(said.id, [])
            since = [v for v in values if last < v.lineno < node.lineno] or values
            found += [constant_text(v.value) for v in since]
        elif said is not None:
            found.append(constant_text(said))
        if isinstance(node, ast.Raise):
            last = node.lineno
    return found


def own_nodes(scope: ast.AST) -> list[ast.AST]:
    """Nodes of a function, or a module, that belong to no function inside of it."""
    found, left = [], list(ast.iter_child_nodes(scope))
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef):
            continue
        found.append(node)
        left += ast.iter_child_nodes(node)
    return found


def text_of(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        return None if name_of(node.exc.func) in CHECKS else node.exc.args[0]
    if isinstance(node, ast.Call) and name_of(node.func) in SPEAKERS:
        place = SPEAKERS[name_of(node.func)]
        return node.args[place] if len(node.args) > place else None
    return None


def is_quoted(text: str) -> bool:
    """Whether the page quotes twenty characters of it or more; `...` stands for anything."""
    quotes = [re.sub(r"\s+", " ", quote) for quote in re.findall(r"`([^`]+)`", PAGE)]
    for quote in quotes:
        said = re.sub(r"^[A-Za-z]+(Error|Warning): ", "", quote)
        pieces = [piece.strip() for piece in said.split("...") if piece.strip()]
        if sum(map(len, pieces)) >= 20 and all(piece in text for piece in pieces):
            return True
    return False


@pytest.mark.parametrize(("path", "text"), spoken(), ids=lambda part: part[:50])
def test_what_is_said_at_run_time_has_an_entry(path: str, text: str) -> None:
    assert is_quoted(text), f"docs/troubleshooting.md does not quote `{text}` of {path}"


def test_something_is_said_at_run_time() -> None:
    """The search above finds what it is for."""
    texts = " ".join(text for _, text in spoken())
    for known in ("missed its tolerance", "null space of the constraint has vanished", "checksum"):
        assert known in texts


@pytest.mark.parametrize("status", list(STATUS)[1:], ids=lambda s: s.name)
def test_every_status_text_has_a_row(status: STATUS) -> None:
    assert f"| `{status_message(status)}` |" in PAGE


def test_every_class_of_error_and_warning_has_an_entry() -> None:
    for path in (ROOT / "gplsq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Warning")):
                assert f"`{node.name}" in PAGE, node.name
