"""The exact posterior: its mean is regularised least squares."""

import warnings
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from sklearn.exceptions import ConvergenceWarning

from gplsq._core import (
    check_choice,
    check_count,
    is_traced,
    jit_quickly,
    like_columns,
    map_rows,
    matmul,
    place,
    savable,
    status_ok,
    symmetric_eigen,
)
from gplsq.gp._inputs import more_rows, points_like
from gplsq.gp._paths import SamplePaths, exact_paths
from gplsq.gp._plan import choose_solver, updated
from gplsq.gp._variance import (
    check_covariance_fits,
    covariance_by_factor,
    covariance_by_solves,
    variance_by_factor,
    variance_by_neighbours,
    variance_by_solves,
)
from gplsq.kernels import AbstractKernel, noisy_gram
from gplsq.operators import Kernel as KernelOperator
from gplsq.operators import cross_matvec
from gplsq.solvers import AbstractLeastSquares, Direct, Solution, lstsq

_NEIGHBOURS = 64


@savable
class Posterior(eqx.Module):
    """A Gaussian process conditioned on data; made by `condition`.

    Predictions are of the latent function, without observation noise.

    Attributes
    ----------
    kernel, X, y, noise_variance
        The model and its data; `noise_variance` in squared units of the target. Of y with p
        columns, independent outputs, `mean` and residuals have p columns too; variances are those
        of each.
    solution
        The `Solution` of the mean's least-squares problem; `.value` are the coefficients c of
        `mean(z) = sum_i c_i k(z, x_i)`, shaped like y: one column for each output.
    plan
        Which solver was used, and why.
    """

    kernel: AbstractKernel
    X: Float[Array, "n d"]
    y: Float[Array, "n *p"]
    noise_variance: Float[Array, ""]
    solution: Solution
    operator: KernelOperator
    prepared: Any
    solver: AbstractLeastSquares
    plan: str = eqx.field(static=True)

    def mean(self, Z: ArrayLike) -> Float[Array, "m *p"]:
        """Posterior mean at Z, shape (m, d). Cost: m n kernel entries, in tiles."""
        data = self.X, self.solution.value, self.operator.mesh
        return cross_matvec(self.kernel, points_like(Z, self.X), *data)

    def variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, " m"]:
        """Posterior variance of the latent function at Z, shape (m, d); never negative.

        Parameters
        ----------
        Z
            Shape (m, d).
        method
            ``"exact"``: by the Cholesky factor where the solver was direct, else by block solves
            (one solve a 256 points). ``"neighbours"``: given the 64 most correlated rows only, an
            upper bound at a small part of the cost. ``"auto"``: exact with the direct solver,
            neighbours otherwise.
        """
        return jnp.maximum(self.raw_variance(Z, method), 0)

    def raw_variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, " m"]:
        """`variance` before negative rounding errors are set to 0, to count them."""
        check_choice("method", method, ("auto", "exact", "neighbours"))
        points = points_like(Z, self.X)
        direct = isinstance(self.solver, Direct)
        if method == "neighbours" or (method == "auto" and not direct):
            return self._bound(points, None)
        if direct:
            data = self.X, self.prepared.lower, points, self.operator.mesh
            return _by_factor(self.kernel, *data)
        value, status = _by_solves(
            self.operator, self.noise_variance, self.solver, self.prepared, points
        )
        _warn_if_missed(status, *_VARIANCE)
        return value

    def covariance(self, Z: ArrayLike) -> Float[Array, "m m"]:
        """Joint posterior covariance of the latent function at Z, shape (m, d).

        Memory: about 5 m^2 + 2 m n numbers, 12 m n with LSMR; a `MemoryError` tells beforehand if
        they are not there.
        """
        points = points_like(Z, self.X)
        direct = isinstance(self.solver, Direct)
        columns = (2 if direct else 12) * self.X.shape[0]
        check_covariance_fits(points.shape[0], columns, points)
        if direct:
            return _covariance_by_factor(self.kernel, self.X, self.prepared.lower, points)
        full, status = _covariance_by_solves(
            self.operator, self.noise_variance, self.solver, self.prepared, points
        )
        _warn_if_missed(status, *_VARIANCE)
        return full

    def sample(self, key: Array, Z: ArrayLike, num: int = 1) -> Float[Array, "m *p num"]:
        """Joint draws of the latent function at Z, shape (m, d), by the eigenvectors of the
        covariance. Cost: m^3 flops beside the covariance.
        """
        points = points_like(Z, self.X)
        return joint_draws(key, self.mean(points), self.covariance(points), num)

    def sample_paths(self, key: Array, num: int = 1, *, num_features: int = 2048) -> SamplePaths:
        """Functions drawn from the posterior, to be evaluated anywhere and again.

        Parameters
        ----------
        key
            A JAX random key.
        num
            How many functions.
        num_features
            Random features of the prior's draws, which all functions of a call share.

        Returns
        -------
        SamplePaths
            `paths(Z)` has shape (num, m); of p outputs (num, m, p), drawn independently.

        Raises
        ------
        NotImplementedError
            If no random features are known for the kernel.

        Warns
        -----
        ConvergenceWarning
            If a function's solve missed the solver's tolerance.

        Notes
        -----
        Their mean is `mean`. Their covariance is that of the posterior in the mean over keys; for
        one key it is off by about ``1 / sqrt(num_features)`` of the prior's, most of it far away.
        Cost: n num_features cosines, and one block solve with `num` right-hand sides for each
        output, by the posterior's solver and to its tolerance. Wilson et al. (2020, 2021).
        """
        paths = exact_paths(self, key, num, num_features)
        _warn_if_missed(paths.status, *_PATHS)
        return paths

    def leave_one_out(self, rows: ArrayLike) -> tuple[Array, Array]:
        """Residual and variance of chosen rows predicted from all the others.

        The residual is `c_i v_i` with v_i the variance of y_i given the others (Rasmussen &
        Williams 2006, eq. 5.12). v_i is exact with the direct solver, the neighbour bound
        otherwise.

        Parameters
        ----------
        rows
            Row numbers, shape (s,).

        Returns
        -------
        residual, latent_variance
            Shapes (s,); of p outputs residuals of shape (s, p). The variance of the observation is
            `latent_variance + noise_variance`.
        """
        index = jnp.asarray(rows)
        if isinstance(self.solver, Direct):
            data = self.prepared.lower, self.noise_variance, self.solution.value
            return _left_out(*data, index)
        latent = jnp.maximum(self._bound(self.X[index], index), 0)
        total = latent + self.noise_variance
        residual = self.solution.value[index]
        return residual * like_columns(total, residual), latent

    def update(self, X: ArrayLike, y: ArrayLike) -> "Posterior":
        """The posterior of the same model given more rows as well.

        Parameters
        ----------
        X, y
            More rows of data, shapes (s, d) and (s,), or (s, p).

        Returns
        -------
        Posterior
            That of conditioning on all rows by the same solver: with `Direct` to rounding, with
            LSMR to its tolerance. Where the larger matrix has no Cholesky factor in the dtype the
            solution says so.

        Raises
        ------
        ValueError
            If shapes do not match.

        Notes
        -----
        Cost: with `Direct` n^2 s flops, the factor is extended by s rows; with LSMR a solve that
        starts from the coefficients there are.
        """
        n = self.X.shape[0]
        points, target = more_rows(self.X, self.y, X, y)
        direct = isinstance(self.solver, Direct)
        mesh, form = self.operator.mesh, "tiled" if direct else self.operator.form
        operator = KernelOperator(self.kernel, points, form, mesh=mesh)
        plan = updated(self.plan, points.shape[0])
        data = operator, place(target, mesh), self.noise_variance, self.solver, plan
        if direct:
            lower = _extended(self.kernel, points, self.prepared.lower, self.noise_variance, n)
            return solve_exact(*data, prepared=type(self.prepared)(lower))
        recipe = choose_solver(points.shape[0], points.dtype, "lsmr").preconditioner
        x0 = jnp.concatenate([self.solution.value, jnp.zeros_like(target[n:])])
        return solve_exact(*data, recipe=recipe, x0=x0)

    def for_pickle(self) -> "Posterior":
        """The same posterior with products in tiles, on one device: n^2 numbers less to save."""
        return replace(self, operator=KernelOperator(self.kernel, self.X, "tiled"))

    def _bound(self, points: Array, exclude: Array | None) -> Array:
        """The variance given neighbours only, without row `exclude[i]` for point i."""
        data = self.X, self.noise_variance, points, exclude, self.operator.mesh
        return _neighbours(self.kernel, *data)


