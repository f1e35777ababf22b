"""GPRegressor given what it must refuse, and the odd tables that it must not."""

import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError

from gplsq import LSMR, GPRegressor
from gplsq.kernels import RBF, Matern32
from gplsq.testing import tolerance

# One shape and one number of steps for nearly all tests: such fits share their compiled functions,
# here and with the tests of what GPRegressor predicts.
N, M = 70, 7


@pytest.fixture
def table(rng):
    """X, y and new points Z: a wave along the first column, with noise."""
    X, Z = rng.standard_normal((N, 2)), rng.standard_normal((M, 2))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(N), Z


def short(**settings):
    return GPRegressor(**{"levels": [(N, 5)], "random_state": 0} | settings)


def spoiled(values, entry):
    copied = np.array(values)
    copied.flat[3] = entry
    return copied


# Refused: tables. Where the wording is scikit-learn's own, it is matched as it is.


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda X: spoiled(X, np.nan), ValueError, "Input X contains NaN"),
        (lambda X: spoiled(X, np.inf), ValueError, "Input X contains infinity"),
        (lambda X: spoiled(X, -np.inf), ValueError, "Input X contains infinity"),
        (lambda X: X[:, 0], ValueError, "Expected 2D array, got 1D array"),
        (lambda X: X[:, :, None], ValueError, "Found array with dim 3"),
        (lambda X: X[:, :0], ValueError, r"0 feature\(s\)"),
        (lambda X: X + 1j, ValueError, "Complex data not supported"),
        (lambda X: np.full(X.shape, "a"), ValueError, "could not convert string to float"),
        (lambda X: spoiled(X.astype(object), "a"), ValueError, "could not convert string to float"),
        (lambda X: spoiled(X.astype(object), None), ValueError, "Input X contains NaN"),
        (scipy.sparse.csr_matrix, TypeError, "Sparse data was passed for X"),
        (lambda X: None, ValueError, "Expected 2D array, got scalar"),
    ],
)
def test_a_bad_table_is_refused(table, change, error, match):
    X, y, _ = table
    with pytest.raises(error, match=match):
        short().fit(change(X), y)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda y: spoiled(y, np.nan), "Input y contains NaN"),
        (lambda y: spoiled(y, np.inf), "Input y contains infinity"),
        (lambda y: y[:-1], r"inconsistent numbers of samples: \[70, 69\]"),
        (lambda y: np.stack([y, y])[..., None], "Found array with dim 3"),
        (lambda y: np.empty((len(y), 0)), r"0 feature\(s\)"),
        (lambda y: 1.0, "y should be a 1d array"),
        (lambda y: None, "requires y to be passed"),
        (lambda y: np.full(len(y), "a"), "could not convert string to float"),
        (lambda y: y + 1j, "Complex data not supported"),
    ],
)
def test_a_bad_target_is_refused(table, change, match):
    X, y, _ = table
    with pytest.raises(ValueError, match=match):
        short().fit(X, change(y))


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_with_fewer_than_two_rows_is_refused(table, rows):
    X, y, _ = table
    match = rf"Found array with {rows} sample\(s\).* a minimum of 2 is required"
    with pytest.raises(ValueError, match=match):
        short().fit(X[:rows], y[:rows])


# Refused: parameters, by name.


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("noise_variance", -1.0, ValueError),
        ("noise_variance", 0, ValueError),
        ("noise_variance", np.nan, ValueError),
        ("noise_variance", np.inf, ValueError),
        ("noise_variance", "big", ValueError),
        ("noise_variance", None, TypeError),
        ("noise_variance", True, TypeError),
        ("noise_variance", [0.1], TypeError),
        ("noise_variance", np.array([0.1, 0.2]), TypeError),
        ("loss", "l1", ValueError),
        ("loss", None, ValueError),
        ("solver", "cg", ValueError),
        ("solver", LSMR, ValueError),
        ("variance", "fast", ValueError),
        ("form", "sparse", ValueError),
        ("objective", "loo", TypeError),
        ("objective", 3, TypeError),
        ("kernel", "rbf", TypeError),
        ("kernel", RBF, TypeError),
        ("kernel", np.eye(2), TypeError),
        ("standardize", None, TypeError),
        ("standardize", "yes", TypeError),
        ("standardize", 1, TypeError),
        ("rtol", -1e-3, ValueError),
        ("rtol", 0.0, ValueError),
        ("rtol", np.nan, ValueError),
        ("rtol", "small", TypeError),
        ("levels", [], ValueError),
        ("levels", [(1, 5)], ValueError),
        ("levels", [(20, 0)], ValueError),
        ("levels", "all", (TypeError, ValueError)),
        ("levels", 5, (TypeError, ValueError)),
        ("levels", [20], (TypeError, ValueError)),
        ("levels", [("many", 2)], (TypeError, ValueError)),
        ("optimizer", "adam", TypeError),
        ("constraints", "nonsense", TypeError),
        ("random_state", "seed", ValueError),
    ],
)
def test_a_bad_parameter_is_refused_by_name(table, name, value, error):
    X, y, _ = table
    words = "cannot be used to seed" if name == "random_state" else name
    for untuned in ({}, {"objective": None}):
        with pytest.raises(error, match=words):
            short(**untuned | {name: value}).fit(X, y)


