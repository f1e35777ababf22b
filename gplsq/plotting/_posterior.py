"""The posterior along one input or over two: mean, uncertainty, and draws from it."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from gplsq._core import NINETY_FIVE, describe
from gplsq.estimators import column_names, fitted_rows
from gplsq.plotting._style import (
    BLUE,
    GREY,
    ORANGE,
    axes_of,
    check_fitted,
    plt,
    tidy,
)


class PosteriorDisplay:
    """A fitted process along one input, or over the plane of two; other inputs are held.

    Parameters
    ----------
    grid
        The values of each of the one or two inputs that vary, shapes (t,).
    mean, latent_std, std
        At the points of the grid, shape (t,) or (t, t) with the second input along the first axis;
        `std` is that of a new observation.
    samples
        Draws of the latent function, shape (s, t) or (s, t, t).
    labels
        Names of the inputs.
    points
        Rows to show: their values of the inputs that vary, and of the target; or None.
    held
        What is said of the other inputs.

    Attributes
    ----------
    axes_, figure_
        After `plot`: one axes for one input; three for two: mean, uncertainty, a draw.
    mean_, bands_, samples_, points_
        The artists for one input; for two `images_` and `points_`. `points_` may be None.
    """

    def __init__(
        self,
        grid: Sequence[ArrayLike],
        mean: ArrayLike,
        latent_std: ArrayLike,
        std: ArrayLike,
        samples: ArrayLike,
        labels: Sequence[str],
        points: tuple[np.ndarray, ...] | None = None,
        held: str = "",
    ):
        self.grid = [np.asarray(values, float) for values in grid]
        self.mean, self.latent_std, self.std, self.samples = (
            np.asarray(part, float) for part in (mean, latent_std, std, samples)
        )
        self.labels, self.points, self.held = list(labels), points, held

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike | None = None,
        y: ArrayLike | None = None,
        *,
        columns: int | str | Sequence[int | str] | None = None,
        num_points: int | None = None,
        num_samples: int = 3,
        random_state: Any = 0,
        ax: Any = None,
    ) -> "PosteriorDisplay":
        """Draw a fitted `GPRegressor`.

        Parameters
        ----------
        estimator
            Fitted.
        X, y
            Rows that give the ranges of the inputs and are shown; those of the fit by default,
            where the model has them. Shapes (n, d) and (n,).
        columns
            One or two inputs that vary, by number or name; the others are held at their medians.
            Needed for more than two columns. Rows are then shown where the others are held too.
        num_points
            Of the grid in each direction; 200 for one input, 30 for two by default.
        num_samples
            Draws of the latent function; over two inputs one is shown.
        random_state
            Of the draws.
        ax
            One matplotlib axes for one input, three for two, or None for a new figure.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the model has several outputs, `columns` are not one or two of the inputs, or no rows
            are known.
        """
        check_fitted(estimator)
        if np.ndim(estimator.calibration_.noise_variance) > 0:
            msg = (
                f"the model has {len(estimator.calibration_.noise_variance)} outputs, and one is "
                "drawn. Fit an estimator to one of them."
            )
            raise ValueError(msg)
        rows, target = _rows(estimator, X, y)
        names = column_names(estimator)
        chosen = _chosen(columns, names)
        size = num_points or (200 if len(chosen) == 1 else 30)
        middle = np.median(rows, axis=0)
        grid = [_range(rows[:, column], size) for column in chosen]
        mesh = np.meshgrid(*grid)
        Z = np.tile(middle, (mesh[0].size, 1))
        for column, values in zip(chosen, mesh, strict=True):
            Z[:, column] = values.ravel()
        with warnings.catch_warnings():
            # The grid is an array, whatever the table of the fit was.
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            mean, latent_std = estimator.predict(Z, return_std=True, include_noise=False)
            noise = estimator.calibration_.noise_variance * estimator._y_scaling.scale**2
            std = np.sqrt(latent_std.astype(float) ** 2 + noise)
            draws = estimator.sample_y(Z, num_samples, random_state, include_noise=False)
        shape = mesh[0].shape
        others = [i for i in range(len(names)) if i not in chosen]
        held = ", ".join(f"{names[i]} = {middle[i]:.3g}" for i in others[:4])
        held += f" and {len(others) - 4} more at their medians" if len(others) > 4 else ""
        points = None if others or target is None else (*rows[:, chosen].T, target)
        return cls(
            grid,
            mean.reshape(shape),
            latent_std.reshape(shape),
            std.reshape(shape),
            draws.T.reshape(num_samples, *shape),
            [names[i] for i in chosen],
            points,
            held,
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> "PosteriorDisplay":
        """Draw; `ax` are one or three matplotlib axes, or None for a new figure."""
        if len(self.grid) == 1:
            self._plot_line(*axes_of(ax, 1, size=(7.5, 4.4)))
        else:
            self._plot_plane(axes_of(ax, 3, size=(13, 4), sharex=True, sharey=True))
        return self

    def _plot_line(self, axes: Any) -> None:
        (t,) = self.grid
        self.bands_ = []
        for std, alpha, label in (
            (self.std, 0.15, "95 % of new observations"),
            (self.latent_std, 0.3, "95 % of the function"),
        ):
            low, high = self.mean - NINETY_FIVE * std, self.mean + NINETY_FIVE * std
            style = {"color": BLUE, "alpha": alpha, "linewidth": 0, "label": label}
            self.bands_.append(axes.fill_between(t, low, high, **style))
        draws = self.samples.T
        self.samples_ = axes.plot(t, draws, color=ORANGE, linewidth=0.9, alpha=0.8)
        if self.samples_:
            self.samples_[0].set_label("draws of the function")
        (self.mean_,) = axes.plot(t, self.mean, color=BLUE, linewidth=2, label="mean")
        self.points_ = None
        if self.points is not None:
            x, y = self.points
            inside = (x >= t[0]) & (x <= t[-1])
            style = {"color": "black", "s": 12, "zorder": 3, "linewidth": 0, "alpha": 0.7}
            self.points_ = axes.scatter(x[inside], y[inside], label="rows", **style)
        axes.set(xlabel=self.labels[0], ylabel="target", title=self._title("Posterior"))
        axes.margins(x=0)
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        tidy(axes)
        self.axes_, self.figure_ = np.array([axes], object), axes.figure

    def _plot_plane(self, axes: np.ndarray) -> None:
        shared = [self.mean, *self.samples[:1]]
        low, high = min(map(np.min, shared)), max(map(np.max, shared))
        panels = [
            (self.mean, "Posterior mean", "viridis", low, high),
            (NINETY_FIVE * self.latent_std, "95 % of the function: mean ±", "magma_r", 0, None),
        ]
        if len(self.samples):
            panels.append((self.samples[0], "A draw of the function", "viridis", low, high))
        self.images_, self.points_ = [], None
        axes[0].set_ylabel(self.labels[1])
        for one, (values, title, colours, least, most) in zip(axes, panels, strict=False):
            image = one.pcolormesh(
                *self.grid, values, cmap=colours, vmin=least, vmax=most, shading="gouraud"
            )
            if np.ptp(values) > 0:
                one.contour(*self.grid, values, levels=8, colors="white", linewidths=0.5, alpha=0.6)
            plt.colorbar(image, ax=one)
            self.images_.append(image)
            one.set(xlabel=self.labels[0], title=title)
        if self.points is not None:
            x, z, _ = self.points
            style = {"s": 7, "color": "black", "linewidth": 0, "alpha": 0.6}
            self.points_ = axes[1].scatter(x, z, **style)
            axes[1].set(
                xlim=(self.grid[0][0], self.grid[0][-1]), ylim=(self.grid[1][0], self.grid[1][-1])
            )
        for empty in axes[len(panels) :]:
            empty.set_visible(False)
        if self.held:
            axes[0].figure.suptitle(f"at {self.held}", fontsize="medium", color=GREY)
        self.axes_, self.figure_ = axes, axes[0].figure

    def _title(self, what: str) -> str:
        return f"{what} at {self.held}" if self.held else what


def _rows(estimator: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows given, or those of the fit in the units of the user."""
    if X is not None:
        rows = np.asarray(X, float)
        target = None if y is None else np.asarray(y, float)
        d = estimator.n_features_in_
        if (
            rows.ndim != 2
            or rows.shape[1] != d
            or (target is not None and target.shape != rows.shape[:1])
        ):
            msg = f"X must have shape (n, {d}) and y shape (n,); got {describe(X)}, {describe(y)}."
            raise ValueError(msg)
        return rows, target
    rows, target = fitted_rows(estimator)
    if rows.dtype == object or len(rows) == 0:
        msg = "the model does not have the rows of its fit. Pass X, and y to show them."
        raise ValueError(msg)
    (shift, scale), target_scaling = estimator._X_scaling, estimator._y_scaling
    # A constant column has an infinite scale, and lies where it was shifted from.
    rows = rows.astype(float) * np.where(np.isinf(scale), 0, scale) + shift
    target = target.astype(float) * target_scaling.scale + target_scaling.shift
    return rows, target + estimator.mean(rows) if callable(estimator.mean) else target


def _chosen(columns: Any, names: list[str]) -> list[int]:
    """Numbers of the one or two columns that vary."""
    d = len(names)
    given = range(d) if columns is None else columns
    given = [given] if isinstance(given, int | np.integer | str) else list(given)
    found = [names.index(c) if isinstance(c, str) and c in names else c for c in given]
    good = all(isinstance(c, int | np.integer) and 0 <= c < d for c in found)
    if not good or len(found) not in (1, 2) or len(set(found)) < len(found):
        msg = (
            f"columns must be one or two of the {d} inputs, by number or name; got "
            f"{describe(columns)}. Pass for example columns=[0, 1]."
        )
        raise ValueError(msg)
    return [int(c) for c in found]


def _range(values: np.ndarray, size: int) -> np.ndarray:
    low, high = float(np.min(values)), float(np.max(values))
    edge = 0.05 * (high - low) or 0.5
    return np.linspace(low - edge, high + edge, size)
