"""Hold-out loss: random rows, or the last ones, predicted from the rest."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gplsq._core import (
    check_choice,
    check_count,
    check_mesh,
    matmul,
    savable,
    stop_gradient,
    triangular_inverse,
)
from gplsq.gp import choose_solver, solve_damped
from gplsq.kernels import noisy_gram_recomputed
from gplsq.operators import Dense, Inducing, cross_matvec
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers import (
    LSMR,
    AbstractLeastSquares,
    Direct,
    conditional,
    conditional_mean,
    lstsq,
    root_of_rows,
)
from gplsq.tuning._checks import check_fraction, held_rows
from gplsq.tuning._losses import mse, score
from gplsq.tuning._objectives import AbstractObjective

# The preconditioner of a level with inducing points is exact up to rounding: a few steps do.
_INDUCING_RTOL, _INDUCING_STEPS = 1e-3, 30


def _packed(objective: "Holdout") -> dict[str, Any]:
    """What a file has: the devices are those of one machine."""
    names = ("fraction", "fresh", "solver", "inducing")
    return {name: getattr(objective, name) for name in names}


@savable(pack=_packed, unpack=lambda values: Holdout(**values))
class Holdout(AbstractObjective):
    """A random part of the rows predicted from the rest.

    Parameters
    ----------
    fraction
        Share of the rows held out, in (0, 1).
    fresh
        Draw the split anew at every evaluation (with the key), or keep the order of the rows and
        hold out the last ones: what a table in order of time asks for.
    solver
        For the fit to the rest: ``"auto"`` (dense up to 5000 rows, LSMR beyond), ``"direct"``,
        ``"lsmr"`` or a solver. Gradients are those of `lstsq`: implicit, by one more solve.
    inducing
        A number m of inducing points, taken from the rows of the fit: levels of at least 8 m rows
        use them, so that what is tuned is the model that will be used. `None`: no level does.
    mesh
        A `jax.sharding.Mesh` whose devices share the rows of the fit, and its gradient, where the
        solver is LSMR or there are inducing points. A Cholesky factor each makes for itself.

    Notes
    -----
    `mse` costs one solve and its adjoint. Losses that look at the variance (`nlpd`, `crps`) solve
    for all held-out rows as one block; with a Cholesky factor these solutions are those of the
    adjoint problems too.
    """

    fraction: float = eqx.field(default=0.2, static=True)
    fresh: bool = eqx.field(default=True, static=True)
    solver: Any = "auto"
    inducing: int | None = eqx.field(default=None, static=True)
    mesh: Mesh | None = eqx.field(default=None, static=True, converter=check_mesh)

    def __check_init__(self):
        if self.inducing is not None:
            check_count("inducing", self.inducing, minimum=1)
        check_fraction(self.fraction)
        if not isinstance(self.solver, AbstractLeastSquares):
            check_choice("solver", self.solver, ("auto", "direct", "lsmr"))

    def __call__(self, kernel, noise_variance, X, y, key, loss, groups=None):
        del groups
        n = X.shape[0]
        held = held_rows(n, self.fraction)
        if self.fresh:
            order = jax.random.permutation(key, n)
            X, y = X[order], y[order]
        X_fit, y_fit, X_held, y_held = X[:-held], y[:-held], X[-held:], y[-held:]
        if self.inducing is not None and n >= 8 * self.inducing:
            spread = jnp.linspace(0, n - held - 1, self.inducing).astype(jnp.int32)
            operator = Inducing(kernel, X_fit, X_fit[spread], mesh=self.mesh)
            mean, latent = _by_inducing(operator, noise_variance, y_fit, X_held, loss)
            return score(loss, y_held, mean, latent + noise_variance)
        plan = choose_solver(X_fit.shape[0], X.dtype, self.solver, rtol=1e-3)
        if isinstance(plan.solver, Direct):
            S = noisy_gram_recomputed(kernel, noise_variance, X_fit)
            k = kernel.cross(X_held, X_fit)
            prior = kernel.diagonal(X_held)
            return score_by_factor(loss, S, k, y_fit, y_held, prior, noise_variance)
        operator = KernelOperator(kernel, X_fit, "dense", mesh=self.mesh)
        damp = jnp.sqrt(noise_variance)
        settings = {"damp": damp, "solver": plan.solver, "throw": False}
        if loss is mse:
            solution = lstsq(operator, y_fit, preconditioner=plan.preconditioner, **settings)
            mean = cross_matvec(kernel, X_held, X_fit, solution.value)
            return score(loss, y_held, mean, noise_variance)
        k = kernel.cross(X_fit, X_held)
        block = jnp.concatenate([y_fit.reshape(n - held, -1), k], axis=1)
        p = block.shape[1] - held
        solution = lstsq(operator, block, preconditioner=plan.preconditioner, **settings)
        mean = matmul(k.T, solution.value[:, :p]).reshape(y_held.shape)
        explained = jnp.sum(k * solution.value[:, p:], axis=0)
        latent = jnp.maximum(kernel.diagonal(X_held) - explained, 0)
        return score(loss, y_held, mean, latent + noise_variance)

    @property
    def random(self):
        return self.fresh

    @property
    def fresh_rows(self):
        return self.fresh


def score_by_factor(loss, S, k, y, y_held, prior, noise_variance):
    """The loss by a Cholesky factor of S, which serves the gradient too.

    k are covariances of held-out and other rows; `prior` are the variances of the held-out ones.
    """
    if loss is mse:
        return score(loss, y_held, conditional_mean(S, k, y), noise_variance)
    mean, explained = conditional(S, k, y)
    return score(loss, y_held, mean, jnp.maximum(prior - explained, 0) + noise_variance)


def _by_inducing(operator, noise_variance, y, X_held, loss):
    """Mean and latent variance of held-out rows, given inducing points at rows in between."""
    everything = jnp.arange(operator.shape[0], dtype=jnp.int32)
    damp = jnp.sqrt(noise_variance)
    inverse = triangular_inverse(root_of_rows(operator, everything, damp))
    solver = LSMR(rtol=_INDUCING_RTOL, max_steps=_INDUCING_STEPS)
    value = solve_damped(operator, y, damp, solver, Dense(stop_gradient(inverse))).value
    features = operator.features(X_held)
    mean = matmul(features, value)
    if loss is mse:
        return mean, jnp.zeros_like(mean[:, 0] if mean.ndim == 2 else mean)
    known = jnp.sum(features**2, axis=1)
    left = noise_variance * jnp.sum(matmul(features, inverse) ** 2, axis=1)
    return mean, jnp.maximum(operator.basis.kernel.diagonal(X_held) - known + left, 0)
