"""Conditioning a Gaussian process on data: plan, solve, and go on where that fails.

Equation (1) of docs/derivations/function-space.md.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike

from gplsq._core import (
    cast,
    check_choice,
    check_finite_scalar,
    check_mesh,
    check_real_array,
    describe,
    is_traced,
    least_of_processes,
    place,
)
from gplsq.gp._inputs import check_inducing, check_rows
from gplsq.gp._low_rank import LowRankPosterior, condition_low_rank
from gplsq.gp._plan import SOLVERS, Plan, choose_plan, choose_solver, memory_budget
from gplsq.gp._posterior import Posterior, solve_exact
from gplsq.kernels import AbstractKernel
from gplsq.operators import Kernel as KernelOperator
from gplsq.operators import RowTable
from gplsq.solvers import AbstractLeastSquares, Direct


def condition(
    kernel: AbstractKernel,
    X: ArrayLike | RowTable,
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
    mesh: Mesh | None = None,
) -> Posterior | LowRankPosterior:
    """Condition a zero-mean Gaussian process on noisy values.

    Equations (1) and (4) of docs/derivations/function-space.md.

    Parameters
    ----------
    kernel
        Prior covariance; hyperparameters are cast to the dtype of X.
    X
        Shape (n, d). Its dtype is the dtype of all the work. Or a `gplsq.operators.RowTable`,
        which is never in memory as a whole, and gets a low-rank model.
    y
        Shape (n,), or (n, p) for p independent outputs of the same kernel and noise: one
        factorisation, or one block solve, serves all.
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
        Inducing points, shape (m, d), or how many to choose from X: asks for that model.
        By default 4096, fewer where these do not fit into `memory`.
    num_features
        How many random features: asks for that model. 4096 by default, fewer where these do not fit
        into `memory`.
    memory
        What the fit may take beside the table, in bytes or as text such as ``"2 GiB"``; half of
        what is free by default. With ``solver="auto"`` a fit that runs out of memory is tried once
        more with a quarter of it, and `plan` says so.
    key
        A JAX random key for inducing points, features and the choice of rows; a fixed one by
        default.
    mesh
        A `jax.sharding.Mesh` of devices, of one process or several, that share the rows: of the
        products of every solve, and of predictions. Answers are those of one device, to rounding
        and the solver's tolerance. See docs/concepts/distributed.md.

    Returns
    -------
    Posterior or LowRankPosterior
        Look at `.solution.ok` and `.solution.report()`.

    Raises
    ------
    ValueError
        If shapes do not match, the noise variance is not positive, or nothing fits into `memory`.
    TypeError
        If X or y are not of real numbers, X is not of float32 or float64, or `mesh` no mesh of
        devices.

    Notes
    -----
    The mean minimises `sum_i (f(x_i) - y_i)^2 + noise_variance |f|^2` over the kernel's function
    space (Rasmussen & Williams 2006, section 6.2.1).
    """
    check_choice("form", form, ("auto", "dense", "tiled"))
    mesh = check_mesh(mesh)
    solver = "auto" if solver is None else solver
    if not isinstance(solver, AbstractLeastSquares):
        check_choice("solver", solver, SOLVERS)
    noise = _noise(noise_variance)
    points = X if isinstance(X, RowTable) else _as_table(X, mesh)
    if isinstance(points, RowTable):
        if solver not in ("auto", "inducing", "features") or form != "auto":
            msg = (
                "X is a RowTable, which low-rank models alone can use: solver must be "
                f'"inducing" or "features", and form "auto"; got {describe(solver)} and {form!r}.'
            )
            raise ValueError(msg)
        if mesh is not None and mesh.is_multi_process:
            msg = (
                "X is a RowTable, which devices of one process alone can share; got a mesh over "
                f"{jax.process_count()} processes. Let each read its rows, and pass what "
                "jax.make_array_from_process_local_data makes of them."
            )
            raise ValueError(msg)
    elif not jnp.issubdtype(points.dtype, jnp.floating):
        points = points.astype(float)
    for name, given in {"inducing": inducing, "features": num_features}.items():
        if given is not None:
            solver = _asked_for(name, solver, form)
    if isinstance(points, RowTable) and solver == "auto":
        solver = "inducing"
    if np.dtype(points.dtype).itemsize not in (4, 8):
        msg = f"X must be of float32 or float64; got {points.dtype}. Cast it."
        raise TypeError(msg)
    target = jnp.asarray(check_real_array("y", y), points.dtype)
    check_rows(points.shape, target.shape)
    columns = target.shape[1:]
    noise = noise.astype(points.dtype)
    kernel = cast(kernel, points.dtype)
    count, centres = check_inducing(inducing, points)
    key = jax.random.key(0) if key is None else key
    settings = {"form": form, "rtol": rtol, "rank": num_features if solver == "features" else count}
    settings["num_devices"] = 1 if mesh is None else mesh.size
    settings["num_targets"] = columns[0] if columns else 1
    n, d = points.shape
    budget = least_of_processes(memory_budget(memory), mesh)
    plan = choose_plan(n, d, points.dtype, solver, memory=budget, **settings)
    data = place(kernel, mesh), points, target, place(noise, mesh)
    others = solver, rtol, centres, key, mesh
    try:
        return _fit(*data, plan, *others)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if solver != "auto" or not _out_of_memory(error):
            raise
        smaller = choose_plan(n, d, points.dtype, solver, memory=budget / 4, **settings)
    reason = f"{smaller.reason}; a first try ({plan.chosen}) ran out of memory"
    return _fit(*data, replace(smaller, reason=reason), *others)


def _asked_for(name: str, solver: Any, form: str) -> str:
    """The low-rank model that inducing points, or a number of features, ask for."""
    if form != "auto" or not (isinstance(solver, str) and solver in ("auto", name)):
        argument = "inducing" if name == "inducing" else "num_features"
        msg = (
            f'{argument} asks for solver="{name}" and form="auto"; got solver={describe(solver)} '
            f"and form={form!r}. Leave {argument} out, or the others."
        )
        raise ValueError(msg)
    return name


def _out_of_memory(error: Exception) -> bool:
    words = ("RESOURCE_EXHAUSTED", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _fit(kernel, points, target, noise, plan, solver, rtol, centres, key, mesh):
    """Follow the plan; "auto" goes on with LSMR where a factor breaks down."""
    if plan.model != "exact":
        return condition_low_rank(kernel, points, target, noise, plan, centres, key, mesh)
    target = place(target, mesh)
    posterior = _solve(kernel, target, noise, plan, points, mesh)
    ok = posterior.solution.ok
    # While tracing a factor that breaks down is left to the status.
    may_retry = isinstance(plan.solver, Direct) and solver == "auto" and not is_traced(ok)
    broken = may_retry and not bool(jnp.all(ok))
    if broken and bool(jnp.all(jnp.isfinite(target))):
        retry = choose_solver(points.shape[0], points.dtype, "lsmr", rtol)
        reason = f"{retry.reason}, because the Cholesky factor broke down in {points.dtype}"
        posterior = _solve(kernel, target, noise, replace(retry, reason=reason), points, mesh)
    return posterior


def _solve(kernel, target, noise, plan: Plan, points, mesh) -> Posterior:
    operator = KernelOperator(kernel, points, plan.form, mesh=mesh)
    words = f"{plan.reason}; kernel matrix {_form(plan.solver, operator)}"
    return solve_exact(operator, target, noise, plan.solver, words, recipe=plan.preconditioner)


def _form(solver: AbstractLeastSquares, operator: KernelOperator) -> str:
    devices = 1 if operator.mesh is None else operator.mesh.size
    if isinstance(solver, Direct):
        return "factorised" + (f", by each of {devices} devices" if devices > 1 else "")
    words = "kept" if operator.form == "dense" else "recomputed in tiles"
    return words + (f", its rows on {devices} devices" if devices > 1 else "")


def _as_table(X: Any, mesh: Mesh | None) -> Any:
    """X as an array: of NumPy, if devices are going to share it."""
    X = check_real_array("X", X)
    if mesh is None or isinstance(X, jax.Array):
        return jnp.asarray(X)
    table = np.asarray(X)
    return table.astype(jax.dtypes.canonicalize_dtype(table.dtype), copy=False)


def _noise(noise_variance: Any) -> Array:
    if is_traced(noise_variance):
        return noise_variance
    number = check_finite_scalar("noise_variance", noise_variance, minimum=0.0, strict=True)
    return jnp.asarray(number, float)
