"""Which tests take so long that `make test` leaves them out: tests/slow.txt.

    python tests/release/list_slow.py build/durations.log > tests/slow.txt

The log is of a run of all tests with `--durations=0`. Documents and examples stay, and of a test
with parameters its quickest case, unless that alone takes over twice the limit.
"""

import collections
import re
import sys
from pathlib import Path

LIMIT = 0.5  # seconds, of both runs (x64 on and off) the longer
FAR_OVER = 2.0  # times the limit: even the quickest case of a test is left out
ALWAYS = ("tests/docs/", "tests/architecture/")

LINE = re.compile(r"\s*([\d.]+)s (?:call|setup|teardown)\s+(tests/\S+?::.*\S)")


def main(path: str) -> None:
    """Print the list, one test a line, in order."""
    longest = collections.Counter()
    this_run = collections.Counter()
    for line in Path(path).read_text().splitlines():
        found = LINE.match(line)
        if found:
            this_run[found[2]] += float(found[1])
        elif " passed" in line:  # the end of a run
            longest |= this_run
            this_run.clear()
    cases = collections.defaultdict(list)
    for test, seconds in longest.items():
        cases[test.split("[")[0]].append((seconds, test))
    slow = []
    for members in cases.values():
        # Those too quick for the log are not among the members, so one may stay needlessly.
        stays = min(members)
        for seconds, test in members:
            limit = LIMIT * FAR_OVER if test == stays[1] else LIMIT
            if seconds > limit and not test.startswith(ALWAYS):
                slow.append(test)
    print("\n".join(sorted(slow)))


if __name__ == "__main__":
    main(sys.argv[1])
