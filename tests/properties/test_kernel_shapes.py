"""Kernels composed at random on tables of any shape, and batches of their hyperparameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from cases import cases, check_counts
from hypothesis import given
from hypothesis import strategies as st
from oracle import WIDTH, composed, in_dtype, lengthscales, oracle

X64 = jax.config.jax_enable_x64
DTYPES = [np.dtype("float32"), *([np.dtype("float64")] if X64 else [])]
# Few of them: each is compiled.
SHAPES = [(1, 1), (1, 5), (5, 1), (2, 3), (7, 2), (3, 8)]
BATCH = 3
dtypes, shapes = st.sampled_from(DTYPES), st.sampled_from(SHAPES)
seeds = st.integers(0, 2**32 - 1)
kernels = composed(lengthscales)


def tables(seed, shape, dtype):
    """X and Z of so many rows, some rows of Z also in X, a little away from the origin."""
    rng = np.random.default_rng(seed)
    X, Z = (rng.standard_normal((rows, WIDTH)) + 0.5 for rows in shape)
    shared = min(shape) // 2
    Z[:shared] = X[:shared]
    return X.astype(dtype), Z.astype(dtype)


def expected(kernel, X, Z):
    return oracle(in_dtype(kernel, X.dtype), X, Z, float(np.finfo(X.dtype).eps))


def agrees(got, values, error):
    off = np.abs(np.asarray(got, np.float64) - np.asarray(values, np.float64))
    assert np.all(off <= 2 * error), (got, values, error)


@cases(120)
@given(kernel=kernels, shape=shapes, seed=seeds, dtype=dtypes)
def test_matrices_of_all_shapes_have_the_values_of_the_formulas(kernel, shape, seed, dtype):
    X, Z = tables(seed, shape, dtype)
    got = np.asarray(kernel(X, Z))
    assert got.dtype == dtype
    assert got.shape == shape
    agrees(got, *expected(kernel, X, Z))


@cases(120)
@given(kernel=kernels, shape=shapes, seed=seeds, dtype=dtypes)
def test_tables_exchanged_give_the_transpose(kernel, shape, seed, dtype):
    X, Z = tables(seed, shape, dtype)
    there, back = np.asarray(kernel(X, Z)), np.asarray(kernel(Z, X))
    assert back.shape == shape[::-1]
    agrees(back.T, there, expected(kernel, X, Z).error)


@cases(60)
@given(kernel=kernels, shape=shapes, seed=seeds, dtype=dtypes)
def test_an_entry_is_the_matrix_of_its_two_points(kernel, shape, seed, dtype):
    X, Z = tables(seed, shape, dtype)
    i, j = (int(np.random.default_rng(seed).integers(rows)) for rows in shape)
    whole, error = np.asarray(kernel(X, Z)), expected(kernel, X, Z).error
    single = np.asarray(kernel(X[i : i + 1], Z[j : j + 1]))
    assert single.shape == (1, 1)
    agrees(single, whole[i : i + 1, j : j + 1], error[i : i + 1, j : j + 1])
    # One table is the table twice.
    np.testing.assert_array_equal(kernel(X), kernel(X, X))


def batched(kernel, seed):
    """So many kernels with other hyperparameters, all in one with an axis in front."""
    numbers, rest = eqx.partition(kernel, eqx.is_inexact_array)
    rng = np.random.default_rng(seed)

    def several(leaf):
        factors = 2.0 ** rng.uniform(-1, 1, (BATCH, *leaf.shape))
        return jnp.asarray(leaf * factors, leaf.dtype)

    return jax.tree.map(several, numbers), rest


@cases(60)
@given(kernel=kernels, shape=shapes, seed=seeds, dtype=dtypes)
def test_a_batch_of_hyperparameters_is_a_loop_over_them(kernel, shape, seed, dtype):
    X, Z = tables(seed, shape, dtype)
    numbers, rest = batched(kernel, seed)
    got = np.asarray(jax.vmap(lambda each: eqx.combine(each, rest)(X, Z))(numbers))
    assert got.dtype == dtype
    assert got.shape == (BATCH, *shape)
    for i in range(BATCH):
        alone = eqx.combine(jax.tree.map(lambda leaf, i=i: leaf[i], numbers), rest)
        agrees(got[i], alone(X, Z), expected(alone, X, Z).error)
    assert np.all(np.isfinite(got))


def test_every_property_was_tried_on_the_cases_planned(tried):
    tried(check_counts(__name__))
