"""Levels: tune on small random subsets first, then on larger ones."""

from numbers import Integral
from typing import Any, NamedTuple

from gplsq._core import describe, savable
from gplsq.tuning._objectives import AbstractObjective


@savable
class Level(NamedTuple):
    """So many steps on random subsets of so many rows."""

    rows: int
    steps: int


# A level of at least this share of the rows counts as one of all rows.
EVERYTHING = 0.96
_LARGE = 20_000


def bucket(n: int) -> int:
    """The next number of rows down with six binary digits: one for many tables, within 3 %.

    What is compiled for it serves the folds of a cross-validation, and a table that grows.
    """
    unit = 2 ** max(n.bit_length() - 6, 0)
    return n // unit * unit


def default_levels(n: int, objective: AbstractObjective) -> tuple[Level, ...]:
    """The default schedule.

    Leave-one-out costs n^3 a step: up to 800 rows it runs on all of them; beyond that 60 steps go
    to 500 fresh rows each and the last 20 to all, at most 2000. The fresh rows are a regulariser
    too: tuned on all rows from the start, eleven lengthscales fitted 1440 leave-one-out errors too
    well. Hold-out: 40 steps on 1000 rows and 90 on 1600, all fresh; of tables from 20,000 rows on,
    whose solve takes longer than tuning, 60 on 2000. On the UCI sets bike and pol more steps
    brought more than more rows a step. All rows are a few less, so that tables of similar length
    share what is compiled.
    """
    if objective.random:
        # In float32 a step on 2000 rows works in 27 MB; glibc's malloc keeps up to 32 for the next:
        # one on 2250 rows takes 52 ms instead of 25, for the pages of its memory come anew.
        last = Level(1600, 90) if n < _LARGE else Level(2000, 60)
        return (Level(1000, 40), last) if n > 1000 else (Level(bucket(n), 90),)
    if n <= 800:
        return (Level(bucket(n), 100),)
    return (Level(500, 60), Level(2000 if n >= 2000 else bucket(n), 20))


def closing_level(levels: list[Level]) -> Level:
    """What follows these levels for a loss that looks at the variance too."""
    return Level(levels[-1].rows, 40)


def check_levels(levels: Any, n: int) -> list[Level]:
    """The schedule as `Level`s of at most n rows.

    Raises
    ------
    ValueError
        If it is not a non-empty sequence of pairs of whole numbers, rows >= 2 and steps >= 1.
    """
    msg = (
        "levels must be a sequence of pairs (rows, steps) of whole numbers, rows at least 2 and "
        f"steps at least 1; got {describe(levels)}. Pass for example [(500, 60), (2000, 25)]."
    )
    if not isinstance(levels, list | tuple) or not levels:
        raise ValueError(msg)
    checked = []
    for pair in levels:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(msg)
        rows, steps = pair
        whole = all(isinstance(v, Integral) and not isinstance(v, bool) for v in pair)
        if not whole or rows < 2 or steps < 1:
            raise ValueError(msg)
        checked.append(Level(min(int(rows), n), int(steps)))
    return checked
