"""The pages of docs/measured: what the commands of docs/benchmarks.md print.

    python docs/_site/measured.py
    python docs/_site/measured.py uci classify

All of them take over an hour, on a machine that does nothing else, and need the peers (`pip install
gplsq[docs] torch gpytorch pykeops`).
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
# A line of the table: what, the command, and the page of what it printed.
LINE = re.compile(
    r"^\| (.+?) \| `python (benchmarks/[^`]+)` \| .*?\(measured/([\w-]+)\.md\) \|$", re.M
)


def commands() -> dict[str, tuple[str, str]]:
    """Name of a page: what is measured, and the command, in the order of the table."""
    return {name: (what, command) for what, command, name in LINE.findall(PAGE.read_text())}


def main(names: list[str]) -> None:
    """Run the commands of these names, or all, and write their pages."""
    known = commands()
    if unknown := set(names) - set(known):
        sys.exit(f"No such page: {', '.join(sorted(unknown))}. There are {', '.join(known)}.")
    for name in names or known:
        what, command = known[name]
        print(f"== python {command}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, *shlex.split(command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        # A paragraph for every line that is not of a table.
        printed = re.sub(r"(^[^|\n].*\n)(?=[^\n])", r"\1\n", done.stdout.strip(), flags=re.M)
        printed = re.sub(r"\n{3,}", "\n\n", printed)
        title = what[0].upper() + what[1:]
        text = f"# {title}\n\n```\npython {command}\n```\n\n{printed}\n"
        (PAGE.parent / "measured" / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
