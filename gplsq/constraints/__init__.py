"""A wing beside `gp`: hard constraints on the parameters of any model, as optax transforms."""

from gplsq.constraints._base import AbstractConstraint as AbstractConstraint
from gplsq.constraints._base import Constraint as Constraint
from gplsq.constraints._base import Inequality as Inequality
from gplsq.constraints._constrained import constrained as constrained
from gplsq.constraints._lagrangian import LagrangianState as LagrangianState
from gplsq.constraints._lagrangian import augmented_lagrangian as augmented_lagrangian
from gplsq.constraints._lagrangian import penalty as penalty
from gplsq.constraints._null_space import null_space as null_space
from gplsq.constraints._state import ConstrainedState as ConstrainedState
from gplsq.constraints._state import ConstraintWarning as ConstraintWarning
from gplsq.constraints._state import NullSpaceState as NullSpaceState
from gplsq.constraints._state import Report as Report
