"""What a fitted regressor can do beside its fit."""

from gplsq.estimators._noise import NoiseMixin
from gplsq.estimators._prediction import PredictionMixin
from gplsq.estimators._sampling import SamplingMixin
from gplsq.estimators._saving import SavingMixin
from gplsq.estimators._summary import SummaryMixin


class FittedMixin(SavingMixin, SummaryMixin, PredictionMixin, SamplingMixin, NoiseMixin):
    """Save, summarise, predict, draw, and tell noise apart: one concept a file."""
