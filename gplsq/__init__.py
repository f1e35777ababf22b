"""Gaussian processes in JAX, built on differentiable matrix-free least squares.

`GPRegressor` is the estimator, `lstsq` the solver it stands on; everything between is public too:
`kernels`, `operators`, `solvers`, `gp` (the functional core) and `tuning`; `constraints` trains any
model under hard constraints.
"""

from gplsq import constraints as constraints
from gplsq import gp as gp
from gplsq import kernels as kernels
from gplsq import operators as operators
from gplsq import solvers as solvers
from gplsq import tuning as tuning
from gplsq._core import VERSION as _VERSION
from gplsq._core import load_state as load_state
from gplsq._core import savable as savable
from gplsq._core import save_state as save_state
from gplsq.estimators import GPClassifier as GPClassifier
from gplsq.estimators import GPRegressor as GPRegressor
from gplsq.estimators import LoadError as LoadError
from gplsq.estimators import load as load
from gplsq.gp import plan as plan
from gplsq.solvers import LSMR as LSMR
from gplsq.solvers import Direct as Direct
from gplsq.solvers import Solution as Solution
from gplsq.solvers import lstsq as lstsq

__version__ = _VERSION
