"""Models of one output: tuned in a few steps, or with hyperparameters that are given."""

import numpy as np
import pytest

from gplsq import GPRegressor
from gplsq.kernels import Matern32, Scaled

# One shape, one number of steps and one structure of kernel for nearly all tests: such fits share
# their compiled functions. More rows than the 64 neighbours of a variance bound.
N, M = 70, 7
SHORT = [(N, 5)]
# Powers of two: exact in float32, so that a kernel made with x64 off is the same kernel.
KERNEL = Scaled(2.0, Matern32(np.array([0.75, 1.5], np.float32)))
NOISE = 2.0**-5

both_dtypes = pytest.mark.parametrize("precision", ["float32", "float64"])


def short(**settings):
    return GPRegressor(**{"levels": SHORT, "random_state": 0} | settings)


def given(**settings):
    """Not tuned: the model is exactly the one given."""
    return GPRegressor(**{"kernel": KERNEL, "noise_variance": NOISE, "objective": None} | settings)
