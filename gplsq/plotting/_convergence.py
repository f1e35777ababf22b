"""How fast the solver got to the posterior mean, and what its preconditioner is worth."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gplsq._core import describe
from gplsq.gp import LowRankPosterior
from gplsq.operators import Dense, Evaluation
from gplsq.plotting._style import BLUE, GREY, ORANGE, axes_of, check_fitted, tidy
from gplsq.solvers import LSMR, Direct, lstsq

_PRECONDITIONED, _PLAIN = "with the preconditioner", "without"


class ConvergenceDisplay:
    """The error measure of the posterior mean's solve against steps of LSMR.

    Parameters
    ----------
    curves
        For each label the steps and the error measures, two arrays of one shape.
    tolerance
        What the fit asked for.

    Attributes
    ----------
    ax_, figure_, lines_
        After `plot`; the line of each label.
    """

    def __init__(self, curves: dict[str, tuple[np.ndarray, np.ndarray]], tolerance: float):
        self.curves, self.tolerance = curves, tolerance

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, max_steps: int = 100, ax: Any = None
    ) -> "ConvergenceDisplay":
        """Solve again with 1, 2, 3, 5, ... steps, with the preconditioner of the fit and without.

        Parameters
        ----------
        estimator
            A `GPRegressor` fitted by LSMR: exact, or with inducing points or features.
        max_steps
            Of the longest solve.
        ax
            Matplotlib axes, or None for a new figure.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the solver was direct, outputs are correlated or miss targets, or the rows of the fit
            are not there any more.

        Notes
        -----
        Cost: about 7 times `max_steps` products with the kernel matrix.
        """
        check_fitted(estimator)
        posterior = estimator.posterior_
        if hasattr(posterior, "parts"):
            msg = (
                "the outputs are correlated, or observed at different rows, and were not one "
                "solve of y. Fit an estimator to one output."
            )
            raise ValueError(msg)
        # Around a mean function, the solve of y and of the functions of the mean.
        posterior = getattr(posterior, "inner", posterior)
        if isinstance(posterior.solver, Direct):
            msg = 'the solver was direct and made no steps. Fit with solver="lsmr" or "inducing".'
            raise ValueError(msg)
        if not isinstance(posterior.X, jax.Array) or posterior.X.shape[0] == 0:
            msg = (
                f"the rows of the fit are needed, and are not in the model; X is "
                f"{describe(posterior.X)}. Fit an array."
            )
            raise ValueError(msg)
        with jax.enable_x64(posterior.X.dtype == np.float64):
            if isinstance(posterior, LowRankPosterior):
                operator: Any = Evaluation(posterior.basis, posterior.X)
                prepared: Any = Dense(posterior.factors.inverse)
            else:
                operator, prepared = posterior.operator, posterior.prepared
            system = operator, posterior.y, jnp.sqrt(posterior.noise_variance)
            curves = {_PRECONDITIONED: _curve(*system, prepared, max_steps)}
            curves[_PLAIN] = _curve(*system, None, max_steps)
        tolerance = float(np.max(np.asarray(posterior.solution.stats.tolerance)))
        return cls(curves, tolerance).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> "ConvergenceDisplay":
        """Draw; `ax` are matplotlib axes, or None for a new figure."""
        (axes,) = axes_of(ax, 1, size=(6, 4.2))
        self.lines_ = {}
        for (label, (steps, error)), colour in zip(
            self.curves.items(), (BLUE, ORANGE, GREY), strict=False
        ):
            style = {"color": colour, "markersize": 3.5}
            (self.lines_[label],) = axes.loglog(steps, error, "o-", label=label, **style)
        axes.axhline(self.tolerance, color=GREY, linestyle="--", linewidth=1)
        note = {"xytext": (-2, 3), "textcoords": "offset points", "ha": "right", "color": GREY}
        text = f"tolerance of the fit, {self.tolerance:.0e}"
        at = (1, self.tolerance)
        axes.annotate(text, at, xycoords=("axes fraction", "data"), fontsize="small", **note)
        axes.set(xlabel="steps", ylabel="error measure", title="Convergence of the posterior mean")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.legend(frameon=False, loc="lower left")
        tidy(axes)
        self.ax_, self.figure_ = axes, axes.figure
        return self


def _curve(operator, y, damp, prepared, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps taken and error measures of solves that were cut off."""
    limits = np.unique(np.geomspace(1, max_steps, 16).round().astype(int))
    steps, errors = [], []
    for limit in limits:
        solver = LSMR(max_steps=int(limit))
        solution = lstsq(
            operator, y, damp=damp, solver=solver, preconditioner=prepared, throw=False
        )
        taken = int(np.max(np.asarray(solution.stats.num_steps)))
        if steps and taken <= steps[-1]:
            break
        steps.append(taken)
        errors.append(float(np.max(np.asarray(solution.stats.error_measure))))
    return np.array(steps), np.array(errors)
