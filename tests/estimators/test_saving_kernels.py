"""Saved models with kernels of one's own: registered, not registered, and changed since."""

import jax.numpy as jnp
import pytest
from saved import assert_same_predictions, given, through

import gplsq
from gplsq import LoadError
from gplsq._core import _registry
from gplsq.kernels import AbstractPairKernel, positive


class Tent(AbstractPairKernel):
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
    gp = given(2.0 * Tent(6.0)).fit(X, y)
    with pytest.raises(TypeError, match=r"kernel/kernel.*Tent.*gplsq\.savable"):
        gp.save(path)
    assert not path.exists()


def test_a_registered_kernel_of_ones_own_comes_back(table, path, registry):
    X, y, Z = table
    assert gplsq.savable(Tent) is Tent
    gp = given(2.0 * Tent(6.0, power=2)).fit(X, y)
    again = through(path, gp)
    assert_same_predictions(gp, again, Z)
    assert type(again.kernel_.kernel) is Tent
    assert again.kernel_.kernel.power == 2


def test_a_reader_without_the_class_is_told_its_name(table, path, registry):
    X, y, _ = table
    gplsq.savable(name="shapes.Tent")(Tent)
    given(Tent(6.0)).fit(X, y).save(path)
    del _registry._by_name["shapes.Tent"]
    with pytest.raises(LoadError, match=r"class 'shapes\.Tent'.*Import the module"):
        gplsq.load(path)


def test_a_field_that_is_new_has_its_default_and_one_that_is_gone_is_named(table, path, registry):
    X, y, _ = table
    width = gplsq.savable(
        name="T", pack=lambda k: {"width": k.width}, unpack=lambda values: Tent(**values)
    )
    gp = given(width(Tent)(6.0)).fit(X, y)
    gp.save(path)
    gplsq.savable(name="T")(Tent)
    assert gplsq.load(path).kernel_.power == 1
    gp.save(path)

    gplsq.savable(name="T", pack=vars, unpack=lambda values: Tent(values["depth"]))(Tent)
    with pytest.raises(LoadError, match="depth"):
        gplsq.load(path)


def test_a_name_belongs_to_one_class_and_what_has_no_fields_is_refused(registry):
    gplsq.savable(name="taken")(Tent)
    with pytest.raises(ValueError, match=r"'taken' belongs to .*Tent"):
        gplsq.savable(name="taken")(type("Other", (Tent,), {}))
    with pytest.raises(TypeError, match="both pack and unpack"):
        gplsq.savable(int)
    with pytest.raises(TypeError, match="decorates a class"):
        gplsq.savable(3)
