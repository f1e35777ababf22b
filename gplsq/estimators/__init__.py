"""Floor 6: scikit-learn's face of the library; NumPy in and out."""

from gplsq._core import LoadError as LoadError
from gplsq.estimators._classifier import GPClassifier as GPClassifier
from gplsq.estimators._regressor import GPRegressor as GPRegressor
from gplsq.estimators._saving import load as load
from gplsq.estimators._summary import column_names as column_names
from gplsq.estimators._weights import fitted_rows as fitted_rows
