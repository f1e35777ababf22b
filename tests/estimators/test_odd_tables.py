"""GPRegressor given odd tables that it must not refuse."""

import numpy as np
import pytest
from single import M, N, short
from sklearn.exceptions import DataConversionWarning

from gplsq import GPRegressor
from gplsq.testing import tolerance


def check_sensible(gp, Z, y):
    """Finite, positive where it must be, and of the size of the target."""
    mean, std = gp.predict(Z, return_std=True)
    assert mean.shape == std.shape == (len(Z),)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std > 0).all()
    middle, spread = np.mean(y), np.std(y)
    assert np.abs(mean - middle).max() < 3 * spread
    assert std.max() < 3 * spread
    return mean, std


@pytest.mark.parametrize("value", [0.0, 3.7, -2e5, 1e-9])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_constant_target_is_predicted_as_that_constant(table, value, precision):
    X, _, Z = table
    gp = short().fit(X.astype(precision), np.full(N, value, precision))
    mean, std = gp.predict(Z, return_std=True)
    np.testing.assert_allclose(mean, value, rtol=10 * np.finfo(precision).eps)
    assert np.isfinite(std).all()
    assert (std > 0).all()
    assert "constant" in str(gp.history_)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_constant_column_says_nothing(table, precision):
    X, y, Z = (array.astype(precision) for array in table)
    zero = (
        short()
        .fit(X * np.array([1, 0], precision), y)
        .predict(Z * np.array([1, 0], precision), return_std=True)
    )
    # 0.1 is not exact: its mean over the rows differs from it by rounding.
    gp = short().fit(np.c_[X[:, 0], np.full(N, 0.1, precision)], y)
    mean, std = check_sensible(gp, np.c_[Z[:, 0], np.full(M, 0.1, precision)], y)
    atol = tolerance(precision, 10)
    np.testing.assert_allclose(mean, zero[0], atol=atol)
    np.testing.assert_allclose(std, zero[1], atol=atol)
    # What the column could not teach is left to the other one.
    assert gp.score(np.c_[X[:, 0], np.full(N, 0.1, precision)], y) > 0.8


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_column_that_is_constant_up_to_rounding_says_nothing(table, precision):
    X, y, Z = (array.astype(precision) for array in table)
    plain = short().fit(X * np.array([1, 0], precision), y).predict(Z * np.array([1, 0], precision))
    wobble = np.full(N, 0.1, precision)
    wobble[::2] = np.nextafter(wobble[::2], 1, dtype=precision)
    gp = short().fit(np.c_[X[:, 0], wobble], y)
    mean, _ = check_sensible(gp, np.c_[Z[:, 0], wobble[:M]], y)
    np.testing.assert_allclose(mean, plain, atol=tolerance(precision, 10))


def test_a_table_of_constant_columns_predicts_the_mean_of_the_target(table):
    _, y, _ = table
    X = np.ones((N, 2))
    mean, std = check_sensible(short().fit(X, y), X[:M], y)
    np.testing.assert_allclose(mean, y.mean(), atol=0.05 * y.std())
    np.testing.assert_allclose(std, y.std(), rtol=0.1)


def test_duplicated_columns_are_harmless(table):
    X, y, Z = table
    gp = short().fit(X[:, [0, 0]], y)
    check_sensible(gp, Z[:, [0, 0]], y)
    assert gp.score(X[:, [0, 0]], y) > 0.9


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_duplicated_rows_with_different_targets_are_averaged(table, precision):
    X, y, _ = table
    half = X[: N // 2].astype(precision)
    truth = np.sin(2 * half[:, 0])
    y = np.r_[truth + 0.5, truth - 0.5]
    gp = short(noise_variance=0.5).fit(np.r_[half, half], y)
    mean, std = check_sensible(gp, half, y)
    assert np.abs(mean - truth).mean() < 0.25
    assert 0.35 < np.median(std) < 1.0


def test_integer_and_boolean_tables_are_numbers(table):
    X, y, Z = table
    whole = np.round(5 * X).astype(int)
    mean, _ = check_sensible(short().fit(whole, y), Z, y)
    np.testing.assert_array_equal(mean, short().fit(whole.astype(float), y).predict(Z))
    mean, _ = check_sensible(short().fit(X > 0, y > 0), Z > 0, y > 0)
    both = short().fit((X > 0).astype(float), (y > 0).astype(float))
    np.testing.assert_array_equal(mean, both.predict((Z > 0).astype(float)))


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.astype(object),
        lambda a: a.tolist(),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=0)[::2],
    ],
    ids=["object", "list", "Fortran", "strided"],
)
def test_other_containers_of_the_same_numbers_give_the_same_predictions(table, convert):
    X, y, Z = table
    plain = short().fit(X, y).predict(Z, return_std=True)
    other = short().fit(convert(X), convert(y)).predict(convert(Z), return_std=True)
    np.testing.assert_allclose(other[0], plain[0], atol=1e-9)
    np.testing.assert_allclose(other[1], plain[1], atol=1e-9)


