"""Regression with Student-t noise by reweighted least squares: gross outliers count for little.

The negative log of prior and likelihood, as a function of f, is

    sum_i (df + 1) / 2 log(1 + r_i^2 / (df s^2)) + |f|^2 / 2,    r = y - f(X)

A Student-t variable is a normal one of random precision, and the mean of that precision given r_i
is w_i = (df + 1) / (df + r_i^2 / s^2). The EM algorithm alternates between w and the posterior mean
of noise variances s^2 / w_i, and never raises the objective (Lange, Little & Taylor 1989).
"""

import math
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float
from sklearn.exceptions import ConvergenceWarning

from gplsq._core import (
    as_points,
    check_count,
    check_finite_scalar,
    describe,
    place,
    safe_divide,
)
from gplsq.gp._condition import condition
from gplsq.gp._low_rank import LowRankPosterior, solve_low_rank
from gplsq.gp._plan import choose_solver
from gplsq.gp._posterior import Posterior, solve_exact
from gplsq.kernels import AbstractKernel, Weighted
from gplsq.operators import Evaluation, RowTable
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers import STATUS, Direct, lstsq

# Random vectors that estimate the trace of the smoother: to a few per cent of what is left of n.
_PROBES = 16
# The noise is taken as settled when a step changes it by less than this share.
_SETTLED = 3e-3


class RobustStep(NamedTuple):
    """One step: the objective in nats, and the noise variance it was computed with."""

    objective: float
    noise_variance: float


class RobustFit(eqx.Module):
    """What `robust` found. Predictions are of the latent function.

    Attributes
    ----------
    posterior
        Of `kernels.Weighted(kernel)` on the rows and `y`, both multiplied by the roots of the
        weights.
    weights
        Shape (n,): near `(df + 1) / df` for rows that fit, near 0 for outliers. A row has the noise
        variance `noise_variance / weight`.
    noise_variance
        s^2, the square of the scale of the noise, in squared units of y. The variance of the noise,
        outliers included, is `df / (df - 2)` times it, if df > 2.
    df
        Degrees of freedom of the noise.
    history
        A `RobustStep` for each step. The objective does not rise while the noise stays the same.
    status
        A `gplsq.solvers.STATUS` code.
    """

    posterior: Posterior | LowRankPosterior
    weights: Float[Array, " n"]
    noise_variance: Float[Array, ""]
    df: float = eqx.field(static=True)
    history: tuple[RobustStep, ...] = eqx.field(static=True)
    status: int = eqx.field(static=True)

    @property
    def ok(self) -> bool:
        """Whether the objective has stopped falling."""
        return self.status == STATUS.CONVERGED_NORMAL

    @property
    def num_steps(self) -> int:
        """How many weighted problems were solved."""
        return len(self.history)

    def mean(self, Z: ArrayLike) -> Float[Array, " m"]:
        """Posterior mean at Z, shape (m, d)."""
        return self.posterior.mean(_with_ones(Z))

    def variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, " m"]:
        """Posterior variance of the latent function given the weights, see `Posterior.variance`."""
        return self.posterior.variance(_with_ones(Z), method)

    def covariance(self, Z: ArrayLike) -> Float[Array, "m m"]:
        """Joint posterior covariance of the latent function given the weights."""
        return self.posterior.covariance(_with_ones(Z))

    def report(self) -> str:
        """What came out, in plain words."""
        words = {
            STATUS.CONVERGED_NORMAL: "converged",
            STATUS.MAX_STEPS: "out of steps: raise max_steps",
            STATUS.STAGNATED: "the solves are not exact enough to go on: ask for a smaller rtol",
            STATUS.NON_FINITE: "a NaN or an infinity appeared: look for them in X and y",
        }
        light, n = int(jnp.sum(self.weights < 0.25)), self.weights.shape[0]
        scale = math.sqrt(float(self.noise_variance))
        return (
            f"Student-t noise of {self.df:g} degrees of freedom: {words[STATUS(self.status)]} "
            f"after {self.num_steps} steps; scale {scale:.3g}; {light} of {n} rows weigh less than "
            f"a quarter; {self.posterior.plan}"
        )


