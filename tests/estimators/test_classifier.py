"""GPClassifier: labels, probabilities, calibration, and the words of its errors."""

import copy
import functools
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

import gplsq
from gplsq import GPClassifier
from gplsq.gp import classify
from gplsq.kernels import RBF, Matern32, Scaled
from gplsq.tuning import ClassHoldout, Holdout

QUICK = {"levels": [(80, 3)], "random_state": 0}


def known_probabilities(rng, n, num_classes, dtype=np.float64):
    """Rows, classes drawn with known probabilities, and these."""
    X = rng.uniform(-2, 2, size=(n, 2))
    logits = np.stack([np.sin(2 * X[:, 0] + c) + X[:, 1] * (c - 1) for c in range(num_classes)], 1)
    e = np.exp(2 * logits)
    p = e / e.sum(1, keepdims=True)
    codes = np.array([rng.choice(num_classes, p=row) for row in p])
    return X.astype(dtype), codes, p


def log_loss(p, codes):
    return -np.mean(np.log(p[np.arange(len(codes)), codes]))


@pytest.fixture(scope="module")
def strings():
    X, codes, _ = known_probabilities(np.random.default_rng(1), 80, 3)
    labels = np.array(["ash", "beech", "cedar"])[codes]
    return X, labels, GPClassifier(**QUICK).fit(X, labels)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_probabilities_are_close_to_the_true_ones_and_calibrated(rng, num_classes) -> None:
    X, codes, p = known_probabilities(rng, 1000, num_classes, np.float32)
    model = GPClassifier(levels=[(300, 25)], random_state=0).fit(X[:300], codes[:300])
    got = model.predict_proba(X[300:])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)
    truth, observed = p[300:], codes[300:]
    # The truth's own loss is the least there is; that of the frequencies the most allowed.
    excess = log_loss(got, observed) - log_loss(truth, observed)
    frequencies = np.tile(np.bincount(codes[:300]) / 300, (700, 1))
    assert excess < 0.2 * (log_loss(frequencies, observed) - log_loss(truth, observed))
    # Of rows said to be of a class with some probability about so many are of it.
    said, hit = got.ravel(), (observed[:, None] == np.arange(num_classes)).ravel()
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (said >= low) & (said <= low + 0.2)
        error = 3 * np.sqrt(0.25 / inside.sum())
        assert abs(said[inside].mean() - hit[inside].mean()) < error + 0.05
    loss, accuracy, rows = model.held_out_
    assert rows == 300
    assert loss == pytest.approx(log_loss(got, observed), abs=0.12)
    assert accuracy == pytest.approx(model.score(X[300:], observed), abs=0.1)


def test_labels_are_given_back(strings) -> None:
    X, labels, model = strings
    assert model.classes_.tolist() == ["ash", "beech", "cedar"]
    p, decision = model.predict_proba(X), model.decision_function(X)
    assert p.shape == decision.shape == (80, 3)
    assert np.array_equal(model.predict(X), model.classes_[np.argmax(p, axis=1)])
    assert np.array_equal(np.argmax(p, axis=1), np.argmax(decision, axis=1))
    assert np.mean(model.predict(X) == labels) > 0.6


def test_two_classes_have_one_decision(rng) -> None:
    X, codes, _ = known_probabilities(rng, 60, 2)
    model = GPClassifier(objective=None).fit(X, codes.astype(bool))
    decision = model.decision_function(X)
    assert decision.shape == (60,)
    assert np.array_equal(model.predict(X), decision > 0)
    assert np.array_equal(model.predict_proba(X)[:, 1] > 0.5, decision > 0)
    assert "not tuned" in str(model.history_)


def test_far_from_the_data_nothing_is_known(strings) -> None:
    model = strings[2]
    far = model.predict_proba(np.full((1, 2), 1e6))
    np.testing.assert_allclose(far, 1 / 3, atol=1e-6)


