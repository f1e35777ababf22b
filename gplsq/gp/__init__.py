"""Floor 4: the functional Gaussian-process core: condition on data, predict, calibrate."""

from gplsq.gp._calibration import Calibration as Calibration
from gplsq.gp._calibration import calibrate as calibrate
from gplsq.gp._class_calibration import ClassCalibration as ClassCalibration
from gplsq.gp._class_calibration import calibrate_classes as calibrate_classes
from gplsq.gp._class_likelihood import averaged_logits as averaged_logits
from gplsq.gp._class_likelihood import class_probabilities as class_probabilities
from gplsq.gp._class_likelihood import indicators as indicators
from gplsq.gp._condition import condition as condition
from gplsq.gp._laplace import CLASS_SOLVERS as CLASS_SOLVERS
from gplsq.gp._laplace import LaplacePosterior as LaplacePosterior
from gplsq.gp._laplace import classify as classify
from gplsq.gp._laplace_matrix import laplace_leave_one_out as laplace_leave_one_out
from gplsq.gp._laplace_matrix import laplace_mode as laplace_mode
from gplsq.gp._laplace_matrix import laplace_predict as laplace_predict
from gplsq.gp._low_rank import LowRankPosterior as LowRankPosterior
from gplsq.gp._machine import Rates as Rates
from gplsq.gp._machine import machine_rates as machine_rates
from gplsq.gp._newton import temperature_of as temperature_of
from gplsq.gp._plan import SOLVERS as SOLVERS
from gplsq.gp._plan import Candidate as Candidate
from gplsq.gp._plan import Plan as Plan
from gplsq.gp._plan import choose_solver as choose_solver
from gplsq.gp._plan import memory_budget as memory_budget
from gplsq.gp._plan import plan as plan
from gplsq.gp._posterior import Posterior as Posterior