def robust(
    kernel: AbstractKernel,
    X: ArrayLike,
    y: ArrayLike,
    *,
    noise_variance: ArrayLike,
    df: float = 4.0,
    estimate_noise: bool = True,
    max_steps: int = 100,
    tolerance: float = 1e-5,
    **settings: Any,
) -> RobustFit:
    """Condition a Gaussian process on values of which some may be grossly wrong.

    Parameters
    ----------
    kernel, X, y
        As in `condition`; X in memory.
    noise_variance
        s^2, the variance of the noise of rows that are not outliers: where to start from, or what
        it is.
    df
        Degrees of freedom of the Student-t noise. Small ones expect more and grosser outliers: an
        estimated noise stands up to a share of nearly ``1 / (df + 1)`` of them, and is too large by
        a factor of ``1 / (1 - share (df + 1))``. For large ones this is `condition`.
    estimate_noise
        Whether s^2 is estimated too: the mean of `w_i r_i^2` over the rows, less the degrees of
        freedom that f takes up, which is the fixed point of EM with f unknown.
    max_steps
        Weighted problems to solve at most.
    tolerance
        Converged when a step lowers the objective by no more than this number of nats a row.
    settings
        `solver`, `rtol`, `form`, `inducing`, `num_features`, `memory`, `key` and `mesh` of
        `condition`.

    Returns
    -------
    RobustFit
        With `mean`, `variance`, `weights`, and `report()`.

    Raises
    ------
    ValueError, TypeError
        As `condition`, and for numbers out of range.

    Warns
    -----
    ConvergenceWarning
        If it ended for another reason than convergence.

    Notes
    -----
    Not for use under `jit`. The objective has several minima where outliers are many. The first
    weights are from residuals of rows predicted from all others, which a flexible function cannot
    hide. Cost: a solve for each step, with LSMR started from the step before, and 16 more
    right-hand sides while the noise is estimated.
    """
    if not isinstance(kernel, AbstractKernel):
        msg = f"kernel must be a gplsq kernel; got {describe(kernel)}. Pass gplsq.kernels.RBF()."
        raise TypeError(msg)
    if isinstance(X, RowTable):
        msg = "rows of a RowTable cannot be weighted; pass X as an array."
        raise TypeError(msg)
    df = check_finite_scalar("df", df, minimum=0.0, strict=True)
    tolerance = check_finite_scalar("tolerance", tolerance, minimum=0.0, strict=True)
    noise_variance = check_finite_scalar("noise_variance", noise_variance, minimum=0.0, strict=True)
    check_count("max_steps", max_steps, minimum=1)
    points = as_points("X", X)
    target = jnp.asarray(y, points.dtype)
    if target.shape != points.shape[:1]:
        msg = (
            f"X must have shape (n, d) and y shape (n,); got {points.shape} and {target.shape}. "
            "Pass one target for each row."
        )
        raise ValueError(msg)
    s2 = jnp.asarray(noise_variance, points.dtype)
    first = condition(Weighted(kernel), _with_ones(points), target, noise_variance=s2, **settings)
    residual, latent = first.leave_one_out(jnp.arange(target.shape[0]))
    weights = (df + 1) / (df + residual**2 / (latent + s2))
    fit = _iterate(first, points, target, weights, s2, df, estimate_noise, max_steps, tolerance)
    if not fit.ok:
        warnings.warn(fit.report(), ConvergenceWarning, stacklevel=2)
    return fit