def test_a_copy_of_any_kind_predicts_the_same(strings, tmp_path) -> None:
    X, _, model = strings
    expected = model.predict_proba(X)
    model.save(tmp_path / "model.gplsq")
    copies = [
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        gplsq.load(tmp_path / "model.gplsq"),
    ]
    for again in copies:
        assert np.array_equal(again.predict_proba(X), expected)
        assert np.array_equal(again.classes_, model.classes_)
        assert again.predict_proba(X).dtype == expected.dtype
    assert not hasattr(clone(model), "posterior_")


def test_the_summary_names_classes_and_hyperparameters(strings) -> None:
    summary = strings[2].summary()
    assert "ash: " in summary["classes"].value
    assert "leng" in str(summary)
    assert "Laplace" in summary["solver"].value
    assert "GPClassifier" in strings[2]._repr_html_()


def test_search_reaches_into_the_kernel(rng) -> None:
    X, codes, _ = known_probabilities(rng, 60, 2)
    kernel = Scaled(jnp.asarray(4.0), RBF(jnp.asarray(1.0)))
    other = Scaled(jnp.asarray(4.0), Matern32(jnp.asarray(1.0)))
    grid = {"kernel": [kernel, other]}
    search = GridSearchCV(GPClassifier(objective=None), grid, scoring="neg_log_loss", cv=2)
    search.fit(X, codes)
    assert search.best_score_ > -np.log(2)


def test_a_fit_is_reproducible_and_its_solvers_agree(rng) -> None:
    X, codes, _ = known_probabilities(rng, 120, 3)
    settings = {"kernel": Scaled(jnp.asarray(4.0), RBF(jnp.asarray(1.0))), "objective": None}
    one = GPClassifier(random_state=3, **settings).fit(X, codes).predict_proba(X)
    two = GPClassifier(random_state=3, **settings).fit(X, codes).predict_proba(X)
    assert np.array_equal(one, two)
    few = GPClassifier(solver="inducing", inducing=60, random_state=3, **settings).fit(X, codes)
    assert "inducing" in few.solver_report_
    np.testing.assert_allclose(few.predict_proba(X), one, atol=0.03)


def test_held_out_objectives_and_other_losses_tune(rng) -> None:
    X, codes, _ = known_probabilities(rng, 100, 2)
    model = GPClassifier(
        Scaled(jnp.asarray(1.0), RBF(jnp.asarray(0.05))),
        objective=ClassHoldout(fraction=0.3),
        loss="brier",
        levels=[(100, 15)],
        fixed=["variance"],
        random_state=0,
    ).fit(X, codes)
    assert float(model.kernel_.kernel.lengthscale) > 0.06
    assert float(model.kernel_.variance) == pytest.approx(1.0)
    assert len(model.history_) > 5


def test_a_fit_that_ran_out_of_steps_warns(rng, monkeypatch) -> None:
    X, codes, _ = known_probabilities(rng, 40, 3)
    impatient = functools.partial(classify, max_steps=1)
    monkeypatch.setattr("gplsq.estimators._classifier.classify", impatient)
    with pytest.warns(UserWarning, match="Newton's method missed its tolerance"):
        GPClassifier(objective=None).fit(X, codes)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_whole_weights_are_repeated_rows_and_zeros_are_rows_left_out(rng, num_classes) -> None:
    X, codes, _ = known_probabilities(rng, 60, num_classes)
    weights = rng.integers(0, 3, 60)
    index = np.repeat(np.arange(60), weights)
    settings = {"kernel": 4.0 * RBF(np.ones(2)), "objective": None, "random_state": 0}
    ours = GPClassifier(**settings).fit(X, codes, sample_weight=weights)
    theirs = GPClassifier(**settings).fit(X[index], codes[index])
    np.testing.assert_allclose(ours._X_scaling.scale, theirs._X_scaling.scale, rtol=1e-12)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
    np.testing.assert_allclose(ours.held_out_[:2], theirs.held_out_[:2], atol=1e-4)
    plain = GPClassifier(**settings).fit(X, codes)
    assert np.abs(ours.predict_proba(X) - plain.predict_proba(X)).max() > 0.01


