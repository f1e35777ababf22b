"""Estimators among what scikit-learn's users have: frames, pipelines, workers, threads."""

import threading

import joblib
import numpy as np
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gplsq import GPClassifier, GPRegressor

SHORT = {"levels": [(60, 5)], "random_state": 0}


@pytest.fixture
def columns(rng):
    """A table of two columns of numbers and one of words, and its target."""
    left, right = rng.uniform(-2, 2, (2, 60))
    word = rng.choice(["dry", "wet", "snow"], 60)
    y = np.sin(2 * left) + (word == "wet") + 0.1 * rng.standard_normal(60)
    return {"left": left, "right": right, "word": word}, y


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_of_mixed_columns_go_through_a_column_transformer(columns, library):
    frames = pytest.importorskip(library)
    table, y = columns
    frame = frames.DataFrame(table)
    apart = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["left", "right"]),
            ("words", OneHotEncoder(sparse_output=False), ["word"]),
        ]
    ).set_output(transform=library)
    model = make_pipeline(apart, GPRegressor(**SHORT)).fit(frame, frames.Series(y))
    names = list(model[-1].feature_names_in_)
    assert names[:3] == ["numbers__left", "numbers__right", "words__word_dry"]
    mean, std = model.predict(frame, return_std=True)
    assert mean.shape == std.shape == (60,)
    assert model.score(frame, y) > 0.5
    order = ["right", "left"]
    gp = GPRegressor(**SHORT).fit(frame[["left", "right"]], y)
    with pytest.raises(ValueError, match="feature names"):
        gp.predict(frame[order])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_and_series_give_what_arrays_give(columns, library):
    frames = pytest.importorskip(library)
    table, y = columns
    X = np.stack([table["left"], table["right"]], axis=1)
    frame = frames.DataFrame({"left": table["left"], "right": table["right"]})
    word = np.asarray(table["word"])
    for estimator, target in ((GPRegressor, y), (GPClassifier, word)):
        of_frame = estimator(**SHORT).fit(frame, frames.Series(target))
        of_array = estimator(**SHORT).fit(X, target)
        assert list(of_frame.feature_names_in_) == ["left", "right"]
        assert not hasattr(of_array, "feature_names_in_")
        if estimator is GPRegressor:
            np.testing.assert_allclose(of_frame.predict(frame), of_array.predict(X), atol=1e-3)
        else:
            chances = of_array.predict_proba(X)
            np.testing.assert_allclose(of_frame.predict_proba(frame), chances, atol=1e-3)
            assert set(of_frame.classes_) == {"dry", "wet", "snow"}


def test_workers_and_threads_predict_what_one_process_does(columns):
    table, y = columns
    X = np.stack([table["left"], table["right"]], axis=1)
    gp = GPRegressor(**SHORT).fit(X, y)
    expected = gp.predict(X)
    of_workers = joblib.Parallel(n_jobs=2)(
        joblib.delayed(gp.predict)(X[i : i + 30]) for i in (0, 30)
    )
    np.testing.assert_allclose(np.concatenate(of_workers), expected, atol=1e-5)
    found = [None] * 4

    def predict(i):
        found[i] = gp.predict(X)

    threads = [threading.Thread(target=predict, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in found:
        np.testing.assert_array_equal(each, expected)


def test_cross_validation_and_meta_estimators(columns):
    table, y = columns
    X = np.stack([table["left"], table["right"]], axis=1)
    model = TransformedTargetRegressor(GPRegressor(**SHORT), func=np.expm1, inverse_func=np.log1p)
    scores = cross_val_score(model, X, np.log1p(y - y.min()), cv=3)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    assert cross_val_predict(GPRegressor(**SHORT), X, y, cv=3).shape == (60,)


@pytest.mark.parametrize("estimator", [GPRegressor, GPClassifier])
def test_a_notebook_shows_it(estimator):
    page = estimator(random_state=7)._repr_html_()
    assert estimator.__name__ in page
    assert "random_state" in page
    assert f"{estimator.__name__}(random_state=7)" == repr(estimator(random_state=7))
