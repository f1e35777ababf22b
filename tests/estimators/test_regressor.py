"""GPRegressor: what it predicts, what it reports, and how it behaves among scikit-learn's tools."""

import copy
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gplsq import Direct, GPRegressor
from gplsq.gp import Calibration, Posterior
from gplsq.kernels import RBF, Matern32, Scaled
from gplsq.testing import gp_draw, tolerance
from gplsq.tuning import AbstractObjective, GroupHoldout

# One shape, one number of steps and one structure of kernel for nearly all tests: such fits share
# their compiled functions. More rows than the 64 neighbours of a variance bound.
N, M = 70, 7
SHORT = [(N, 5)]
# Powers of two: exact in float32, so that a kernel made with x64 off is the same kernel.
KERNEL = Scaled(2.0, Matern32(np.array([0.75, 1.5], np.float32)))
NOISE = 2.0**-5

both_dtypes = pytest.mark.parametrize("precision", ["float32", "float64"])


@pytest.fixture
def table(rng):
    """X, y and new points Z: a wave along the first column, with noise."""
    X, Z = rng.standard_normal((N, 2)), rng.standard_normal((M, 2))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(N), Z


def short(**settings):
    return GPRegressor(**{"levels": SHORT, "random_state": 0} | settings)


def given(**settings):
    """Not tuned: the model is exactly the one given."""
    return GPRegressor(**{"kernel": KERNEL, "noise_variance": NOISE, "objective": None} | settings)


def matern32(A, B):
    q = (((A[:, None] - B[None]) / np.array([0.75, 1.5])) ** 2).sum(-1)
    r = np.sqrt(3 * q)
    return 2.0 * (1 + r) * np.exp(-r)


def textbook(X, y, Z):
    """Posterior mean and covariance, Rasmussen & Williams (2006), eqs. 2.25 and 2.26."""
    S, k = matern32(X, X) + NOISE * np.eye(len(X)), matern32(X, Z)
    return k.T @ np.linalg.solve(S, y), matern32(Z, Z) - k.T @ np.linalg.solve(S, k)


# Predictions


def test_a_draw_from_a_known_process_is_recovered_with_honest_intervals(rng):
    X = rng.uniform(-2, 2, (400, 2))
    latent, noisy = gp_draw(rng, Matern32(2.0), X, 0.01)
    gp = GPRegressor(random_state=0).fit(X[:N], noisy[:N])
    mean, std = gp.predict(X[N:], return_std=True)
    assert r2_score(latent[N:], mean) > 0.9
    assert 0.88 < np.mean(np.abs(noisy[N:] - mean) < 1.96 * std) <= 0.995


def test_an_untuned_fit_is_the_textbook_posterior(table):
    X, y, Z = table
    gp = given(standardize=False).fit(X, y)
    mean, covariance = textbook(X, y, Z)
    scale, noise = gp.calibration_
    got_mean, got_covariance = gp.predict(Z, return_cov=True)
    np.testing.assert_allclose(got_mean, mean, atol=tolerance(np.float64, 1e3))
    np.testing.assert_allclose(
        got_covariance, scale * covariance + noise * np.eye(M), atol=tolerance(np.float64, 1e4)
    )
    std = gp.predict(Z, return_std=True, include_noise=False)[1]
    np.testing.assert_allclose(std**2, scale * np.diag(covariance), rtol=1e-8)


def test_standardize_is_the_same_as_standardising_by_hand(table):
    X, y, Z = table
    X, Z, y = 3 * X + 5, 3 * Z + 5, 100 * y - 7
    shift, scale, y_shift, y_scale = X.mean(0), X.std(0), y.mean(), y.std()
    mean, std = given().fit(X, y).predict(Z, return_std=True)
    by_hand = given(standardize=False).fit((X - shift) / scale, (y - y_shift) / y_scale)
    mean_hand, std_hand = by_hand.predict((Z - shift) / scale, return_std=True)
    np.testing.assert_allclose(mean, mean_hand * y_scale + y_shift, rtol=1e-8)
    np.testing.assert_allclose(std, std_hand * y_scale, rtol=1e-6)


