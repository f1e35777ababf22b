"""Floor 5: hyperparameters, tuned by gradient on held-out predictive loss."""

from gplsq._core import parameters_of as parameters_of
from gplsq.tuning._choose import choose_objective as choose_objective
from gplsq.tuning._group_holdout import GroupHoldout as GroupHoldout
from gplsq.tuning._history import History as History
from gplsq.tuning._holdout import Holdout as Holdout
from gplsq.tuning._k_fold import KFold as KFold
from gplsq.tuning._leave_one_out import LeaveOneOut as LeaveOneOut
from gplsq.tuning._levels import Level as Level
from gplsq.tuning._levels import check_levels as check_levels
from gplsq.tuning._levels import default_levels as default_levels
from gplsq.tuning._loop import TuningResult as TuningResult
from gplsq.tuning._loop import check_optimizer as check_optimizer
from gplsq.tuning._loop import tune as tune
from gplsq.tuning._losses import LOSSES as LOSSES
from gplsq.tuning._losses import Pinball as Pinball
from gplsq.tuning._losses import as_loss as as_loss
from gplsq.tuning._losses import crps as crps
from gplsq.tuning._losses import mse as mse
from gplsq.tuning._losses import nlpd as nlpd
from gplsq.tuning._losses import score as score
from gplsq.tuning._marginal_likelihood import MarginalLikelihood as MarginalLikelihood
from gplsq.tuning._objectives import AbstractObjective as AbstractObjective
from gplsq.tuning._start import default_kernel as default_kernel
from gplsq.tuning._start import start_from_data as start_from_data
