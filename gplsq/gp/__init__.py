"""Floor 4: the functional Gaussian-process core: condition on data, predict, calibrate."""

from gplsq.gp._calibration import Calibration as Calibration
from gplsq.gp._calibration import calibrate as calibrate
from gplsq.gp._condition import condition as condition
from gplsq.gp._low_rank import LowRankPosterior as LowRankPosterior
from gplsq.gp._machine import Rates as Rates
from gplsq.gp._machine import machine_rates as machine_rates
from gplsq.gp._paths import SamplePaths as SamplePaths
from gplsq.gp._plan import SOLVERS as SOLVERS
from gplsq.gp._plan import Candidate as Candidate
from gplsq.gp._plan import Plan as Plan
from gplsq.gp._plan import choose_solver as choose_solver
from gplsq.gp._plan import memory_budget as memory_budget
from gplsq.gp._plan import plan as plan
from gplsq.gp._posterior import Posterior as Posterior
from gplsq.gp._robust import RobustFit as RobustFit
from gplsq.gp._robust import RobustStep as RobustStep
from gplsq.gp._robust import robust as robust
