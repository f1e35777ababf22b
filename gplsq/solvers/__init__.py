"""Floor 3: regularised least squares, matrix-free, and its derivative."""

from gplsq._core import STATUS as STATUS
from gplsq.solvers._adjoint import DerivativeWarning as DerivativeWarning
from gplsq.solvers._base import AbstractLeastSquares as AbstractLeastSquares
from gplsq.solvers._column_scaling import ColumnScaling as ColumnScaling
from gplsq.solvers._direct import Direct as Direct
from gplsq.solvers._learned import LearnedPreconditioner as LearnedPreconditioner
from gplsq.solvers._learned import condition_surrogate as condition_surrogate
from gplsq.solvers._learned import fit_preconditioner as fit_preconditioner
from gplsq.solvers._leave_one_out import leave_one_out as leave_one_out
from gplsq.solvers._lsmr import LSMR as LSMR
from gplsq.solvers._precondition import LowRankPlusDiagonal as LowRankPlusDiagonal
from gplsq.solvers._precondition import RandomlyPivotedCholesky as RandomlyPivotedCholesky
from gplsq.solvers._rank import RankEstimate as RankEstimate
from gplsq.solvers._rank import estimate_rank as estimate_rank
from gplsq.solvers._sketch import Sketch as Sketch
from gplsq.solvers._solution import ConvergenceError as ConvergenceError
from gplsq.solvers._solution import Solution as Solution
from gplsq.solvers._solution import Stats as Stats
from gplsq.solvers._solve import adjoint_solution as adjoint_solution
from gplsq.solvers._solve import lstsq as lstsq
from gplsq.solvers._unrolled import unrolled_lstsq as unrolled_lstsq
