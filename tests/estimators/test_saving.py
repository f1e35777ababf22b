"""Saved models: the same predictions after loading, from files of older versions too."""

import copy
import json
import pathlib
import pickle

import jax
import numpy as np
import optax
import pytest
from saved import assert_same_predictions, given, through
from single import N, both_dtypes, short
from sklearn.base import clone

import gplsq
from gplsq import GPRegressor
from gplsq._core import _archive, _registry
from gplsq._core._encoding import Decoder, Encoder
from gplsq.kernels import (
    RBF,
    AbstractKernel,
    Constant,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    Polynomial,
    RationalQuadratic,
)
from gplsq.operators import RowTable

DATA = pathlib.Path(__file__).parent / "data"
SOLVERS = {
    "direct": {"solver": "direct"},
    "kept": {"solver": "lsmr", "form": "dense", "variance": "exact"},
    "tiled": {"solver": "lsmr", "form": "tiled"},
    "inducing": {"solver": "inducing", "inducing": 20},
    "features": {"solver": "features", "num_features": 30},
}
# Powers of two: exact in float32, so that a kernel made with x64 off is the same kernel.
KERNEL = 2.0 * Matern32(np.array([0.75, 1.5], np.float32))
every_solver = pytest.mark.parametrize("settings", SOLVERS.values(), ids=SOLVERS)


# What comes back


@both_dtypes
@every_solver
def test_a_loaded_model_predicts_the_same_numbers(table, path, precision, settings):
    X, y, Z = (array.astype(precision) for array in table)
    gp = given(KERNEL, **settings).fit(X, y)
    again = through(path, gp)
    assert type(again) is GPRegressor
    assert_same_predictions(gp, again, Z)
    np.testing.assert_array_equal(gp.sample_y(Z, 3), again.sample_y(Z, 3))
    assert again.score(X, y) == gp.score(X, y)


@pytest.mark.parametrize("name", ["direct", "kept", "inducing"])
def test_a_loaded_model_takes_in_more_rows_as_before(table, path, name):
    X, y, Z = (array.astype(np.float32) for array in table)
    gp = given(KERNEL, **SOLVERS[name]).fit(X[:60], y[:60])
    again = through(path, gp)
    assert_same_predictions(gp.update(X[60:], y[60:]), again.update(X[60:], y[60:]), Z)
    assert again.calibration_ == gp.calibration_
    assert again.solver_report_ == gp.solver_report_


def test_a_loaded_model_has_all_attributes_and_parameters(table, path):
    X, y, _ = table
    gp = short(memory="2 GiB", rtol=1e-3, loss="crps").fit(X, y)
    again = through(path, gp)
    assert again.get_params() == gp.get_params()
    assert vars(again).keys() == vars(gp).keys()
    assert str(again.history_) == str(gp.history_)
    for left, right in zip(again.history_, gp.history_, strict=True):
        assert left.keys() == right.keys()
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])
            assert type(left[key]) is type(right[key])
    assert again.noise_variance_ == gp.noise_variance_
    assert again.solver_report_ == gp.solver_report_
    assert again.n_features_in_ == 2
    assert jax.tree.structure(again.kernel_) == jax.tree.structure(gp.kernel_)
    assert type(again.calibration_) is type(gp.calibration_)