def solve_exact(
    operator: KernelOperator,
    y: Float[Array, "n *p"],
    noise: Float[Array, ""],
    solver: AbstractLeastSquares,
    words: str,
    *,
    recipe: Any = None,
    prepared: Any = None,
    x0: Array | None = None,
) -> Posterior:
    """The posterior by one solve; `recipe` is a preconditioner for a solver not prepared yet."""
    damp = jnp.sqrt(noise)
    if prepared is None:
        prepared = _prepare(solver, operator, damp, recipe)
    # A solver that is already prepared is handed to lstsq as the preconditioner.
    settings = {"preconditioner": prepared, "x0": x0, "throw": False}
    solution = lstsq(operator, y, damp=damp, solver=solver, **settings)
    parts = operator.X, y, noise, solution, operator, prepared, solver
    return Posterior(operator.kernel, *parts, words)


def joint_draws(
    key: Array, mean: Float[Array, "m *p"], covariance: Float[Array, "m m"], num: int
) -> Float[Array, "m *p num"]:
    """Draws of normal vectors of one covariance, independent for each column of the mean."""
    return _draws(key, mean, covariance, check_count("num", num))


@jit_quickly
def _draws(key: Array, mean: Array, covariance: Array, num: int) -> Array:
    values, vectors = symmetric_eigen(covariance)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))
    normal = jax.random.normal(key, (*mean.shape, num), mean.dtype)
    return mean[..., None] + jnp.tensordot(root, normal, axes=1)


