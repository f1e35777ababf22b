"""What a fit of GPRegressor leaves: attributes, reports, earlier fits; and what is random in it."""

import re

import numpy as np
import pytest
from single import NOISE, N, given, short

from gplsq.gp import Calibration, Posterior
from gplsq.kernels import RBF, Matern32, Scaled

# What a fit leaves


def test_fit_returns_the_estimator_with_all_documented_attributes(table):
    X, y, _ = table
    gp = short()
    assert gp.fit(X, y) is gp
    assert isinstance(gp.kernel_, Scaled)
    assert np.asarray(gp.kernel_.kernel.lengthscale).shape == (2,)
    assert isinstance(gp.noise_variance_, float)
    assert gp.noise_variance_ > 0
    assert isinstance(gp.calibration_, Calibration)
    assert gp.calibration_.latent_scale > 0
    assert gp.calibration_.noise_variance > 0
    assert isinstance(gp.posterior_, Posterior)
    assert gp.n_features_in_ == 2
    assert not hasattr(gp, "feature_names_in_")


def test_the_history_has_one_record_a_step(table):
    X, y, _ = table
    history = short().fit(X, y).history_
    assert [record["step"] for record in history] == list(range(5))
    assert {record["rows"] for record in history} == {N}
    assert all(np.isfinite(record["loss"]) for record in history)
    assert len(str(history).splitlines()) == 6


def test_without_an_objective_kernel_and_noise_stay_as_given(table):
    X, y, _ = table
    gp = given().fit(X, y)
    assert gp.noise_variance_ == NOISE
    np.testing.assert_array_equal(gp.kernel_.kernel.lengthscale, [0.75, 1.5])
    assert len(gp.history_) == 0
    assert "objective=None" in str(gp.history_)


@pytest.mark.parametrize(("solver", "word"), [("direct", "Cholesky"), ("lsmr", "LSMR")])
def test_the_solver_report_names_the_method_and_its_outcome(table, solver, word):
    X, y, _ = table
    report = given(solver=solver).fit(X, y).solver_report_
    assert word in report
    assert "asked for" in report
    assert re.search(r"\d\.\de-\d\d", report)


def test_the_columns_of_a_data_frame_are_remembered(table):
    pandas = pytest.importorskip("pandas")
    X, y, _ = table
    frame = pandas.DataFrame(X, columns=["left", "right"])
    gp = short().fit(frame, y)
    assert list(gp.feature_names_in_) == ["left", "right"]
    # Columns of a frame lie one after the other: sums round differently.
    np.testing.assert_allclose(gp.predict(frame), short().fit(X, y).predict(X), atol=1e-4)
    with pytest.raises(ValueError, match="feature names"):
        gp.predict(frame[["right", "left"]])


def test_a_second_fit_forgets_the_first(table):
    X, y, Z = table
    kernel = Scaled(2.0, Matern32(1.0))
    gp = given(kernel=kernel).fit(X[:, :1], -5 * y).fit(X, y)
    assert gp.n_features_in_ == 2
    np.testing.assert_array_equal(gp.predict(Z), given(kernel=kernel).fit(X, y).predict(Z))


def test_a_failed_refit_does_not_mix_two_fits(table):
    X, y, Z = table
    gp = short().fit(X, y)
    before = gp.predict(Z)
    gp.set_params(kernel=RBF(np.ones(3, np.float32)))
    with pytest.raises(ValueError, match="lengthscale"):
        gp.fit(10 * X + 3, y)
    np.testing.assert_array_equal(gp.predict(Z), before)


def test_verbose_shows_a_progress_bar_and_silence_is_the_default(table, capsys):
    X, y, _ = table
    short().fit(X, y)
    assert capsys.readouterr() == ("", "")
    short(verbose=1).fit(X, y)
    shown = capsys.readouterr()
    assert "tuning" in shown.err
    assert "5/5" in shown.err
    assert shown.out == ""


# Randomness


def test_one_seed_gives_identical_predictions(table):
    X, y, Z = table
    fits = [short(levels=[(20, 5)]).fit(X, y).predict(Z) for _ in range(2)]
    np.testing.assert_array_equal(*fits)


def test_another_seed_tunes_on_other_rows(table):
    X, y, Z = table
    fits = [short(levels=[(20, 5)], random_state=seed).fit(X, y).predict(Z) for seed in (1, 2)]
    assert np.abs(fits[0] - fits[1]).max() > 0


def test_a_random_state_object_serves_as_a_seed_and_moves_on(table):
    X, y, Z = table
    state = np.random.RandomState(4)
    first = short(levels=[(20, 5)], random_state=state).fit(X, y).predict(Z)
    second = short(levels=[(20, 5)], random_state=state).fit(X, y).predict(Z)
    again = short(levels=[(20, 5)], random_state=np.random.RandomState(4)).fit(X, y).predict(Z)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0


def test_a_seeded_fit_leaves_the_global_random_state_alone(table):
    X, y, Z = table
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    short().fit(X, y).sample_y(Z)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
