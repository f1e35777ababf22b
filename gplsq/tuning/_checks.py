"""Settings of objectives, refused by name."""

from typing import Any

from gplsq._core import check_finite_scalar


def check_fraction(fraction: Any) -> None:
    """Refuse what is no number between 0 and 1, both excluded."""
    check_finite_scalar("fraction", fraction, minimum=0.0, strict=True)
    if fraction >= 1:
        msg = f"fraction must lie in (0, 1); got {fraction}. Pass for example 0.2."
        raise ValueError(msg)


def held_rows(n: int, fraction: float) -> int:
    """How many of n rows are held out: at least one, and not all."""
    return min(max(1, round(n * fraction)), n - 1)
