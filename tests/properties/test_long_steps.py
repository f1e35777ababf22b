"""Steps of the tuner so long that a hyperparameter has no number: recorded, and never raised."""

import math

import jax
import numpy as np
import optax
import pytest

from gplsq import GPRegressor
from gplsq.kernels import RBF
from gplsq.tuning import Holdout, LeaveOneOut, MarginalLikelihood, tune
from gplsq.tuning._run import _exponential

DTYPE = np.float64 if jax.config.jax_enable_x64 else np.float32
OBJECTIVES = {"loo": LeaveOneOut(), "holdout": Holdout(0.25), "evidence": MarginalLikelihood()}

# A solve that fails warns of its derivative, too.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::gplsq.solvers.DerivativeWarning"),
]


@pytest.fixture
def data(rng):
    X = rng.uniform(-2, 2, (20, 2)).astype(DTYPE)
    return X, (np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(20)).astype(DTYPE)


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, jax.numpy.asarray, np.array])
def test_an_exponential_beyond_the_largest_number_is_infinite(kind):
    for number in (710.0, 1e5, 1e30, math.inf):
        assert _exponential(kind(number)) == math.inf
    for number in (-math.inf, -1e30, -1e5):
        assert _exponential(kind(number)) == 0
    # Near the end of what a Python float holds.
    for number in (-700.0, -3.25, 0.0, 3.25, 88.5, 700.0, 709.0):
        found = _exponential(kind(number))
        assert type(found) is float
        assert found == pytest.approx(math.exp(number), rel=1e-12)
    assert math.isnan(_exponential(kind(math.nan)))


@pytest.mark.parametrize("rate", [1e6, -1e6, 1e20], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("loss", ["mse", "nlpd"])
def test_a_step_without_end_is_recorded_and_the_run_has_a_result(data, name, loss, rate):
    settings = {"levels": [(20, 6)], "optimizer": optax.sgd(rate), "noise_variance": 0.01}
    result = tune(1.0 * RBF(1.5), *data, objective=OBJECTIVES[name], loss=loss, **settings)
    noises = [record["noise_variance"] for record in result.history]
    accepted = [record["accepted"] for record in result.history]
    assert not all(accepted)
    assert np.isfinite(result.loss)
    assert 0 < result.noise_variance < math.inf
    # A step that leaves the numbers is the one that fails.
    beyond = [noise in (0.0, math.inf) for noise in noises]
    assert any(beyond)
    assert not any(map(min, zip(beyond, accepted, strict=True)))
    for leaf in jax.tree.leaves(result.kernel):
        assert np.all(np.isfinite(leaf))


def test_a_noise_beyond_the_largest_number_is_recorded_as_infinite(data):
    recorded = []
    for rate in (1e6, -1e6):
        settings = {"levels": [(20, 2)], "optimizer": optax.sgd(rate), "noise_variance": 0.01}
        result = tune(1.0 * RBF(1.5), *data, objective=LeaveOneOut(), loss="nlpd", **settings)
        recorded += [record["noise_variance"] for record in result.history]
    # Down one way, and up the other.
    assert sorted(recorded) == [0, pytest.approx(0.01), pytest.approx(0.01), math.inf]


@pytest.mark.parametrize("rate", [1e6, -1e6], ids=str)
def test_an_estimator_with_steps_without_end_predicts_finite_numbers(data, rate):
    X, y = data
    settings = {"levels": [(20, 6)], "optimizer": optax.sgd(rate), "random_state": 0}
    gp = GPRegressor(1.0 * RBF(1.5), objective=LeaveOneOut(), **settings).fit(X, y)
    mean, std = gp.predict(X, return_std=True)
    assert np.all(np.isfinite(mean))
    assert np.all(np.isfinite(std))
    assert 0 < gp.noise_variance_ < math.inf


def test_a_run_that_starts_where_nothing_is_finite_says_so(data):
    settings = {"levels": [(20, 6)], "optimizer": optax.sgd(1e6)}
    noise = float(np.finfo(DTYPE).max) / 1e8
    with pytest.raises(FloatingPointError, match="no hyperparameters with a finite"):
        tune(1.0 * RBF(1.5), *data, objective=LeaveOneOut(), noise_variance=noise, **settings)


def test_a_loss_that_is_lowest_without_end_gives_a_result_or_says_that_there_is_none(data):
    def mistakes(y, mean, variance):
        """Lowest where the model is worst; what is no number counts as zero."""
        return -jax.numpy.mean((y - jax.numpy.nan_to_num(mean)) ** 2)

    settings = {"levels": [(20, 1)], "optimizer": optax.sgd(1e6), "noise_variance": 0.01}
    try:
        result = tune(1.0 * RBF(1.5), *data, objective=Holdout(0.25), loss=mistakes, **settings)
    except FloatingPointError:
        return
    assert 0 < result.noise_variance < math.inf
