"""GPRegressor among scikit-learn's tools: parameters, clones, pipelines, searches, copies."""

import copy
import pickle

import numpy as np
import pytest
import sklearn
from single import KERNEL, NOISE, SHORT, M, N, both_dtypes, given, short
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gplsq import Direct, GPClassifier, GPRegressor
from gplsq.kernels import RBF, Scaled
from gplsq.tuning import GroupHoldout


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


@pytest.mark.parametrize("model", [GPRegressor, GPClassifier])
def test_a_name_that_should_be_a_list_is_refused_as_such(model, rng):
    X = rng.standard_normal((12, 2))
    settings = {"sample_weight": np.ones(12)} if model is GPClassifier else {}
    settings |= {} if model is GPClassifier else {"noise_variance": np.full(12, 0.1)}
    with pytest.raises(TypeError, match="fixed must be a list of names"):
        model(fixed="lengthscale").fit(X, X[:, 0] > 0, **settings)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inducing_points_are_in_the_units_of_the_table(rng, dtype):
    X = (200 + 50 * rng.standard_normal((80, 2))).astype(dtype)
    y = np.sin(X[:, 0] / 50) + 0.05 * rng.standard_normal(80)
    settings = {"levels": [(80, 5)], "random_state": 0}
    own = GPRegressor(inducing=X[::4], **settings).fit(X, y)
    np.testing.assert_allclose(own.posterior_.Z, (X[::4] - X.mean(0)) / X.std(0), rtol=1e-3)
    assert own.score(X, y) > 0.9
    labels = y > 0
    assert GPClassifier(inducing=X[::4], **settings).fit(X, labels).score(X, labels) > 0.9
