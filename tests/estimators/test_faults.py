"""Mutated files, full disks, threads, and memory over many calls."""

import errno
import gc
import io
import json
import os
import sys
import threading
import zipfile

import jax
import numpy as np
import pytest

import gplsq
from gplsq import GPClassifier, GPRegressor, LoadError
from gplsq._core import _archive
from gplsq.kernels import RBF, Linear, Matern32

# docs/concepts/reliability.md has these numbers.
MUTATIONS = 1000
THREADS = 8
PREDICTIONS = 10_000
FORBIDDEN = (
    *("pickle.find_class", "os.system", "os.exec", "os.fork", "os.posix_spawn", "socket."),
    *("exec", "marshal.", "ctypes.", "code.__new__", "subprocess."),
)

_seen: list[str] = []
_watching = threading.Event()


def _watch(event, arguments):
    del arguments
    if _watching.is_set() and event.startswith(FORBIDDEN):
        _seen.append(event)


@pytest.fixture
def watched():
    """What a file must not make this program do; such a hook cannot be taken away."""
    if not getattr(sys, "_gplsq_watched", False):
        sys.addaudithook(_watch)
        sys._gplsq_watched = True  # type: ignore[attr-defined]
    _seen.clear()
    _watching.set()
    yield _seen
    _watching.clear()


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(7)
    X = rng.standard_normal((30, 2)).astype(np.float32)
    kernel = 1.0 * Matern32(np.array([1.0, 2.0], np.float32)) + 0.1 * Linear(1.0)
    settings = {"noise_variance": 0.03, "objective": None, "random_state": 0}
    return GPRegressor(kernel, **settings).fit(X, np.sin(X[:, 0])), X


@pytest.fixture(scope="module")
def classifier():
    rng = np.random.default_rng(8)
    X = rng.standard_normal((30, 2)).astype(np.float32)
    gp = GPClassifier(1.0 * RBF(1.0), objective=None, random_state=0)
    return gp.fit(X, X[:, 0] > 0), X


def test_the_watch_sees_a_pickle(watched):
    import pickle

    pickle.loads(pickle.dumps(np.float32(1)))
    assert "pickle.find_class" in watched


def members(raw):
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def sealed(contents, comment):
    """An archive of these members with the right checksum."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents:
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.comment = comment[:-64] + b"0" * 64
    raw = file.getvalue()
    total = _archive._sum_of(io.BytesIO(raw), len(raw) - 64)
    return raw[:-64] + total


def bytes_changed(content, rng):
    """Bits flipped, a part cut out, doubled, overwritten or exchanged."""
    out, size = bytearray(content), len(content)
    start, stop = np.sort(rng.integers(0, size + 1, 2))
    stop = min(stop, start + 40)
    kind = rng.integers(5)
    if kind == 0:
        for at in rng.choice(size, min(size, 3), replace=False):
            out[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        del out[start:stop]
    elif kind == 2:
        out[start:start] = out[start:stop]
    elif kind == 3:
        out[start:stop] = rng.bytes(stop - start)
    else:
        out[start:stop] = out[start:stop][::-1]
    return bytes(out)


def manifest_changed(content, rng):
    """One value of the manifest in the place of another, or another value."""
    manifest = json.loads(content)
    found, open_nodes = [], [manifest["model"]]
    while open_nodes:
        node = open_nodes.pop()
        items = list(node.items() if isinstance(node, dict) else enumerate(node))
        found += [(node, key) for key, _ in items]
        open_nodes += [value for _, value in items if isinstance(value, dict | list)]
    node, key = found[rng.integers(len(found))]
    other, at = found[rng.integers(len(found))]
    values = [None, -1, 2**70, 1e300, "x", [], {}, other[at], [[]] * 50, "os.system", "é" * 10**4]
    # Text and back: no part is its own part.
    node[key] = json.loads(json.dumps(values[rng.integers(len(values))]))
    return json.dumps(manifest).encode()


def mutated(raw, rng):
    """A damaged file, or one with another content under the right checksum."""
    if rng.random() < 0.4:
        return bytes_changed(raw, rng)
    comment = raw[-_TRAILER:]
    contents = members(raw)
    i = int(rng.integers(len(contents)))
    name, content = contents[i]
    if i == 0 and rng.random() < 0.8:
        contents[0] = name, manifest_changed(content, rng)
    elif rng.random() < 0.1:
        contents[i] = name + "x", content
    else:
        contents[i] = name, bytes_changed(content, rng)
    return sealed(contents, comment)


_TRAILER = len(_archive._comment("model")) + 64


@pytest.mark.filterwarnings("ignore")
def test_a_thousand_mutated_files_give_a_model_or_a_load_error(
    model, classifier, tmp_path, watched, tried
):
    rng = np.random.default_rng(2024)
    originals = []
    for gp, _ in (model, classifier):
        gp.save(tmp_path / "good")
        originals.append((tmp_path / "good").read_bytes())
        gplsq.load(tmp_path / "good")  # what is imported at the first time runs code
    watched.clear()
    refused = loaded = 0
    for i in range(MUTATIONS):
        content = mutated(originals[i % 2], rng)
        (tmp_path / "bad").write_bytes(content)
        try:
            found = gplsq.load(tmp_path / "bad")
        except LoadError:
            refused += 1
        else:
            assert isinstance(found, GPRegressor | GPClassifier)
            loaded += 1
    assert not watched
    assert refused + loaded == MUTATIONS
    # Numbers may be changed to other numbers under a right checksum.
    assert refused > MUTATIONS / 2
    tried(f"{MUTATIONS:,} model files mutated: {refused} refused, {loaded} whole, none else")


@pytest.mark.parametrize("where", ["fsync", "write"])
def test_a_full_disk_while_saving_leaves_the_old_file(model, tmp_path, monkeypatch, where):
    gp, _ = model
    path = tmp_path / "model"
    path.write_bytes(b"old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "fsync":
        monkeypatch.setattr(_archive.os, "fsync", full)
    else:
        monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="No space left"):
        gp.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_eight_threads_get_the_answer_of_one(model, classifier, kind):
    gp, _ = model if kind == "regressor" else classifier
    rng = np.random.default_rng(3)
    # Sizes that are compiled already and one that no thread has seen.
    tables = [rng.standard_normal((m, 2)).astype(np.float32) for m in (5, 9, 9, 17)]

    def answers():
        if kind == "classifier":
            return [gp.predict_proba(Z) for Z in tables]
        return [part for Z in tables for part in gp.predict(Z, return_std=True)]

    results, gate = {}, threading.Barrier(THREADS)

    def work(number):
        gate.wait()
        results[number] = [answers() for _ in range(5)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = answers()
    assert len(results) == THREADS
    for found in results.values():
        for again in found:
            for a, b in zip(again, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_ten_thousand_predictions_leak_no_memory(model, tried):
    gp, X = model
    Z = X[:8]
    for _ in range(500):
        gp.predict(Z, return_std=True)
    gc.collect()
    before, arrays = resident(), len(jax.live_arrays())
    for _ in range(PREDICTIONS):
        gp.predict(Z, return_std=True)
    gc.collect()
    grown = resident() - before
    assert len(jax.live_arrays()) <= arrays
    # One array of JAX a call would be over 5 MB.
    assert grown < 2 * 2**20, f"{grown / 2**20:.1f} MiB more after {PREDICTIONS} calls"
    tried(f"{PREDICTIONS:,} calls of predict: {grown / 2**20:.2f} MiB more")
