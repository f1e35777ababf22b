"""A loss that looks at the variance: its last steps begin at one of two ends."""

import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import GPRegressor, kernels
from gplsq.tuning import (
    LOSSES,
    LeaveOneOut,
    Level,
    MarginalLikelihood,
    default_levels,
    nlpd,
    tune,
)

KERNEL = 1.0 * kernels.RBF([3.0, 3.0])


def _squares_over_variance(y, mean, variance):
    return jnp.mean((y - mean) ** 2 / variance)


def _left_out(result, data, loss):
    noise = jnp.float32(result.noise_variance)
    return float(LeaveOneOut()(result.kernel, noise, *data, None, loss))


def _scaled(result, factor):
    """The same mean with another variance."""
    kernel = result.kernel.variance * factor * result.kernel.kernel
    return result._replace(kernel=kernel, noise_variance=result.noise_variance * factor)


@pytest.mark.parametrize("loss", ["nlpd", "crps", "pinball"])
def test_it_starts_at_the_end_of_the_squared_error_with_variances_that_fit(data, loss):
    """The end by the loss itself is not much more likely here."""
    levels = list(default_levels(30, LeaveOneOut()))
    by_squares = tune(KERNEL, *data)
    by_squares = _scaled(by_squares, _left_out(by_squares, data, _squares_over_variance))
    assert _left_out(by_squares, data, _squares_over_variance) == pytest.approx(1, abs=0.05)
    by_loss = tune(KERNEL, *data, loss=loss, levels=levels)
    ends = [_left_out(end, data, nlpd) for end in (by_squares, by_loss)]
    assert ends[1] > ends[0] - 0.15
    result = tune(KERNEL, *data, loss=loss)
    first = result.history[0]
    assert first["loss"] == pytest.approx(_left_out(by_squares, data, LOSSES[loss]), abs=2e-3)
    assert len(result.history) <= 40
    assert result.history[-1]["rows"] == levels[-1].rows
    assert result.loss <= first["loss"]
    # Seconds are those of all parts.
    last = by_loss.history[-1]["seconds"] - by_loss.history[len(by_loss.history) // 2]["seconds"]
    assert first["seconds"] > last


def test_repeated_rows_are_noticed_as_by_the_loss_alone(rng):
    """Targets of one place differ little, and of neighbours much: a squared error sees that."""
    rows = np.r_[np.arange(80), np.arange(15)]
    X = rng.uniform(-2, 2, (80, 2)).astype(np.float32)[rows]
    place = (X[:80, 0] + 0.5 * rng.standard_normal(80))[rows]
    y = (place + 0.003 * rng.standard_normal(95)).astype(np.float32)
    kernel = 1.0 * kernels.Matern12(1.0)
    by_squares = tune(kernel, X, y)
    by_squares = _scaled(by_squares, _left_out(by_squares, (X, y), _squares_over_variance))
    alone = tune(kernel, X, y, loss="nlpd", levels=[Level(95, 80)])
    result = tune(kernel, X, y, loss="nlpd")
    best = _left_out(alone, (X, y), nlpd)
    assert _left_out(by_squares, (X, y), nlpd) > best + 0.8
    assert _left_out(result, (X, y), nlpd) < best + 0.1


@pytest.mark.parametrize(("start", "noise"), [(3.0, 0.01), (5.0, 0.01)])
def test_a_poor_minimum_of_the_likelihood_is_not_where_it_ends(rng, start, noise):
    """Where noise explains what a shorter lengthscale would."""
    X = rng.uniform(-2, 2, (60, 1)).astype(np.float32)
    y = np.sin(3 * X[:, 0]) + 0.05 * rng.standard_normal(60).astype(np.float32)
    settings = {"loss": "nlpd", "noise_variance": noise}
    alone = tune(1.0 * kernels.RBF(start), X, y, levels=[Level(60, 100)], **settings)
    result = tune(1.0 * kernels.RBF(start), X, y, **settings)
    assert _left_out(alone, (X, y), nlpd) > -0.8
    assert _left_out(result, (X, y), nlpd) < -1.3


def test_what_is_fixed_stays(data):
    result = tune(KERNEL, *data, loss="nlpd", fixed=["noise_variance"], noise_variance=0.02)
    assert result.noise_variance == pytest.approx(0.02, rel=1e-6)
    result = tune(KERNEL, *data, loss="nlpd", bounds={"variance": (None, 0.5)})
    assert all(record["variance"] <= 0.5 * (1 + 1e-5) for record in result.history)


@pytest.mark.parametrize(
    "kernel",
    [
        kernels.RBF([3.0, 3.0]),  # no variance
        1.0 * kernels.RBF([3.0, 3.0]) + 0.5 * kernels.Linear(1.0),  # two
    ],
)
def test_kernels_without_one_variance_start_as_they_are(data, kernel):
    result = tune(kernel, *data, loss="nlpd")
    assert np.isfinite(result.loss)
    assert result.loss <= result.history[0]["loss"]


def test_levels_of_the_users_own_are_all_by_the_loss(data):
    result = tune(KERNEL, *data, loss="nlpd", levels=[(30, 5)])
    assert len(result.history) == 5
    np.testing.assert_array_equal(result.history[0]["kernel.lengthscale"], [3, 3])


def test_a_likelihood_looks_at_no_loss_and_takes_its_levels_alone(data):
    objective = MarginalLikelihood()
    first = tune(KERNEL, *data, objective=objective)
    second = tune(KERNEL, *data, objective=objective, loss="nlpd")
    assert [r["loss"] for r in first.history] == [r["loss"] for r in second.history]


def test_weighted_rows_and_several_outputs_are_tuned_so_too(rng, data):
    X, y = data
    weighted = GPRegressor(loss="nlpd", random_state=0).fit(X, y, sample_weight=np.ones(30))
    plain = GPRegressor(loss="nlpd", random_state=0).fit(X, y)
    np.testing.assert_allclose(weighted.predict(X), plain.predict(X), atol=2e-2)
    both = np.stack([y, y[::-1]], axis=1)
    both[rng.random(both.shape) < 0.2] = np.nan
    gp = GPRegressor(loss="nlpd", missing="drop", random_state=0).fit(X, both)
    assert np.isfinite(gp.history_[-1]["loss"])
