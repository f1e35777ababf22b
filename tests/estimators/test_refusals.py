"""What would be read as other numbers than those meant, or not be looked at: refused by name."""

import numpy as np
import pandas as pd
import pytest

import gplsq
from gplsq import GPClassifier, GPRegressor
from gplsq.gp import calibrate, condition
from gplsq.kernels import RBF
from gplsq.tuning import GroupHoldout, Holdout, KFold, LeaveOneOut, MarginalLikelihood

QUICK = {"levels": [(30, 3)], "random_state": 0}


@pytest.fixture
def table(rng):
    X = rng.standard_normal((30, 2))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(30)


@pytest.mark.parametrize("model", [GPRegressor, GPClassifier])
def test_masked_arrays_and_dates_are_refused_by_name(table, model):
    X, y = table
    y = y > 0 if model is GPClassifier else y
    masked = np.ma.masked_array(X, X > 1)
    days = X.astype("datetime64[D]")
    with pytest.raises(TypeError, match="y must not be a masked array"):
        model(**QUICK).fit(X, np.ma.masked_array(y, np.arange(30) < 3))
    for bad, text in ((masked, "X must not be a masked array"), (days, "X must hold numbers")):
        with pytest.raises(TypeError, match=text):
            model(**QUICK).fit(bad, y)
    fitted = model(**QUICK).fit(X, y)
    with pytest.raises(TypeError, match="X must not be a masked array"):
        fitted.predict(masked)
    with pytest.raises(TypeError, match="sample_weight must not be a masked array"):
        model(**QUICK).fit(X, y, sample_weight=np.ma.masked_array(np.ones(30), X[:, 0] > 1))


def test_missing_values_of_pandas_are_missing_targets(table):
    X, y = table
    frame = pd.DataFrame({"a": y, "b": 2 * y}).astype("Float64")
    frame.iloc[0, 0] = pd.NA
    ours = GPRegressor(missing="drop", **QUICK).fit(X, frame).predict(X)
    theirs = GPRegressor(missing="drop", **QUICK).fit(X, frame.astype(float)).predict(X)
    np.testing.assert_array_equal(ours, theirs)


def test_the_mean_is_that_of_the_fit_whatever_is_set_later(table, tmp_path):
    X, y = table
    plain = GPRegressor(**QUICK).fit(X, y)
    before = plain.predict(X)
    plain.set_params(mean=lambda rows: 100 + 0 * rows[:, 0])
    np.testing.assert_array_equal(plain.predict(X), before)
    plain.save(tmp_path / "model")
    np.testing.assert_array_equal(gplsq.load(tmp_path / "model").predict(X), before)
    shifted = GPRegressor(mean=lambda rows: 5 * rows[:, 1], **QUICK).fit(X, y + 5 * X[:, 1])
    before = shifted.predict(X)
    shifted.set_params(mean="zero")
    np.testing.assert_array_equal(shifted.predict(X), before)
    np.testing.assert_array_equal(shifted.sample_functions(1, 0)(X).shape, (30, 1))


def test_data_whose_squares_overflow_are_refused_and_far_points_are_not(table):
    X, y = (part.astype(np.float32) for part in table)
    with pytest.raises(ValueError, match=r"X holds values of .* overflow\. Pass standardize=True"):
        GPRegressor(standardize=False, **QUICK).fit(X * np.float32(1e17), y)
    with pytest.raises(ValueError, match="X holds values"):
        GPClassifier(standardize=False, **QUICK).fit(X * np.float32(1e17), y > 0)
    model = GPRegressor(**QUICK).fit(X, y)
    far = model.predict(X * np.float32(1e25))
    np.testing.assert_allclose(far, y.mean(), atol=1e-3)
    with pytest.raises(ValueError, match="y holds values"):
        model.update(X[:1], np.array([1e20]))
    assert model.posterior_.X.shape[0] == 30


def test_groups_choose_their_objective_and_others_are_refused(table):
    X, y = table
    groups = np.repeat(np.arange(6), 5)
    auto, asked = (
        GPRegressor(objective=objective, **QUICK).fit(X, y, groups=groups)
        for objective in ("auto", GroupHoldout())
    )
    np.testing.assert_array_equal(auto.predict(X), asked.predict(X))
    for objective in (Holdout(), KFold(5), LeaveOneOut(), MarginalLikelihood()):
        with pytest.raises(ValueError, match="groups are for GroupHoldout; got the objective"):
            GPRegressor(objective=objective, **QUICK).fit(X, y, groups=groups)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": np.ones(30) * 1j}, TypeError, "y must be real"),
        ({"X": np.ones((30, 2)) * 1j}, TypeError, "X must be real"),
        (
            {"y": np.ma.masked_array(np.ones(30), np.arange(30) < 2)},
            TypeError,
            "y must not be",
        ),
        ({"y": np.full(30, "1")}, TypeError, "y must hold real numbers"),
        ({"X": np.ones((30, 2), object)}, TypeError, "X must hold real numbers"),
        ({"X": np.ones((30, 2), np.float16)}, TypeError, "X must be of float32 or float64"),
    ],
)
def test_conditioning_refuses_what_lstsq_does(table, change, error, message):
    X, y = table
    with pytest.raises(error, match=message):
        condition(RBF(), **{"X": X, "y": y, "noise_variance": 0.1} | change)


def test_points_and_more_rows_are_checked_as_the_data_are(table):
    X, y = table
    posterior = condition(RBF(), X, y, noise_variance=0.1)
    with pytest.raises(TypeError, match="Z must be real"):
        posterior.mean(X * 1j)
    with pytest.raises(TypeError, match="y must not be a masked array"):
        posterior.update(X[:2], np.ma.masked_array(y[:2], [True, False]))


def test_the_byte_order_of_a_file_is_no_matter(table):
    X, y = table
    swapped = [part.astype(part.dtype.newbyteorder(">")) for part in (X, y)]
    ours, theirs = (condition(RBF(), *data, noise_variance=0.1) for data in (swapped, (X, y)))
    np.testing.assert_array_equal(ours.mean(X), theirs.mean(X))
    solved = [gplsq.lstsq(*data, damp=0.1).value for data in (swapped, (X, y))]
    np.testing.assert_array_equal(*solved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([np.nan], [1.0]), "residual must be finite"),
        (([1e200], [1.0]), "residual must be finite, with finite squares"),
        (([], []), "must have one shape"),
        ((np.ones(5), np.ones((5, 1))), "must have one shape"),
        ((np.ones(5), np.ones(5), -1.0), "noise_variance must be"),
        ((np.ones(5), np.ones(5), 0.0), "noise_variance must be"),
    ],
)
def test_calibration_refuses_what_it_cannot_use(arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrate(*(np.asarray(a) if not np.isscalar(a) else a for a in arguments))


@pytest.mark.parametrize("path", ["folder/", "missing/model"])
def test_a_path_that_is_no_file_is_refused_before_anything_is_written(table, tmp_path, path):
    X, y = table
    (tmp_path / "folder").mkdir()
    model = GPRegressor(**QUICK).fit(X, y)
    for write in (model.save, lambda p: gplsq.save_state(p, {"w": X})):
        with pytest.raises(OSError, match=r"name of a folder|its folder does not exist"):
            write(f"{tmp_path}/{path}")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(ValueError, match="checkpoint must be the path of a file"):
        GPRegressor(checkpoint=f"{tmp_path}/run/", **QUICK).fit(X, y)
