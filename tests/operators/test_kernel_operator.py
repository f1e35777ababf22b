"""The kernel operator: kept and recomputed forms agree, in values, derivatives and memory."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gplsq import kernels, operators
from gplsq._core import cast
from gplsq.operators import _kernel as module
from gplsq.testing import central_difference, peak_memory_bytes, tolerance

FORMS = ("dense", "tiled")


@pytest.fixture
def low_tiles(monkeypatch):
    monkeypatch.setattr(module, "tile_rows", lambda rows, columns: min(rows, 4))


@eqx.filter_jit
def _both(kernel, X, v):
    """The kernel matrix, that of the dense form, and products of either form."""
    dense, tiled = (operators.Kernel(kernel, X, form) for form in FORMS)
    assert (dense.form, tiled.form) == FORMS
    return kernel(X), dense.gram, dense.diagonal(), dense.mv(v), tiled.mv(v)


# One tile, whole tiles, and a last tile that is lower.
@pytest.mark.parametrize("n", [3, 8, 10])
def test_both_forms_are_the_kernel_matrix_with_the_exact_diagonal(n, low_tiles, rng):
    X = (rng.standard_normal((n, 2)) + 3).astype(np.float32)
    v = rng.standard_normal((n, 2)).astype(np.float32)
    K, gram, diagonal, *products = _both(1.5 * kernels.Matern12(0.7), X, v)
    K = np.array(K)
    np.fill_diagonal(K, 1.5)
    # The points lie away from 0: distances by expansion lose |x|^2 / r^2, about 100.
    atol = tolerance(np.float32, condition=100)
    np.testing.assert_allclose(gram, K, rtol=0, atol=atol)
    np.testing.assert_array_equal(np.diagonal(gram), np.full(n, 1.5, np.float32))
    np.testing.assert_array_equal(diagonal, np.full(n, 1.5, np.float32))
    for product in products:
        np.testing.assert_allclose(product, K @ v, rtol=0, atol=atol)


def test_products_take_the_diagonal_exactly_and_not_from_distances(low_tiles, rng):
    X = (100 + rng.standard_normal((10, 2))).astype(np.float32)
    v = rng.standard_normal((10, 2)).astype(np.float32)
    # So short a lengthscale leaves the identity, unless rounding of distances enters.
    _, _, _, *products = _both(kernels.Matern12(0.001), X, v)
    for product in products:
        np.testing.assert_allclose(product, v, rtol=0, atol=1e-5)


def test_columns_are_those_of_the_matrix(rng):
    dtype = np.float32
    X = rng.standard_normal((6, 2)).astype(dtype)
    operator = operators.Kernel(kernels.Matern12(0.7), X, "dense")
    index = jnp.array([4, 0, 5])
    expected = np.asarray(operator.gram)[:, index]
    columns = np.asarray(operator.columns(index))
    np.testing.assert_allclose(columns, expected, rtol=0, atol=tolerance(dtype, 10))
    picked = columns[index, np.arange(3)]
    np.testing.assert_array_equal(picked, np.ones(3, dtype))


def test_derivatives_agree_between_forms_and_with_central_differences(low_tiles, rng, x64):
    X, v, u = rng.standard_normal((6, 2)), rng.standard_normal(6), rng.standard_normal(6)
    start, unravel = ravel_pytree((jnp.array([0.8, 1.3]), jnp.asarray(X), jnp.asarray(v)))

    def value(flat, form):
        lengthscale, X, v = unravel(flat)
        return u @ operators.Kernel(kernels.Matern32(lengthscale), X, form).mv(v)

    def by_formula(flat):
        lengthscale, X, v = (np.asarray(part) for part in unravel(jnp.asarray(flat)))
        squares = (((X[:, None] - X[None]) / lengthscale) ** 2).sum(axis=2)
        s = np.sqrt(3 * squares)
        return u @ ((1 + s) * np.exp(-s)) @ v

    expected = central_difference(by_formula, np.asarray(start))
    for form in FORMS:
        gradient = jax.jit(jax.grad(value), static_argnums=1)(start, form)
        # Central differences of step 1e-5 are good to about 1e-9 of the gradient's size.
        atol = 1e-7 * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)


def test_forward_derivatives_agree_between_forms(low_tiles, rng):
    X, dX = rng.standard_normal((2, 6, 2)).astype(np.float32)
    v, dv = rng.standard_normal((2, 6)).astype(np.float32)
    l, dl = np.float32(0.8), np.float32(0.3)

    def products(l, X, v):
        return [operators.Kernel(kernels.Matern52(l), X, form).mv(v) for form in FORMS]

    values, (dense, tiled) = jax.jit(lambda p, t: jax.jvp(products, p, t))((l, X, v), (dl, dX, dv))
    np.testing.assert_allclose(*values, rtol=0, atol=tolerance(np.float32, 30))
    np.testing.assert_allclose(dense, tiled, rtol=0, atol=tolerance(np.float32, 30))
    assert np.abs(dense).max() > 0.1


def test_values_at_new_points_are_the_cross_matrix_times_coefficients(low_tiles, rng):
    dtype = np.float32
    X, Z = rng.standard_normal((5, 2)).astype(dtype), rng.standard_normal((9, 2)).astype(dtype)
    kernel, c = kernels.Matern52(0.9), rng.standard_normal((5, 2)).astype(dtype)
    expected = np.asarray(kernel(Z, X)) @ c
    values = operators.cross_matvec(kernel, Z, X, c)
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance(dtype, 10))


def test_auto_keeps_the_matrix_only_where_it_fits(monkeypatch, rng):
    X = rng.standard_normal((6, 2)).astype(np.float32)
    monkeypatch.setattr(module, "default_budget", lambda: 6 * 6 * 4)
    assert operators.Kernel(kernels.RBF(), X).form == "dense"
    monkeypatch.setattr(module, "default_budget", lambda: 6 * 6 * 4 - 1)
    assert operators.Kernel(kernels.RBF(), X).form == "tiled"


def test_the_budget_is_part_of_this_machine():
    assert 1e6 < module.default_budget() < 1e14


def test_norms_neither_overflow_nor_underflow(rng):
    operator = operators.Kernel(kernels.RBF(), rng.standard_normal((5, 2)).astype(np.float32))
    v = rng.standard_normal((5, 1)).astype(np.float32)
    plain = operator.forward(v)[1]
    for factor in (1e-30, 1e30):
        scaled = operator.forward(v * np.float32(factor))[1] / np.float32(factor)
        np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def _tiled(kernel, X, v):
    return operators.Kernel(kernel, X, "tiled").mv(v)


def _tiled_gradient(kernel, X, v):
    return jax.grad(lambda *args: jnp.sum(_tiled(*args) ** 2), (0, 1, 2))(kernel, X, v)


@functools.lru_cache
def _peak(fn, n):
    X, v = jax.ShapeDtypeStruct((n, 3), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.float32)
    return peak_memory_bytes(fn, cast(kernels.Matern32([0.5, 1.0, 2.0]), jnp.float32), X, v)


@pytest.mark.parametrize("fn", [_tiled, _tiled_gradient])
def test_the_tiled_product_needs_a_tenth_of_the_matrix_at_most(fn):
    n = 8000
    assert _peak(fn, n) < 0.1 * n * n * 4


@pytest.mark.parametrize("fn", [_tiled, _tiled_gradient])
def test_the_memory_of_the_tiled_product_does_not_grow_with_the_matrix(fn):
    # Tiles hold five million numbers at most; what grows beyond are a few vectors of n numbers.
    assert _peak(fn, 80_000) < 1.5 * _peak(fn, 40_000) < 0.06 * 40_000**2 * 4
