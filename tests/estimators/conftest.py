"""Fixtures of more than one file."""

import numpy as np
import pytest
from several import M, N, P


@pytest.fixture
def several_outputs(rng):
    """X, y of three outputs of different scales, and new points Z."""
    X, Z = rng.standard_normal((N, 2)), rng.standard_normal((M, 2))
    wave = np.sin(2 * X[:, 0])
    y = np.column_stack([wave, 30 * np.cos(X[:, 1]) + 7, wave - X[:, 1]])
    return X, y + 0.1 * rng.standard_normal(y.shape), Z


@pytest.fixture
def holes(rng):
    """Where targets are missing: the first and last output at the same rows."""
    gone = rng.random((N, P)) < [0.3, 0.5, 0.3]
    gone[:, 2] = gone[:, 0]
    gone[7] = True
    return gone
