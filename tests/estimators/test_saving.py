"""Saved models: the same predictions after loading, and nothing but models from files."""

import contextlib
import copy
import json
import os
import pathlib
import pickle
import resource
import signal
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import gplsq
from gplsq import GPRegressor, LoadError
from gplsq._core import _archive, _registry
from gplsq._core._encoding import Decoder, Encoder
from gplsq.kernels import (
    RBF,
    AbstractKernel,
    AbstractPairKernel,
    Constant,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    Polynomial,
    RationalQuadratic,
    positive,
)
from gplsq.operators import RowTable

DATA = pathlib.Path(__file__).parent / "data"
N, M = 70, 7
SOLVERS = {
    "direct": {"solver": "direct"},
    "kept": {"solver": "lsmr", "form": "dense", "variance": "exact"},
    "tiled": {"solver": "lsmr", "form": "tiled"},
    "inducing": {"solver": "inducing", "inducing": 20},
    "features": {"solver": "features", "num_features": 30},
}
# Powers of two: exact in float32, so that a kernel made with x64 off is the same kernel.
KERNEL = 2.0 * Matern32(np.array([0.75, 1.5], np.float32))
both_dtypes = pytest.mark.parametrize("precision", ["float32", "float64"])
every_solver = pytest.mark.parametrize("settings", SOLVERS.values(), ids=SOLVERS)


@pytest.fixture
def table(rng):
    """X, y and new points Z: a wave along the first column, with noise."""
    X, Z = rng.standard_normal((N, 2)), rng.standard_normal((M, 2))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(N), Z


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gplsq"


def short(**settings):
    return GPRegressor(**{"levels": [(N, 5)], "random_state": 0} | settings)


def given(kernel, **settings):
    fixed = {"noise_variance": 0.03, "objective": None, "random_state": 0}
    return GPRegressor(kernel, **fixed, **settings)


def through(path, gp):
    gp.save(path)
    return gplsq.load(path)