def test_read_only_arrays_are_taken_and_no_input_is_changed(table):
    X, y, Z = table
    copies = [array.copy() for array in table]
    for array in table:
        array.flags.writeable = False
    check_sensible(short().fit(X, y), Z, y)
    for array, before in zip(table, copies, strict=True):
        array.flags.writeable = True
        np.testing.assert_array_equal(array, before)
    short().fit(X, y).predict(Z, return_std=True)
    for array, before in zip(table, copies, strict=True):
        np.testing.assert_array_equal(array, before)


def test_a_target_of_one_column_is_flattened_with_the_usual_warning(table):
    X, y, Z = table
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        gp = short().fit(X, y[:, None])
    assert gp.predict(Z).shape == (M,)
    np.testing.assert_array_equal(gp.predict(Z), short().fit(X, y).predict(Z))


@pytest.mark.parametrize("solver", ["auto", "lsmr"])
def test_two_rows_are_enough(table, solver):
    X, _, Z = table
    gp = GPRegressor(solver=solver, random_state=0).fit(X[:2], [1.0, 2.0])
    mean, _ = check_sensible(gp, Z, [1.0, 2.0])
    assert (np.abs(mean - 1.5) < 1).all()


@pytest.mark.parametrize(
    ("X_scale", "y_scale", "y_shift"),
    [
        (1e6, 1, 0),
        (1e-9, 1, 0),
        (1, 1e-8, 0),
        (1, 1e12, 0),
        (1, 1, 1e6),
        (1e100, 1e-100, 0),
        (1, 1e200, 0),
        (1, 1e-200, 0),
        (1e200, 1, 0),
        (1e-200, 1, 0),
    ],
)
def test_the_units_of_table_and_target_do_not_matter(table, X_scale, y_scale, y_shift):
    X, y, Z = table
    mean, std = short().fit(X, y).predict(Z, return_std=True)
    gp = short().fit(X * X_scale, y * y_scale + y_shift)
    mean_scaled, std_scaled = gp.predict(Z * X_scale, return_std=True)
    np.testing.assert_allclose((mean_scaled - y_shift) / y_scale, mean, atol=1e-5)
    np.testing.assert_allclose(std_scaled / y_scale, std, rtol=1e-4)


@pytest.mark.parametrize("y_scale", [1e-30, 1e30])
def test_the_units_of_the_target_do_not_matter_in_float32(table, y_scale):
    X, y, Z = (array.astype(np.float32) for array in table)
    mean, std = short().fit(X, y).predict(Z, return_std=True)
    mean_scaled, std_scaled = short().fit(X, y * y_scale).predict(Z, return_std=True)
    np.testing.assert_allclose(mean_scaled / y_scale, mean, atol=1e-3)
    np.testing.assert_allclose(std_scaled / y_scale, std, rtol=1e-2)


@pytest.mark.parametrize("far", [1e3, 1e8, 1e200])
def test_points_far_away_get_the_mean_of_the_target_and_a_wide_interval(table, far):
    X, y, Z = table
    gp = short(objective=None).fit(X, y)
    mean, std = gp.predict(np.full((M, 2), far), return_std=True)
    np.testing.assert_allclose(mean, y.mean(), atol=1e-6)
    assert np.isfinite(std).all()
    assert (std > gp.predict(Z, return_std=True)[1]).all()


def test_a_float64_target_beyond_float32_is_fitted_or_refused_by_name(table):
    X, y, Z = table
    try:
        mean = short().fit(X.astype(np.float32), y * 1e39).predict(Z)
    except (ValueError, FloatingPointError) as error:
        assert "Input y" in str(error)  # noqa: PT017
    else:
        assert np.isfinite(mean).all()