_VARIANCE = "the variance of {} points", "it is too large, not too small"
_PATHS = "the solves of {} sampled functions", "the functions are off by what these left undone"


def _warn_if_missed(status: Array, what: str, effect: str) -> None:
    """One warning for all right-hand sides whose solves missed their tolerance."""
    if is_traced(status):
        return
    missed = int(np.sum(~status_ok(np.asarray(status))))
    if missed:
        message = (
            f"{what.format(f'{missed} of {status.size}')} missed the solver's tolerance: {effect}. "
            "Ask for a larger rtol, or more max_steps."
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=3)


_prepare = jit_quickly(
    lambda solver, operator, damp, preconditioner: solver.prepare(operator, damp, preconditioner)
)
_by_solves = jit_quickly(variance_by_solves)
_covariance_by_factor = jit_quickly(covariance_by_factor)
_covariance_by_solves = jit_quickly(covariance_by_solves)


@jit_quickly
def _by_factor(kernel, X, lower, Z, mesh):
    def values(part, kernel, X, lower):
        return variance_by_factor(kernel, X, lower, part)

    return map_rows(values, mesh, Z, kernel, X, lower)


@jit_quickly
def _neighbours(kernel, X, noise, Z, exclude, mesh):
    def values(part, kernel, X, noise):
        return variance_by_neighbours(kernel, X, noise, part[0], _NEIGHBOURS, part[1])

    return map_rows(values, mesh, (Z, exclude), kernel, X, noise)


@jit_quickly
def _extended(kernel, X, lower, noise, n: int) -> Array:
    """The Cholesky factor of all rows of X from that of the first n."""
    new = X[n:]
    left = jax.scipy.linalg.solve_triangular(lower, kernel.cross(X[:n], new), lower=True)
    corner = noisy_gram(kernel, noise, new) - matmul(left.T, left)
    corner = jax.lax.linalg.cholesky(corner, symmetrize_input=False)
    top = jnp.concatenate([lower, jnp.zeros_like(left)], axis=1)
    return jnp.concatenate([top, jnp.concatenate([left.T, corner], axis=1)])


@jit_quickly
def _left_out(lower: Array, noise: Array, value: Array, index: Array) -> tuple[Array, Array]:
    """By diag((L L^T)^-1). Cost: n^3 flops, n^2 numbers."""
    half = jax.scipy.linalg.solve_triangular(
        lower, jnp.eye(lower.shape[0], dtype=lower.dtype), lower=True
    )
    total, residual = 1 / jnp.sum(half**2, axis=0)[index], value[index]
    return residual * like_columns(total, residual), jnp.maximum(total - noise, 0)