def assert_same_predictions(a, b, Z):
    results = [
        [gp.predict(Z), *gp.predict(Z, return_std=True), *gp.predict(Z, return_cov=True)]
        for gp in (a, b)
    ]
    for left, right in zip(*results, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


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


# Kernels of one's own


class Triangle(AbstractPairKernel):
    """A kernel that is registered by some tests only."""

    width: object = positive(default=1.0)
    power: int = 1

    def pair(self, x, z):
        return jnp.maximum(1 - jnp.abs(x - z).sum() / self.width, 0) ** self.power


@pytest.fixture
def registry(monkeypatch):
    """Classes registered in a test are forgotten after it."""
    for name in ("_by_name", "_by_class"):
        monkeypatch.setattr(_registry, name, dict(getattr(_registry, name)))


def test_a_kernel_that_is_not_registered_is_refused_by_save(table, path):
    X, y, _ = table
    gp = given(2.0 * Triangle(6.0)).fit(X, y)
    with pytest.raises(TypeError, match=r"kernel/kernel.*Triangle.*gplsq\.savable"):
        gp.save(path)
    assert not path.exists()


def test_a_registered_kernel_of_ones_own_comes_back(table, path, registry):
    X, y, Z = table
    assert gplsq.savable(Triangle) is Triangle
    gp = given(2.0 * Triangle(6.0, power=2)).fit(X, y)
    again = through(path, gp)
    assert_same_predictions(gp, again, Z)
    assert type(again.kernel_.kernel) is Triangle
    assert again.kernel_.kernel.power == 2


def test_a_reader_without_the_class_is_told_its_name(table, path, registry):
    X, y, _ = table
    gplsq.savable(name="shapes.Triangle")(Triangle)
    given(Triangle(6.0)).fit(X, y).save(path)
    del _registry._by_name["shapes.Triangle"]
    with pytest.raises(LoadError, match=r"class 'shapes\.Triangle'.*Import the module"):
        gplsq.load(path)


def test_a_field_that_is_new_has_its_default_and_one_that_is_gone_is_named(table, path, registry):
    X, y, _ = table
    width = gplsq.savable(
        name="T", pack=lambda k: {"width": k.width}, unpack=lambda values: Triangle(**values)
    )
    gp = given(width(Triangle)(6.0)).fit(X, y)
    gp.save(path)
    gplsq.savable(name="T")(Triangle)
    assert gplsq.load(path).kernel_.power == 1
    gp.save(path)

    gplsq.savable(name="T", pack=vars, unpack=lambda values: Triangle(values["depth"]))(Triangle)
    with pytest.raises(LoadError, match="depth"):
        gplsq.load(path)


def test_a_name_belongs_to_one_class_and_what_has_no_fields_is_refused(registry):
    gplsq.savable(name="taken")(Triangle)
    with pytest.raises(ValueError, match=r"'taken' belongs to .*Triangle"):
        gplsq.savable(name="taken")(type("Other", (Triangle,), {}))
    with pytest.raises(TypeError, match="both pack and unpack"):
        gplsq.savable(int)
    with pytest.raises(TypeError, match="decorates a class"):
        gplsq.savable(3)


# Files


def test_one_model_gives_one_file_byte_for_byte(table, path):
    X, y, _ = table
    gp = short().fit(X, y)
    gp.save(path)
    first = path.read_bytes()
    assert through(path, gp) is not gp
    gplsq.load(path).save(str(path))
    assert path.read_bytes() == first


def test_other_programs_can_open_the_file(table, path):
    X, y, _ = table
    gp = short().fit(X, y)
    gp.save(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["format"] == "gplsq model"
    assert manifest["written_by"]["gplsq"] == gplsq.__version__
    with np.load(path) as arrays:
        np.testing.assert_array_equal(
            arrays["model/fitted/posterior_/y"], np.asarray(gp.posterior_.y)
        )
        triangle = arrays["model/fitted/posterior_/prepared/lower"]
    assert triangle.shape == (N * (N + 1) // 2,)


def test_an_unfitted_model_is_not_saved(path):
    with pytest.raises(NotFittedError):
        GPRegressor().save(path)
    assert not path.exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file, its bytes, points and the predictions of the model."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((40, 2)).astype(np.float32)
    gp = given(Matern32(1.0) + 1.0, solver="inducing", inducing=8).fit(X, np.sin(X[:, 0]))
    path = tmp_path_factory.mktemp("saved") / "small.gplsq"
    gp.save(path)
    return path, path.read_bytes(), X[:5], gp.predict(X[:5], return_std=True)


def swapped(raw, rng):
    """The contents of two members exchanged, under the old comment."""
    with zipfile.ZipFile(_as_file(raw)) as archive:
        names, comment = archive.namelist(), archive.comment
        contents = [archive.read(name) for name in names]
    i, j = rng.choice(np.arange(1, len(names)), 2, replace=False)
    contents[i], contents[j] = contents[j], contents[i]
    out = _as_file(b"")
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in zip(names, contents, strict=True):
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.comment = comment
    return out.getvalue()


def _as_file(raw):
    import io

    return io.BytesIO(raw)


def flipped(raw, rng):
    out = bytearray(raw)
    for at in rng.choice(len(raw), rng.integers(1, 4), replace=False):
        out[at] ^= 1 << rng.integers(8)
    return bytes(out)


def overwritten(raw, rng):
    start, size = rng.integers(len(raw)), rng.integers(1, 200)
    return raw[:start] + rng.bytes(size) + raw[start + size :]


MUTATIONS = {
    "flipped": flipped,
    "cut": lambda raw, rng: raw[: rng.integers(len(raw))],
    "cut in front": lambda raw, rng: raw[rng.integers(1, len(raw)) :],
    "longer": lambda raw, rng: raw + rng.bytes(rng.integers(1, 300)),
    "overwritten": overwritten,
    "swapped": swapped,
}


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_file_that_was_changed_anywhere_is_refused(small, tmp_path, kind):
    _, raw, _, _ = small
    path = tmp_path / "bad.gplsq"
    rng = np.random.default_rng(list(MUTATIONS).index(kind))
    for _ in range(60):
        mutated = MUTATIONS[kind](raw, rng)
        if mutated == raw:
            continue
        path.write_bytes(mutated)
        with pytest.raises(LoadError, match=re_of(path)):
            gplsq.load(path)


def re_of(path):
    return path.name.replace(".", r"\.")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no model saved by gplsq"),
        (b"PK\x05\x06" + bytes(18), "no model saved by gplsq"),
        (pickle.dumps({"a": 1}), "no model saved by gplsq"),
        (b"x" * 100_000, "no model saved by gplsq"),
    ],
)
def test_a_foreign_file_is_refused(path, content, match):
    path.write_bytes(content)
    with pytest.raises(LoadError, match=match):
        gplsq.load(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        gplsq.load(tmp_path / "missing")
    with pytest.raises(LoadError, match="is not a file"):
        gplsq.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LoadError, match="is not a file"):
        gplsq.load(tmp_path / "pipe")


def resealed(path, manifest, arrays):
    _archive.write_archive(path, manifest, arrays)


def opened(path):
    with _archive.read_archive(path) as (manifest, array):
        with zipfile.ZipFile(path) as archive:
            names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
        return manifest, {name: array(name).copy() for name in names}


def test_a_newer_format_says_so(small, path):
    manifest, arrays = opened(small[0])
    manifest["format_version"] = 99
    manifest["written_by"]["gplsq"] = "7.3"
    manifest["model"] = "what no one knows yet"
    resealed(path, manifest, arrays)
    with pytest.raises(LoadError, match=r"version 99.*7\.3.*Install a newer gplsq"):
        gplsq.load(path)


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        {"format": "other"},
        {"format": "gplsq model", "format_version": "1"},
        {"format": "gplsq model", "format_version": 0},
        {"format": "gplsq model", "format_version": 1},
        {"format": "gplsq model", "format_version": 1, "model": 3},
        {"format": "gplsq model", "format_version": 1, "model": {"type": "object", "class": "os"}},
        {
            "format": "gplsq model",
            "format_version": 1,
            "model": {"type": "object", "class": "gplsq.kernels.RBF", "fields": {"lengthscale": 1}},
        },
    ],
)
def test_a_whole_file_with_another_content_is_refused(path, manifest):
    resealed(path, manifest, {})
    with pytest.raises(LoadError):
        gplsq.load(path)


