"""Targets that are missing, of one output and of several."""

import numpy as np
import pytest
from several import WAYS, N, P, covariance, given, textbook

from gplsq import GPRegressor
from gplsq.gp import SeparateOutputs
from gplsq.tuning import GroupHoldout, Holdout


def test_missing_targets_of_one_output_are_dropped(several_outputs, holes):
    X, y, Z = several_outputs
    y, gone = y[:, 0], holes[:, 0]
    spoiled = np.where(gone, np.nan, y)
    gp = given(missing="drop").fit(X, spoiled)
    other = given().fit(X[~gone], y[~gone])
    for ours, theirs in zip(
        gp.predict(Z, return_std=True), other.predict(Z, return_std=True), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    weights = np.linspace(0.5, 2, N)
    ours = given(missing="drop").fit(X, spoiled, sample_weight=weights)
    theirs = given().fit(X[~gone], y[~gone], sample_weight=weights[~gone])
    np.testing.assert_array_equal(ours.predict(Z), theirs.predict(Z))
    ours = given(missing="drop").fit(X, spoiled, noise_variance=weights)
    theirs = given().fit(X[~gone], y[~gone], noise_variance=weights[~gone])
    np.testing.assert_array_equal(ours.predict(Z), theirs.predict(Z))


@pytest.mark.parametrize("way", ["direct", "tiled"])
def test_missing_targets_of_independent_outputs_are_dropped_by_output(several_outputs, holes, way):
    X, y, Z = several_outputs
    gp = given(missing="drop", standardize=False, **WAYS[way]).fit(X, np.where(holes, np.nan, y))
    assert isinstance(gp.posterior_, SeparateOutputs)
    # Outputs observed at the same rows are one block.
    assert gp.posterior_.columns == ((0, 2), (1,))
    mean, std = gp.predict(Z, return_std=True, include_noise=False)
    for j in range(P):
        there = ~holes[:, j]
        K, k = covariance(X[there], X[there]), covariance(X[there], Z)
        expected, cov = textbook(K, k, covariance(Z, Z), y[there, j])
        np.testing.assert_allclose(mean[:, j], expected, atol=1e-6)
        scale = gp.calibration_.latent_scale[j]
        np.testing.assert_allclose(std[:, j] ** 2, scale * np.diag(cov), atol=1e-6 * scale)


def test_tuning_is_on_the_mean_loss_over_outputs(several_outputs, holes):
    """The loss of step 0 is that of the starting values, which all fits share."""
    X, y, _ = several_outputs
    settings = {"objective": "auto", "missing": "drop", "levels": [(N, 1)], "random_state": 0}
    settings["standardize"] = False

    def first_loss(y):
        return given(**settings).fit(X, y).history_[0]["loss"]

    for targets in (y, np.where(holes, np.nan, y)):
        alone = [first_loss(column) for column in targets.T]
        assert first_loss(targets) == pytest.approx(np.mean(alone), rel=1e-4)


@pytest.mark.parametrize("objective", [Holdout(0.25), GroupHoldout(0.25)], ids=str)
def test_other_objectives_tune_outputs_with_holes(several_outputs, holes, objective):
    X, y, Z = several_outputs
    gp = GPRegressor(objective=objective, loss="nlpd", missing="drop", levels=[(20, 3)])
    groups = np.arange(N) // 4 if isinstance(objective, GroupHoldout) else None
    gp.set_params(random_state=0).fit(X, np.where(holes, np.nan, y), groups=groups)
    assert np.isfinite(gp.predict(Z, return_std=True)).all()
    assert len(gp.history_) == 3
