"""Hyperparameters of the kernel as parameters of an estimator."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gplsq import GPClassifier, GPRegressor, kernels

KERNEL = 2.0 * kernels.RBF([1.0, 2.0]) + 0.5 * kernels.Matern32(3.0).on([0])


@pytest.mark.parametrize("estimator", [GPRegressor, GPClassifier])
def test_they_are_read_and_set_by_name(estimator):
    gp = estimator(KERNEL)
    inside = {n: v for n, v in gp.get_params().items() if n.startswith("kernel__")}
    assert list(inside) == [
        "kernel__left__variance",
        "kernel__left__kernel__lengthscale",
        "kernel__right__variance",
        "kernel__right__kernel__kernel__lengthscale",
    ]
    np.testing.assert_array_equal(inside["kernel__left__kernel__lengthscale"], [1, 2])
    assert not any("__" in name for name in gp.get_params(deep=False))
    assert not any("__" in name for name in estimator().get_params())
    assert gp.set_params(kernel__left__variance=7, random_state=3) is gp
    assert float(gp.kernel.left.variance) == 7
    assert gp.random_state == 3
    assert float(KERNEL.left.variance) == 2  # another kernel
    again = estimator(KERNEL).set_params(**{**gp.get_params(), "kernel": KERNEL})
    np.testing.assert_array_equal(again.kernel.left.variance, 7)
    assert clone(gp).kernel is not None


def test_the_end_of_a_name_means_all_and_a_whole_one_goes_before():
    gp = GPRegressor(KERNEL).set_params(kernel__lengthscale=5.0)
    np.testing.assert_array_equal(gp.kernel.left.kernel.lengthscale, [5, 5])
    assert float(gp.kernel.right.kernel.kernel.lengthscale) == 5
    values = {"kernel__lengthscale": 4.0, "kernel__left__kernel__lengthscale": [1.0, 6.0]}
    for order in (values, dict(reversed(values.items()))):
        gp.set_params(**order)
        np.testing.assert_array_equal(gp.kernel.left.kernel.lengthscale, [1, 6])
        assert float(gp.kernel.right.kernel.kernel.lengthscale) == 4
    new = GPRegressor().set_params(kernel=kernels.RBF(1.0), kernel__lengthscale=2.0)
    assert float(new.kernel.lengthscale) == 2


@pytest.mark.parametrize(
    ("kernel", "params", "message"),
    [
        (KERNEL, {"kernel__period": 1.0}, "kernel__period is no hyperparameter.*kernel__left__var"),
        (KERNEL, {"kernel__lengthscale": -1.0}, "must be positive and finite; got -1.0"),
        (KERNEL, {"kernel__right__variance": np.nan}, "must be positive and finite"),
        (KERNEL, {"kernel__lengthscale": [1.0, 2.0, 3.0]}, r"an array of shape \(2,\)"),
        (KERNEL, {"kernel__lengthscale": "long"}, "must be a number"),
        (None, {"kernel__lengthscale": 1.0}, "got kernel=None"),
        (KERNEL, {"nothing": 1.0}, "nothing"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_changes(kernel, params, message):
    gp = GPRegressor(kernel)
    with pytest.raises(ValueError, match=message):
        gp.set_params(**params)
    assert gp.kernel is kernel


def test_a_grid_search_finds_the_better_lengthscale(rng):
    X = rng.uniform(-2, 2, (60, 1))
    y = np.sin(3 * X[:, 0]) + 0.05 * rng.standard_normal(60)
    gp = GPRegressor(1.0 * kernels.RBF(1.0), objective=None, noise_variance=0.01)
    grid = {"gpregressor__kernel__kernel__lengthscale": [0.01, 0.5, 30.0]}
    search = GridSearchCV(make_pipeline(StandardScaler(), gp), grid, cv=3).fit(X, y)
    assert search.best_params_ == {"gpregressor__kernel__kernel__lengthscale": 0.5}
    found = search.best_estimator_[-1].kernel_.kernel.lengthscale
    np.testing.assert_allclose(found, 0.5, rtol=1e-6)
    assert float(gp.kernel.kernel.lengthscale) == 1
