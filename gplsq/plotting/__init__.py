"""Wing beside the estimators: pictures of fitted models, by matplotlib. Imported on its own.

``import gplsq.plotting`` needs the extra `plot`. Every display has a class method that makes it
from a fitted estimator and draws it; `plot` draws it again, elsewhere. Colours and sizes are
changed on the artists it keeps.
"""

from gplsq.plotting._convergence import ConvergenceDisplay as ConvergenceDisplay
from gplsq.plotting._coverage import CoverageDisplay as CoverageDisplay
from gplsq.plotting._hyperparameters import RelevanceDisplay as RelevanceDisplay
from gplsq.plotting._hyperparameters import TuningDisplay as TuningDisplay
from gplsq.plotting._posterior import PosteriorDisplay as PosteriorDisplay
from gplsq.plotting._predictions import PredictionDisplay as PredictionDisplay
