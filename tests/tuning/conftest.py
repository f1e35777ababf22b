"""One small table for all tests of the tuner."""

import numpy as np
import pytest

from gplsq import kernels
from gplsq.testing import gp_draw


@pytest.fixture
def data(rng):
    X = rng.uniform(-2, 2, (30, 2))
    _, y = gp_draw(rng, kernels.RBF([0.7, 3.0]), X.astype(np.float32), 0.01)
    return X.astype(np.float32), y
