"""A fitted model in one table: data, kernel in the user's units, noise, held-out loss, solver."""

import html
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.utils.validation import check_is_fitted

from gplsq._core import NINETY_FIVE, Parameter, parameters_of
from gplsq.estimators._outcome import held_out, parts_of, working_dtype
from gplsq.estimators._targets import fitted_mean
from gplsq.gp import LowRankPosterior
from gplsq.kernels import (
    AbstractKernel,
    AbstractRadial,
    Columns,
    Constant,
    Coregionalised,
    Linear,
    Periodic,
    Product,
    Scaled,
    Sum,
    walk,
)
from gplsq.operators import RowTable
from gplsq.tuning import MarginalLikelihood

# Rows whose leave-one-out predictions are counted, as for calibration.
_ROWS = 1000


class SummaryRow(NamedTuple):
    """One line: a name, a value and its unit, and the value the model works with."""

    name: str
    value: str
    unit: str = ""
    standardised: str = ""


class Summary:
    """Result of `GPRegressor.summary`; prints as a table, in notebooks too.

    Attributes
    ----------
    rows
        A list of `SummaryRow`; ``pandas.DataFrame(summary.rows)`` works.
    """

    def __init__(self, rows: list[SummaryRow]):
        self.rows = rows

    def __getitem__(self, name: str) -> SummaryRow:
        """The row of a name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        numbers = [row for row in self.rows if row.unit]
        width = max(len(row.name) for row in self.rows)
        digits = max((len(row.value) for row in numbers), default=0)
        units = max((len(row.unit) for row in numbers), default=0)
        lines = []
        for row in self.rows:
            if not row.unit:
                lines.append(f"{row.name:<{width}}  {row.value}".rstrip())
                continue
            line = f"{row.name:<{width}}  {row.value:>{digits}} {row.unit:<{units}}"
            also = f"  ({row.standardised} standardised)" if row.standardised else ""
            lines.append(f"{line}{also}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = []
        for row in self.rows:
            cells = [row.name, row.value, row.unit, row.standardised]
            text = "".join(
                f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells
            )
            lines.append(f"<tr>{text}</tr>")
        return f"<table>{''.join(lines)}</table>"


class SummaryMixin:
    """`summary`, for estimators."""

    def summary(self) -> Summary:
        """The fitted model in one table; print it.

        Returns
        -------
        Summary
            Rows, inputs and dtype; the kernel and its hyperparameters in the units of the columns
            and of the target, and as standardised; noise; the held-out loss that tuning ended
            with; the share of up to 1000 rows inside their 95 % interval when each is predicted
            from all the others; what the solver did; seconds.

        Raises
        ------
        NotFittedError
            Before `fit`.

        Notes
        -----
        Cost: that of calibration, n^3 flops with the direct solver.

        Examples
        --------
        >>> import gplsq, numpy as np
        >>> X = np.linspace(0, 1, 20)[:, None]
        >>> gp = gplsq.GPRegressor(levels=[(20, 5)]).fit(X, np.sin(6 * X[:, 0]))
        >>> print(gp.summary()["kernel"].value)
        variance * Matern32
        """
        check_is_fitted(self, "posterior_")
        return Summary(list(_rows(self)))


def _rows(model: Any) -> Iterator[SummaryRow]:
    posterior = model.posterior_
    names = column_names(model)
    several = np.ndim(model._y_scaling.scale) == 1
    # Outputs have scales of their own: what they share is told in standardised units.
    scale = 1.0 if several else float(model._y_scaling.scale)
    n = [part.X.shape[0] for part in parts_of(posterior)]
    kept = " + ".join(f"{rows:,}" for rows in n)
    yield SummaryRow("rows", kept if all(n) else "not kept with the model")
    yield SummaryRow("inputs", f"{len(names)}")
    if several:
        words = f"{len(model._y_scaling.scale)} {model.outputs}"
        yield SummaryRow("outputs", f"{words}; targets below are standardised")
    yield SummaryRow("dtype", str(working_dtype(posterior)))
    mean = fitted_mean(model)
    if mean != "zero":
        own = "a function" if callable(mean) else mean
        yield SummaryRow("mean", own)
    yield SummaryRow("kernel", formula(model.kernel_, names))
    yield from hyperparameters(model.kernel_, names, model._X_scaling.scale, scale)
    fits = zip(*(np.atleast_1d(part) for part in model.calibration_), strict=True)
    for j, (latent, noise) in enumerate(fits):
        which = f" {j}" if several else ""
        std = np.sqrt(noise)
        units = float(np.atleast_1d(model._y_scaling.scale)[j])
        yield SummaryRow(f"noise std{which}", number(std * units), "target", number(std))
        yield SummaryRow(f"latent scale{which}", number(latent), "× posterior variance")
    likelihood = isinstance(model.objective, MarginalLikelihood)
    yield SummaryRow("objective" if likelihood else "held-out loss", *_held_out(model, scale))
    yield SummaryRow("inside 95 %", _coverage(model))
    yield from closing_rows(model)


def column_names(model: Any) -> list[str]:
    """Names of the columns of the table of the fit, or x0, x1, ..."""
    names = getattr(model, "feature_names_in_", None)
    count = range(model.n_features_in_)
    return [f"x{i}" for i in count] if names is None else [str(name) for name in names]


def closing_rows(model: Any) -> Iterator[SummaryRow]:
    """Solver, steps that failed, seconds."""
    history = model.history_
    yield SummaryRow("solver", model.solver_report_)
    if history.failures:
        yield SummaryRow("steps that failed", history.failures)
    tuning = f"{history[-1]['seconds']:.1f} of them tuning" if len(history) else "no tuning"
    seconds = getattr(model, "fit_seconds_", None)
    known = "not known" if seconds is None else f"{seconds:.1f}"
    yield SummaryRow("seconds", f"{known}, {tuning}")


def _held_out(model: Any, scale: float) -> tuple[str, str, str] | tuple[str]:
    """The best exam on the last level; of squared errors as a root, in units of the target."""
    records = list(model.history_)
    if not records:
        return (model.history_.message,)
    exams = [r["exam"] for r in records if r["rows"] == records[-1]["rows"]]
    loss = min((exam for exam in exams if exam is not None), default=np.nan)
    if isinstance(model.objective, MarginalLikelihood):
        return number(loss), "minus log marginal likelihood a row, standardised", ""
    if model.loss == "mse":
        return number(np.sqrt(loss) * scale), "target, root of mse", number(np.sqrt(loss))
    name = model.loss if isinstance(model.loss, str) and len(model.loss) < 9 else "own loss"
    return number(loss), f"{name}, standardised", ""


def _coverage(model: Any) -> str:
    posterior, parts = model.posterior_, parts_of(model.posterior_)
    if any(part.X.shape[0] == 0 for part in parts):
        return "not known without the rows"

    def choose(n: int) -> np.ndarray:
        if n <= _ROWS and not isinstance(parts[0].X, RowTable):
            return np.arange(n)
        return np.sort(np.random.default_rng(0).choice(n, min(n, _ROWS), replace=False))

    with jax.enable_x64(working_dtype(posterior) == np.float64):
        outputs = held_out(posterior, choose)
    inside = []
    for (residual, latent, _), scale, noise in zip(
        outputs, *map(np.atleast_1d, model.calibration_), strict=True
    ):
        inside.append(np.abs(residual) <= NINETY_FIVE * np.sqrt(scale * latent + noise))
    both = np.concatenate(inside)
    what = "rows" if len(outputs) == 1 else "targets"
    low_rank = isinstance(getattr(parts[0], "inner", parts[0]), LowRankPosterior)
    how = ", estimated" if low_rank else ""
    return f"{np.mean(both):.1%} of {len(both):,} {what}, each predicted from the others{how}"


def formula(kernel: Any, names: list[str]) -> str:
    """The kernel as one would write it."""
    if isinstance(kernel, Scaled):
        return f"variance * {_in_words(kernel.kernel, names)}"
    if isinstance(kernel, Sum):
        return f"{formula(kernel.left, names)} + {formula(kernel.right, names)}"
    if isinstance(kernel, Product):
        return f"{_in_words(kernel.left, names)} * {_in_words(kernel.right, names)}"
    if isinstance(kernel, Coregionalised):
        return f"{_in_words(kernel.kernel, names)} for {kernel.num_outputs} outputs"
    if isinstance(kernel, Columns):
        chosen = [names[i] for i in kernel.columns]
        return f"{_in_words(kernel.kernel, chosen)}.on({', '.join(chosen)})"
    return type(kernel).__name__


def _in_words(kernel: Any, names: list[str]) -> str:
    text = formula(kernel, names)
    return f"({text})" if isinstance(kernel, Sum) else text


def hyperparameters(
    kernel: AbstractKernel, names: list[str], scales: np.ndarray, target: float
) -> Iterator[SummaryRow]:
    """One row for each number, in the units of the columns and of the target."""
    seen: Counter[str] = Counter()
    for _, owner, columns, in_product in walk(kernel, range(len(names))):
        kind = "" if isinstance(owner, Scaled) else type(owner).__name__
        seen[kind] += 1
        label = kind + (f" {seen[kind]}" if seen[kind] > 1 else "")
        for parameter in _own(owner):
            values = np.asarray(parameter.value, float)
            each = values.ndim == 1 and len(values) == len(columns)
            each = each and not isinstance(owner, Coregionalised)
            for i, value in enumerate(np.ravel(values)):
                # A scalar that serves several columns has the unit of none of them.
                column = columns[i] if each else (columns[0] if len(columns) == 1 else None)
                factor, unit = _unit(owner, parameter.name, in_product, column, scales, target)
                unit = unit.replace("column", "" if column is None else names[column])
                which = names[columns[i]] if each else (str(i) if values.ndim else "")
                name = " ".join(part for part in (" ", label, parameter.name, which) if part)
                also = "" if factor == 1 else number(value)
                yield SummaryRow(name, number(value * factor), unit, also)


def _unit(owner, name, in_product, column, scales, target) -> tuple[float, str]:
    """What turns a standardised number into the user's unit, and that unit."""
    scale = None if column is None else float(scales[column])
    lengthlike = (isinstance(owner, AbstractRadial) and name == "lengthscale") or (
        isinstance(owner, Periodic) and name == "period"
    )
    if lengthlike:
        return (1.0, "std of its inputs") if scale is None else (scale, "column")
    if in_product:
        return 1.0, "standardised"
    if isinstance(owner, Scaled | Constant) and name == "variance":
        return target**2, "target²"
    if isinstance(owner, Linear) and scale is not None:
        return target**2 / scale**2, "target²/column²"
    return 1.0, "standardised"


def _own(kernel: Any) -> list[Parameter]:
    """The hyperparameters of a node without those of the kernel inside it."""
    inner = "kernel." if isinstance(kernel, Scaled | Coregionalised) else None
    return [p for p in parameters_of(kernel) if inner is None or not p.name.startswith(inner)]


def number(value: Any) -> str:
    """Four digits."""
    return f"{float(value):.4g}"
