"""Commands that the documents give for their tables are ones that the scripts take."""

import ast
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "concepts" / "constraints.md"]
COMMANDS = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"`python (benchmarks/\w+\.py[^`]*)`", page.read_text())
    }
)
SCRIPTS = {path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")}


def arguments_of(script: pathlib.Path) -> tuple[set[str], set[str]]:
    """Options of a script, and the words among its constants, its positional choices too."""
    tree = ast.parse(script.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    added = [call for call in calls if getattr(call.func, "attr", "") == "add_argument"]
    options = {str(call.args[0].value) for call in added if isinstance(call.args[0], ast.Constant)}
    words = {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return options, words


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_its_script_takes(command: str) -> None:
    script, *rest = shlex.split(command)
    options, words = arguments_of(ROOT / script)
    _, of_sets = arguments_of(ROOT / "benchmarks" / "uci.py")
    for word in rest:
        if word.startswith("--"):
            assert word in options, f"{script} has no {word}"
        elif not re.fullmatch(r"[\d.e]+", word) and "/" not in word:
            assert word in words | of_sets, f"{script} knows no {word}"


def test_every_script_of_the_readmes_tables_has_a_command() -> None:
    measured = (ROOT / "README.md").read_text().split("\n## Measured\n")[1].split("\n## ")[0]
    named = set(re.findall(r"`benchmarks/(\w+\.py)", measured))
    assert named
    page = PAGES[0].read_text().split("\n## Commands\n")[1].split("\n## ")[0]
    assert named == set(re.findall(r"`python benchmarks/(\w+\.py)", page))


def printed(name: str) -> str:
    """A page of what a command printed."""
    return (ROOT / "docs" / "measured" / f"{name}.md").read_text()


def test_what_a_command_printed_is_its_page() -> None:
    commands = PAGES[0].read_text().split("\n## Commands\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\|.* \| `(python .*)` \| (.*) \|$", commands, re.M)
    assert len(lines) == len(re.findall(r"^\|.*`python ", commands, re.M))
    names = []
    for command, where in lines:
        if where.endswith(", not kept"):
            continue
        (name,) = re.fullmatch(r"\[(.*)\]\(measured/\1\.md\)", where).groups()
        page = printed(name)
        assert f"\n```\n{command}\n```\n" in page, name
        assert re.search(r"^gplsq \S+, jax \S+, .* cores .*, 20\d\d-\d\d-\d\d", page, re.M), name
        assert re.search(r"^\|[ -|]+\|$", page, re.M), name
        names.append(name)
    assert len(names) > 10
    assert sorted(names) == sorted(path.stem for path in (ROOT / "docs" / "measured").glob("*.md"))


def numbers(cells: str) -> list[float]:
    """The numbers of some cells of a table, in their order."""
    return [float(text.replace(",", "")) for text in re.findall(r"-?\d[\d,]*\.?\d*", cells)]


def agree(shown: str, of_script: str) -> None:
    """What is shown is what the script printed, rounded."""
    for text, number in zip(
        re.findall(r"-?\d[\d,]*\.?\d*", shown), numbers(of_script), strict=True
    ):
        decimals = len(text.partition(".")[2])
        assert abs(float(text.replace(",", "")) - number) <= 0.5001 * 10**-decimals, shown


def test_the_readmes_published_sets_are_what_the_script_printed() -> None:
    readme = (ROOT / "README.md").read_text()
    means = re.findall(r"^\| +(\w+) \| gplsq \| +5 \| (.*) \|$", printed("uci"), re.M)
    assert len(means) == 9
    for name, cells in means:
        (row,) = re.findall(rf"^\| {name} \| \d+ x \d+ \|(.*)\|$", readme, re.M)
        rmse, _, nlpd, _, coverage, seconds = row.split("|")
        agree(" ".join([rmse, nlpd, coverage, seconds]), cells)


def test_the_readmes_rows_against_seconds_are_what_the_script_printed() -> None:
    readme = (ROOT / "README.md").read_text()
    lines = re.findall(
        r"^\| +(gplsq|warm|scikit-learn|gpytorch) \| +([\d,]+) \| +8 \| +~?([\d.]+) \|",
        printed("peers"),
        re.M,
    )
    shown = {
        rows: cells.split("|")
        for rows, cells in re.findall(r"^\| ([\d,]+) \| ((?:[^|]*\|){3})$", readme, re.M)
    }
    assert len(lines) > 15
    for model, rows, seconds in lines:
        ours, sklearn, gpytorch = shown[rows][:3]
        warm = re.search(r"\(([\d.]+)\)", ours)
        cell = {
            "gplsq": ours,
            "warm": warm and warm[1],
            "scikit-learn": sklearn,
            "gpytorch": gpytorch,
        }[model]
        if cell:
            agree(re.search(r"[\d.]+", cell)[0], seconds)


def test_every_script_is_in_the_list_of_questions() -> None:
    listed = re.findall(r"^\| `(\w+\.py)` \|", (ROOT / "benchmarks/README.md").read_text(), re.M)
    assert sorted(listed) == sorted(SCRIPTS)


def test_every_table_of_constraints_has_command_versions_and_date() -> None:
    measured = PAGES[1].read_text().split("\n## Measured\n")[1].split("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+\n(.*)\n", measured, flags=re.MULTILINE)
    assert tables
    wanted = r"gplsq [\d.]+, jax [\d.]+, .* cores .*, 20\d\d-\d\d-\d\d"
    for after in tables:
        assert re.fullmatch(rf"\(`python benchmarks/.*`; {wanted}\.\)", after), after


def test_every_script_starts(tmp_path: pathlib.Path) -> None:
    """All are imported in one process; a peer that is not installed is no fault of theirs."""
    program = tmp_path / "start.py"
    program.write_text(
        "import importlib, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        f"for name in {sorted(path.removesuffix('.py') for path in SCRIPTS)!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert error.name in ('gpytorch', 'lineax', 'pykeops', 'torch'), error\n"
        "    print(name)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(SCRIPTS)


def test_seconds_of_how_to_choose_are_those_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    page = (ROOT / "docs" / "how-to-choose.md").read_text().split("\n| you have |")[0]
    cells = re.findall(r"([\d,]+) x (\d+): ([\d.]+)( ¹)?", page)
    assert len(cells) > 10
    for rows, columns, seconds, of_peers in cells:
        line = (
            rf"^\| {rows} \| {seconds} ?[(,]"
            if of_peers
            else (rf"^\| \w+ \| {rows.replace(',', '')} x {columns} \|.*\| {seconds} \|$")
        )
        assert re.search(line, readme, flags=re.MULTILINE), f"{rows} x {columns}: {seconds}"
