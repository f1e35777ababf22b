"""A mean function with unknown coefficients: generalised least squares around a posterior."""

import math
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import (
    as_points,
    check_choice,
    jit_quickly,
    jittered_cholesky,
    like_columns,
    matmul,
    parts_of_type,
    savable,
    with_diagonal,
)
from gplsq.gp._condition import condition
from gplsq.gp._inputs import check_rows, points_like, rows_like
from gplsq.gp._low_rank import LowRankPosterior
from gplsq.gp._paths import SamplePaths
from gplsq.gp._posterior import Posterior, joint_draws
from gplsq.kernels import AbstractKernel, WithDerivatives
from gplsq.operators import RowTable
from gplsq.solvers import Direct, Solution

MEANS = ("constant", "linear")


@savable
class MeanBasis(eqx.Module):
    """The functions that a mean is a combination of.

    Parameters
    ----------
    kind
        ``"constant"``: one; ``"linear"``: one and the columns.
    outputs
        Of correlated outputs, their number: each has coefficients of its own. The number of the
        output is in `column`.
    column
        See `outputs`.
    weighted
        Whether the last column is the weight of a row, see `gplsq.kernels.Weighted`.
    """

    kind: str = eqx.field(static=True)
    outputs: int | None = eqx.field(default=None, static=True)
    column: int = eqx.field(default=-1, static=True)
    weighted: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        check_choice("mean", self.kind, MEANS)

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, "n q"]:
        """Values of the functions at points."""
        weight = X[:, -1:] if self.weighted else jnp.ones((X.shape[0], 1), X.dtype)
        points = X[:, :-1] if self.weighted else X
        number = None
        if self.outputs is not None:
            number = points[:, self.column]
            points = jnp.delete(points, self.column, axis=1, assume_unique_indices=True)
        values = jnp.ones_like(weight)
        if self.kind == "linear":
            values = jnp.concatenate([values, points], axis=1)
        if number is not None:
            own = number[:, None] == jnp.arange(self.outputs, dtype=X.dtype)
            values = jnp.where(own[:, :, None], values[:, None, :], 0)
            values = values.reshape(X.shape[0], -1)
        return values * weight