def _iterate(
    posterior, points, target, weights, s2, df, estimate, max_steps, tolerance
) -> RobustFit:
    n = target.shape[0]
    floor = 100 * float(jnp.finfo(target.dtype).eps) * float(jnp.max(_prior(posterior, points)))
    history: list[RobustStep] = []
    best, before, status = None, math.inf, STATUS.MAX_STEPS
    roots = jnp.ones_like(target)
    while len(history) < max_steps:
        old, roots = roots, jnp.sqrt(weights)
        posterior = _reweighted(posterior, points, target, roots, old, s2)
        f, penalty = _values(posterior, points, roots)
        objective, next_weights, moment = _assess(f, penalty, target, s2, df)
        now = float(objective)
        history.append(RobustStep(now, float(s2)))
        if not math.isfinite(now):
            status = STATUS.NON_FINITE
            break
        fell = before - now
        if fell >= 0:
            best = posterior, weights, s2
        before = min(before, now)
        weights = next_weights
        if estimate:
            taken = _degrees_taken(posterior, s2)
            # The fixed point of EM for these weights (MacKay 1992): EM's own step to
            # `(moment + s2 taken) / n` is far smaller where f takes up most of the rows.
            better = jnp.maximum(moment / jnp.maximum(n - taken, 1), floor)
            estimate = abs(math.log(float(better / s2))) > _SETTLED
            if estimate:
                s2, before = better, math.inf
        elif fell <= tolerance * n:
            status = STATUS.CONVERGED_NORMAL if fell >= -tolerance * n else STATUS.STAGNATED
            break
    if best is None:
        best = posterior, roots**2, s2
    return RobustFit(*best, df, tuple(history), int(status))


def _reweighted(posterior, points, target, roots, old, s2) -> Posterior | LowRankPosterior:
    """The posterior for other weights of the rows, from the function there is."""
    rows, y = jnp.column_stack([points, roots]), roots * target
    if isinstance(posterior, LowRankPosterior):
        mesh = posterior.mesh
        evaluation = Evaluation(posterior.basis, place(rows, mesh, spread=True), mesh=mesh)
        model = posterior.solver, posterior.plan, jax.random.key(0), posterior.solution.value
        y = place(y, mesh, spread=True)
        return solve_low_rank(posterior.kernel, evaluation, y, s2, *model)
    mesh, solver = posterior.operator.mesh, posterior.solver
    operator = KernelOperator(posterior.kernel, rows, posterior.operator.form, mesh=mesh)
    recipe = None
    if not isinstance(solver, Direct):
        recipe = choose_solver(y.shape[0], y.dtype, solver).preconditioner
    x0 = safe_divide(old * posterior.solution.value, roots)
    data = operator, place(y, mesh), place(s2, mesh), solver, posterior.plan
    return solve_exact(*data, recipe=recipe, x0=x0)


def _values(posterior, points, roots) -> tuple[Array, Array]:
    """The mean at the rows, and its squared norm."""
    value = posterior.solution.value
    if isinstance(posterior, LowRankPosterior):
        return posterior.mean(_with_ones(points)), jnp.sum(value**2)
    product = _product(posterior.operator, value)
    return safe_divide(product, roots), jnp.sum(value * product)


_product = eqx.filter_jit(lambda operator, v: operator.mv(v))


@eqx.filter_jit
def _assess(f, penalty, target, s2, df) -> tuple[Array, Array, Array]:
    """The objective with all its constants, the next weights, and sum_i w_i r_i^2."""
    residual = target - f
    squares = residual**2 / s2
    weights = (df + 1) / (df + squares)
    constant = jax.scipy.special.gammaln((df + 1) / 2) - jax.scipy.special.gammaln(df / 2)
    constant = constant - (math.log(math.pi) + jnp.log(df * s2)) / 2
    loss = (df + 1) / 2 * jnp.sum(jnp.log1p(squares / df)) - target.shape[0] * constant
    return loss + penalty / 2, weights, jnp.sum(weights * residual**2)


def _degrees_taken(posterior, s2) -> Array:
    """The trace of the smoother `K S^-1`, exact or estimated (Hutchinson 1990)."""
    if isinstance(posterior, LowRankPosterior):
        return posterior.basis.size - s2 * jnp.sum(posterior.factors.inverse**2)
    n = posterior.y.shape[0]
    probes = jax.random.rademacher(jax.random.key(0), (n, _PROBES), posterior.y.dtype)
    options = {"damp": jnp.sqrt(s2), "solver": posterior.solver, "throw": False}
    answer = lstsq(posterior.operator, probes, preconditioner=posterior.prepared, **options)
    return jnp.clip(n - s2 * jnp.sum(probes * answer.value) / _PROBES, 0, n)


def _prior(posterior, points) -> Array:
    return posterior.kernel.diagonal(_with_ones(points))


def _with_ones(Z: ArrayLike) -> Float[Array, "m e"]:
    points = as_points("Z", Z)
    return jnp.column_stack([points, jnp.ones(points.shape[0], points.dtype)])
