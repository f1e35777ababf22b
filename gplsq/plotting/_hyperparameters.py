"""What tuning did: the path of every hyperparameter, and which inputs matter."""

from typing import Any

import numpy as np

from gplsq.estimators import column_names
from gplsq.kernels import AbstractRadial, KernelPart, walk
from gplsq.plotting._style import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    axes_of,
    check_fitted,
    tidy,
)
from gplsq.tuning import History

# Lines that are labelled at their ends; of more only the outermost would be legible.
_MOST_LABELS = 12


class TuningDisplay:
    """The tuner's steps: held-out loss, and the path of each hyperparameter.

    Parameters
    ----------
    history
        `GPRegressor.history_`, or that of `gplsq.tuning.tune`.
    columns
        Names of the columns of the table, which label lengthscales.
    kernel_columns
        Which columns a lengthscale is of, by the name of the hyperparameter; all by default.

    Attributes
    ----------
    paths
        The values of each hyperparameter at each step, by label.
    axes_, figure_, lines_
        After `plot`: two axes, their figure, and the line of each label, "loss" and "exam" too.
    """

    def __init__(
        self,
        history: History,
        columns: list[str] | None = None,
        kernel_columns: dict[str, tuple[int, ...]] | None = None,
    ):
        self.history, self.columns = history, columns
        self.paths = _paths(history, columns, kernel_columns or {})

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> "TuningDisplay":
        """Draw the tuning of a fitted `GPRegressor`.

        Parameters
        ----------
        estimator
            Fitted.
        ax
            Two matplotlib axes, or None for a new figure.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If nothing was tuned.
        """
        check_fitted(estimator)
        parts = _lengthscales(estimator)
        of_key = {f"{part.path}.lengthscale".lstrip("."): part.columns for part in parts}
        return cls(estimator.history_, column_names(estimator), of_key).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> "TuningDisplay":
        """Draw; `ax` are two matplotlib axes, or None for a new figure."""
        records = list(self.history)
        if not records:
            msg = f"history is empty, nothing was tuned ({self.history.message}). Tune first."
            raise ValueError(msg)
        losses, paths = axes_of(ax, 2, size=(10.5, 4))
        steps = np.array([record["step"] for record in records])
        loss = np.array([record["loss"] for record in records], float)
        exam = np.array([np.nan if r["exam"] is None else r["exam"] for r in records], float)
        same = np.array_equal(loss, exam, equal_nan=True)
        self.lines_ = {}
        if same:
            (self.lines_["loss"],) = losses.plot(steps, loss, color=BLUE, label="held-out loss")
        else:
            label = "loss of the step, on its own rows"
            style = {"color": BLUE, "alpha": 0.45, "linewidth": 1}
            (self.lines_["loss"],) = losses.plot(steps, loss, label=label, **style)
            at = np.isfinite(exam)
            label = "exam: the level's fixed rows"
            (self.lines_["exam"],) = losses.plot(
                steps[at], exam[at], "o-", color=ORANGE, markersize=3.5, label=label
            )
        finite = loss[np.isfinite(loss)]
        if finite.size and finite.min() > 0 and finite.max() > 5 * finite.min():
            losses.set_yscale("log")
        self._mark_levels(losses, paths, records)
        losses.set(xlabel="step", ylabel="held-out loss", title="Loss")
        losses.legend(frameon=False)
        for i, (label, values) in enumerate(self.paths.items()):
            dashed = label == "noise variance"
            (self.lines_[label],) = paths.plot(
                steps,
                values,
                color=COLOURS[i % len(COLOURS)],
                linestyle="--" if dashed or i >= len(COLOURS) else "-",
                label=label,
            )
        if all(np.all(values > 0) for values in self.paths.values()):
            paths.set_yscale("log")
        paths.set(xlabel="step", ylabel="value, standardised units", title="Hyperparameters")
        if len(self.paths) <= _MOST_LABELS:
            place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
            paths.legend(frameon=False, fontsize="small", **place)
        tidy(losses, paths)
        self.axes_, self.figure_ = np.array([losses, paths]), losses.figure
        return self

    def _mark_levels(self, losses: Any, paths: Any, records: list[dict]) -> None:
        """A line where the tuner went on to more rows."""
        rows = [record["rows"] for record in records]
        for i in range(1, len(rows)):
            if rows[i] != rows[i - 1]:
                for axes in (losses, paths):
                    axes.axvline(i - 0.5, color=GREY, linestyle=":", linewidth=1)
        starts = [i for i in range(len(rows)) if i == 0 or rows[i] != rows[i - 1]]
        if len(starts) > 1:
            for i in starts:
                losses.annotate(
                    f"{rows[i]:,} rows",
                    (i - 0.5 + 0.01 * len(rows), 0.01),
                    xycoords=("data", "axes fraction"),
                    color=GREY,
                    fontsize="small",
                )


