"""Conditioning a Gaussian process on data: the posterior mean is regularised least squares."""

import warnings
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float
from sklearn.exceptions import ConvergenceWarning

from gplsq._core import (
    cast,
    check_choice,
    check_finite_scalar,
    describe,
    is_traced,
    status_ok,
)
from gplsq.gp._low_rank import LowRankPosterior, check_inducing, condition_low_rank
from gplsq.gp._plan import SOLVERS, Plan, choose_plan, choose_solver, memory_budget
from gplsq.gp._variance import (
    covariance_by_factor,
    covariance_by_solves,
    variance_by_factor,
    variance_by_neighbours,
    variance_by_solves,
)
from gplsq.kernels import AbstractKernel
from gplsq.operators import Kernel as KernelOperator
from gplsq.operators import cross_product
from gplsq.solvers import AbstractLeastSquares, Direct, Solution, lstsq

_NEIGHBOURS = 64


class Posterior(eqx.Module):
    """A Gaussian process conditioned on data; made by `condition`.

    Predictions are of the latent function, without observation noise.

    Attributes
    ----------
    kernel, X, noise_variance
        The model and its data; `noise_variance` in squared units of the target.
    solution
        The `Solution` of the mean's least-squares problem; `.value` are the coefficients c of
        `mean(z) = sum_i c_i k(z, x_i)`.
    plan
        Which solver was used, and why.
    """

    kernel: AbstractKernel
    X: Float[Array, "n d"]
    noise_variance: Float[Array, ""]
    solution: Solution
    operator: KernelOperator
    prepared: Any
    solver: AbstractLeastSquares
    plan: str = eqx.field(static=True)

    def mean(self, Z: ArrayLike) -> Float[Array, " m"]:
        """Posterior mean at Z, shape (m, d). Cost: m n kernel entries, in tiles."""
        return cross_product(self.kernel, self._points(Z), self.X, self.solution.value)

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
        points = self._points(Z)
        direct = isinstance(self.solver, Direct)
        if method == "neighbours" or (method == "auto" and not direct):
            return _neighbours(self.kernel, self.X, self.noise_variance, points, None)
        if direct:
            return _by_factor(self.kernel, self.X, self.prepared.lower, points)
        value, status = _by_solves(
            self.operator, self.noise_variance, self.solver, self.prepared, points
        )
        _warn_if_missed(status)
        return value

    def covariance(self, Z: ArrayLike) -> Float[Array, "m m"]:
        """Joint posterior covariance of the latent function at Z, shape (m, d); m^2 memory."""
        points = self._points(Z)
        if isinstance(self.solver, Direct):
            full = _covariance_by_factor(self.kernel, self.X, self.prepared.lower, points)
        else:
            full, status = _covariance_by_solves(
                self.operator, self.noise_variance, self.solver, self.prepared, points
            )
            _warn_if_missed(status)
        return (full + full.T) / 2

    def sample(self, key: Array, Z: ArrayLike, num: int = 1) -> Float[Array, "m num"]:
        """Joint draws of the latent function at Z, shape (m, d), by the eigenvectors of the
        covariance. Cost: m^3 flops beside the covariance.
        """
        points = self._points(Z)
        values, vectors = jnp.linalg.eigh(self.covariance(points))
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))
        normal = jax.random.normal(key, (points.shape[0], num), points.dtype)
        return self.mean(points)[:, None] + root @ normal

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
            Shapes (s,). The variance of the observation is `latent_variance + noise_variance`.
        """
        index = jnp.asarray(rows)
        if isinstance(self.solver, Direct):
            total = 1 / _inverse_diagonal(self.prepared.lower)[index]
            latent = jnp.maximum(total - self.noise_variance, 0)
        else:
            latent = _neighbours(self.kernel, self.X, self.noise_variance, self.X[index], index)
            latent = jnp.maximum(latent, 0)
            total = latent + self.noise_variance
        return self.solution.value[index] * total, latent

    def without_kept_matrix(self) -> "Posterior":
        """The same posterior with products in tiles: n^2 numbers less to keep or to save."""
        return eqx.tree_at(lambda p: p.operator.gram, self, None, is_leaf=lambda leaf: leaf is None)

    def _points(self, Z: ArrayLike) -> Float[Array, "m d"]:
        points = jnp.asarray(Z, self.X.dtype)
        if points.ndim != 2 or points.shape[1] != self.X.shape[1]:
            msg = (
                f"Z must be a table of points, shape (m, {self.X.shape[1]}), like the data; got "
                f"{describe(points)}."
            )
            raise ValueError(msg)
        return points


def condition(
    kernel: AbstractKernel,
    X: ArrayLike,
    y: ArrayLike,
    *,
    noise_variance: ArrayLike,
    solver: AbstractLeastSquares | str | None = None,
    rtol: float | None = None,
    form: str = "auto",
    inducing: ArrayLike | int | None = None,
    num_features: int | None = None,
    memory: float | str | None = None,
    key: Array | None = None,
) -> Posterior | LowRankPosterior:
    """Condition a zero-mean Gaussian process on noisy values.

    Parameters
    ----------
    kernel
        Prior covariance; hyperparameters are cast to the dtype of X.
    X
        Shape (n, d). Its dtype is the dtype of all the work.
    y
        Shape (n,).
    noise_variance
        Variance of the observation noise, in squared units of y; positive.
    solver
        ``"auto"`` (or None) plans by `gplsq.plan`: a dense Cholesky factor up to 5000 rows,
        function-space LSMR with a randomly pivoted Cholesky preconditioner beyond, and inducing
        points where that would take over half a minute. If the factor does not exist in the dtype,
        ``"auto"`` goes on with LSMR, and `plan` says so. ``"direct"``, ``"lsmr"``,
        ``"inducing"``, ``"features"`` (random features), or a solver for the exact model.
    rtol
        Relative residual asked of LSMR. By default 1e-2 in float32; in float64 1e-4, and 1e-3 with
        inducing points and features.
    form
        How LSMR multiplies by the kernel matrix, see `gplsq.operators.Kernel`. Anything but
        ``"auto"`` asks for the exact model.
    inducing
        Inducing points, shape (m, d), or how many to choose from X; used with inducing points only.
        By default 2048, and 1024 from 200,000 rows on.
    num_features
        Random features; used with ``solver="features"`` only. As many by default.
    memory
        What the fit may take beside the table, in bytes or as text such as ``"2 GiB"``; half of
        what is free by default. With ``solver="auto"`` a fit that runs out of memory is tried once
        more with a quarter of it, and `plan` says so.
    key
        A JAX random key for inducing points, features and the choice of rows; a fixed one by
        default.

    Returns
    -------
    Posterior or LowRankPosterior
        Look at `.solution.ok` and `.solution.report()`.

    Raises
    ------
    ValueError
        If shapes do not match, the noise variance is not positive, or nothing fits into `memory`.

    Notes
    -----
    The mean minimises `sum_i (f(x_i) - y_i)^2 + noise_variance |f|^2` over the kernel's function
    space (Rasmussen & Williams 2006, section 6.2.1).
    """
    check_choice("form", form, ("auto", "dense", "tiled"))
    solver = "auto" if solver is None else solver
    if not isinstance(solver, AbstractLeastSquares):
        check_choice("solver", solver, SOLVERS)
    noise = _noise(noise_variance)
    points = jnp.asarray(X)
    if not jnp.issubdtype(points.dtype, jnp.floating):
        points = points.astype(float)
    target = jnp.asarray(y, points.dtype)
    if points.ndim != 2 or target.shape != points.shape[:1]:
        msg = (
            f"X must have shape (n, d) and y shape (n,); got {points.shape} and {target.shape}. "
            "Pass one target for each row."
        )
        raise ValueError(msg)
    noise = noise.astype(points.dtype)
    kernel = cast(kernel, points.dtype)
    count, centres = check_inducing(inducing, points)
    key = jax.random.key(0) if key is None else key
    settings = {"form": form, "rtol": rtol, "rank": num_features if solver == "features" else count}
    n, d = points.shape
    budget = memory_budget(memory)
    plan = choose_plan(n, d, points.dtype, solver, memory=budget, **settings)
    data = kernel, points, target, noise
    try:
        return _fit(*data, plan, solver, rtol, centres, key)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if solver != "auto" or not _out_of_memory(error):
            raise
        smaller = choose_plan(n, d, points.dtype, solver, memory=budget / 4, **settings)
    reason = f"{smaller.reason}; a first try ({plan.chosen}) ran out of memory"
    return _fit(*data, replace(smaller, reason=reason), solver, rtol, centres, key)


def _out_of_memory(error: Exception) -> bool:
    words = ("RESOURCE_EXHAUSTED", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _fit(kernel, points, target, noise, plan, solver, rtol, centres, key):
    """Follow the plan; "auto" goes on with LSMR where a factor breaks down."""
    if plan.model != "exact":
        return condition_low_rank(kernel, points, target, noise, plan, centres, key)
    posterior = _solve(kernel, target, noise, plan, points)
    direct = isinstance(plan.solver, Direct)
    broken = direct and solver == "auto" and not bool(jnp.all(posterior.solution.ok))
    if broken and bool(jnp.all(jnp.isfinite(target))):
        retry = choose_solver(points.shape[0], points.dtype, "lsmr", rtol)
        reason = f"{retry.reason}, because the Cholesky factor broke down in {points.dtype}"
        posterior = _solve(kernel, target, noise, replace(retry, reason=reason), points)
    return posterior


def _solve(kernel, target, noise, plan: Plan, points) -> Posterior:
    operator = KernelOperator(kernel, points, plan.form)
    damp = jnp.sqrt(noise)
    prepared = _prepare(plan.solver, operator, damp, plan.preconditioner)
    # A solver that is already prepared is handed to lstsq as the preconditioner.
    solution = lstsq(
        operator, target, damp=damp, solver=plan.solver, preconditioner=prepared, throw=False
    )
    return Posterior(
        kernel,
        operator.X,
        noise,
        solution,
        operator,
        prepared,
        plan.solver,
        f"{plan.reason}; kernel matrix {_form(plan.solver, operator)}",
    )


def _form(solver: AbstractLeastSquares, operator: KernelOperator) -> str:
    if isinstance(solver, Direct):
        return "factorised"
    return "kept" if operator.form == "dense" else "recomputed in tiles"


def _warn_if_missed(status: Array) -> None:
    """One warning for all the points of a variance whose solves missed their tolerance."""
    if is_traced(status):
        return
    missed = int(jnp.sum(~status_ok(status)))
    if missed:
        message = (
            f"the variance of {missed} of {status.size} points missed the solver's tolerance: it "
            "is too large, not too small. Ask for a larger rtol, or more max_steps."
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=3)


def _noise(noise_variance: Any) -> Array:
    if is_traced(noise_variance):
        return noise_variance
    number = check_finite_scalar("noise_variance", noise_variance, minimum=0.0, strict=True)
    return jnp.asarray(number, float)


_prepare = eqx.filter_jit(
    lambda solver, operator, damp, preconditioner: solver.prepare(operator, damp, preconditioner)
)
_by_factor = eqx.filter_jit(variance_by_factor)
_by_solves = eqx.filter_jit(variance_by_solves)
_covariance_by_factor = eqx.filter_jit(covariance_by_factor)
_covariance_by_solves = eqx.filter_jit(covariance_by_solves)


@eqx.filter_jit
def _neighbours(kernel, X, noise, Z, exclude):
    return variance_by_neighbours(kernel, X, noise, Z, _NEIGHBOURS, exclude)


@jax.jit
def _inverse_diagonal(lower: Array) -> Array:
    """diag((L L^T)^-1). Cost: n^3 flops, n^2 numbers."""
    half = jax.scipy.linalg.solve_triangular(
        lower, jnp.eye(lower.shape[0], dtype=lower.dtype), lower=True
    )
    return jnp.sum(half**2, axis=0)
