"""What follows the solve of a fit: whether it is sound, its intervals, and a report."""

import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from gplsq._core import STATUS
from gplsq.gp import Calibration, CorrelatedOutputs, LowRankPosterior, SeparateOutputs, calibrate

# Rows whose leave-one-out residuals calibrate two numbers.
_CALIBRATION_ROWS = 1000
# Of a low-rank model the error measure is relative to the residual: a tenth of it adds half a
# percent to the error of prediction. float32 often allows no less, and nobody need hear of it.
_SMALL_ERROR = 0.1
_CLIPPED = "; of the last predicted variances "


def parts_of(posterior: Any) -> tuple[Any, ...]:
    """The posteriors of one solve each that a posterior consists of."""
    return getattr(posterior, "parts", (posterior,))


def working_dtype(posterior: Any) -> np.dtype:
    """The dtype of a posterior's work."""
    return np.dtype(parts_of(posterior)[0].X.dtype)


def targets_of(posterior: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each output its points and targets, as the posterior has them."""
    if isinstance(posterior, CorrelatedOutputs):
        pairs, y = np.asarray(posterior.pairs.X), np.asarray(posterior.pairs.y)
        numbers, points = pairs[:, posterior.column], np.delete(pairs, posterior.column, axis=1)
        rows = [numbers == j for j in range(posterior.num_outputs)]
        return [(points[of_output], y[of_output]) for of_output in rows]
    found = {}
    for part, numbers in zip(parts_of(posterior), _columns_of(posterior), strict=True):
        columns = np.asarray(part.y).reshape(part.X.shape[0], -1).T
        for i, j in enumerate(range(len(columns)) if numbers is None else numbers):
            found[j] = np.asarray(part.X), columns[i]
    return [found[j] for j in sorted(found)]


def _columns_of(posterior: Any) -> tuple[Any, ...]:
    """Which outputs the parts of a posterior are of; None for all."""
    return posterior.columns if isinstance(posterior, SeparateOutputs) else (None,)


def check_finite_mean(posterior: Any) -> None:
    """Refuse a posterior whose mean is not finite."""
    for part in parts_of(posterior):
        finite = np.all(np.isfinite(np.asarray(part.solution.value)))
        if not finite or np.any(np.asarray(part.solution.status) == STATUS.NON_FINITE):
            msg = (
                f"the posterior mean is not finite: {part.solution.report()}. "
                'solver="auto" goes on with LSMR where a factorisation fails.'
            )
            raise np.linalg.LinAlgError(msg)


def held_out(posterior: Any, choose: Callable[[int], np.ndarray]) -> list[tuple[np.ndarray, ...]]:
    """For each output residuals and latent variances of rows predicted from all the others.

    Parameters
    ----------
    posterior
        Of any number of outputs.
    choose
        From a number of rows to those that are looked at.

    Returns
    -------
    list of (residual, latent_variance, undone)
        The last is a residual that the solver left, a number: the closed form is that of exact
        coefficients.
    """
    if isinstance(posterior, CorrelatedOutputs):
        outputs = np.asarray(posterior.pairs.X)[:, posterior.column]
        rows = [np.flatnonzero(outputs == j) for j in range(posterior.num_outputs)]
        rows = [of_output[choose(len(of_output))] for of_output in rows]
        residual, latent, undone = _left_out(posterior.pairs, np.concatenate(rows))
        ends = np.cumsum([len(of_output) for of_output in rows])[:-1]
        both = zip(np.split(residual, ends), np.split(latent, ends), strict=True)
        return [(*of_output, undone) for of_output in both]
    found = {}
    for part, numbers in zip(parts_of(posterior), _columns_of(posterior), strict=True):
        residual, latent, undone = _left_out(part, choose(part.X.shape[0]))
        residual = residual.reshape(len(latent), -1)
        undone = np.broadcast_to(undone, residual.shape[1:])
        for i, j in enumerate(range(residual.shape[1]) if numbers is None else numbers):
            found[j] = residual[:, i], latent, undone[i]
    return [found[j] for j in sorted(found)]


def _left_out(part: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    residual, latent = (np.asarray(values) for values in part.leave_one_out(rows))
    norms = np.atleast_1d(np.asarray(part.solution.stats.normal_residual_norm))
    # Around a mean function the columns of its basis follow those of the targets.
    undone = norms[: residual.size // len(residual)] / np.sqrt(part.X.shape[0])
    return residual, latent, undone if residual.ndim == 2 else undone[0]


def calibrate_by_rows(
    posterior: Any, rng: np.random.Generator, constant: np.ndarray, noise: float
) -> Calibration:
    """Calibration on leave-one-out residuals of a sample of the rows.

    Parameters
    ----------
    posterior
        Of any number of outputs.
    rng
        Draws the rows.
    constant
        Whether an output never changes, or never leaves its trend, shape () or (p,): then there is
        nothing to learn from, and the variance is the posterior's, with `noise`.
    noise
        The model's noise variance, which with the kernel's says how a total divides that the
        residuals leave open.

    Returns
    -------
    Calibration
        Of numbers, or of arrays of shape (p,) for p outputs.
    """
    if np.all(constant) and np.ndim(constant) == 0:
        return Calibration(1.0, noise)

    def choose(n: int) -> np.ndarray:
        return rng.choice(n, size=min(n, _CALIBRATION_ROWS), replace=False)

    # What the solver left undone comes on top of the residuals.
    fits = [
        Calibration(1.0, noise) if flat else calibrate(np.hypot(residual, undone), latent, noise)
        for (residual, latent, undone), flat in zip(
            held_out(posterior, choose), np.atleast_1d(constant), strict=True
        )
    ]
    if np.ndim(constant) == 0:
        return fits[0]
    scales, noises = zip(*fits, strict=True)
    return Calibration(np.array(scales), np.array(noises))  # type: ignore[arg-type]


def solver_report(posterior: Any) -> str:
    """What was solved, how, and how well; a warning where a tolerance was missed."""
    lines = []
    for part in parts_of(posterior):
        solution = part.solution
        outcome = solution.report()
        small = isinstance(getattr(part, "inner", part), LowRankPosterior) and bool(
            jnp.all(solution.stats.error_measure < _SMALL_ERROR)
        )
        if not bool(jnp.all(solution.ok)) and not small:
            message = (
                f"the posterior mean missed its tolerance: {outcome}. The model is usable; its "
                "mean is off by about the error measure, in standard deviations of the target."
            )
            warnings.warn(message, ConvergenceWarning, stacklevel=5)
        lines.append(f"{part.plan}; {outcome}")
    if len(lines) == 1:
        return lines[0]
    named = zip(posterior.columns, lines, strict=True)
    return "; ".join(f"outputs {list(columns)}: {line}" for columns, line in named)


def with_clipped(report: str, clipped: int, total: int) -> str:
    """The report with how many of the last predicted variances were set to 0."""
    report = report.split(_CLIPPED)[0]
    if not clipped:
        return report
    return f"{report}{_CLIPPED}{clipped} of {total} were negative by rounding, and set to 0"
