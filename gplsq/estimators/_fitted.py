"""What a fitted regressor can do beside its fit."""

from gplsq.estimators._noise import NoiseMixin
from gplsq.estimators._prediction import PredictionMixin
from gplsq.estimators._sampling import SamplingMixin
from gplsq.estimators._saving import SavingMixin
from gplsq.estimators._summary import SummaryMixin
from gplsq.estimators._updating import UpdateMixin


class FittedMixin(
    SavingMixin, SummaryMixin, PredictionMixin, SamplingMixin, NoiseMixin, UpdateMixin
):
    """Save, summarise, predict, draw, tell noise apart, and update: one concept a file."""
