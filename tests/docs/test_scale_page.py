"""The page on scale prints what it says, and its way for each size is the plan's."""

import pathlib
import re

import pytest

from gplsq import plan
from gplsq.gp import Rates

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "concepts" / "scale.md").read_text()
TWO_CORES = Rates(entries=2.0**30, flops=2.0**37, factor_flops=2.0**36, bytes=2.0**34)
MEASURED = re.findall(r"^\| ([\d,]+) x (\d+) \| (\w+) \|", PAGE, flags=re.MULTILINE)


def test_the_plans_are_printed_as_the_page_says(capsys) -> None:
    block, said = re.search(
        r"```python\n(.*?)```\n\nprints\n\n```text\n(.*?)```", PAGE, re.S
    ).groups()
    exec(compile(block, "docs/concepts/scale.md", "exec"), {})
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(("rows", "columns", "way"), MEASURED)
def test_the_way_of_a_measured_fit_is_that_of_the_plan(rows: str, columns: str, way: str) -> None:
    ways = {"direct": {"direct"}, "LSMR": {"kept", "tiled"}, "inducing": {"inducing"}}
    made = plan(int(rows.replace(",", "")), int(columns), memory="8 GiB", rates=TWO_CORES)
    assert made.chosen in ways[way]


def test_the_memory_of_every_way_is_what_the_table_says() -> None:
    """Numbers of four bytes beside the table; tiles come on top."""
    n, r, m = 30_000, 1000, 4096
    tiles, of_functions = 6 * 128 * n, 6 * 288 * m  # 288: 1.2 million over m, a multiple of 8
    table = {way.name: way.bytes / 4 for way in plan(n, 8, rates=TWO_CORES, memory=1e12).candidates}
    assert table["direct"] == 3 * n**2
    assert table["kept"] == n**2 + (12 + 3 * r) * n + tiles
    assert table["tiled"] == (12 + 3 * r) * n + tiles
    wide = plan(30_000_000, 8, rates=TWO_CORES, memory=1e15).candidates
    low_rank = {way.name: way.bytes / 4 for way in wide}
    assert low_rank["inducing"] == 16 * m**2 + 9 * 30_000_000 + of_functions
    assert low_rank["features"] == 6 * m**2 + 9 * 30_000_000 + of_functions


def test_columns_do_not_enter_the_plan() -> None:
    few, many = (plan(20_000, d, rates=TWO_CORES, memory="8 GiB") for d in (1, 500))
    assert few.candidates == many.candidates
