"""The objective for a table."""

from typing import Any

from jax.sharding import Mesh

from gplsq.tuning._holdout import Holdout
from gplsq.tuning._leave_one_out import LeaveOneOut
from gplsq.tuning._objectives import AbstractObjective

# Up to here leave-one-out uses every row and costs seconds; a held-out fifth would be too noisy.
_LEAVE_ONE_OUT_ROWS = 2000


def choose_objective(objective: Any, n: int, mesh: Mesh | None = None) -> AbstractObjective:
    """The objective for n rows: leave-one-out up to 2000 rows, repeated hold-out beyond.

    Devices of a mesh share what hold-out can share.

    Raises
    ------
    TypeError
        If `objective` is neither "auto" nor an objective.
    """
    if isinstance(objective, AbstractObjective):
        return objective
    if objective == "auto":
        return LeaveOneOut() if n <= _LEAVE_ONE_OUT_ROWS else Holdout(mesh=mesh)
    msg = (
        f'objective must be "auto" or an objective such as gplsq.tuning.Holdout(); got '
        f"{objective!r}."
    )
    raise TypeError(msg)