@savable
class MeanPosterior(eqx.Module):
    """A Gaussian process around `h(x) . b` with unknown b, conditioned on data.

    The limit of an infinitely wide prior for b (Rasmussen & Williams 2006, section 2.7): b is that
    of generalised least squares, and its uncertainty is part of every variance. Far from the data
    the mean goes to `h(x) . b`.

    Attributes
    ----------
    inner
        The posterior of the zero-mean process given the targets, and the basis functions as
        further outputs: one factorisation or one block solve for all.
    basis
        h.
    coefficients
        b, shape (q,), or (q, p) for p outputs.
    spread
        `spread spread^T` is the covariance of b.
    """

    inner: Posterior | LowRankPosterior
    basis: MeanBasis
    coefficients: Float[Array, "q *p"]
    spread: Float[Array, "q q"]

    @property
    def kernel(self) -> AbstractKernel:
        """Of the process around the mean."""
        return self.inner.kernel

    @property
    def X(self) -> Float[Array, "n d"]:
        """The points of the data."""
        return self.inner.X  # type: ignore[return-value]

    @property
    def y(self) -> Float[Array, "n *p"]:
        """The targets."""
        return _targets(self.inner.y, self.coefficients)

    @property
    def noise_variance(self) -> Float[Array, ""]:
        """In squared units of the target."""
        return self.inner.noise_variance

    @property
    def solution(self) -> Solution:
        """Of the targets' columns, and then of those of the basis."""
        return self.inner.solution

    @property
    def plan(self) -> str:
        """Which solver was used, and why."""
        return f"{self.inner.plan}; around a {self.basis.kind} mean"

    def mean(self, Z: ArrayLike) -> Float[Array, "m *p"]:
        """Posterior mean at Z, shape (m, d)."""
        return _mean(self.basis, self.coefficients, *self._predicted(Z))

    def raw_variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, " m"]:
        """`variance` before negative rounding errors are set to 0."""
        inner = self.inner.raw_variance(Z, method)
        return _covariance(self.basis, self.spread, *self._predicted(Z), inner)

    def variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, " m"]:
        """Posterior variance of the latent function at Z; see `Posterior.variance`."""
        return jnp.maximum(self.raw_variance(Z, method), 0)

    def covariance(self, Z: ArrayLike) -> Float[Array, "m m"]:
        """Joint posterior covariance of the latent function at Z, shape (m, d)."""
        inner = self.inner.covariance(Z)
        return _covariance(self.basis, self.spread, *self._predicted(Z), inner)

    def sample(self, key: Array, Z: ArrayLike, num: int = 1) -> Float[Array, "m *p num"]:
        """Joint draws of the latent function at Z."""
        return joint_draws(key, self.mean(Z), self.covariance(Z), num)

    def sample_paths(self, key: Array, num: int = 1, *, num_features: int = 2048) -> SamplePaths:
        """Functions drawn from the posterior; see `Posterior.sample_paths`.

        Given b the process is the zero-mean one, and b is drawn: paths of that, and what the data
        leave of h times the b of each.
        """
        to_paths, to_mean = jax.random.split(key)
        inner, q = self.inner, self.spread.shape[0]
        value = _targets(inner.solution.value, self.coefficients)
        alone: Any = eqx.tree_at(lambda posterior: posterior.solution.value, inner, value)
        paths = alone.sample_paths(to_paths, num, num_features=num_features)
        normal = jax.random.normal(to_mean, (q, paths.weights.shape[1]), value.dtype)
        weights = jnp.tile(self.coefficients.reshape(q, -1), num) + matmul(self.spread, normal)
        low_rank = isinstance(inner, LowRankPosterior)
        explained = inner.coefficients if low_rank else inner.solution.value
        return paths.around(self.basis, weights, explained[:, -q:])

    def leave_one_out(self, rows: ArrayLike) -> tuple[Array, Array]:
        """Residual and variance of chosen rows predicted from all the others.

        With `P = S^-1 - S^-1 H (H^T S^-1 H)^-1 H^T S^-1` the residual is `(P y)_i / P_ii` and the
        variance `1 / P_ii` (Dubrule 1983): b is fitted without the row too. Exact with the direct
        solver. Otherwise the diagonal of S^-1 is that of `Posterior.leave_one_out`, a bound, and
        P_ii is taken as at least half of it.
        """
        exact = isinstance(self.inner, Posterior) and isinstance(self.inner.solver, Direct)
        model = self.coefficients, self.spread, self.noise_variance
        return _left_out(*self.inner.leave_one_out(rows), *model, exact)

    def update(self, X: ArrayLike, y: ArrayLike) -> "MeanPosterior":
        """The posterior given more rows as well, see `Posterior.update`."""
        points, target = rows_like(self.X, self.coefficients.shape[1:], X, y)
        inner = self.inner.update(points, _block(self.basis, points, target))
        return _around(inner, self.basis, target)

    def for_pickle(self) -> "MeanPosterior":
        """The same for a pickle, see `Posterior.for_pickle`."""
        return replace(self, inner=self.inner.for_pickle())

    def _predicted(self, Z: ArrayLike) -> tuple[Array, Array]:
        """Points, and the predictions of y and of the basis there."""
        points = points_like(Z, self.X)
        return points, self.inner.mean(points)


def check_mean(kernel: AbstractKernel | None, mean: Any) -> None:
    """Refuse a fitted mean of rows that observe slopes, of which its functions know nothing."""
    fitted = isinstance(mean, MeanBasis) or mean in MEANS
    if fitted and parts_of_type(kernel, WithDerivatives):
        msg = (
            "mean must be zero, or a function of your own, with a kernel WithDerivatives: the "
            "functions of a fitted mean are of values alone. Subtract a trend from values and "
            "slopes before."
        )
        raise ValueError(msg)


def condition_around_mean(
    kernel: AbstractKernel, X: Any, y: ArrayLike, *, mean: str | MeanBasis, **settings: Any
) -> MeanPosterior:
    """Condition a Gaussian process with an unknown mean function on noisy values.

    Parameters
    ----------
    kernel
        Covariance around the mean.
    X, y
        Shapes (n, d), and (n,) or (n, p).
    mean
        ``"constant"``, ``"linear"`` (an offset and a slope for each column), or a `MeanBasis`.
    **settings
        As for `condition`.

    Returns
    -------
    MeanPosterior

    Raises
    ------
    ValueError
        As `condition`; and for a `RowTable`, or a kernel `WithDerivatives`.

    Notes
    -----
    One solve with q more right-hand sides than y has columns. Where the data do not determine the
    coefficients, as for columns that are multiples of each other, variances are as large as the
    dtype allows; a column that is 0 at all rows has the coefficient 0. Differentiable in kernel,
    noise and y.
    """
    if isinstance(X, RowTable):
        msg = (
            "X is a RowTable, whose models have mean zero: the target is standardised. Pass an "
            'array, or mean="zero".'
        )
        raise ValueError(msg)
    check_mean(kernel, mean)
    basis = mean if isinstance(mean, MeanBasis) else MeanBasis(mean)
    points = as_points("X", X)
    target = jnp.asarray(y, points.dtype)
    check_rows(points.shape, target.shape)
    inner = condition(kernel, points, _block(basis, points, target), **settings)
    return _around(inner, basis, target)


