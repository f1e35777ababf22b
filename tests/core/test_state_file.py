"""States of training in one file: every leaf comes back as it was, or the file is refused."""

import enum
import errno
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gplsq
from gplsq import LoadError
from gplsq._core import _archive

TREE = {
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
    "old key": jax.random.PRNGKey(0),
    "weak": jnp.asarray(0.1),
    "weak row": jnp.broadcast_to(jnp.asarray(0.1), (40,)),
    "row": jnp.arange(40, dtype=jnp.float32) / 3,
    "half": jnp.ones((2, 30), jnp.bfloat16) / 3,
    "complex": jnp.ones(3) + 1j,
    "empty": jnp.zeros((0, 3)),
    "flags": jnp.array([True, False]),
    "bytes": jnp.arange(200, dtype=jnp.uint8),
    "specials": jnp.array([np.nan, np.inf, -np.inf, -0.0]),
    "numpy": np.asfortranarray(np.arange(60.0).reshape(6, 10)),
    "scalar": np.float64(0.1),
    "numbers": (True, 2**80, 0.1, float("inf"), "text"),
    "nothing": None,
    "code": len,
    "optimizer": optax.adam(0.1).init({"w": jnp.ones(5)}),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state"


def test_every_leaf_comes_back_as_it_was(path):
    gplsq.save_state(path, TREE)
    again = gplsq.load_state(path, TREE)
    assert jax.tree.structure(again) == jax.tree.structure(TREE)
    for a, b in zip(*map(jax.tree.leaves, (again, TREE)), strict=True):
        assert type(a) is type(b)
        if not isinstance(a, jax.Array | np.ndarray):
            assert a == b
            continue
        assert a.dtype == b.dtype
        if hasattr(a, "weak_type"):
            assert a.weak_type == b.weak_type
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_shapes_and_dtypes_are_enough_to_load(path):
    tree = {"w": jnp.arange(30.0), "step": 3}
    gplsq.save_state(path, tree)
    again = gplsq.load_state(path, {**jax.eval_shape(lambda: {"w": tree["w"]}), "step": 0})
    np.testing.assert_array_equal(again["w"], tree["w"])
    assert again["step"] == 3


@pytest.mark.parametrize("name", TREE)
def test_another_leaf_is_refused_by_its_name(path, name):
    if TREE[name] is None:
        pytest.skip("None is no leaf")
    gplsq.save_state(path, TREE)
    # As plain text: pytest's pattern would read the brackets.
    for other in (
        {**TREE, name: jnp.zeros((7, 7, 7))},
        {k: v for k, v in TREE.items() if k != name},
    ):
        with pytest.raises(LoadError) as caught:
            gplsq.load_state(path, other)
        assert name in str(caught.value)
        assert "state" in str(caught.value)


def test_a_changed_file_is_refused(path):
    gplsq.save_state(path, TREE)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(100):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        for content in (bytes(changed), whole[: rng.integers(len(whole))]):
            path.write_bytes(content)
            with pytest.raises(LoadError):
                gplsq.load_state(path, TREE)


def test_a_model_is_no_state_and_a_state_no_model(path, tmp_path):
    X = np.linspace(0, 1, 10, dtype=np.float32)[:, None]
    gp = gplsq.GPRegressor(objective=None, noise_variance=0.1).fit(X, X[:, 0])
    gp.save(tmp_path / "model")
    gplsq.save_state(path, TREE)
    with pytest.raises(LoadError, match="is no state saved by gplsq"):
        gplsq.load_state(tmp_path / "model", TREE)
    with pytest.raises(LoadError, match="is no model saved by gplsq"):
        gplsq.load(path)


@pytest.mark.parametrize("content", [None, 3, [], [{}], [{"name": "", "kind": 3}], {"a": 1}])
def test_a_whole_file_with_another_content_is_refused(path, content):
    gplsq._core.write_saved(path, "state", content)
    with pytest.raises(LoadError):
        gplsq.load_state(path, {"w": jnp.ones(3)})


def test_a_full_disk_leaves_the_old_state(path, monkeypatch):
    gplsq.save_state(path, {"step": 1})
    error = OSError(errno.ENOSPC, "No space left on device")

    def full(*arguments):
        raise error

    monkeypatch.setattr(_archive.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        gplsq.save_state(path, {"step": 2})
    monkeypatch.undo()
    assert gplsq.load_state(path, {"step": 0}) == {"step": 1}
    assert os.listdir(path.parent) == ["state"]


def test_a_partial_function_is_taken_from_the_example(path):
    run = functools.partial(jnp.add, 1)
    gplsq.save_state(path, (run, 2))
    again = gplsq.load_state(path, (run, 0))
    assert again[0] is not None
    assert again[1] == 2


class Level(enum.IntEnum):
    """A number of a type of its own."""

    LOW = 1


@pytest.mark.parametrize("leaf", [1 + 2j, b"x", Level.LOW, np.array([len])], ids=str)
def test_numbers_that_would_be_lost_are_refused_by_name(path, leaf):
    with pytest.raises(TypeError, match=r"the leaf .*lost.* cannot be saved"):
        gplsq.save_state(path, {"lost": leaf})
    assert not path.exists()


@pytest.mark.parametrize("dtype", [">f8", ">c16", ">i4", "<c8", ">f2"])
def test_any_byte_order_comes_back(path, dtype):
    value = np.arange(40).astype(dtype)
    gplsq.save_state(path, {"w": value})
    again = gplsq.load_state(path, {"w": np.zeros(40, dtype)})["w"]
    assert again.dtype == value.dtype
    np.testing.assert_array_equal(again, value)
    # Of other order in the example: the same numbers.
    swapped = np.zeros(40, value.dtype.newbyteorder())
    np.testing.assert_array_equal(gplsq.load_state(path, {"w": swapped})["w"], value)


def test_a_shape_is_enough_to_load_a_random_key(path):
    key = jax.random.key(7)
    gplsq.save_state(path, key)
    again = gplsq.load_state(path, jax.eval_shape(lambda: jax.random.key(0)))
    assert jax.random.uniform(again) == jax.random.uniform(key)
    with pytest.raises(LoadError, match="rbg"):
        gplsq.load_state(path, jax.random.key(0, impl="rbg"))


def test_arrays_go_to_the_device_of_the_example(path):
    bound = jax.device_put(jnp.arange(3.0), jax.devices()[-1])
    gplsq.save_state(path, bound)
    assert gplsq.load_state(path, bound).committed
    assert not gplsq.load_state(path, jnp.zeros(3)).committed


def test_a_newer_format_says_so(path, monkeypatch):
    monkeypatch.setitem(gplsq._core._saved_file._VERSIONS, "state", 2)
    gplsq.save_state(path, {"w": jnp.ones(3)})
    monkeypatch.undo()
    with pytest.raises(LoadError, match=r"format version 2.*Install a newer gplsq"):
        gplsq.load_state(path, {"w": jnp.ones(3)})


def test_gradients_of_whole_numbers_are_refused_at_once(tmp_path):
    """They have no bytes, and could not be read again."""
    with pytest.raises(TypeError, match="'w'"):
        gplsq.save_state(tmp_path / "state", {"w": np.zeros(2, jax.dtypes.float0)})
