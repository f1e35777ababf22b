"""What the library says: texts of its errors and warnings, read from its code."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
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


def spoken(of_arguments: bool = False) -> list[tuple[str, str]]:
    """File and text of every warning and error at run time, or of errors `of_arguments`."""
    found = set()
    for path in sorted((ROOT / "gplsq").rglob("*.py")):
        tree = ast.parse(path.read_text())
        whole = assignments(own_nodes(tree))
        for scope in ast.walk(tree):
            if isinstance(scope, ast.Module | ast.FunctionDef):
                nodes = sorted(own_nodes(scope), key=lambda node: getattr(node, "lineno", 0))
                texts = texts_of(nodes, whole | assignments(nodes), of_arguments)
                found |= {(str(path.relative_to(ROOT)), text) for text in texts}
    return sorted((path, text) for path, text in found if len(text.strip(". ")) > 20)


def assignments(nodes: list[ast.AST]) -> dict[str, list[ast.Assign]]:
    found: dict[str, list[ast.Assign]] = {}
    for node in nodes:
        for target in node.targets if isinstance(node, ast.Assign) else []:
            found.setdefault(name_of(target), []).append(node)
    return found


def texts_of(
    nodes: list[ast.AST], known: dict[str, list[ast.Assign]], of_arguments: bool
) -> list[str]:
    """What the calls among `nodes` say: a variable has what it got since it was last raised."""
    found, last = [], 0
    for node in nodes:
        said = text_of(node, of_arguments)
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


def text_of(node: ast.AST, of_arguments: bool) -> ast.AST | None:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        about = name_of(node.exc.func) in CHECKS
        return node.exc.args[0] if about == of_arguments else None
    if not of_arguments and isinstance(node, ast.Call) and name_of(node.func) in SPEAKERS:
        place = SPEAKERS[name_of(node.func)]
        return node.args[place] if len(node.args) > place else None
    return None


def page() -> str:
    """Markdown: the texts about arguments, by the file that says them."""
    lines = [
        "# Messages about arguments",
        "",
        "What is said of an argument of a wrong type, shape or value: what was expected, what",
        "came, and what to pass instead. `...` stands for what is filled in. Warnings, and errors",
        "at run time, are in [troubleshooting](troubleshooting.md).",
    ]
    last = None
    for path, text in spoken(of_arguments=True):
        if path != last:
            lines += ["", f"## {path.removeprefix('gplsq/').removesuffix('.py')}", ""]
            last = path
        lines.append("- " + re.sub(r"([*_<>`|\\[\]])", r"\\\1", " ".join(text.split())))
    return "\n".join(lines) + "\n"
