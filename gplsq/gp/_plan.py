"""Which solver a data size gets when the user does not choose, and why."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from gplsq.solvers import LSMR, AbstractLeastSquares, Direct, RandomlyPivotedCholesky

# Up to here a Cholesky factor takes under a second on two cores and gives variances for free.
_DIRECT_ROWS = 5000
# Columns of the preconditioner. On 15,000 to 40,000 rows in float32, 200 columns took no more
# steps than 1000: rounding, not rank, limits how much of the spectrum can be taken out.
_RANK = 200
_MAX_STEPS = 1000


@dataclass(frozen=True)
class SolvePlan:
    """A solver, its preconditioner and the reason for the choice."""

    solver: AbstractLeastSquares
    preconditioner: Any
    reason: str


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
