"""Fitted estimators on random tables: what must not change the predictions, and by how much."""

import tempfile

import jax
import numpy as np
import pytest
from cases import LONG, cases, check_counts
from hypothesis import given
from hypothesis import strategies as st

import gplsq
from gplsq import GPClassifier, GPRegressor
from gplsq.kernels import RBF, Constant, Linear, Matern32

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, D, M = 14, 2, 6
# Tables of one shape and kernels of three structures: compiled programs are used again.
KERNELS = {
    "matern": lambda a, b: b * Matern32(np.array([a, 2 * a], np.float32)),
    "sum": lambda a, b: RBF(a) + 0.1 * Linear(b),
}
if LONG:
    KERNELS["product"] = lambda a, b: Matern32(a).on(0) * RBF(b) + Constant(0.5)
SOLVERS = {"direct": {"solver": "direct"}, "lsmr": {"solver": "lsmr", "variance": "exact"}}
numbers = st.floats(-0.7, 0.7).map(lambda power: np.float32(10.0**power))
seeds = st.integers(0, 2**32 - 1)
models = st.fixed_dictionaries(
    {
        "kernel": st.tuples(st.sampled_from(list(KERNELS)), numbers, numbers),
        "solver": st.sampled_from(list(SOLVERS)),
        "noise": st.floats(-3, 0).map(lambda power: 10.0**power),
        "dtype": st.sampled_from(["float32", "float64"]),
    }
)
relations = st.sampled_from(["free", "duplicates", "line", "constant column", "outlier", "units"])


def fitted(model, X, y):
    kind, a, b = model["kernel"]
    settings = {"noise_variance": model["noise"], "objective": None, "random_state": 0}
    kernel = KERNELS[kind](a, b)
    rtol = 1e-5 if model["dtype"] == "float32" else 1e-11
    rtol = {} if model["solver"] == "direct" else {"rtol": rtol}
    gp = GPRegressor(kernel, **settings, **SOLVERS[model["solver"]], **rtol)
    return gp.fit(X, y)


def table(seed, relation, dtype):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N + M, D))
    if relation == "duplicates":
        X = X[rng.integers(0, 5, N + M)]
    elif relation == "line":
        X = np.outer(X[:, 0], [1, -2.0])
    elif relation == "constant column":
        X[:, 1] = 3
    elif relation == "units":
        X = X * [1e12, 1e-12]
    y = np.sin(X[:N, 0] / X[:, 0].std()) + 0.1 * rng.standard_normal(N)
    if relation == "outlier":
        y[0] = 1e3
    X = X.astype(dtype)
    return X[:N], y.astype(dtype), X[N:]


def everything(gp, Z):
    return [gp.predict(Z), *gp.predict(Z, return_std=True), gp.predict(Z, return_cov=True)[1]]


def close(gp, a, b, model, factor=1.0):
    """Up to the rounding of a solve whose condition number is about n / noise."""
    eps = float(np.finfo(model["dtype"]).eps)
    allowed = factor * 30 * eps * (1 + 5 * N / model["noise"])
    scale = float(gp._y_scaling.scale)
    np.testing.assert_allclose(a, b, rtol=0, atol=allowed * scale)


@cases(12)
@given(model=models, relation=relations, seed=seeds)
def test_a_second_fit_gives_the_same_bits(model, relation, seed):
    X, y, Z = table(seed, relation, model["dtype"])
    first, second = everything(fitted(model, X, y), Z), everything(fitted(model, X, y), Z)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == model["dtype"]
        assert np.all(np.isfinite(a))
        np.testing.assert_array_equal(a, b)


@cases(12)
@given(model=models, relation=relations, seed=seeds)
def test_a_saved_model_predicts_the_same_bits(model, relation, seed):
    X, y, Z = table(seed, relation, model["dtype"])
    gp = fitted(model, X, y)
    with tempfile.TemporaryDirectory() as folder:
        gp.save(f"{folder}/model")
        again = gplsq.load(f"{folder}/model")
    for a, b in zip(everything(gp, Z), everything(again, Z), strict=True):
        np.testing.assert_array_equal(a, b)


