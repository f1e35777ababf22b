"""How many random cases each property is tried on, and how many were tried.

`GPLSQ_HYPOTHESIS=long` tries fifty times as many, other ones at every run.
"""

import functools
import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings

LONG = os.environ.get("GPLSQ_HYPOTHESIS") == "long"
LONGER = 50
# By file, then by the name of the test. The page docs/concepts/reliability.md has the totals.
tried: dict[str, dict[str, int]] = {}
planned: dict[str, dict[str, int]] = {}  # of a short run


def cases(count: int) -> Callable:
    """Try a property on so many cases, and count those that passed; above `given`."""
    many = count * LONGER if LONG else count

    def decorate(test: Callable) -> Callable:
        inner = test.hypothesis.inner_test
        file = inner.__module__
        planned.setdefault(file, {})[inner.__name__] = count
        done = tried.setdefault(file, {})

        @functools.wraps(inner)
        def counted(*args, **kwargs):
            inner(*args, **kwargs)
            done[inner.__name__] = done.get(inner.__name__, 0) + 1

        test.hypothesis.inner_test = counted
        return settings(
            max_examples=many,
            derandomize=not LONG,
            database=None,
            deadline=None,
            print_blob=True,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )(test)

    return decorate


def check_counts(file: str) -> str:
    """Every property of a file that ran was tried on as many cases as planned; says how many."""
    for name, count in tried[file].items():
        expected = planned[file][name] * (LONGER if LONG else 1)
        assert count >= expected, f"{name}: {count} of {expected} cases"
    total = sum(tried[file].values())
    return f"{file}: {total:,} cases of {len(tried[file])} properties, none failed"
