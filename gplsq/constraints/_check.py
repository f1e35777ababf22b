"""A constraint examined at given parameters before it is trained under."""

import math
import time
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gplsq._core import STATUS, is_traced
from gplsq.constraints._base import AbstractConstraint
from gplsq.constraints._params import movable
from gplsq.constraints._residuals import check_boxes
from gplsq.constraints._settings import checked_settings
from gplsq.constraints._step import bare_point, linearise
from gplsq.operators import Transposed
from gplsq.solvers import LSMR, AbstractLeastSquares, estimate_rank

# Numbers in a Jacobian that is worth forming to see all of its singular values.
_FORMED = 2**24
_SMALLER_SIDE = 1024


class ConstraintCheck(NamedTuple):
    """What `check_constraint` found; `report()` says it in words."""

    num_residuals: int
    num_parameters: int  # that move
    num_pinned: int  # entries that are held at zero
    violation: float  # root mean square of the residuals
    rank: float  # of the Jacobian, numerically
    exact: bool  # rank and condition from all singular values; otherwise estimates
    condition: float  # largest over smallest singular value that counts
    null_space_dimension: float
    seconds: float  # one projection, compiled
    solver_steps: int  # of it; 0 for a factorisation
    status: STATUS

    def report(self) -> str:
        """The findings, and what to do about them."""
        if self.status == STATUS.NON_FINITE:
            return (
                f"{self.num_residuals} residuals on {self.num_parameters} parameters. The "
                "constraint or its Jacobian is not finite here: nothing can be projected. Look "
                "for a square root, logarithm or division at the edge of its domain, or start "
                "elsewhere."
            )
        about = "" if self.exact else "about "
        lines = [
            f"{self.num_residuals} residuals on {self.num_parameters} parameters"
            + (f", {self.num_pinned} of them held at zero" if self.num_pinned else "")
            + f"; violation {self.violation:.1e} (root mean square).",
            f"The Jacobian has rank {about}{self.rank:.0f} and condition number "
            f"{'at least ' if not self.exact else ''}{self.condition:.1e}; "
            f"{about}{max(self.null_space_dimension, 0):.0f} dimensions are left to train.",
            f"One projection takes {self.seconds:.1e} s"
            + (f" ({self.solver_steps} solver steps)." if self.solver_steps else " (factorised)."),
        ]
        if self.num_residuals and self.rank < 0.5:
            lines.append(
                "The Jacobian is zero: the constraint does not feel the parameters here. Start "
                "elsewhere, or look for a saturated or unused part of the network."
            )
        elif self.num_residuals - self.rank > 0.5:
            lines.append(
                f"{about.capitalize()}{self.num_residuals - self.rank:.0f} residuals depend on the "
                "others. That is handled; leave them out to save work."
            )
        if self.null_space_dimension < 0.5:
            lines.append(
                "The constraint leaves nothing to train (over-determined). Pass damp='adaptive' "
                "with a tolerance, use fewer residuals, or a larger network."
            )
        if self.condition > 1e4:
            lines.append(
                "It is badly conditioned: some residuals say almost the same, or have other units. "
                "Scale residuals to a common size, or damp."
            )
        return "\n".join(lines)


def check_constraint(
    constraint: AbstractConstraint,
    params: PyTree,
    *,
    batch: PyTree = None,
    solver: AbstractLeastSquares | None = None,
) -> ConstraintCheck:
    """Rank, conditioning, over-determination and cost of a constraint at given parameters.

    Parameters
    ----------
    constraint, params, solver
        As in `null_space`. A schedule is taken at step 0.
    batch
        Data of a mini-batch constraint.

    Returns
    -------
    ConstraintCheck
        Its `report()` says in plain words what to expect.

    Raises
    ------
    TypeError, ValueError
        As `null_space`; TypeError under `jit`, because numbers are looked at.

    Notes
    -----
    Cost: all singular values of a Jacobian with a side of at most 1,024 and 16 million entries;
    otherwise one block solve of 8 columns.
    """
    if any(is_traced(leaf) for leaf in jax.tree.leaves(params)):
        msg = "check_constraint looks at numbers and cannot be traced. Call it outside of jax.jit."
        raise TypeError(msg)
    settings = checked_settings(constraint, solver=solver, warm_start=False, warn=False)
    layout = movable(params)
    step = jnp.zeros((), jnp.int32)
    check_boxes(constraint, params, step, layout)
    bare = bare_point(layout, params, batch, step, settings)
    point = linearise(bare, jnp.zeros(()))
    violation = float(point.violation(point.theta, point.residuals))
    pinned = 0 if point.pinned is None else int(jnp.sum(point.pinned))
    free = layout.size - pinned
    if point.projection is None:
        return ConstraintCheck(
            0, layout.size, pinned, violation, 0.0, True, 1.0, free, 0.0, 0, STATUS.EXACT
        )
    jacobian = point.projection.jacobian
    p, n = jacobian.shape

    @eqx.filter_jit
    def project(projection, rhs):
        return projection.solve(rhs)

    rhs = jacobian.mv(jnp.ones(n, layout.dtype))
    solved = jax.block_until_ready(project(point.projection, rhs))
    begin = time.perf_counter()
    jax.block_until_ready(project(point.projection, rhs))
    seconds = time.perf_counter() - begin
    exact = p * n <= _FORMED and min(p, n) <= _SMALLER_SIDE
    if exact:
        by_rows = p <= n
        matrix = jacobian.rmv(jnp.eye(p, dtype=layout.dtype)) if by_rows else jacobian.as_matrix()
        matrix = np.asarray(matrix, np.float64)
        if not np.isfinite(matrix).all():  # LAPACK need not return from it
            return ConstraintCheck(
                p, layout.size, pinned, violation, math.nan, True, math.nan, math.nan, seconds,
                int(solved.num_steps), STATUS.NON_FINITE,
            )  # fmt: skip
        s = np.linalg.svd(matrix, compute_uv=False)
        cutoff = float(jnp.finfo(layout.dtype).eps) * max(p, n) * s.max(initial=0.0)
        kept = s[s > cutoff]
        rank = float(kept.size)
        condition = float(kept[0] / kept[-1]) if kept.size else 1.0
    else:
        A = jacobian if n <= p else Transposed(jacobian)
        method = LSMR(rtol=1e-3)
        rank = float(estimate_rank(A, solver=method).value)
        prepared = method.prepare(A, None, None)
        probe = A.mv(jnp.ones((A.shape[1], 1), layout.dtype))
        stats = method.run(prepared, A, None, probe, None)[3]
        condition = float(stats.condition_estimate[0])
    return ConstraintCheck(
        p, layout.size, pinned, violation, rank, exact, condition, free - rank, seconds,
        int(solved.num_steps), STATUS(int(solved.status)),
    )  # fmt: skip
