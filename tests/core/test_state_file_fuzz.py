"""States of training in files that were mutated at random: the state that was saved, or a
`LoadError`, and no other outcome."""

import functools
import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gplsq
from gplsq import LoadError
from gplsq._core import _archive, write_saved

MUTATIONS = 300
X64 = jax.config.jax_enable_x64
TREE = {
    "key": jax.random.key(3),
    "weak": jnp.asarray(0.1),
    "row": jnp.arange(40, dtype=jnp.float32) / 3,
    "half": jnp.ones((2, 30), jnp.bfloat16) / 3,
    "complex": jnp.ones(3) + 1j,
    "numpy": np.arange(60.0).reshape(6, 10),
    "scalar": np.float64(0.1),
    "zeros": jnp.zeros(100),
    "numbers": (True, 7, 0.1, "text"),
    "code": len,
    "optimizer": optax.adam(0.1).init({"w": jnp.ones(5)}),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a valid file."""
    path = tmp_path_factory.mktemp("fuzz") / "state"
    gplsq.save_state(path, TREE)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state"


def bits(leaf):
    """Type, dtype, shape and bytes of a leaf."""
    if not hasattr(leaf, "dtype"):
        return type(leaf), leaf
    kind = type(leaf), str(leaf.dtype), getattr(leaf, "weak_type", None)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return *kind, leaf.shape, np.asarray(leaf).tobytes()


def form(leaf):
    """What the example asks of a leaf; whether its type is weak is part of the value."""
    return bits(leaf)[:1] if not hasattr(leaf, "dtype") else (*bits(leaf)[:2], leaf.shape)


def assert_same(tree, of):
    assert jax.tree.structure(tree) == jax.tree.structure(TREE)
    assert list(map(of, jax.tree.leaves(tree))) == list(map(of, jax.tree.leaves(TREE)))


# How bytes are changed: a part from start to stop is anywhere, and short or long.


def flipped(content, start, stop, rng):
    out = bytearray(content)
    for at in rng.integers(len(out), size=rng.integers(1, 5)):
        out[at] ^= 1 << rng.integers(8)
    return bytes(out)


def cut(content, start, stop, rng):
    return content[:start]


def doubled(content, start, stop, rng):
    return content[:stop] + content[start:]


def overwritten(content, start, stop, rng):
    """A part is at another place too."""
    at = rng.integers(len(content) - (stop - start) + 1)
    return content[:at] + content[start:stop] + content[at + stop - start :]


def zeroed(content, start, stop, rng):
    return content[:start] + bytes(stop - start) + content[stop:]


def without(content, start, stop, rng):
    return content[:start] + content[stop:]


CHANGES = (flipped, cut, doubled, overwritten, zeroed, without)


def mutated(content, change, rng):
    start, stop = np.sort(rng.integers(len(content) + 1, size=2))
    if rng.random() < 0.5:
        stop = min(stop, start + rng.integers(1, 60))
    return change(content, start, stop, rng)


def sealed(content):
    """The same bytes with the right checksum."""
    size = len(content) - 64
    return content[:size] + _archive._sum_of(io.BytesIO(content), size)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_mutated_file_is_refused_unless_its_bytes_are_the_same(whole, path, change, tried):
    rng = np.random.default_rng([2025, CHANGES.index(change)])
    refused = 0
    for _ in range(MUTATIONS // len(CHANGES)):
        content = mutated(whole, change, rng)
        path.write_bytes(content)
        try:
            found = gplsq.load_state(path, TREE)
        except LoadError:
            assert content != whole
            refused += 1
        else:
            assert content == whole
            assert_same(found, bits)
    assert refused > MUTATIONS // len(CHANGES) // 2
    tried(f"{MUTATIONS // len(CHANGES)} state files mutated ({change.__name__}): {refused} refused")


def repacked(whole, change):
    """The archive with other members, by a function of a list of (name, content)."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        contents = [(name, archive.read(name)) for name in archive.namelist()]
        comment = archive.comment
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in change(contents):
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.comment = comment
    return sealed(file.getvalue())


def one_member_mutated(contents, rng):
    i = rng.integers(len(contents))
    name, content = contents[i]
    changed = mutated(content, CHANGES[rng.integers(len(CHANGES))], rng)
    return [*contents[:i], (name, changed), *contents[i + 1 :]]


def manifest_mutated(contents, rng):
    """A value of the manifest is another value, or one that stands elsewhere in it."""
    (name, text), *rest = contents
    manifest = json.loads(text)
    found, open_nodes = [], [manifest]
    while open_nodes:
        node = open_nodes.pop()
        items = list(node.items() if isinstance(node, dict) else enumerate(node))
        found += [(node, key) for key, _ in items]
        open_nodes += [value for _, value in items if isinstance(value, dict | list)]
    node, key = found[rng.integers(len(found))]
    other, at = found[rng.integers(len(found))]
    values = [None, -1, 2**70, 1e300, "x", [], {}, [[]] * 50, other[at], other[at], other[at]]
    # Text and back: no part is its own part.
    node[key] = json.loads(json.dumps(values[rng.integers(len(values))]))
    return [(name, json.dumps(manifest).encode()), *rest]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [one_member_mutated, manifest_mutated])
def test_a_mutation_under_the_right_checksum_changes_values_at_most(whole, path, change):
    rng = np.random.default_rng(2026)
    refused = loaded = 0
    for _ in range(MUTATIONS // 2):
        path.write_bytes(repacked(whole, functools.partial(change, rng=rng)))
        try:
            found = gplsq.load_state(path, TREE)
        except LoadError:
            refused += 1
        else:
            assert_same(found, form)
            loaded += 1
    # Both happen, so that both are tried.
    assert min(refused, loaded) > 5


@pytest.mark.filterwarnings("ignore")
def test_an_archive_mutated_under_the_right_checksum_is_refused(whole, path):
    rng = np.random.default_rng(2027)
    # Where the archive lists its members.
    start, stop = whole.index(b"PK\x01\x02"), whole.index(_archive._comment("state"))
    for _ in range(MUTATIONS):
        content = bytearray(whole)
        content[rng.integers(start, stop)] ^= 1 << rng.integers(8)
        path.write_bytes(sealed(bytes(content)))
        try:
            found = gplsq.load_state(path, TREE)
        except LoadError:
            continue
        assert_same(found, bits)


@pytest.mark.parametrize(
    ("leaf", "like"),
    [
        ({"name": "", "kind": "float", "value": 10**400}, 0.5),
        ({"name": "", "kind": "int", "value": float("inf")}, 1),
        ({"name": "", "kind": "int", "value": 2.7}, 1),
        ({"name": "", "kind": "bool", "value": "False"}, True),
        ({"name": "", "kind": "str", "value": 3}, "a"),
        (np.zeros(30), 1),
    ],
    ids=["float", "int", "fraction", "bool", "text", "array"],
)
def test_what_is_no_leaf_is_refused(path, leaf, like):
    write_saved(path, "state", [leaf])
    with pytest.raises(LoadError):
        gplsq.load_state(path, like)


def test_a_complex_number_of_weak_type_keeps_its_dtype(path):
    number = jnp.asarray(1 + 1j)
    assert number.weak_type
    gplsq.save_state(path, number)
    assert bits(gplsq.load_state(path, number)) == bits(number)