def test_standardize_matters_when_the_data_are_not_standardised(table):
    X, y, Z = table
    on, off = given().fit(X, 10 * y + 5), given(standardize=False).fit(X, 10 * y + 5)
    assert np.abs(on.predict(Z) - off.predict(Z)).max() > 0.1


def test_lsmr_to_a_tight_tolerance_equals_the_direct_solver(table):
    X, y, Z = table
    direct = given(solver="direct").fit(X, y).predict(Z)
    lsmr = given(solver="lsmr", rtol=1e-10).fit(X, y).predict(Z)
    np.testing.assert_allclose(lsmr, direct, atol=1e-8)


def test_a_solver_object_is_used_as_it_is(table):
    X, y, Z = table
    gp = given(solver=Direct()).fit(X, y)
    assert "chosen by the caller" in gp.solver_report_
    np.testing.assert_array_equal(gp.predict(Z), given(solver="direct").fit(X, y).predict(Z))


def test_a_kernel_matrix_in_tiles_gives_the_predictions_of_a_kept_one(table):
    X, y, Z = table
    tiled, dense = (
        given(solver="lsmr", rtol=1e-10, form=form).fit(X, y) for form in ("tiled", "dense")
    )
    assert tiled.posterior_.operator.form == "tiled"
    assert dense.posterior_.operator.form == "dense"
    np.testing.assert_allclose(tiled.predict(Z), dense.predict(Z), atol=1e-8)


def test_exact_variances_by_lsmr_are_the_textbook_ones_and_neighbours_bound_them(table):
    X, y, Z = table
    variances = {}
    for method in ("exact", "neighbours"):
        gp = given(solver="lsmr", rtol=1e-10, variance=method, standardize=False).fit(X, y)
        std = gp.predict(Z, return_std=True, include_noise=False)[1]
        variances[method] = std**2 / gp.calibration_.latent_scale
    exact = np.diag(textbook(X, y, Z)[1])
    np.testing.assert_allclose(variances["exact"], exact, rtol=1e-6)
    assert (variances["neighbours"] >= exact * (1 - 1e-9)).all()
    assert (variances["neighbours"] > exact * (1 + 1e-9)).any()


@pytest.mark.parametrize("loss", ["nlpd", lambda y, mean, variance: abs(y - mean).mean()])
def test_other_losses_tune_to_a_model_that_predicts(table, loss):
    X, y, _ = table
    gp = short(loss=loss).fit(X, y)
    assert gp.score(X, y) > 0.8
    assert gp.history_[-1]["loss"] < gp.history_[0]["loss"]


class NoiseNearHalf(AbstractObjective):
    """Smallest at a noise variance of 0.5, whatever the data."""

    def __call__(self, kernel, noise_variance, X, y, key, loss, groups=None):
        return jnp.log(noise_variance / 0.5) ** 2

    @property
    def random(self):
        return False

    @property
    def fresh_rows(self):
        return False


def test_another_objective_is_the_one_that_is_tuned(table):
    X, y, _ = table
    gp = short(objective=NoiseNearHalf(), kernel=KERNEL, noise_variance=0.25).fit(X, y)
    assert 0.4 < gp.noise_variance_ < 0.6
    np.testing.assert_array_equal(gp.kernel_.kernel.lengthscale, [0.75, 1.5])


def test_the_diagonal_of_the_covariance_is_the_squared_std(table):
    X, y, Z = table
    gp = short().fit(X, y)
    for include_noise in (True, False):
        mean, std = gp.predict(Z, return_std=True, include_noise=include_noise)
        mean_again, covariance = gp.predict(Z, return_cov=True, include_noise=include_noise)
        assert mean.shape == std.shape == (M,)
        assert covariance.shape == (M, M)
        np.testing.assert_array_equal(mean, mean_again)
        np.testing.assert_allclose(np.diag(covariance), std**2, rtol=1e-8)
        np.testing.assert_allclose(covariance, covariance.T)


