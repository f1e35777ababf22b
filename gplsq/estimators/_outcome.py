"""What follows the solve of a fit: whether it is sound, its intervals, and a report."""

import warnings

import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from gplsq.gp import Calibration, LowRankPosterior, Posterior, calibrate

# Rows whose leave-one-out residuals calibrate two numbers.
_CALIBRATION_ROWS = 1000
# Of a low-rank model the error measure is relative to the residual: a tenth of it adds half a
# percent to the error of prediction. float32 often allows no less, and nobody need hear of it.
_SMALL_ERROR = 0.1
_CLIPPED = "; of the last predicted variances "


def check_finite_mean(posterior: Posterior | LowRankPosterior) -> None:
    """Refuse a posterior whose mean is not finite."""
    if not np.all(np.isfinite(np.asarray(posterior.solution.value))):
        msg = (
            f"the posterior mean is not finite: {posterior.solution.report()}. "
            'solver="auto" goes on with LSMR where a factorisation fails.'
        )
        raise np.linalg.LinAlgError(msg)


def calibrate_by_rows(
    posterior: Posterior | LowRankPosterior, rng: np.random.Generator
) -> Calibration:
    """Calibration on leave-one-out residuals of a sample of the rows."""
    n = posterior.X.shape[0]
    rows = rng.choice(n, size=min(n, _CALIBRATION_ROWS), replace=False)
    residual, latent = (np.asarray(part) for part in posterior.leave_one_out(rows))
    # The closed form is that of exact coefficients: what the solver left undone comes on top.
    undone = float(posterior.solution.stats.normal_residual_norm) / np.sqrt(n)
    return calibrate(np.hypot(residual, undone), latent)


def solver_report(posterior: Posterior | LowRankPosterior) -> str:
    """What was solved, how, and how well; a warning where a tolerance was missed."""
    solution = posterior.solution
    outcome = solution.report()
    small = isinstance(posterior, LowRankPosterior) and bool(
        jnp.all(solution.stats.error_measure < _SMALL_ERROR)
    )
    if not bool(solution.ok) and not small:
        message = (
            f"the posterior mean missed its tolerance: {outcome}. The model is usable; its "
            "mean is off by about the error measure, in standard deviations of the target."
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=5)
    return f"{posterior.plan}; {outcome}"


def with_clipped(report: str, clipped: int, total: int) -> str:
    """The report with how many of the last predicted variances were set to 0."""
    report = report.split(_CLIPPED)[0]
    return f"{report}{_CLIPPED}{clipped} of {total} were negative by rounding, and set to 0"
