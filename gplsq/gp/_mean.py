"""A mean function with unknown coefficients: generalised least squares around a posterior."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import check_choice, jittered_cholesky, like_columns, matmul, savable
from gplsq.gp._condition import condition
from gplsq.gp._low_rank import LowRankPosterior
from gplsq.gp._posterior import Posterior, joint_draws
from gplsq.kernels import AbstractKernel
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
        return self._targets(self.inner.y)

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
        values, left = self._values(Z)
        return values + matmul(left, self.coefficients)

    def raw_variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, " m"]:
        """`variance` before negative rounding errors are set to 0."""
        of_mean = jnp.sum(matmul(self._values(Z)[1], self.spread) ** 2, axis=1)
        return self.inner.raw_variance(Z, method) + of_mean

    def variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, " m"]:
        """Posterior variance of the latent function at Z; see `Posterior.variance`."""
        return jnp.maximum(self.raw_variance(Z, method), 0)

    def covariance(self, Z: ArrayLike) -> Float[Array, "m m"]:
        """Joint posterior covariance of the latent function at Z, shape (m, d)."""
        half = matmul(self._values(Z)[1], self.spread)
        return self.inner.covariance(Z) + matmul(half, half.T)

    def sample(self, key: Array, Z: ArrayLike, num: int = 1) -> Float[Array, "m *p num"]:
        """Joint draws of the latent function at Z."""
        return joint_draws(key, self.mean(Z), self.covariance(Z), num)

    def leave_one_out(self, rows: ArrayLike) -> tuple[Array, Array]:
        """Residual and variance of chosen rows predicted from all the others.

        With `P = S^-1 - S^-1 H (H^T S^-1 H)^-1 H^T S^-1` the residual is `(P y)_i / P_ii` and the
        variance `1 / P_ii` (Dubrule 1983): b is fitted without the row too. Exact with the direct
        solver. Otherwise the diagonal of S^-1 is that of `Posterior.leave_one_out`, a bound, and
        P_ii is taken as at least half of it.
        """
        residual, latent = self.inner.leave_one_out(rows)
        total = latent + self.noise_variance
        solved = residual / total[:, None]
        of_y, of_basis = self._targets(solved), solved[:, -self.basis_size :]
        explained = jnp.sum(matmul(of_basis, self.spread) ** 2, axis=1)
        diagonal = 1 / total
        exact = isinstance(self.inner, Posterior) and isinstance(self.inner.solver, Direct)
        least = diagonal * (10 * jnp.finfo(total.dtype).eps if exact else 0.5)
        total = 1 / jnp.maximum(diagonal - explained, least)
        left = of_y - matmul(of_basis, self.coefficients)
        return left * like_columns(total, left), jnp.maximum(total - self.noise_variance, 0)

    def update(self, X: ArrayLike, y: ArrayLike) -> "MeanPosterior":
        """The posterior given more rows as well, see `Posterior.update`."""
        points = jnp.asarray(X, self.X.dtype)
        block = _block(jnp.asarray(y, points.dtype), self.basis(points))
        return _around(self.inner.update(points, block), self.basis, self.coefficients.ndim == 1)

    def without_kept_matrix(self) -> "MeanPosterior":
        """The same for a file, see `Posterior.without_kept_matrix`."""
        return replace(self, inner=self.inner.without_kept_matrix())

    @property
    def basis_size(self) -> int:
        """q."""
        return self.spread.shape[0]

    def _values(self, Z: ArrayLike) -> tuple[Array, Array]:
        """Predictions of y, and what the basis leaves unpredicted of itself."""
        points = jnp.asarray(Z, self.X.dtype)
        both = self.inner.mean(points)
        return self._targets(both), self.basis(points) - both[:, -self.basis_size :]

    def _targets(self, block: Array) -> Array:
        """The columns of y, a vector for one output."""
        return block[:, 0] if self.coefficients.ndim == 1 else block[:, : -self.basis_size]


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
        As `condition`; and for a `RowTable`.

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
    basis = mean if isinstance(mean, MeanBasis) else MeanBasis(mean)
    points = jnp.asarray(X)
    points = points if jnp.issubdtype(points.dtype, jnp.floating) else points.astype(float)
    target = jnp.asarray(y, points.dtype)
    if points.ndim != 2 or target.ndim not in (1, 2) or target.shape[0] != points.shape[0]:
        msg = (
            f"X must have shape (n, d) and y shape (n,) or (n, p); got {points.shape} and "
            f"{target.shape}. Pass one target, or a row of targets, for each row."
        )
        raise ValueError(msg)
    inner = condition(kernel, points, _block(target, basis(points)), **settings)
    return _around(inner, basis, target.ndim == 1)


def _block(y: Array, values: Array) -> Array:
    return jnp.concatenate([y.reshape(y.shape[0], -1), values], axis=1)


def _around(inner: Any, basis: MeanBasis, single: bool) -> MeanPosterior:
    """Generalised least squares by the columns that were solved for."""
    solved, points = inner.solution.value, inner.X
    if isinstance(inner, LowRankPosterior):
        # S^-1 v of S = A A^T + noise, from what the fit leaves of v.
        solved = (inner.y - inner.mean(points)) / inner.noise_variance
    q = basis(points[:1]).shape[1]
    products = matmul(inner.y[:, -q:].T, solved)
    information = products[:, -q:]
    # Of unit diagonal; a function that is 0 at all rows gets the coefficient 0.
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(information), 0))
    used = scale > 0
    scale = jnp.where(used, scale, 1)
    index, eps = jnp.arange(q), jnp.finfo(solved.dtype).eps
    scaled = (information + information.T) / (2 * jnp.outer(scale, scale))
    lower, _ = jittered_cholesky(scaled.at[index, index].set(1), jnp.asarray(10 * q * eps))
    inverse = jax.scipy.linalg.solve_triangular(lower, jnp.diag(used / scale), lower=True)
    spread = inverse.T
    coefficients = matmul(spread, matmul(spread.T, products[:, :-q]))
    return MeanPosterior(inner, basis, coefficients[:, 0] if single else coefficients, spread)