# Programs, because JAX compiles what runs outside of one operation by operation.


@jit_quickly
def _block(basis: MeanBasis, points: Array, y: Array) -> Array:
    """The columns to solve for: the targets, and then the basis."""
    return jnp.concatenate([y.reshape(y.shape[0], -1), basis(points)], axis=1)


def _targets(block: Array, coefficients: Array) -> Array:
    """The columns of y, a vector for one output."""
    return block[:, 0] if coefficients.ndim == 1 else block[:, : -coefficients.shape[0]]


def _unpredicted(basis: MeanBasis, points: Array, both: Array) -> Array:
    """What the data leave unpredicted of the basis."""
    values = basis(points)
    return values - both[:, -values.shape[1] :]


@jit_quickly
def _mean(basis: MeanBasis, coefficients: Array, points: Array, both: Array) -> Array:
    left = _unpredicted(basis, points, both)
    return _targets(both, coefficients) + matmul(left, coefficients)


@jit_quickly
def _covariance(basis: MeanBasis, spread: Array, points: Array, both: Array, inner: Array) -> Array:
    """`inner`, variances or a covariance, with what is not known of the mean."""
    half = matmul(_unpredicted(basis, points, both), spread)
    return inner + (jnp.sum(half**2, axis=1) if inner.ndim == 1 else matmul(half, half.T))


@jit_quickly
def _left_out(residual, latent, coefficients, spread, noise, exact: bool) -> tuple[Array, Array]:
    total = latent + noise
    solved = residual / total[:, None]
    of_y, of_basis = _targets(solved, coefficients), solved[:, -spread.shape[0] :]
    explained = jnp.sum(matmul(of_basis, spread) ** 2, axis=1)
    diagonal = 1 / total
    least = diagonal * (10 * float(jnp.finfo(total.dtype).eps) if exact else 0.5)
    total = 1 / jnp.maximum(diagonal - explained, least)
    left = of_y - matmul(of_basis, coefficients)
    return left * like_columns(total, left), jnp.maximum(total - noise, 0)


def _around(inner: Any, basis: MeanBasis, y: Array) -> MeanPosterior:
    """The posterior of targets shaped like y, from the columns that were solved for."""
    points: Any = inner.X
    fit = inner.mean(points) if isinstance(inner, LowRankPosterior) else None
    solved = inner.solution.value, fit, inner.noise_variance
    return MeanPosterior(inner, basis, *_generalised(inner.y, *solved, y.shape[1:]))


@jit_quickly
def _generalised(y, value, fit, noise, columns: tuple[int, ...]) -> tuple[Array, Array]:
    """Generalised least squares: the coefficients, and the root of their covariance."""
    # S^-1 v of S = A A^T + noise, from what the fit leaves of v.
    solved = value if fit is None else (y - fit) / noise
    q = y.shape[1] - math.prod(columns)
    products = matmul(y[:, -q:].T, solved)
    information = products[:, -q:]
    # Of unit diagonal; a function that is 0 at all rows gets the coefficient 0.
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(information), 0))
    used = scale > 0
    scale = jnp.where(used, scale, 1)
    scaled = (information + information.T) / (2 * jnp.outer(scale, scale))
    rounding = jnp.asarray(10 * q * float(jnp.finfo(y.dtype).eps), y.dtype)
    lower, _ = jittered_cholesky(with_diagonal(scaled, 1), rounding)
    spread = jax.scipy.linalg.solve_triangular(lower, jnp.diag(used / scale), lower=True).T
    coefficients = matmul(spread, matmul(spread.T, products[:, :-q]))
    return coefficients.reshape(q, *columns), spread
