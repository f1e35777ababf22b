"""Files of saved models: what is in them, and that only whole ones load and nothing is executed."""

import contextlib
import copy
import io
import json
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from saved import through
from single import N, short
from sklearn.exceptions import NotFittedError

import gplsq
from gplsq import GPRegressor, LoadError
from gplsq._core import _archive


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
    resealed(path, manifest, arrays)
    monkeypatch.undo()
    with pytest.raises(LoadError, match="cannot reshape array"):
        gplsq.load(path)
    monkeypatch.setattr(zipfile, "ZIP_STORED", zipfile.ZIP_DEFLATED)
    resealed(path, manifest, arrays | {name: np.zeros(10**6)})
    monkeypatch.undo()
    with pytest.raises(LoadError, match="compressed, overlap or repeat"):
        gplsq.load(path)


def test_members_that_claim_more_bytes_than_the_file_has_are_refused(small, path):
    manifest, arrays = opened(small[0])
    resealed(path, manifest, arrays)
    raw = bytearray(path.read_bytes())
    size = raw.rindex(b"PK\x01\x02") + 24  # of the last member, in the directory at the end
    raw[size : size + 4] = (10**9).to_bytes(4, "little")
    path.write_bytes(raw[:-64] + _archive._sum_of(io.BytesIO(raw), len(raw) - 64))
    with pytest.raises(LoadError, match="compressed, overlap or repeat"):
        gplsq.load(path)