@cases(12)
@given(model=models, relation=relations, seed=seeds)
def test_rows_in_another_order_give_the_same_predictions(model, relation, seed):
    X, y, Z = table(seed, relation, model["dtype"])
    order = np.random.default_rng(seed).permutation(N)
    gp, moved = fitted(model, X, y), fitted(model, X[order], y[order])
    close(gp, moved.predict(Z), gp.predict(Z), model)


@cases(12)
@given(
    model=models,
    relation=relations,
    seed=seeds,
    power=st.integers(-90, 90),
    shift=st.sampled_from([0.0, 3.0]),
)
def test_the_units_of_the_target_are_those_of_the_predictions(model, relation, seed, power, shift):
    X, y, Z = table(seed, relation, model["dtype"])
    factor = y.dtype.type(2.0**power)
    gp, scaled = fitted(model, X, y), fitted(model, X, (y + y.dtype.type(shift)) * factor)
    mean, std = gp.predict(Z, return_std=True)
    for got, expected, off in zip(
        scaled.predict(Z, return_std=True), (mean, std), (shift, 0.0), strict=True
    ):
        close(gp, got / factor - y.dtype.type(off), expected, model, 10)


@cases(8)
@given(model=models, relation=relations, seed=seeds)
def test_predictions_in_chunks_are_those_of_the_whole(model, relation, seed):
    X, y, Z = table(seed, relation, model["dtype"])
    gp = fitted(model, X, y)
    mean, std = gp.predict(Z, return_std=True)
    parts = [gp.predict(Z[i : i + M // 2], return_std=True) for i in (0, M // 2)]
    close(gp, np.concatenate([part[0] for part in parts]), mean, model)
    # A variance is what is left after a difference.
    joined = np.concatenate([part[1] for part in parts])
    close(gp, joined**2 / gp._y_scaling.scale, std**2 / gp._y_scaling.scale, model)


@cases(8)
@given(model=models, relation=relations, seed=seeds)
def test_float32_is_float64_up_to_rounding(model, relation, seed):
    X, y, Z = table(seed, relation, "float32")
    single = {**model, "dtype": "float32"}
    gp = fitted(single, X, y)
    double = fitted({**model, "dtype": "float64"}, X.astype(float), y.astype(float))
    close(gp, gp.predict(Z), double.predict(Z.astype(float)), single)


@cases(8)
@given(model=models, relation=relations, seed=seeds)
def test_the_mean_is_that_of_dense_algebra_in_float64(model, relation, seed):
    X, y, Z = table(seed, relation, model["dtype"])
    gp = fitted(model, X, y)
    points, at = (gp._X_scaling.apply(part, part.dtype).astype(float) for part in (X, Z))
    target = (y.astype(float) - gp._y_scaling.shift) / gp._y_scaling.scale
    with jax.enable_x64(True):
        K, cross = (np.asarray(gp.kernel_(part, points), float) for part in (points, at))
    # Distances of a point to itself are exact in the model.
    alpha = np.linalg.solve(K + model["noise"] * np.eye(N), target)
    expected = cross @ alpha * gp._y_scaling.scale + gp._y_scaling.shift
    close(gp, gp.predict(Z), expected, model)


@cases(4)
@given(seed=seeds, dtype=st.sampled_from(["float32", "float64"]))
def test_a_classifier_is_the_same_again_and_after_saving(seed, dtype):
    X, y, Z = table(seed, "free", dtype)
    labels = np.where(y > np.median(y), "above", "below")
    gp, again = (
        GPClassifier(1.0 * RBF(1.0), objective=None, random_state=0).fit(X, labels) for _ in "ab"
    )
    chances = gp.predict_proba(Z)
    np.testing.assert_array_equal(chances, again.predict_proba(Z))
    with tempfile.TemporaryDirectory() as folder:
        gp.save(f"{folder}/model")
        np.testing.assert_array_equal(chances, gplsq.load(f"{folder}/model").predict_proba(Z))
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)


def test_every_property_was_tried_on_the_cases_planned(tried):
    tried(check_counts(__name__))
