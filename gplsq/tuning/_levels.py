"""Levels: tune on small random subsets first, then on larger ones."""

from typing import NamedTuple

from gplsq.tuning._objectives import AbstractObjective


class Level(NamedTuple):
    """So many steps on random subsets of so many rows."""

    rows: int
    steps: int


def default_levels(n: int, objective: AbstractObjective) -> tuple[Level, ...]:
    """The default schedule.

    A fixed objective (leave-one-out) costs n^3 a step: up to 800 rows it runs on all of them;
    beyond that most steps go to a fixed 500 and the last 25 to all, at most 2000. A random one sees
    fresh rows at every step: 40 steps on 1000 rows, 50 on 2500.
    """
    if objective.random:
        pairs = [Level(1000, 40), Level(2500, 50)]
        return tuple(pairs) if n > 1000 else (Level(n, 90),)
    if n <= 800:
        return (Level(n, 100),)
    return (Level(500, 60), Level(min(n, 2000), 25))