def test_weights_that_are_no_whole_numbers_pull_towards_their_rows(rng) -> None:
    X, codes, _ = known_probabilities(rng, 60, 2)
    settings = {"kernel": 4.0 * RBF(np.ones(2)), "objective": None, "random_state": 0}
    heavy = np.where(codes == 1, 4.5, 0.5)
    plain, pulled = (
        GPClassifier(**settings).fit(X, codes, sample_weight=weights) for weights in (None, heavy)
    )
    assert np.all(pulled.decision_function(X) > plain.decision_function(X))
    tuned = GPClassifier(**QUICK).fit(X, codes, sample_weight=heavy)
    assert np.all(np.isfinite(tuned.predict_proba(X)))


def test_weights_are_routed_and_bad_ones_named(rng) -> None:
    X, codes, _ = known_probabilities(rng, 60, 2)
    model = GPClassifier(4.0 * RBF(np.ones(2)), objective=None, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        asking = model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        settings = {"cv": 2, "params": {"sample_weight": np.where(codes == 1, 3.0, 1.0)}}
        routed = cross_val_score(asking, X, codes, **settings)
    assert not np.array_equal(routed, cross_val_score(clone(model), X, codes, cv=2))
    for bad, words in (
        (np.ones(9), "sample_weight must hold one number for each of the 60 rows"),
        (-np.ones(60), "sample_weight must be finite and not negative"),
        (codes, "y holds one class only"),
    ):
        with pytest.raises(ValueError, match=words):
            GPClassifier(**QUICK).fit(X, codes, sample_weight=bad)


def test_labels_that_were_not_in_the_fit_count_as_wrong() -> None:
    model = GPClassifier(4.0 * RBF(np.ones(2)), objective=None, random_state=0).fit(X0, Y0)
    right = model.predict(X0) == Y0
    assert right.any()
    mixed = np.where(np.arange(10) < 5, 7, Y0)
    assert model.score(X0, mixed) == np.mean(right & (mixed == Y0))


X0, Y0 = np.arange(20.0).reshape(10, 2), np.array([0, 1] * 5)


@pytest.mark.parametrize(
    ("X", "y", "parameters", "words"),
    [
        (X0, np.zeros(10), {}, "one class only, 0.0; a classifier"),
        (X0, np.linspace(0, 1, 10), {}, "Unknown label type"),
        (np.where(X0 == 3, np.nan, X0), Y0, {}, "NaN"),
        (csr_array(X0), Y0, {}, "[Ss]parse"),
        (X0, Y0[:5], {}, "inconsistent numbers of samples"),
        (X0, Y0, {"kernel": "rbf"}, "kernel must be"),
        (X0, Y0, {"objective": Holdout()}, "objective for classes"),
        (X0, Y0, {"objective": "loo"}, "objective must be"),
        (X0, Y0, {"loss": "hinge"}, "loss must be"),
        (X0, Y0, {"solver": "features"}, "solver must be"),
        (X0, Y0, {"bounds": {"noise_variance": (0, 1)}}, "no such hyperparameter"),
        (X0, Y0, {"levels": [(1, 1)]}, "levels must be"),
        (X0, Y0, {"standardize": "yes"}, "standardize must be"),
        (X0, Y0, {"constraints": "nonsense", "objective": None}, "constraints must be"),
    ],
)
def test_bad_input_is_named_and_leaves_the_model_as_it_was(X, y, parameters, words) -> None:
    model = GPClassifier(**parameters)
    before = dict(vars(model))
    with pytest.raises((ValueError, TypeError), match=words):
        model.fit(X, y)
    assert vars(model) == before