def places(node, found):
    """All (container, key) of a manifest."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        found.append((node, key))
        if isinstance(value, dict | list):
            places(value, found)
    return found


def test_a_forged_manifest_gives_a_model_or_a_load_error(small, path):
    """With a valid checksum: the content may be another model, but nothing else happens."""
    rng = np.random.default_rng(11)
    values = [None, True, -1, 10**30, 0.5, "x", "nan", [], {}, [1.0], {"type": "dict", "items": {}}]
    refused = 0
    for _ in range(150):
        manifest, arrays = opened(small[0])
        found = places(manifest["model"], [])
        node, key = found[rng.integers(len(found))]
        if rng.random() < 0.3 and isinstance(node, dict):
            del node[key]
        elif rng.random() < 0.3:
            other, at = found[rng.integers(len(found))]
            node[key] = copy.deepcopy(other[at])
        else:
            node[key] = values[rng.integers(len(values))]
        resealed(path, manifest, arrays)
        try:
            model = gplsq.load(path)
        except LoadError:
            refused += 1
        else:
            assert isinstance(model, GPRegressor)
    assert refused > 60


def test_forged_arrays_are_refused(small, path):
    manifest, arrays = opened(small[0])
    for name, array in arrays.items():
        for other in (array[:-1], array[..., None], np.array([{}], object)):
            forged = {**arrays, name: other}
            with contextlib.ExitStack() as stack:
                if other.dtype == object:
                    stack.enter_context(allowing_pickles())
                resealed(path, manifest, forged)
            with pytest.raises(LoadError):
                gplsq.load(path)


@contextlib.contextmanager
def allowing_pickles():
    write = np.lib.format.write_array

    def careless(file, array, version, allow_pickle):
        write(file, array, version, allow_pickle=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", careless)
        yield


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return pathlib.Path.touch, (self.trace,)


def test_nothing_in_a_file_is_executed(small, path, tmp_path):
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()
    trace.unlink()
    manifest, arrays = opened(small[0])
    for name in arrays:
        with allowing_pickles():
            resealed(path, manifest, {**arrays, name: np.array([Payload(trace)], object)})
        with pytest.raises(LoadError):
            gplsq.load(path)
    path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(LoadError):
        gplsq.load(path)
    assert not trace.exists()


def test_a_few_bytes_cannot_ask_for_much_memory(small, path, monkeypatch):
    manifest, arrays = opened(small[0])
    name = next(iter(arrays))

    def lying(file, array, version, allow_pickle):
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.tobytes())

    monkeypatch.setattr(np.lib.format, "write_array", lying)
    resealed(path, manifest, {name: arrays[name]})
    with pytest.raises(LoadError):
        gplsq.load(path)
    monkeypatch.undo()
    monkeypatch.setattr(zipfile, "ZIP_STORED", zipfile.ZIP_DEFLATED)
    resealed(path, manifest, {name: np.zeros(10**6)})
    monkeypatch.undo()
    with pytest.raises(LoadError):
        gplsq.load(path)


# Writing


def test_a_full_disk_leaves_the_old_file_as_it_was(table, small, path):
    X, y, _ = table
    path.write_bytes(small[1])
    gp = short().fit(X, y)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            gp.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == small[1]
    assert os.listdir(path.parent) == [path.name]
    gp.save(path)
    assert path.read_bytes() != small[1]


def test_a_killed_process_leaves_the_old_file_as_it_was(small, path):
    path.write_bytes(small[1])
    code = (
        "import os, signal, sys, gplsq\n"
        "gp = gplsq.load(sys.argv[1])\n"
        "gp.solver_report_ = 'other'\n"
        "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "gp.save(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == small[1]
    left = [name for name in os.listdir(path.parent) if name != path.name]
    assert len(left) == 1
    assert left[0].endswith(".part")


def test_rights_and_links_are_kept(small, tmp_path):
    gp = gplsq.load(small[0])
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    gp.save(link)
    assert link.is_symlink()
    assert target.read_bytes() == small[1]
    assert target.stat().st_mode & 0o777 == 0o640


def test_places_that_cannot_be_written_are_refused(small, tmp_path):
    gp = gplsq.load(small[0])
    with pytest.raises(FileNotFoundError):
        gp.save(tmp_path / "no" / "folder")
    with pytest.raises(OSError, match="is not a file"):
        gp.save(tmp_path)
    with pytest.raises(TypeError):
        gp.save(None)


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
