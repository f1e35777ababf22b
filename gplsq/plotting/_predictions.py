"""Predictions against what came true."""

from typing import Any, Self

import numpy as np
from jaxtyping import ArrayLike

from gplsq._core import NINETY_FIVE, describe
from gplsq.plotting._style import BLUE, GREY, ORANGE, axes_of, tidy

# Points beyond which intervals are one black cloud.
_MOST_INTERVALS = 500


class FromPredictions:
    """Base of pictures of targets, means and standard deviations of a test table."""

    def __init__(self, y: ArrayLike, mean: ArrayLike, std: ArrayLike):
        raise NotImplementedError

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, y: ArrayLike, *, ax: Any = None) -> Self:
        """Predict X, which the estimator has best not seen, and draw.

        Parameters
        ----------
        estimator
            A fitted `GPRegressor`, or anything whose ``predict`` takes ``return_std=True``.
        X, y
            Test data, shapes (m, d) and (m,).
        ax
            Matplotlib axes, or None for a new figure.
        """
        mean, std = estimator.predict(X, return_std=True)
        return cls(y, mean, std).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw; `ax` are matplotlib axes, or None for a new figure."""
        raise NotImplementedError


class PredictionDisplay(FromPredictions):
    """Predictions against the truth, with 95 % intervals; points outside are marked.

    Parameters
    ----------
    y, mean, std
        Targets, predictions and their standard deviations, shapes (m,).

    Attributes
    ----------
    inside
        Which targets lie in their 95 % interval.
    shown
        The rows that are drawn: all up to 500, and 500 spread over the predictions beyond.
    ax_, figure_, inside_, outside_, diagonal_
        After `plot`: the artists of points inside and outside, and of ``prediction = truth``.
    """

    def __init__(self, y: ArrayLike, mean: ArrayLike, std: ArrayLike):
        self.y, self.mean, self.std = check_predictions(y, mean, std)
        self.inside = np.abs(self.y - self.mean) <= NINETY_FIVE * self.std
        order = np.argsort(self.mean, kind="stable")
        count = min(len(order), _MOST_INTERVALS)
        self.shown = order[np.linspace(0, len(order) - 1, count).round().astype(int)]

    def plot(self, *, ax: Any = None) -> Self:
        """Draw; `ax` are matplotlib axes, or None for a new figure."""
        (axes,) = axes_of(ax, 1, size=(5.4, 5.6))
        artists = []
        for chosen, colour, word in ((True, BLUE, "inside"), (False, ORANGE, "outside")):
            rows = self.shown[self.inside[self.shown] == chosen]
            share = np.mean(self.inside == chosen)
            artists.append(
                axes.errorbar(
                    self.mean[rows],
                    self.y[rows],
                    xerr=NINETY_FIVE * self.std[rows],
                    fmt="o",
                    markersize=3,
                    color=colour,
                    ecolor=(colour, 0.25),
                    elinewidth=1,
                    label=f"{word} its 95 % interval ({share:.1%})",
                )
            )
        self.inside_, self.outside_ = artists
        ends = [min(self.y.min(), self.mean.min()), max(self.y.max(), self.mean.max())]
        label = "prediction = truth"
        (self.diagonal_,) = axes.plot(ends, ends, color=GREY, linewidth=1, zorder=3, label=label)
        rmse = np.sqrt(np.mean((self.y - self.mean) ** 2))
        axes.set(xlabel="predicted, with 95 % interval", ylabel="true")
        axes.set_title(f"Predictions: RMSE {rmse:.3g}, {len(self.y):,} rows")
        # Below: intervals fill every corner of the axes.
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0, -0.12))
        tidy(axes)
        self.ax_, self.figure_ = axes, axes.figure
        return self


def check_predictions(*arrays: ArrayLike) -> tuple[np.ndarray, ...]:
    """Targets, means and standard deviations as arrays of one length."""
    y, mean, std = (np.asarray(array, float) for array in arrays)
    good = y.ndim == 1 and y.shape == mean.shape == std.shape and len(y) > 0
    if not good or not np.all(np.isfinite([y, mean, std])) or np.any(std <= 0):
        got = ", ".join(describe(array) for array in (y, mean, std))
        msg = (
            "y, mean and std must be finite arrays of one shape (m,), std positive; got "
            f"{got}. Pass targets and what predict(X, return_std=True) returned."
        )
        raise ValueError(msg)
    return y, mean, std
