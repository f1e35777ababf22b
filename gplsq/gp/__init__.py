"""Floor 4: the functional Gaussian-process core: condition on data, predict, calibrate."""

from gplsq.gp._calibration import Calibration as Calibration
from gplsq.gp._calibration import calibrate as calibrate
from gplsq.gp._inducing import InducingPosterior as InducingPosterior
from gplsq.gp._plan import SolvePlan as SolvePlan
from gplsq.gp._plan import choose_model as choose_model
from gplsq.gp._plan import choose_solver as choose_solver
from gplsq.gp._posterior import Posterior as Posterior
from gplsq.gp._posterior import condition as condition