def test_uncertainty_without_noise_is_smaller_by_the_calibrated_noise(table):
    X, y, Z = table
    gp = short().fit(X, y)
    mean, std = gp.predict(Z, return_std=True)
    latent_mean, latent_std = gp.predict(Z, return_std=True, include_noise=False)
    np.testing.assert_array_equal(mean, latent_mean)
    assert (latent_std < std).all()
    noise = gp.calibration_.noise_variance * y.std() ** 2
    np.testing.assert_allclose(std**2 - latent_std**2, noise, rtol=1e-6)


def test_score_is_the_coefficient_of_determination(table):
    X, y, _ = table
    gp = short().fit(X, y)
    assert gp.score(X, y) == pytest.approx(r2_score(y, gp.predict(X)))


# Joint draws


def test_draws_have_the_mean_and_covariance_of_the_prediction(table):
    X, y, Z = table
    gp = short().fit(X, y)
    draws = gp.sample_y(Z, 4000, random_state=3)
    mean, covariance = gp.predict(Z, return_cov=True)
    assert type(draws) is np.ndarray
    assert draws.shape == (M, 4000)
    std = np.sqrt(np.diag(covariance))
    assert (np.abs(draws.mean(1) - mean) < 5 * std / np.sqrt(4000)).all()
    relative = (np.cov(draws) - covariance) / np.outer(std, std)
    assert np.abs(relative).max() < 5 * np.sqrt(2 / 4000)


def test_draws_without_noise_vary_less(table):
    X, y, Z = table
    gp = short().fit(X, y)
    noisy, latent = gp.sample_y(Z, 500), gp.sample_y(Z, 500, include_noise=False)
    assert (latent.var(1) < noisy.var(1)).all()


def test_draws_repeat_with_a_seed_and_differ_between_seeds(table):
    X, y, Z = table
    gp = short().fit(X, y)
    assert gp.sample_y(Z).shape == (M, 1)
    np.testing.assert_array_equal(gp.sample_y(Z, 2), gp.sample_y(Z, 2, random_state=0))
    assert (gp.sample_y(Z, 2, random_state=1) != gp.sample_y(Z, 2, random_state=2)).all()


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


# Dtypes and flags


def global_flags():
    names = ("enable_x64", "numpy_dtype_promotion", "numpy_rank_promotion", "debug_nans")
    flags = {name: getattr(jax.config, f"jax_{name}") for name in names}
    precision = jax.config.jax_default_matmul_precision
    return flags | {"precision": precision, "numpy": np.geterr(), "all": dict(jax.config.values)}


@both_dtypes
def test_all_results_have_the_dtype_of_the_fit(table, precision):
    X, y, Z = table
    gp = short().fit(X.astype(precision), y.astype(precision))
    for points in (Z.astype("float32"), Z.astype("float64")):
        mean, std = gp.predict(points, return_std=True)
        covariance = gp.predict(points, return_cov=True)[1]
        for result in (gp.predict(points), mean, std, covariance, gp.sample_y(points, 2)):
            assert type(result) is np.ndarray
            assert result.dtype == precision


@both_dtypes
@pytest.mark.parametrize("solver", ["direct", "lsmr"])
def test_the_posterior_is_worked_out_in_the_dtype_of_the_table(table, precision, solver):
    X, y, _ = table
    gp = given(solver=solver).fit(X.astype(precision), y.astype(precision))
    posterior = gp.posterior_
    leaves = jax.tree.leaves((posterior.X, posterior.kernel, posterior.solution.value))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(precision)}


