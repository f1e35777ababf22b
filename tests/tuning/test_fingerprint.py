"""Digests tell apart what differs, in any kind of object, and agree on what is the same."""

import copy
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gplsq import kernels
from gplsq.tuning import Holdout
from gplsq.tuning._fingerprint import fingerprint


class Slots:
    """An object without a dictionary."""

    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class Listing(list):
    """A list with a note."""


def closure(value):
    return lambda y: y * value


def noted(note):
    made = Listing([1, 2])
    made.note = note
    return made


def seeded(seed):
    return np.random.default_rng(seed)


PAIRS = {
    "array": (np.ones(3), np.zeros(3)),
    "dtype": (np.ones(3), np.ones(3, np.float32)),
    "jax": (jnp.ones(3), jnp.zeros(3)),
    "key": (jax.random.key(0), jax.random.key(1)),
    "range": (range(3), range(4)),
    "slice": (slice(3), slice(4)),
    "slots": (Slots(1), Slots(2)),
    "inside": ({"a": [Slots(np.ones(2))]}, {"a": [Slots(np.zeros(2))]}),
    "closure": (closure(1.0), closure(2.0)),
    "slots in a closure": (closure(Slots(1)), closure(Slots(2))),
    "partial": (functools.partial(max, 1), functools.partial(max, 2)),
    "ufunc": (np.add, np.subtract),
    "kernel": (kernels.RBF(1.0), kernels.RBF(2.0)),
    "objective": (Holdout(0.2), Holdout(0.3)),
    "optimizer": (optax.adam(0.1), optax.adam(0.2)),
    "generator": (seeded(0), seeded(1)),
    "masked": (np.ma.array([1.0, 2], mask=[0, 1]), np.ma.array([1.0, 2], mask=[1, 0])),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_differs_has_another_digest(name):
    a, b = PAIRS[name]
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint(a) == fingerprint(a)


@pytest.mark.parametrize("name", ["array", "slots", "inside", "kernel", "range", "masked"])
def test_a_copy_has_the_same_digest(name):
    assert fingerprint(copy.deepcopy(PAIRS[name][0])) == fingerprint(PAIRS[name][0])


def test_containers_with_notes_are_compared_by_both():
    assert fingerprint(noted("a")) == fingerprint(noted("a"))
    assert fingerprint(noted("a")) != fingerprint(noted("b"))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(TypeError, match=r"cannot tell .* from another one"):
        fingerprint({"lock": threading.Lock()})
