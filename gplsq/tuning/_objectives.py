"""Held-out objectives: from a model and data to a number that gradients flow through."""

import abc
from collections.abc import Callable
from numbers import Integral
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import check_choice, check_finite_scalar, matmul, savable, stop_gradient
from gplsq.gp import choose_solver
from gplsq.kernels import AbstractKernel
from gplsq.operators import Dense, Inducing, cross_product
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers import (
    LSMR,
    AbstractLeastSquares,
    leave_one_out,
    lstsq,
    root_of_rows,
    triangular_inverse,
)
from gplsq.tuning._losses import mse

# Up to here leave-one-out uses every row and costs seconds; a held-out fifth would be too noisy.
_LEAVE_ONE_OUT_ROWS = 2000
# The preconditioner of a level with inducing points is exact up to rounding: a few steps do.
_INDUCING_RTOL, _INDUCING_STEPS = 1e-3, 30


class AbstractObjective(eqx.Module):
    """A held-out loss of a Gaussian process, as a function of its hyperparameters."""

    @abc.abstractmethod
    def __call__(
        self,
        kernel: AbstractKernel,
        noise_variance: Float[Array, ""],
        X: Float[Array, "n d"],
        y: Float[Array, " n"],
        key: Array,
        loss: Callable,
    ) -> Float[Array, ""]:
        """The loss on rows the prediction did not see. `key` draws the split, if there is one."""

    @property
    @abc.abstractmethod
    def random(self) -> bool:
        """Whether the value depends on `key`, so that single values are noisy."""

    @property
    @abc.abstractmethod
    def fresh_rows(self) -> bool:
        """Whether a level on a subset of the rows draws a new subset at every step."""


@savable
class LeaveOneOut(AbstractObjective):
    """Every row predicted from all the others, in closed form.

    Held-out loss without a split. Rasmussen & Williams (2006), section 5.4.2; cost about 5 n^3
    flops a gradient, n^2 numbers of memory.
    """

    def __call__(self, kernel, noise_variance, X, y, key, loss):
        del key
        index = jnp.arange(X.shape[0])
        diagonal = kernel.diagonal(X) + noise_variance
        S = kernel.cross(X, X).at[index, index].set(diagonal)
        residual, variance = leave_one_out(S, y)
        return loss(y, y - residual, variance)

    @property
    def random(self):
        return False

    @property
    def fresh_rows(self):
        return True


@savable
class Holdout(AbstractObjective):
    """A random part of the rows predicted from the rest.

    Parameters
    ----------
    fraction
        Share of the rows held out, in (0, 1).
    fresh
        Draw the split anew at every evaluation (with the key), or keep the order of the rows and
        hold out the last ones.
    solver
        For the fit to the rest: ``"auto"`` (dense up to 5000 rows, LSMR beyond), ``"direct"``,
        ``"lsmr"`` or a solver. Gradients are those of `lstsq`: implicit, by one more solve.
    inducing
        Fit levels of at least so many rows times 8 by a model of so many inducing points, random
        rows of the fit: what is tuned is then the model that will be used. `None` never does.

    Notes
    -----
    `mse` costs one solve and its adjoint. Losses that look at the variance (`nlpd`, `crps`) solve
    for all held-out rows as one block.
    """

    fraction: float = eqx.field(default=0.2, static=True)
    fresh: bool = eqx.field(default=True, static=True)
    solver: Any = "auto"
    inducing: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        whole = isinstance(self.inducing, Integral) and not isinstance(self.inducing, bool)
        if self.inducing is not None and not (whole and self.inducing > 0):
            msg = (
                f"inducing must be a positive number of points or None; got {self.inducing!r}. "
                "Pass for example 512."
            )
            raise ValueError(msg)
        check_finite_scalar("fraction", self.fraction, minimum=0.0, strict=True)
        if self.fraction >= 1:
            msg = f"fraction must lie in (0, 1); got {self.fraction}. Pass for example 0.2."
            raise ValueError(msg)
        if not isinstance(self.solver, AbstractLeastSquares):
            check_choice("solver", self.solver, ("auto", "direct", "lsmr"))

    def __call__(self, kernel, noise_variance, X, y, key, loss):
        n = X.shape[0]
        held = min(max(1, round(n * self.fraction)), n - 1)
        if self.fresh:
            order = jax.random.permutation(key, n)
            X, y = X[order], y[order]
        X_fit, y_fit, X_held, y_held = X[:-held], y[:-held], X[-held:], y[-held:]
        if self.inducing is not None and n >= 8 * self.inducing:
            m = self.inducing
            mean, latent = _by_inducing(kernel, noise_variance, X_fit, y_fit, X_held, m, loss)
            return loss(y_held, mean, latent + noise_variance)
        plan = choose_solver(X_fit.shape[0], X.dtype, self.solver, rtol=1e-3)
        operator = KernelOperator(kernel, X_fit, "dense")
        damp = jnp.sqrt(noise_variance)
        settings = {"damp": damp, "solver": plan.solver, "throw": False}
        if loss is mse:
            solution = lstsq(operator, y_fit, preconditioner=plan.preconditioner, **settings)
            mean = cross_product(kernel, X_held, X_fit, solution.value)
            return loss(y_held, mean, noise_variance)
        k = kernel.cross(X_fit, X_held)
        block = jnp.concatenate([y_fit[:, None], k], axis=1)
        solution = lstsq(operator, block, preconditioner=plan.preconditioner, **settings)
        mean = k.T @ solution.value[:, 0]
        explained = jnp.sum(k * solution.value[:, 1:], axis=0)
        latent = jnp.maximum(kernel.diagonal(X_held) - explained, 0)
        return loss(y_held, mean, latent + noise_variance)

    @property
    def random(self):
        return self.fresh

    @property
    def fresh_rows(self):
        return self.fresh


def _by_inducing(kernel, noise_variance, X, y, X_held, num, loss):
    """Mean and latent variance of held-out rows, given inducing points at the first rows."""
    operator = Inducing(kernel, X, X[:num])
    everything = jnp.arange(X.shape[0], dtype=jnp.int32)
    inverse = triangular_inverse(root_of_rows(operator, everything, jnp.sqrt(noise_variance)))
    solver = LSMR(rtol=_INDUCING_RTOL, max_steps=_INDUCING_STEPS)
    solution = lstsq(
        operator,
        y,
        damp=jnp.sqrt(noise_variance),
        solver=solver,
        preconditioner=Dense(stop_gradient(inverse)),
        throw=False,
    )
    features = operator.features(X_held)
    mean = matmul(features, solution.value)
    if loss is mse:
        return mean, jnp.zeros_like(mean)
    known = jnp.sum(features**2, axis=1)
    left = noise_variance * jnp.sum(matmul(features, inverse) ** 2, axis=1)
    return mean, jnp.maximum(kernel.diagonal(X_held) - known + left, 0)


def choose_objective(objective: Any, n: int) -> AbstractObjective:
    """The objective for n rows: leave-one-out up to 2000 rows, repeated hold-out beyond.

    Raises
    ------
    TypeError
        If `objective` is neither "auto" nor an objective.
    """
    if isinstance(objective, AbstractObjective):
        return objective
    if objective == "auto":
        return LeaveOneOut() if n <= _LEAVE_ONE_OUT_ROWS else Holdout()
    msg = (
        f'objective must be "auto" or an objective such as gplsq.tuning.Holdout(); got '
        f"{objective!r}."
    )
    raise TypeError(msg)
