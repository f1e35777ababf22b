"""Kernels composed at random to depth four: values, symmetry, eigenvalues, algebra, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import cases, check_counts
from hypothesis import given
from hypothesis import strategies as st
from oracle import WIDTH, composed, in_dtype, lengthscales, oracle, overflows

from gplsq.operators import Kernel

N, M = 5, 4
X64 = jax.config.jax_enable_x64
DTYPES = [np.dtype("float32"), *([np.dtype("float64")] if X64 else [])]
dtypes = st.sampled_from(DTYPES)
# Of an array of points: as drawn, on a line, the same row again, all rows the same, far from 0.
shapes_of_tables = st.sampled_from(["plain", "line", "duplicates", "one point", "far"])
seeds = st.integers(0, 2**32 - 1)
usual_kernels = composed(lengthscales)


def table(seed, kind, dtype, rows=N):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, WIDTH))
    if kind == "line":
        X = np.outer(X[:, 0], X[0])
    elif kind == "duplicates":
        X = X[rng.integers(0, 2, rows)]
    elif kind == "one point":
        X = np.repeat(X[:1], rows, axis=0)
    elif kind == "far":
        X = X + 100
    return X.astype(dtype)


def eps_of(dtype):
    return float(np.finfo(dtype).eps)


def agrees(got, expected, factor=2.0):
    """Within the bound of rounding errors, or a number beyond the dtype."""
    off = np.abs(np.asarray(got, np.float64) - expected.value)
    assert np.all(off <= factor * expected.error), (got, expected)


@cases(400)
@given(kernel=composed(), kind=shapes_of_tables, seed=seeds, dtype=dtypes)
def test_values_are_those_of_the_formulas_or_not_finite_where_the_dtype_ends(
    kernel, kind, seed, dtype
):
    X, Z = table(seed, kind, dtype), table(seed + 1, kind, dtype, M)
    rounded = in_dtype(kernel, dtype)
    got = np.asarray(kernel(X, Z))
    assert got.dtype == dtype
    assert got.shape == (N, M)
    if overflows(rounded, X, Z, dtype):
        # Never a wrong number that looks right.
        expected = oracle(rounded, X, Z, eps_of(dtype))
        fine = np.isfinite(got)
        off = np.abs(got.astype(float) - expected.value)
        assert np.all(off[fine] <= 2 * expected.error[fine])
        return
    agrees(got, oracle(rounded, X, Z, eps_of(dtype)))


@cases(150)
@given(kernel=usual_kernels, kind=shapes_of_tables, seed=seeds, dtype=dtypes)
def test_matrices_are_symmetric_and_their_eigenvalues_not_negative_up_to_rounding(
    kernel, kind, seed, dtype
):
    X = table(seed, kind, dtype)
    K = np.asarray(kernel(X), np.float64)
    error = oracle(in_dtype(kernel, dtype), X, X, eps_of(dtype)).error
    assert np.all(np.abs(K - K.T) <= 4 * error)
    # Weyl: eigenvalues move by no more than the norm of the error.
    lowest = np.linalg.eigvalsh((K + K.T) / 2)[0]
    assert lowest >= -2 * np.linalg.norm(error) - 1e-14 * np.linalg.norm(K)


@cases(150)
@given(kernel=usual_kernels, kind=shapes_of_tables, seed=seeds, dtype=dtypes)
def test_the_diagonal_is_that_of_the_matrix_and_pairs_are_its_entries(kernel, kind, seed, dtype):
    X = table(seed, kind, dtype)
    of_dtype = jax.tree.map(jnp.asarray, in_dtype(kernel, dtype))
    expected = oracle(of_dtype, X, X, eps_of(dtype))
    points = jnp.asarray(X)
    diagonal = np.asarray(of_dtype.diagonal(points))
    assert diagonal.dtype == dtype
    exact = type(expected)(np.diag(expected.value), np.diag(expected.error))
    agrees(diagonal, exact)
    pair = of_dtype.pair(points[0], points[1])
    assert pair.dtype == dtype
    agrees(pair, type(expected)(expected.value[0, 1], expected.error[0, 1]))


@cases(150)
@given(kernel=composed(), kind=shapes_of_tables, seed=seeds, dtype=dtypes)
def test_a_kernel_added_to_itself_is_twice_the_kernel_to_the_bit(kernel, kind, seed, dtype):
    X = table(seed, kind, dtype)
    once = np.asarray(kernel(X))
    np.testing.assert_array_equal((kernel + kernel)(X), once + once)
    np.testing.assert_array_equal((2.0 * kernel)(X), once + once)
    np.testing.assert_array_equal((1.0 * kernel)(X), once)


@cases(100)
@given(left=usual_kernels, right=usual_kernels, kind=shapes_of_tables, seed=seeds, dtype=dtypes)
def test_sums_and_products_commute_to_the_bit(left, right, kind, seed, dtype):
    X = table(seed, kind, dtype)
    np.testing.assert_array_equal((left + right)(X), (right + left)(X))
    np.testing.assert_array_equal((left * right)(X), (right * left)(X))


@cases(100)
@given(kernel=usual_kernels, kind=shapes_of_tables, seed=seeds, dtype=dtypes)
def test_rows_in_another_order_give_the_matrix_in_another_order(kernel, kind, seed, dtype):
    X, Z = table(seed, kind, dtype), table(seed + 1, kind, dtype, M)
    order = np.random.default_rng(seed).permutation(N)
    error = oracle(in_dtype(kernel, dtype), X, Z, eps_of(dtype)).error
    moved, plain = np.asarray(kernel(X[order], Z), float), np.asarray(kernel(X, Z), float)
    assert np.all(np.abs(moved - plain[order]) <= 2 * error[order])


@pytest.mark.skipif(not X64, reason="needs float64")
@cases(150)
@given(kernel=usual_kernels, kind=shapes_of_tables, seed=seeds)
def test_float32_is_float64_up_to_the_rounding_of_float32(kernel, kind, seed):
    X = table(seed, kind, np.float32)
    rounded = in_dtype(kernel, np.dtype("float32"))
    single, double = np.asarray(rounded(X)), np.asarray(rounded(X.astype(np.float64)))
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    error = oracle(rounded, X, X, eps_of(np.float32)).error
    assert np.all(np.abs(single - double) <= 2 * error)


# Each kernel is a program of its own here, and is compiled.
@cases(12)
@given(kernel=usual_kernels, kind=shapes_of_tables, seed=seeds, dtype=dtypes)
def test_products_of_the_operator_are_those_of_the_dense_matrix(kernel, kind, seed, dtype):
    X = table(seed, kind, dtype)
    v = np.random.default_rng(seed).standard_normal((N, 2)).astype(dtype)
    expected = oracle(in_dtype(kernel, dtype), X, X, eps_of(dtype))
    product = expected.value @ v.astype(float)
    allowed = (expected.error + N * eps_of(dtype) * np.abs(expected.value)) @ np.abs(v)
    for form in ("dense", "tiled"):
        got = np.asarray(Kernel(kernel, X, form).mv(jnp.asarray(v)))
        assert got.dtype == dtype
        assert np.all(np.abs(got - product) <= 3 * allowed)


def test_every_property_was_tried_on_the_cases_planned(tried):
    tried(check_counts(__name__))
