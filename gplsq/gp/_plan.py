"""Which solver a data size gets when the user does not choose, and why."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from gplsq.operators import keep_budget
from gplsq.solvers import LSMR, AbstractLeastSquares, Direct, RandomlyPivotedCholesky

# Up to here a Cholesky factor takes under a second on two cores and gives variances for free.
_DIRECT_ROWS = 5000
# Columns of the preconditioner. On 15,000 to 40,000 rows in float32, 200 columns took no more
# steps than 1000: rounding, not rank, limits how much of the spectrum can be taken out.
_RANK = 200
_MAX_STEPS = 1000
# Beyond so many rows a product with the whole kernel matrix takes seconds, and a solve a hundred of
# them; beyond the second number where the matrix is not kept either.
_EXACT_ROWS, _TILED_ROWS = 50_000, 20_000
# Products with n x 2048 entries take under half a second on two cores up to here.
_MANY_ROWS = 200_000
_INDUCING, _INDUCING_OF_MANY = 2048, 1024


@dataclass(frozen=True)
class SolvePlan:
    """A solver, its preconditioner and the reason for the choice."""

    solver: AbstractLeastSquares
    preconditioner: Any
    reason: str
    num_inducing: int | None = None  # set where the model is one of inducing points


def choose_model(
    n: int,
    dtype: Any,
    solver: AbstractLeastSquares | str = "auto",
    rtol: float | None = None,
    form: str = "auto",
    num_inducing: int | None = None,
) -> SolvePlan:
    """The exact model by `choose_solver`, or inducing points where there are too many rows for it.

    Parameters
    ----------
    n, dtype, solver, rtol
        As for `choose_solver`; `solver` may be ``"inducing"`` too.
    form
        How an exact model multiplies by the kernel matrix. ``"auto"`` takes inducing points from
        20,000 rows on if the matrix does not fit into memory, and from 50,000 rows on anyway.
    num_inducing
        Inducing points: 2048 by default, 1024 from 200,000 rows on.
    """
    size = n * n * jnp.dtype(dtype).itemsize
    too_many = n > _EXACT_ROWS or (n > _TILED_ROWS and size > keep_budget())
    if solver != "inducing" and not (solver == "auto" and form == "auto" and too_many):
        return choose_solver(n, dtype, solver, rtol)
    why = "asked for" if solver == "inducing" else f"{n} rows, too many for the exact model"
    if num_inducing is None:
        num_inducing = _INDUCING_OF_MANY if n > _MANY_ROWS else _INDUCING
    if rtol is None:
        rtol = 1e-2 if jnp.finfo(dtype).bits <= 32 else 1e-3
    method = LSMR(rtol=rtol, max_steps=_MAX_STEPS)
    reason = f"inducing points, LSMR on generated rows: {why}"
    return SolvePlan(method, None, reason, min(n, num_inducing))


def choose_solver(
    n: int, dtype: Any, solver: AbstractLeastSquares | str = "auto", rtol: float | None = None
) -> SolvePlan:
    """The solver for n rows: dense for small n, preconditioned function-space LSMR beyond.

    Parameters
    ----------
    n
        Rows of data.
    dtype
        Of the data.
    solver
        ``"auto"``, ``"direct"``, ``"lsmr"``, or a solver, which is taken as it is.
    rtol
        Relative residual asked of LSMR; 1e-2 in float32 and 1e-4 in float64 by default. The error
        of a prediction is about rtol standard deviations of the target.
    """
    if isinstance(solver, AbstractLeastSquares):
        preconditioner = None if isinstance(solver, Direct) else _preconditioner(n)
        return SolvePlan(solver, preconditioner, "chosen by the caller")
    if solver == "direct" or (solver == "auto" and n <= _DIRECT_ROWS):
        why = "asked for" if solver == "direct" else f"{n} rows, up to {_DIRECT_ROWS}"
        return SolvePlan(Direct(), None, f"direct (dense Cholesky): {why}")
    if rtol is None:
        rtol = 1e-2 if jnp.finfo(dtype).bits <= 32 else 1e-4
    why = "asked for" if solver == "lsmr" else f"{n} rows, over {_DIRECT_ROWS}"
    method = LSMR(rtol=rtol, max_steps=_MAX_STEPS)
    return SolvePlan(method, _preconditioner(n), f"function-space LSMR: {why}")


def _preconditioner(n: int) -> RandomlyPivotedCholesky:
    return RandomlyPivotedCholesky(rank=min(n, _RANK), block=min(n, 100))