class RelevanceDisplay:
    """How much each input matters: the inverse of its lengthscale, in standardised units.

    A function changes over a distance of about one lengthscale. An input of inverse lengthscale 1
    bends the function over one standard deviation of that input; one near 0 is not looked at.

    Parameters
    ----------
    relevance
        Inverse lengthscales by label, one for each input of each kernel of a sum or product.

    Attributes
    ----------
    ax_, figure_, bars_
        After `plot`.
    """

    def __init__(self, relevance: dict[str, float]):
        self.relevance = relevance

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> "RelevanceDisplay":
        """Draw the relevance of the inputs of a fitted `GPRegressor`.

        Parameters
        ----------
        estimator
            Fitted.
        ax
            Matplotlib axes, or None for a new figure.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If no part of the kernel has a lengthscale in units of the inputs.
        """
        check_fitted(estimator)
        names = column_names(estimator)
        parts = _lengthscales(estimator)
        relevance = {}
        for number, (_, kernel, columns, _) in enumerate(parts):
            assert isinstance(kernel, AbstractRadial)
            which = f" ({type(kernel).__name__} {number + 1})" if len(parts) > 1 else ""
            inverse = 1 / np.asarray(kernel.lengthscale)
            if inverse.ndim == 0 and len(columns) > 1:
                relevance[f"all inputs{which}"] = float(inverse)
                continue
            for column, value in zip(columns, np.atleast_1d(inverse), strict=True):
                relevance[names[column] + which] = float(value)
        if not relevance:
            msg = (
                f"the kernel {type(estimator.kernel_).__name__} has no lengthscale in units of the "
                "inputs. Fit a radial kernel, such as Matern32."
            )
            raise ValueError(msg)
        return cls(relevance).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> "RelevanceDisplay":
        """Draw, the most relevant on top; `ax` are matplotlib axes, or None for a new figure."""
        order = sorted(self.relevance, key=self.relevance.__getitem__)
        (axes,) = axes_of(ax, 1, size=(6, 1.2 + 0.32 * len(order)))
        values = [self.relevance[label] for label in order]
        self.bars_ = axes.barh(range(len(order)), values, color=BLUE, height=0.7)
        axes.set_yticks(range(len(order)), order)
        axes.bar_label(self.bars_, fmt="%.2g", padding=3, fontsize="small", color=GREY)
        axes.margins(x=0.12)
        axes.set(xlabel="inverse lengthscale, per standard deviation", title="Relevance of inputs")
        tidy(axes)
        axes.grid(visible=False, axis="y")
        self.ax_, self.figure_ = axes, axes.figure
        return self


def _paths(
    history: History, names: list[str] | None, columns: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Values of each hyperparameter by a label that people read."""
    records = [history.hyperparameters(record) for record in history]
    paths: dict[str, np.ndarray] = {}
    for key in records[0] if records else ():
        values = np.array([np.asarray(record[key], float) for record in records])
        flat = values.reshape(len(records), -1)
        label = key.removeprefix("kernel.").replace("_", " ")
        known = columns.get(key, tuple(range(len(names or ()))))
        known = known if key.endswith("lengthscale") and names is not None else ()
        for i in range(flat.shape[1]):
            which = names[known[i]] if names and len(known) == flat.shape[1] else str(i)
            paths[label if values.ndim == 1 else f"{label} {which}"] = flat[:, i]
    return paths


def _lengthscales(estimator: Any) -> list[KernelPart]:
    """The parts of a fitted kernel that have a lengthscale in units of the inputs."""
    parts = walk(estimator.kernel_, range(estimator.n_features_in_))
    return [part for part in parts if isinstance(part.kernel, AbstractRadial)]
