"""Calibration: do intervals hold what they promise?"""

from typing import Any, Self

import numpy as np
from jaxtyping import ArrayLike
from scipy.special import ndtr

from gplsq._core import NINETY_FIVE
from gplsq.plotting._predictions import FromPredictions, check_predictions
from gplsq.plotting._style import BLUE, GREY, PercentFormatter, axes_of, tidy

# Levels of the summary in the legend.
_LEVELS = (0.5, 0.9, 0.95)


class CoverageDisplay(FromPredictions):
    """The share of targets inside central intervals of every size, against what was promised.

    Above the diagonal intervals are too wide, below it too narrow. The band is where the curve of
    an honest model of so many independent rows lies, at each size, in 95 of 100 cases.

    Parameters
    ----------
    y, mean, std
        Targets, predictions and their standard deviations, shapes (m,).

    Attributes
    ----------
    promised, covered
        The curve: sizes of intervals from 0 to 1, and the share of targets inside.
    ax_, figure_, line_, band_
        After `plot`.
    """

    def __init__(self, y: ArrayLike, mean: ArrayLike, std: ArrayLike):
        y, mean, std = check_predictions(y, mean, std)
        # The smallest central interval with the target inside is of this size.
        self._needed = np.sort(2 * ndtr(np.abs(y - mean) / std) - 1)
        self.promised = np.linspace(0, 1, 201)
        self.covered = self.coverage(self.promised)

    def coverage(self, level: ArrayLike) -> np.ndarray:
        """The share of targets inside central intervals of a size, such as 0.95."""
        inside = np.searchsorted(self._needed, np.asarray(level, float), side="right")
        return inside / len(self._needed)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw; `ax` are matplotlib axes, or None for a new figure."""
        (axes,) = axes_of(ax, 1, size=(5, 4.8))
        p = self.promised
        width = NINETY_FIVE * np.sqrt(p * (1 - p) / len(self._needed))
        low, high = np.maximum(p - width, 0), np.minimum(p + width, 1)
        style = {"color": GREY, "alpha": 0.2, "linewidth": 0}
        self.band_ = axes.fill_between(p, low, high, label="by chance", **style)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="as promised")
        (self.line_,) = axes.plot(p, self.covered, color=BLUE, linewidth=2, label="this model")
        lines = [f"{level:.0%} intervals hold {self.coverage(level):.1%}" for level in _LEVELS]
        note = {"ha": "right", "va": "bottom", "fontsize": "small", "color": GREY}
        axes.text(0.98, 0.03, "\n".join(lines), transform=axes.transAxes, **note)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title="Coverage of intervals")
        axes.set(xlabel="size of the central interval", ylabel="targets inside")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False, loc="upper left")
        tidy(axes)
        self.ax_, self.figure_ = axes, axes.figure
        return self
