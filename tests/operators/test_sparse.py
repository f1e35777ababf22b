"""The sparse operator: every format is its dense matrix, in products and derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse
from jax.flatten_util import ravel_pytree

from gplsq import lstsq, operators
from gplsq.operators import _sparse as module
from gplsq.solvers import LSMR
from gplsq.testing import central_difference, count_compilations, peak_memory_bytes, tolerance


def _bcoo(dense, padding):
    places = np.argwhere(dense)
    numbers = np.concatenate([dense[tuple(places.T)], np.zeros(padding, dense.dtype)])
    outside = np.broadcast_to(dense.shape, (padding, 2))
    return sparse.BCOO((numbers, np.concatenate([places, outside])), shape=dense.shape)


def _bcsr(dense, padding):
    csr = scipy.sparse.csr_array(dense)
    numbers = np.concatenate([csr.data, np.zeros(padding, dense.dtype)])
    columns = np.concatenate([csr.indices, np.full(padding, dense.shape[1])])
    return sparse.BCSR((numbers, columns, csr.indptr), shape=dense.shape)


FORMATS = {
    "bcoo": lambda dense: _bcoo(dense, 0),
    "bcoo-padded": lambda dense: _bcoo(dense, 5),
    "bcsr": lambda dense: _bcsr(dense, 0),
    "bcsr-padded": lambda dense: _bcsr(dense, 5),
    "scipy-csr": scipy.sparse.csr_matrix,
    "scipy-csc": scipy.sparse.csc_array,
    "scipy-coo": scipy.sparse.coo_array,
}


def _dense(rng, dtype, shape=(9, 7)):
    """A third of the entries, one full row, one empty row and one empty column."""
    dense = rng.standard_normal(shape) * (rng.random(shape) < 0.3)
    dense[2] = rng.standard_normal(shape[1])
    dense[4] = 0
    dense[:, 3] = 0
    return dense.astype(dtype)


def _close(got, expected, dtype, condition=10):
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(dtype, condition))


@eqx.filter_jit
def _products(operator, v, V, u, U):
    return operator.mv(v), operator.mv(V), operator.rmv(u), operator.rmv(U)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_its_dense_matrix(name, rng, dtype):
    dense = _dense(rng, dtype)
    operator = operators.Sparse(FORMATS[name](dense))
    arguments = [rng.standard_normal(s).astype(dtype) for s in ((7,), (7, 2), (9,), (9, 2))]
    v, V, u, U = arguments
    expected = dense @ v, dense @ V, dense.T @ u, dense.T @ U
    for got, want in zip(_products(operator, *arguments), expected, strict=True):
        assert got.dtype == dtype
        _close(got, want, dtype)
    assert operator.shape == (9, 7)
    assert operator.dtype == dtype
    assert operator.num_nonzero == np.count_nonzero(dense)


@pytest.mark.parametrize("name", ["bcoo-padded", "bcsr-padded"])
def test_traced_places_give_the_same_products(name, rng, dtype):
    dense = _dense(rng, dtype)
    arguments = [rng.standard_normal(s).astype(dtype) for s in ((7,), (7, 2), (9,), (9, 2))]
    build = jax.jit(lambda matrix: _products(operators.Sparse(matrix), *arguments))
    v, V, u, U = arguments
    expected = dense @ v, dense @ V, dense.T @ u, dense.T @ U
    for got, want in zip(build(FORMATS[name](dense)), expected, strict=True):
        _close(got, want, dtype)


def test_numbers_rows_and_columns_say_where_each_number_is(rng, dtype):
    dense = _dense(rng, dtype)
    operator = operators.Sparse(scipy.sparse.csr_array(dense))
    rebuilt = np.zeros_like(dense)
    rebuilt[operator.rows, operator.columns] = operator.data
    np.testing.assert_array_equal(rebuilt, dense)
    assert operator.rows.dtype == operator.columns.dtype == np.int32
    assert operator.data.shape == operator.rows.shape == operator.columns.shape


def _with_duplicates(dtype):
    """Shape (3, 2): two numbers at (1, 0), two at (2, 1), and one outside that is padding."""
    numbers = jnp.asarray([1, 2, 4, 8, 16, np.nan], dtype)
    places = np.array([[1, 0], [2, 1], [1, 0], [0, 1], [2, 1], [3, 2]])
    return numbers, places, np.array([[0, 8], [5, 0], [0, 18]], dtype)


def test_places_named_twice_are_added_up_and_padding_is_dropped(dtype):
    numbers, places, dense = _with_duplicates(dtype)
    operator = operators.Sparse(sparse.BCOO((numbers, places), shape=(3, 2)))
    assert operator.num_nonzero == 3
    np.testing.assert_array_equal(operator.as_matrix(), dense)
    entries = scipy.sparse.coo_array((numbers[:-1], places[:-1].T), shape=(3, 2))
    np.testing.assert_array_equal(operators.Sparse(entries).as_matrix(), dense)


def test_traced_places_named_twice_add_up_in_the_products(dtype):
    numbers, places, dense = _with_duplicates(dtype)
    matrix = sparse.BCOO((numbers, places), shape=(3, 2))
    build = jax.jit(lambda matrix: operators.Sparse(matrix).as_matrix())
    np.testing.assert_array_equal(build(matrix), dense)


def test_a_matrix_without_numbers_is_zero(dtype):
    operator = operators.Sparse(scipy.sparse.coo_array((3, 2), dtype=dtype))
    assert operator.num_nonzero == 0
    np.testing.assert_array_equal(operator.mv(jnp.ones(2, dtype)), np.zeros(3, dtype))
    np.testing.assert_array_equal(operator.rmv(jnp.ones((3, 2), dtype)), np.zeros((2, 2), dtype))


@pytest.fixture(params=["whole", "groups"])
def groups(request, monkeypatch):
    """Blocks whole, and in groups of two columns: three columns take two groups."""
    if request.param == "groups":
        monkeypatch.setattr(module, "_MAX_ENTRIES", 60)
    return request.param


def test_wide_blocks_in_groups_of_columns_are_the_same_products(groups, rng, dtype):
    dense = _dense(rng, dtype)
    operator = operators.Sparse(scipy.sparse.csr_array(dense))
    assert 60 // 3 < operator.num_nonzero <= 60 // 2
    for columns in (1, 2, 3, 4, 5):
        V = rng.standard_normal((7, columns)).astype(dtype)
        U = rng.standard_normal((9, columns)).astype(dtype)
        _close(operator.mv(V), dense @ V, dtype)
        _close(operator.rmv(U), dense.T @ U, dtype)


def _value(operator, v, u):
    """A scalar that needs both products, not linear in the matrix or the vectors."""
    image = operator.mv(v)
    return jnp.sum(jnp.sin(image) * u) + jnp.sum(jnp.cos(operator.rmv(u * image)) * v**2)


@pytest.fixture
def problem(groups, rng, x64):
    """The same scalar of numbers and vectors by the operator and by a dense matrix; a point."""
    dense = _dense(rng, np.float64)
    places = np.argwhere(dense)
    places = np.concatenate([places, places[:2]])  # two places named twice
    numbers = rng.standard_normal(len(places))
    start = (0.4 * numbers, rng.standard_normal((7, 3)), rng.standard_normal((9, 3)))
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, start))

    def by_operator(flat):
        numbers, v, u = unravel(flat)
        return _value(operators.Sparse(sparse.BCOO((numbers, places), shape=(9, 7))), v, u)

    def by_matrix(flat):
        numbers, v, u = unravel(flat)
        matrix = jnp.zeros((9, 7)).at[places[:, 0], places[:, 1]].add(numbers)
        return _value(operators.Dense(matrix), v, u)

    return by_operator, by_matrix, flat


def test_gradients_are_central_differences_and_those_of_the_dense_matrix(problem):
    by_operator, by_matrix, flat = problem
    gradient = jax.jit(jax.grad(by_operator))(flat)
    expected = central_difference(jax.jit(by_operator), np.asarray(flat))
    np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-7)
    _close(gradient, jax.grad(by_matrix)(flat), np.float64, condition=100)
    _close(jax.grad(by_operator)(flat), gradient, np.float64, condition=100)


def test_forward_mode_and_second_order_are_those_of_the_dense_matrix(problem, rng):
    by_operator, by_matrix, flat = problem
    directions = jnp.asarray(rng.standard_normal((2, flat.size)))

    def derivatives(fn):
        forward = jax.jvp(fn, (flat,), (directions[0],))[1]
        over_reverse = jax.jvp(jax.grad(fn), (flat,), (directions[0],))[1]
        over_forward = jax.grad(lambda x: jax.jvp(fn, (x,), (directions[1],))[1])(flat)
        return forward, over_reverse, over_forward

    got = jax.jit(lambda: derivatives(by_operator))()
    for one, other in zip(got, derivatives(by_matrix), strict=True):
        _close(one, other, np.float64, condition=1000)


def test_the_numbers_of_the_operator_are_a_leaf_to_differentiate(rng, dtype):
    operator = operators.Sparse(scipy.sparse.csr_array(_dense(rng, dtype)))
    v, u = rng.standard_normal(7).astype(dtype), rng.standard_normal(9).astype(dtype)
    gradient = eqx.filter_grad(lambda op: jnp.sum(op.mv(v) * u))(operator)
    _close(gradient.data, u[operator.rows] * v[operator.columns], dtype)
    assert gradient.rows is None
    assert gradient.columns is None


def test_a_solve_and_its_derivative_are_those_of_the_dense_matrix(rng, x64):
    dense = _dense(rng, np.float64)[:, [0, 1, 2, 4]]
    places, b = np.argwhere(dense), jnp.asarray(rng.standard_normal(9))

    def value(numbers, make):
        solution = lstsq(make(numbers), b, damp=0.3, solver=LSMR(rtol=1e-12))
        return jnp.sum(jnp.sin(solution.value))

    def by_operator(numbers):
        return operators.Sparse(sparse.BCOO((numbers, places), shape=dense.shape))

    def by_matrix(numbers):
        return jnp.zeros(dense.shape).at[tuple(places.T)].add(numbers)

    numbers = jnp.asarray(dense[tuple(places.T)])
    got = jax.value_and_grad(value)(numbers, by_operator)
    expected = jax.value_and_grad(value)(numbers, by_matrix)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)


def test_a_second_operator_of_the_same_shapes_compiles_nothing(rng):
    def make():
        places = rng.permutation(63)[:20]
        numbers = rng.standard_normal(20).astype(np.float32)
        entries = (numbers, np.unravel_index(places, (9, 7)))
        return operators.Sparse(scipy.sparse.coo_array(entries, shape=(9, 7)))

    arguments = [rng.standard_normal(s).astype(np.float32) for s in ((7,), (7, 2), (9,), (9, 2))]
    _products(make(), *arguments)
    with count_compilations() as names:
        _products(make(), *arguments)
    assert names == []


def test_products_and_gradients_never_hold_the_dense_matrix(rng):
    m, n, nnz = 3000, 1000, 4000
    places = np.stack([rng.integers(0, m, nnz), rng.integers(0, n, nnz)], axis=1)
    v, u = jnp.ones(n, jnp.float32), jnp.ones(m, jnp.float32)

    def value(numbers):
        operator = operators.Sparse(sparse.BCOO((numbers, places), shape=(m, n)))
        return jnp.sum(jnp.sin(operator.mv(v))) + jnp.sum(jnp.sin(operator.rmv(u)))

    numbers = jnp.asarray(rng.standard_normal(nnz), jnp.float32)
    assert peak_memory_bytes(value, numbers) < 4 * m * n / 20
    assert peak_memory_bytes(jax.grad(value), numbers) < 4 * m * n / 20


def test_groups_of_columns_bound_the_memory_of_wide_blocks_and_their_gradients(monkeypatch, rng):
    monkeypatch.setattr(module, "_MAX_ENTRIES", 40_000)
    nnz, columns = 20_000, 100
    places = np.stack([rng.integers(0, 50, nnz), rng.integers(0, 60, nnz)], axis=1)
    numbers = jnp.asarray(rng.standard_normal(nnz), jnp.float32)
    v = jnp.asarray(rng.standard_normal((60, columns)), jnp.float32)

    def value(numbers, v):
        operator = operators.Sparse(sparse.BCOO((numbers, places), shape=(50, 60)))
        return jnp.sum(jnp.sin(operator.mv(v)))

    for fn in (value, jax.grad(value, argnums=(0, 1))):
        assert peak_memory_bytes(fn, numbers, v) < 4 * nnz * columns / 4


def test_integers_and_booleans_become_floating_point_numbers():
    default = jnp.zeros(1).dtype
    for dtype in (int, bool):
        operator = operators.Sparse(scipy.sparse.csr_array(np.eye(3, dtype=dtype)))
        assert operator.dtype == default
        assert operator.mv(jnp.ones(3)).dtype == default
    assert operators.Sparse(_bcoo(np.eye(3, dtype=int), 0)).dtype == default


def test_what_is_not_a_sparse_matrix_is_refused():
    for matrix in (np.eye(3), [[1.0]], None):
        with pytest.raises(TypeError, match=r"matrix must be a .* BCOO or BCSR.*operators\.Dense"):
            operators.Sparse(matrix)


def test_complex_numbers_are_refused():
    dense = np.eye(3, dtype=np.complex64)
    for matrix in (scipy.sparse.csr_array(dense), _bcoo(dense, 0)):
        with pytest.raises(TypeError, match="matrix must be real; got dtype complex64"):
            operators.Sparse(matrix)


def test_batch_and_dense_dimensions_are_refused():
    one = np.zeros((2, 1, 1), int)
    ends = np.zeros((2, 4), int)
    for matrix in (
        sparse.BCOO((np.ones(1), np.zeros((1, 3), int)), shape=(2, 3, 4)),
        sparse.BCOO((np.ones((2, 1)), one), shape=(2, 3)),
        sparse.BCOO((np.ones((1, 4)), one[0]), shape=(3, 4)),
        sparse.BCSR((np.ones((2, 1)), one[..., 0], ends), shape=(2, 3, 4)),
    ):
        with pytest.raises(ValueError, match="without batch and dense dimensions; got shape"):
            operators.Sparse(matrix)
    with pytest.raises(ValueError, match=r"two-dimensional, shape \(m, n\); got shape \(3,\)"):
        operators.Sparse(scipy.sparse.coo_array(np.ones(3)))


def test_sides_that_row_numbers_cannot_count_are_refused():
    matrix = scipy.sparse.coo_array((2**31, 2), dtype=np.float32)
    with pytest.raises(ValueError, match=r"fewer than 2\^31 rows"):
        operators.Sparse(matrix)
