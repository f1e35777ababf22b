"""What all displays share: matplotlib itself, colours, axes, and names of columns."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from gplsq._core import describe

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.ticker import PercentFormatter
except ImportError as error:
    _MISSING = 'gplsq.plotting needs matplotlib, an optional extra: pip install "gplsq[plot]".'
    raise ImportError(_MISSING) from error

# Colours that people with any kind of colour vision tell apart (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, ORANGE, GREEN = COLOURS[:3]
GREY = "#777777"

__all__ = [
    "BLUE",
    "COLOURS",
    "GREEN",
    "GREY",
    "ORANGE",
    "Axes",
    "PercentFormatter",
    "axes_of",
    "check_fitted",
    "plt",
    "tidy",
]


def axes_of(ax: Any, count: int, *, size: tuple[float, float], **settings: Any) -> np.ndarray:
    """`count` axes: those given, or of a new figure of `size` inches."""
    if ax is None:
        _, made = plt.subplots(1, count, figsize=size, layout="constrained", **settings)
        return np.atleast_1d(made)
    given = np.atleast_1d(np.asarray(ax, object)).ravel()
    if len(given) != count or not all(isinstance(one, Axes) for one in given):
        what = "matplotlib axes" if count == 1 else f"a list of {count} matplotlib axes"
        msg = f"ax must be {what}, or None for a new figure; got {describe(ax)}."
        raise ValueError(msg)
    return given


def tidy(*axes: Axes) -> None:
    """A faint grid below the data, and no box."""
    for ax in axes:
        ax.set_axisbelow(True)
        ax.grid(color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)


def check_fitted(estimator: Any) -> None:
    """Refuse an estimator that has no posterior."""
    check_is_fitted(estimator, "posterior_")
