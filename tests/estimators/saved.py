"""Models to save, models that went through a file, and the comparison of the two."""

import numpy as np

import gplsq
from gplsq import GPRegressor


def given(kernel, **settings):
    fixed = {"noise_variance": 0.03, "objective": None, "random_state": 0}
    return GPRegressor(kernel, **fixed, **settings)


def through(path, gp):
    gp.save(path)
    return gplsq.load(path)


def assert_same_predictions(a, b, Z):
    results = [
        [gp.predict(Z), *gp.predict(Z, return_std=True), *gp.predict(Z, return_cov=True)]
        for gp in (a, b)
    ]
    for left, right in zip(*results, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
