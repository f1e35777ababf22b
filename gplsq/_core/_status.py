"""Status codes of a solve, one per right-hand-side column."""

import enum
from typing import Any


class STATUS(enum.IntEnum):
    """Why a column of a solve stopped.

    Plain integers, because a block solve carries one code per column in an array and they have to
    live under `jit` and `vmap`.
    """

    RUNNING = 0
    CONVERGED_RESIDUAL = 1
    CONVERGED_NORMAL = 2
    EXACT = 3
    STAGNATED = 4
    ILL_CONDITIONED = 5
    MAX_STEPS = 6
    NON_FINITE = 7
    BREAKDOWN = 8


_MESSAGES = {
    STATUS.RUNNING: "still running",
    STATUS.CONVERGED_RESIDUAL: "converged: the residual met the tolerance",
    STATUS.CONVERGED_NORMAL: "converged: the normal residual met the tolerance",
    STATUS.EXACT: "solved directly",
    STATUS.STAGNATED: "stagnated above the tolerance: rounding errors of this dtype dominate",
    STATUS.ILL_CONDITIONED: "stopped: the condition estimate passed its limit",
    STATUS.MAX_STEPS: "out of steps before the tolerance was met",
    STATUS.NON_FINITE: "a NaN or an infinity appeared",
    STATUS.BREAKDOWN: "the factorisation broke down: not positive definite in this dtype",
}

_REMEDIES = {
    STATUS.STAGNATED: "ask for a larger rtol, or pass float64 data",
    STATUS.ILL_CONDITIONED: "add damping, or rescale the columns of the operator",
    STATUS.MAX_STEPS: "raise max_steps, or use a preconditioner of higher rank",
    STATUS.NON_FINITE: "look for NaN or infinity in the operator and the right-hand side",
    STATUS.BREAKDOWN: "use the LSMR solver, which needs no factorisation, or add damping",
}


def status_ok(status: Any) -> Any:
    """True where a column met its tolerance; an array like `status`, of JAX or NumPy."""
    return (
        (status == STATUS.CONVERGED_RESIDUAL)
        | (status == STATUS.CONVERGED_NORMAL)
        | (status == STATUS.EXACT)
    )


def status_message(code: int) -> str:
    """One sentence for one code."""
    return _MESSAGES[STATUS(code)]


def status_remedy(code: int) -> str:
    """What to do about one code; empty where there is nothing to do."""
    return _REMEDIES.get(STATUS(code), "")
