"""The objective for a table."""

from typing import Any

from jax.sharding import Mesh

from gplsq.tuning._group_holdout import GroupHoldout
from gplsq.tuning._holdout import Holdout
from gplsq.tuning._k_fold import KFold
from gplsq.tuning._leave_one_out import LeaveOneOut
from gplsq.tuning._marginal_likelihood import MarginalLikelihood
from gplsq.tuning._objectives import AbstractObjective

# Up to here leave-one-out uses every row and costs seconds; a held-out fifth would be too noisy.
_LEAVE_ONE_OUT_ROWS = 2000
_WITHOUT_GROUPS = Holdout, KFold, LeaveOneOut, MarginalLikelihood


def choose_objective(
    objective: Any, n: int, mesh: Mesh | None = None, *, groups: bool = False
) -> AbstractObjective:
    """The objective for n rows: leave-one-out up to 2000 rows, repeated hold-out beyond.

    Of rows in `groups` whole groups are held out. Devices of a mesh share what hold-out can share.

    Raises
    ------
    TypeError
        If `objective` is neither "auto" nor an objective.
    ValueError
        If there are groups, and it is one that does not look at them.
    """
    if isinstance(objective, AbstractObjective):
        if groups and isinstance(objective, _WITHOUT_GROUPS):
            msg = (
                f"groups are for GroupHoldout; got the objective {type(objective).__name__}, which "
                "does not look at them. Pass objective=gplsq.tuning.GroupHoldout(), or no groups."
            )
            raise ValueError(msg)
        return objective
    if objective == "auto" and groups:
        return GroupHoldout()
    if objective == "auto":
        return LeaveOneOut() if n <= _LEAVE_ONE_OUT_ROWS else Holdout(mesh=mesh)
    msg = (
        f'objective must be "auto" or an objective such as gplsq.tuning.Holdout(); got '
        f"{objective!r}."
    )
    raise TypeError(msg)
