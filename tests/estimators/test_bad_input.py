"""GPRegressor given what it must refuse: tables, parameters and points."""

import numpy as np
import pytest
import scipy.sparse
from single import short
from sklearn.exceptions import NotFittedError

from gplsq import LSMR
from gplsq.kernels import RBF


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
