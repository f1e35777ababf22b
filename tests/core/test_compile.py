"""Options of compilation are used where XLA knows them, and done without where it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gplsq._core._compile as compile_module
from gplsq._core import jit_quickly


@pytest.fixture(autouse=True)
def forgotten():
    yield
    compile_module._compiled.cache_clear()
    compile_module._useful.cache_clear()


@pytest.mark.parametrize("options", [compile_module._OPTIONS, {"xla_cpu_no_such_option": True}])
def test_a_function_gives_its_numbers_with_useful_and_unknown_options(monkeypatch, options):
    compile_module._useful.cache_clear()
    monkeypatch.setattr(compile_module, "_OPTIONS", options)
    traced = []

    @jit_quickly
    def double(x, name):
        traced.append(name)
        return 2 * x

    for value in (1.0, 2.0):
        assert float(double(jnp.float32(value), "a")) == 2 * value
    assert traced == ["a"]
    np.testing.assert_array_equal(double(jnp.arange(3), "a"), [0, 2, 4])
    assert compile_module._useful() is ("xla_cpu_no_such_option" not in options)


def test_inside_a_trace_it_is_an_ordinary_jit():
    @jit_quickly
    def double(x):
        return 2 * x

    x = jnp.arange(3.0)
    assert jax.grad(lambda x: double(x).sum())(x).tolist() == [2, 2, 2]
    assert jax.vmap(double)(x).tolist() == [0, 2, 4]
    # Also where it gets numbers only, but the trace around it would record them.
    assert jax.jit(lambda y: y + double(x))(x).tolist() == [0, 3, 6]
    assert double(x=x).tolist() == [0, 2, 4]


def test_errors_of_the_function_itself_pass():
    @jit_quickly
    def refuse(x):
        msg = "no numbers please"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="no numbers please"):
        refuse(jnp.arange(3.0))
