"""Pages for users of other libraries: their side runs as well, wherever they are installed.

Our side, in `python` fences, runs with all other pages. Their side is in `py` fences.
"""

import pathlib
import re
import warnings

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "coming-from"
PEERS = {
    "scikit-learn": "sklearn",
    "gpytorch": "gpytorch",
    "gpjax": "gpjax",
    "cooper": "cooper",
    "matfree": "matfree",
    "lineax": "lineax",
}


def with_a_side_in_py() -> list[str]:
    """The others run whole with all pages, in test_docs.py."""
    return [page for page in PEERS if "```py\n" in (FOLDER / f"{page}.md").read_text()]


@pytest.mark.parametrize("page", with_a_side_in_py())
def test_both_sides_of_a_page_run_and_agree(page: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other libraries are theirs
        pytest.importorskip(PEERS[page])
        text = (FOLDER / f"{page}.md").read_text()
        namespace: dict = {}
        for block in re.findall(r"```(?:python|py)\n(.*?)```", text, flags=re.DOTALL):
            exec(compile(block, page, "exec"), namespace)


def test_every_page_has_its_library() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(PEERS)


@pytest.mark.parametrize("page", PEERS)
def test_every_page_has_both_sides_and_a_table_of_names(page: str) -> None:
    text = (FOLDER / f"{page}.md").read_text()
    for side in re.findall(r'<div class="sides" markdown>(.*?)</div>', text, flags=re.DOTALL):
        captions = re.findall(r"^\*\*(.+)\*\*$", side, flags=re.MULTILINE)
        assert len(captions) == 2
        assert captions[1] == "gplsq"
        assert len(re.findall(r"^```py", side, flags=re.MULTILINE)) == 2
    assert "## Names" in text