def test_parameters_are_judged_by_fit_and_not_by_the_constructor(table):
    X, y, _ = table
    gp = short(loss="l1")
    assert gp.loss == "l1"
    with pytest.raises(ValueError, match="loss must be one of 'mse', 'nlpd', 'crps'"):
        gp.fit(X, y)


def test_a_kernel_for_another_number_of_columns_is_refused(table):
    X, y, _ = table
    with pytest.raises(ValueError, match=r"lengthscale must be .* shape \(2,\); got shape \(3,\)"):
        short(kernel=RBF(np.ones(3, np.float32))).fit(X, y)


# Refused: predictions.


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda Z: np.c_[Z, Z[:, 0]], "X has 3 features, but GPRegressor is expecting 2"),
        (lambda Z: Z[:, :1], "X has 1 features, but GPRegressor is expecting 2"),
        (lambda Z: spoiled(Z, np.nan), "Input X contains NaN"),
        (lambda Z: spoiled(Z, np.inf), "Input X contains infinity"),
        (lambda Z: Z[0], "Expected 2D array, got 1D array"),
        (lambda Z: Z[:0], r"Found array with 0 sample\(s\)"),
    ],
)
def test_predict_refuses_bad_points(table, change, match):
    X, y, Z = table
    gp = short(objective=None).fit(X, y)
    for method in (gp.predict, gp.sample_y):
        with pytest.raises(ValueError, match=match):
            method(change(Z))


def test_predict_refuses_std_and_covariance_together(table):
    X, y, Z = table
    gp = short(objective=None).fit(X, y)
    with pytest.raises(ValueError, match="return_std and return_cov"):
        gp.predict(Z, return_std=True, return_cov=True)


def test_predict_before_fit_says_so(table):
    for method in (short().predict, short().sample_y):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            method(table[2])


def test_predict_after_a_fit_that_raised_says_so(table):
    X, y, Z = table
    gp = short(kernel=RBF(np.ones(3, np.float32)))
    with pytest.raises(ValueError, match="lengthscale"):
        gp.fit(X, y)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        gp.predict(Z)


# Accepted.


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


# Solves that fail.


def hard_problem(rng):
    """Short correlations, and more rows than the preconditioner has columns."""
    X = rng.uniform(-1, 1, (260, 2))
    truth = np.sin(3 * X[:, 0])
    y = truth + 0.1 * rng.standard_normal(260)
    gp = GPRegressor(
        kernel=Matern32(0.25),
        noise_variance=1e-3,
        objective=None,
        solver=LSMR(rtol=1e-12, max_steps=3),
        random_state=0,
    )
    return gp, X, y, truth


def test_a_missed_tolerance_warns_once_and_the_model_predicts(rng):
    gp, X, y, _ = hard_problem(rng)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gp.fit(X, y)
    assert [item.category for item in caught] == [ConvergenceWarning]
    message = str(caught[0].message)
    assert "error measure" in message
    assert message.count("Remedy") == 1
    assert "raise max_steps" in message
    assert caught[0].filename == __file__
    assert "out of steps" in gp.solver_report_
    mean, std = gp.predict(X, return_std=True)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std > 0).all()


def test_intervals_after_a_missed_tolerance_own_up_to_the_error(rng):
    gp, X, y, truth = hard_problem(rng)
    with pytest.warns(ConvergenceWarning):
        gp.fit(X, y)
    mean, std = gp.predict(X, return_std=True)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 2 * np.sqrt(np.mean(std**2))


def test_a_factorisation_that_breaks_down_is_refused_where_it_was_asked_for(table):
    X, y, _ = table
    X = np.r_[X[: N // 2], X[: N // 2]].astype(np.float32)
    gp = short(objective=None, noise_variance=1e-14, solver="direct")
    with pytest.raises(np.linalg.LinAlgError, match=r'broke down.*solver="auto" goes on'):
        gp.fit(X, y)


def test_a_factorisation_that_breaks_down_is_replaced_when_the_choice_is_ours(table):
    X, y, Z = table
    X = np.r_[X[: N // 2], X[: N // 2]].astype(np.float32)
    gp = short(objective=None, noise_variance=1e-14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gp.fit(X, y)
    assert "broke down" in gp.solver_report_
    mean, std = gp.predict(Z, return_std=True)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
