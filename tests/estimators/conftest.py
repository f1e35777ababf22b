"""Fixtures of more than one file."""

import numpy as np
import pytest
import saved
import single
from several import M, N, P

from gplsq.kernels import Matern32


@pytest.fixture
def table(rng):
    """X, y and new points Z: a wave along the first column, with noise."""
    X, Z = rng.standard_normal((single.N, 2)), rng.standard_normal((single.M, 2))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(single.N), Z


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gplsq"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A saved model: its file, the bytes, points and the predictions there."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((40, 2)).astype(np.float32)
    gp = saved.given(Matern32(1.0) + 1.0, solver="inducing", inducing=8).fit(X, np.sin(X[:, 0]))
    path = tmp_path_factory.mktemp("saved") / "small.gplsq"
    gp.save(path)
    return path, path.read_bytes(), X[:5], gp.predict(X[:5], return_std=True)


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