def test_the_table_and_not_the_target_decides_the_dtype(table):
    X, y, Z = table
    assert given().fit(X.astype("float32"), y).predict(Z).dtype == np.float32
    assert given().fit(X, y.astype("float32")).predict(Z).dtype == np.float64
    assert given().fit((10 * X).astype(int), y).predict(Z).dtype == np.float64


def test_float32_and_float64_agree_to_the_accuracy_of_float32(table):
    X, y, Z = table
    mean, std = given().fit(X, y).predict(Z, return_std=True)
    single = given().fit(X.astype("float32"), y.astype("float32"))
    mean32, std32 = single.predict(Z.astype("float32"), return_std=True)
    np.testing.assert_allclose(mean32, mean, atol=1e-4)
    np.testing.assert_allclose(std32, std, rtol=1e-3)
    assert np.abs(mean32 - mean).max() > 1e-10


def test_an_offset_of_the_target_does_not_blur_a_float32_fit(table):
    X, y, Z = table
    plain = given().fit(X.astype("float32"), y)
    offset = given().fit(X.astype("float32"), y + 1e6)
    np.testing.assert_allclose(
        offset.predict(Z, return_std=True)[1], plain.predict(Z, return_std=True)[1], rtol=1e-3
    )


@both_dtypes
def test_fit_and_predict_leave_global_flags_alone(table, precision):
    X, y, Z = table
    before = global_flags()
    gp = short().fit(X.astype(precision), y.astype(precision))
    assert global_flags() == before
    gp.predict(Z, return_std=True)
    gp.predict(Z, return_cov=True)
    gp.sample_y(Z)
    assert global_flags() == before


@both_dtypes
def test_a_fit_that_raises_leaves_global_flags_alone(table, precision):
    X, y, _ = table
    before = global_flags()
    with pytest.raises(ValueError, match="lengthscale"):
        short(kernel=RBF(np.ones(3, np.float32))).fit(X.astype(precision), y)
    assert global_flags() == before


@both_dtypes
@pytest.mark.parametrize("enclosing", [True, False])
def test_an_enclosing_x64_context_changes_nothing(table, precision, enclosing):
    X, y, Z = table
    X, Z = X.astype(precision), Z.astype(precision)
    outside_fit = short().fit(X, y)
    outside = outside_fit.predict(Z, return_std=True)
    with jax.enable_x64(enclosing):
        inside_fit = short().fit(X, y)
        inside = inside_fit.predict(Z, return_std=True)
        crossed = outside_fit.predict(Z, return_std=True)
        assert jax.config.jax_enable_x64 is enclosing
    for results in (inside, crossed, inside_fit.predict(Z, return_std=True)):
        np.testing.assert_array_equal(results[0], outside[0])
        np.testing.assert_array_equal(results[1], outside[1])


# Among scikit-learn's tools


def test_arguments_are_stored_untouched_and_survive_a_fit(table):
    X, y, _ = table
    kernel, solver, levels = copy.deepcopy(KERNEL), Direct(), [(N, 5)]
    settings = {"kernel": kernel, "solver": solver, "levels": levels, "random_state": 5}
    gp = GPRegressor(**settings).fit(X, y)
    for name, value in settings.items():
        assert gp.get_params()[name] is value
    assert levels == [(N, 5)]
    np.testing.assert_array_equal(kernel.kernel.lengthscale, [0.75, 1.5])


def test_a_clone_is_unfitted_and_fits_to_the_same_predictions(table):
    X, y, Z = table
    gp = short(kernel=KERNEL, solver=Direct()).fit(X, y)
    copied = clone(gp)
    assert not hasattr(copied, "posterior_")
    assert copied.get_params().keys() == gp.get_params().keys()
    assert copied.levels == SHORT
    np.testing.assert_array_equal(copied.fit(X, y).predict(Z), gp.predict(Z))


def test_set_params_changes_the_next_fit(table):
    X, y, Z = table
    gp = given().fit(X, y)
    before = gp.predict(Z)
    assert gp.set_params(noise_variance=1.0) is gp
    np.testing.assert_array_equal(gp.predict(Z), before)
    assert np.abs(gp.fit(X, y).predict(Z) - before).max() > 0.01
    with pytest.raises(ValueError, match="noise_std"):
        gp.set_params(noise_std=1.0)


