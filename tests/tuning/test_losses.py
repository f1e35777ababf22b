"""Predictive losses against SciPy and numerical integration."""

import jax
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss

from gplsq.testing import tolerance
from gplsq.tuning import LOSSES, Pinball, as_loss, crps, mse, nlpd


@pytest.fixture
def prediction(rng, dtype):
    y, mean = rng.standard_normal((2, 5)).astype(dtype)
    return y, mean, rng.uniform(0.2, 3, 5).astype(dtype)


def test_mse_is_the_mean_square(prediction, dtype):
    y, mean, variance = prediction
    expected = np.mean((y.astype(float) - mean) ** 2)
    np.testing.assert_allclose(jax.jit(mse)(y, mean, variance), expected, rtol=tolerance(dtype))


def test_nlpd_is_the_log_density_of_a_normal(prediction, dtype):
    y, mean, variance = prediction
    expected = -np.mean(norm.logpdf(y.astype(float), mean, np.sqrt(variance.astype(float))))
    np.testing.assert_allclose(jax.jit(nlpd)(y, mean, variance), expected, rtol=tolerance(dtype))


def test_crps_is_the_integral_of_squared_distances_of_distribution_functions(prediction, dtype):
    scores = []
    for y, mean, variance in np.transpose(prediction).astype(float):
        std = np.sqrt(variance)
        below = quad(lambda t, m=mean, s=std: norm.cdf(t, m, s) ** 2, mean - 40 * std, y)[0]
        above = quad(lambda t, m=mean, s=std: norm.sf(t, m, s) ** 2, y, mean + 40 * std)[0]
        scores.append(below + above)
    # quad promises 1.5e-8.
    rtol = max(tolerance(dtype), 1e-7)
    np.testing.assert_allclose(jax.jit(crps)(*prediction), np.mean(scores), rtol=rtol)


@pytest.mark.parametrize("quantiles", [(0.1, 0.5), (0.3,)])
def test_pinball_is_scikit_learns_over_the_quantiles(prediction, dtype, quantiles):
    y, mean, variance = (part.astype(float) for part in prediction)
    expected = np.mean(
        [mean_pinball_loss(y, mean + np.sqrt(variance) * norm.ppf(q), alpha=q) for q in quantiles]
    )
    found = jax.jit(Pinball(quantiles))(*prediction)
    np.testing.assert_allclose(found, expected, rtol=10 * tolerance(dtype))


@pytest.mark.parametrize("quantiles", [(), (0.0,), (0.5, 1.0), ("a",)])
def test_quantiles_outside_the_unit_interval_are_refused(quantiles):
    with pytest.raises(ValueError, match="quantiles must be numbers between 0 and 1"):
        Pinball(quantiles)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_losses_keep_the_dtype_and_are_lowest_at_the_truth(loss, prediction, dtype):
    y, _, variance = prediction
    run = jax.jit(jax.value_and_grad(loss, 1))
    value, slope = run(y, y, variance)
    assert value.dtype == dtype
    np.testing.assert_allclose(slope, np.zeros(5), atol=tolerance(dtype))
    assert run(y, y + 1, variance)[0] > value


def test_losses_are_found_by_name_and_callables_pass():
    assert as_loss("crps") is crps

    def own(y, mean, variance):
        return 0.0

    assert as_loss(own) is own


@pytest.mark.parametrize("loss", ["mae", None, 3])
def test_unknown_losses_are_refused(loss):
    with pytest.raises(ValueError, match="loss must be one of 'mse', 'nlpd', 'crps'"):
        as_loss(loss)
