"""The troubleshooting page has an entry for what the library says at run time."""

import ast
import importlib.util
import pathlib
import re

import pytest

from gplsq._core import STATUS, status_message

ROOT = pathlib.Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "_site" / "messages.py")
messages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(messages)
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def is_quoted(text: str) -> bool:
    """Whether the page quotes twenty characters of it or more; `...` stands for anything."""
    quotes = [re.sub(r"\s+", " ", quote) for quote in re.findall(r"`([^`]+)`", PAGE)]
    for quote in quotes:
        said = re.sub(r"^[A-Za-z]+(Error|Warning): ", "", quote)
        pieces = [piece.strip() for piece in said.split("...") if piece.strip()]
        if sum(map(len, pieces)) >= 20 and all(piece in text for piece in pieces):
            return True
    return False


@pytest.mark.parametrize(("path", "text"), messages.spoken(), ids=lambda part: part[:50])
def test_what_is_said_at_run_time_has_an_entry(path: str, text: str) -> None:
    assert is_quoted(text), f"docs/troubleshooting.md does not quote `{text}` of {path}"


def test_something_is_said_at_run_time() -> None:
    """The search above finds what it is for."""
    texts = " ".join(text for _, text in messages.spoken())
    for known in ("missed its tolerance", "null space of the constraint has vanished", "checksum"):
        assert known in texts


def test_the_site_has_a_page_of_all_texts_about_arguments() -> None:
    texts = messages.spoken(of_arguments=True)
    assert len(texts) > 250
    page = messages.page().replace("\\", "")
    for path, text in texts:
        assert f"\n## {path[6:-3]}\n" in page
        assert " ".join(text.split()).replace("\\", "") in page


@pytest.mark.parametrize("status", list(STATUS)[1:], ids=lambda s: s.name)
def test_every_status_text_has_a_row(status: STATUS) -> None:
    assert f"| `{status_message(status)}` |" in PAGE


def test_every_class_of_error_and_warning_has_an_entry() -> None:
    for path in (ROOT / "gplsq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Warning")):
                assert f"`{node.name}" in PAGE, node.name