@pytest.mark.parametrize(
    "kernel",
    [
        RBF(np.array([0.5, 2.0], np.float32)),
        Matern12(2.0),
        2.0 * Matern32(np.array([0.75, 1.5], np.float32)),
        Matern52(),
        RationalQuadratic(1.5, alpha=0.5),
        Periodic(1.2, period=3.0),
        Linear() + Constant(2.0),
        Polynomial(3),
        RBF(2.0) * Periodic(1.0) + 0.5 * Linear(np.array([1.0, 2.0], np.float32)) + 1.0,
        Matern32(1.0).on(1) + 0.5 * (RBF(1.0).on([0]) * Matern52(3.0).on([0, 1])),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_every_kernel_comes_back(table, path, kernel):
    X, y, Z = (array.astype(np.float32) for array in table)
    gp = given(kernel).fit(X, y)
    again = through(path, gp)
    assert_same_predictions(gp, again, Z)
    assert jax.tree.structure(again.kernel) == jax.tree.structure(kernel)
    for left, right in zip(*map(jax.tree.leaves, (again.kernel_, gp.kernel_)), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    "kernel",
    [
        0.5 * RBF(2.0).on([1]) + Linear() + 1.0,
        Matern52(1.0) * Linear(),
        RBF(1.0).on(0) * Periodic(2.0).on(1),
    ],
    ids=["sum", "product", "waves"],
)
def test_random_features_of_composed_kernels_come_back(table, path, kernel):
    X, y, Z = (array.astype(np.float32) for array in table)
    gp = given(kernel, solver="features", num_features=60).fit(X, y)
    assert_same_predictions(gp, through(path, gp), Z)


def test_every_public_kernel_can_be_saved():
    classes = [cls for cls in vars(gplsq.kernels).values() if isinstance(cls, type)]
    kernels = [cls for cls in classes if issubclass(cls, AbstractKernel)]
    concrete = [cls for cls in kernels if not cls.__name__.startswith("Abstract")]
    assert len(concrete) >= 13
    names = {entry.cls: name for name, entry in _registry._by_name.items()}
    for cls in concrete:
        assert names.get(cls) == f"gplsq.kernels.{cls.__name__}"


def test_constant_targets_and_infinite_scales_come_back(table, path):
    X, _, Z = table
    X = np.c_[X[:, 0], np.ones(N)]
    gp = short().fit(X, np.full(N, 3.0))
    assert np.isinf(gp._X_scaling.scale[1])
    again = through(path, gp)
    assert_same_predictions(gp, again, Z)
    assert np.isinf(again._X_scaling.scale[1])


@pytest.mark.parametrize("enclosing", [True, False])
def test_the_x64_flag_of_the_reader_does_not_matter(table, path, enclosing):
    X, y, Z = table
    gp = short().fit(X, y)
    gp.save(path)
    with jax.enable_x64(enclosing):
        again = gplsq.load(path)
        assert again.posterior_.X.dtype == np.float64
        assert_same_predictions(gp, again, Z)
        assert jax.config.jax_enable_x64 is enclosing


def test_the_columns_of_a_data_frame_are_remembered(table, path):
    pandas = pytest.importorskip("pandas")
    X, y, _ = table
    frame = pandas.DataFrame(X, columns=["left", "right"])
    gp = short().fit(frame, y)
    again = through(path, gp)
    assert list(again.feature_names_in_) == ["left", "right"]
    np.testing.assert_array_equal(again.predict(frame), gp.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        again.predict(frame[["right", "left"]])


def test_names_of_columns_are_stored_as_text(table, path):
    X, y, _ = table
    gp = short().fit(X, y)
    gp.feature_names_in_ = np.array(["größe", 'a "quoted" name'], object)
    names = through(path, gp).feature_names_in_
    assert names.dtype == object
    assert list(names) == list(gp.feature_names_in_)


def test_a_random_state_goes_on_where_it_was(table, path):
    X, y, Z = table
    gp = short(random_state=np.random.RandomState(3), levels=[(30, 5)]).fit(X, y)
    again = through(path, gp)
    np.testing.assert_array_equal(gp.fit(X, y).predict(Z), again.fit(X, y).predict(Z))


def test_a_model_of_a_row_table_is_saved_without_it(table, path):
    X, y, Z = table
    inducing = X[:10].astype(np.float32)
    gp = given(RBF(), solver="inducing", inducing=inducing).fit(RowTable(X, dtype="float32"), y)
    again = through(path, gp)
    np.testing.assert_array_equal(gp.predict(Z), again.predict(Z))
    with pytest.raises(ValueError, match="update needs the data"):
        again.update(X[:3], y[:3])


def test_a_loaded_model_can_be_cloned_pickled_and_saved_again(table, path):
    X, y, Z = table
    gp = short().fit(X, y)
    again = through(path, gp)
    for other in (copy.deepcopy(again), pickle.loads(pickle.dumps(again)), through(path, again)):
        assert_same_predictions(gp, other, Z)
    np.testing.assert_array_equal(clone(again).fit(X, y).predict(Z), gp.predict(Z))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("loss", lambda y, mean, variance: abs(y - mean).mean(), ValueError),
        ("optimizer", optax.adam(0.1), TypeError),
    ],
)
def test_a_parameter_that_is_code_is_left_out_and_refused_by_the_next_fit(
    table, path, name, value, error
):
    X, y, Z = table
    gp = short(**{name: value}).fit(X, y)
    again = through(path, gp)
    assert_same_predictions(gp, again, Z)
    assert again.get_params()[name].startswith("not saved: ")
    with pytest.raises(error, match=rf"{name} must be .*not saved"):
        again.fit(X, y)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        10**30,
        0.1,
        -0.0,
        float("inf"),
        "ä\n",
        [1, (2, [3.5]), {"a": None}],
        np.float32(0.1),
        np.int64(-3),
        np.bool_(True),
        np.array([np.nan, -np.inf, -0.0, 1e-320]),
        np.arange(40, dtype=np.int32).reshape(5, 8),
        np.zeros((0, 3), np.float32),
        np.tril(np.random.default_rng(0).standard_normal((9, 9))),
        np.tril(np.ones((9, 9), np.float32)) * np.float32(-1),
        np.asfortranarray(np.arange(20.0).reshape(4, 5)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_the_same_to_the_bit(path, value):
    encoder = Encoder()
    manifest = {"value": encoder.encode(value, "value")}
    _archive.write_archive(path, manifest, encoder.arrays)
    with _archive.read_archive(path) as (read, array):
        again = Decoder(array).decode(read["value"])
    assert type(again) is type(value)
    if isinstance(value, np.ndarray):
        assert (again.dtype, again.shape) == (value.dtype, value.shape)
        assert again.tobytes() == value.tobytes()
        assert again.flags.writeable
    else:
        assert repr(again) == repr(value)


@pytest.mark.parametrize("value", [1j, b"x", {1: 2}, {3}, len, np.array(["a"]), np.array([1j])])
def test_what_is_neither_number_nor_text_is_refused_with_its_place(value):
    with pytest.raises(TypeError, match="here/1 cannot be saved"):
        Encoder().encode([0, value], "here")


# Older versions


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("name", ["direct", "lsmr", "inducing"])
def test_files_of_version_1_load(name):
    """Written by gplsq 0.1.0; the file stays as it is for ever."""
    gp = gplsq.load(DATA / f"{name}-v1.gplsq")
    expected = json.loads((DATA / "expected-v1.json").read_text())[name]
    mean, std = gp.predict(np.array(expected["Z"]), return_std=True)
    single = mean.dtype == np.float32
    np.testing.assert_allclose(mean, expected["mean"], atol=1e-4 if single else 1e-9)
    np.testing.assert_allclose(std, expected["std"], rtol=1e-3 if single else 1e-8)
    assert list(gp.feature_names_in_) == ["left", "right"]
    gp.update(np.array(expected["Z"]), np.array(expected["mean"]))