def test_the_representation_names_what_was_set():
    text = repr(short(kernel=RBF(), noise_variance=0.5))
    assert text.startswith("GPRegressor(")
    assert "RBF" in text
    assert "noise_variance=0.5" in text


def test_it_works_at_the_end_of_a_pipeline(table):
    X, y, Z = table
    model = make_pipeline(StandardScaler(), short()).fit(X, y)
    mean, std = model.predict(Z, return_std=True)
    np.testing.assert_allclose(mean, short().fit(X, y).predict(Z), atol=1e-6)
    assert (std > 0).all()


def test_it_is_scored_by_cross_validation(table):
    X, y, _ = table
    scores = cross_val_score(given(), X, y, cv=2)
    assert scores.shape == (2,)
    assert (scores > 0.5).all()


def test_kernels_are_chosen_by_grid_search(table):
    X, y, Z = table
    # The second kernel cannot see the column that matters.
    kernels = [KERNEL, Scaled(1.0, RBF()).on(1)]
    search = GridSearchCV(given(), {"kernel": kernels}, cv=2).fit(X, y)
    assert search.best_index_ == 0
    assert search.best_score_ > 0.5
    assert search.predict(Z).shape == (M,)


def test_groups_reach_the_objective_through_cross_validation(table):
    X, y, _ = table
    groups = np.arange(N) % 10
    grid = {"noise_variance": [0.01, 0.1]}
    with sklearn.config_context(enable_metadata_routing=True):
        gp = short(objective=GroupHoldout(0.3), levels=[(30, 2)]).set_fit_request(groups=True)
        search = GridSearchCV(gp, grid, cv=GroupKFold(2)).fit(X, y, groups=groups)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    with pytest.raises(ValueError, match="Pass groups= to fit"):
        short(objective=GroupHoldout()).fit(X, y)


def test_what_is_known_of_the_hyperparameters_reaches_the_tuner(table):
    X, y, _ = table
    known = {"bounds": {"lengthscale": (None, 1.0)}, "fixed": ["noise_variance"]}
    with pytest.warns(ConvergenceWarning, match="ended at its upper bound 1"):
        gp = short(noise_variance=NOISE, num_restarts=1, **known).fit(X, y)
    assert np.all(np.asarray(gp.kernel_.kernel.lengthscale) <= 1 + 1e-6)
    assert gp.noise_variance_ == pytest.approx(NOISE)
    assert {record["start"] for record in gp.history_} == {0, 1}
    pulled = short(priors={"lengthscale": lambda v: -1e4 * (v - 7) ** 2}).fit(X, y)
    assert np.all(np.asarray(pulled.kernel_.kernel.lengthscale) > 2.0)


@both_dtypes
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda gp: pickle.loads(pickle.dumps(gp))], ids=["deepcopy", "pickle"]
)
def test_copies_predict_the_same(table, precision, copied):
    X, y, Z = table
    gp = short().fit(X.astype(precision), y)
    mean, std = gp.predict(Z, return_std=True)
    other = copied(gp)
    assert other.posterior_.X.dtype == precision
    mean_other, std_other = other.predict(Z, return_std=True)
    np.testing.assert_array_equal(mean_other, mean)
    np.testing.assert_array_equal(std_other, std)


def test_a_pickle_leaves_the_kept_matrix_behind_and_predicts_the_same(table):
    X, y, Z = table
    gp = short(solver="lsmr", form="dense", rtol=1e-6).fit(X, y)
    assert gp.posterior_.operator.form == "dense"
    again = pickle.loads(pickle.dumps(gp))
    assert again.posterior_.operator.form == "tiled"
    np.testing.assert_array_equal(again.predict(Z), gp.predict(Z))
