"""Rows made block by block: the dense matrix in products and derivatives, without holding it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gplsq import lstsq, operators
from gplsq.solvers import LSMR
from gplsq.testing import central_difference, count_compilations, peak_memory_bytes, tolerance


def _features(weights, x):
    """Not zero for any data, so that rows that fill up would show."""
    return jnp.cos(x @ weights) + 2


def _close(got, expected, dtype, condition=10):
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(dtype, condition))


# Whole blocks, a last one to fill up, one block, a block larger than the matrix, single rows.
@pytest.mark.parametrize(
    ("block", "height"), [(2, 2), (3, 3), (4, 4), (5, 4), (8, 8), (20, 8), (1, 1), (None, 8)]
)
def test_products_are_those_of_the_dense_matrix(block, height, rng, dtype):
    weights, x = (
        rng.standard_normal((2, 3)).astype(dtype),
        rng.standard_normal((8, 2)).astype(dtype),
    )
    dense = np.cos(x @ weights) + 2
    operator = operators.Rows(lambda x: _features(weights, x), x, block=block)
    assert operator.shape == (8, 3)
    assert operator.dtype == dtype
    assert operator.height == height
    v, shift = rng.standard_normal((3, 2)).astype(dtype), rng.standard_normal((8, 2)).astype(dtype)

    @jax.jit
    def run(v, u):
        return operator.mv(v), operator.rmv(u), *operator.sweep(v, u)

    for columns in (slice(None), slice(0, 1), 0):
        w = dense @ v[:, columns] - shift[:, columns]
        expected = dense @ v[:, columns], dense.T @ shift[:, columns], w, dense.T @ w
        for got, want in zip(run(v[:, columns], shift[:, columns]), expected, strict=True):
            assert got.dtype == dtype
            _close(got, want, dtype, condition=30)


def test_data_may_be_a_pytree_with_integers_and_further_axes(rng, dtype):
    table = rng.standard_normal((4, 3)).astype(dtype)
    data = {
        "place": np.array([0, 3, 1, 1, 2]),
        "factors": (rng.standard_normal(5).astype(dtype), rng.random((5, 2, 3)).astype(dtype)),
    }

    def fn(block):
        factor, summands = block["factors"]
        return factor[:, None] * jnp.asarray(table)[block["place"]] + summands.sum(axis=1)

    operator = operators.Rows(fn, data, block=2)
    expected = data["factors"][0][:, None] * table[data["place"]] + data["factors"][1].sum(axis=1)
    _close(operator.as_matrix(), expected, dtype)
    _close(operator.rmv(np.eye(5, dtype=dtype)), expected.T, dtype)


class _Counter:
    """Counts how often the rows of a block are really generated, at run time."""

    def __init__(self):
        self.heights = []

    def __call__(self, rows):
        jax.debug.callback(lambda row: self.heights.append(len(row)), rows)
        return rows

    def after(self, fn, *args):
        self.heights.clear()
        jax.block_until_ready(jax.jit(fn)(*args))
        jax.effects_barrier()
        return self.heights


def test_a_sweep_generates_every_block_once_and_its_gradient_once_more(rng):
    counter = _Counter()
    x = rng.standard_normal((8, 2)).astype(np.float32)
    weights = rng.standard_normal((2, 3)).astype(np.float32)
    v, shift = np.ones((3, 2), np.float32), np.ones((8, 2), np.float32)

    def make(weights):
        return operators.Rows(lambda x: counter(_features(weights, x)), x, block=3)

    def value(weights):
        w, back = make(weights).sweep(v, shift)
        return jnp.sum(w**2) + jnp.sum(back**2)

    assert counter.after(lambda v: make(weights).mv(v), v) == [3, 3, 3]
    assert counter.after(lambda v: make(weights).sweep(v, shift), v) == [3, 3, 3]
    assert counter.after(jax.grad(value), weights) == [3] * 6


def _value(operator, v, u):
    """A scalar of all three products, not linear in anything."""
    w, back = operator.sweep(v, u)
    return (
        jnp.sum(jnp.sin(operator.mv(v)) * u)
        + jnp.sum(jnp.cos(operator.rmv(u)) * v)
        + jnp.sum(jnp.sin(w)) * jnp.sum(jnp.cos(back))
    )


@pytest.fixture
def problem(rng, x64):
    """The same scalar of weights, data and vectors by blocks and by a dense matrix; a point."""
    shapes = ((2, 3), (7, 2), (3, 2), (7, 2))
    start = [jnp.asarray(0.5 * rng.standard_normal(shape)) for shape in shapes]
    flat, unravel = ravel_pytree(start)

    def by_blocks(flat):
        weights, x, v, u = unravel(flat)
        return _value(operators.Rows(lambda x: _features(weights, x), x, block=3), v, u)

    def by_matrix(flat):
        weights, x, v, u = unravel(flat)
        return _value(operators.Dense(_features(weights, x)), v, u)

    return by_blocks, by_matrix, flat


def test_gradients_are_central_differences_and_those_of_the_dense_matrix(problem):
    by_blocks, by_matrix, flat = problem
    gradient = jax.jit(jax.grad(by_blocks))(flat)
    expected = central_difference(jax.jit(by_blocks), np.asarray(flat))
    np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-7)
    _close(gradient, jax.grad(by_matrix)(flat), np.float64, condition=1000)


def test_forward_mode_and_second_order_are_those_of_the_dense_matrix(problem, rng):
    by_blocks, by_matrix, flat = problem
    directions = jnp.asarray(rng.standard_normal((2, flat.size)))

    def derivatives(fn):
        forward = jax.jvp(fn, (flat,), (directions[0],))[1]
        over_reverse = jax.jvp(jax.grad(fn), (flat,), (directions[0],))[1]
        over_forward = jax.grad(lambda x: jax.jvp(fn, (x,), (directions[1],))[1])(flat)
        return forward, over_reverse, over_forward

    got = jax.jit(lambda: derivatives(by_blocks))()
    for one, other in zip(got, derivatives(by_matrix), strict=True):
        _close(one, other, np.float64, condition=1e4)


@pytest.mark.parametrize("product", ["mv", "rmv", "sweep"])
def test_products_and_their_gradients_never_hold_the_matrix(product, rng):
    m, n = 20_000, 100
    x = jnp.asarray(rng.standard_normal((m, 2)), jnp.float32)
    weights = jnp.asarray(rng.standard_normal((2, n)), jnp.float32)
    v, u = jnp.ones(n, jnp.float32), jnp.ones(m, jnp.float32)
    arguments = {"mv": (v,), "rmv": (u,), "sweep": (v, u)}[product]

    def value(operator):
        out = getattr(operator, product)(*arguments)
        return sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves(out))

    def by_blocks(weights, x):
        return value(operators.Rows(lambda x: _features(weights, x), x, block=100))

    def by_matrix(weights, x):
        return value(operators.Dense(_features(weights, x)))

    matrix = 4 * m * n
    for fn in (by_blocks, jax.grad(by_blocks), jax.grad(by_blocks, argnums=(0, 1))):
        assert peak_memory_bytes(fn, weights, x) < matrix / 8
    assert peak_memory_bytes(jax.grad(by_matrix), weights, x) > matrix


def test_the_default_block_holds_a_bounded_part_of_the_matrix(rng):
    m, n = 40_000, 300
    x = jnp.asarray(rng.standard_normal((m, 2)), jnp.float32)
    weights = jnp.asarray(rng.standard_normal((2, n)), jnp.float32)
    operator = operators.Rows(lambda x: _features(weights, x), x)
    assert 32 <= operator.height <= 1024
    v = jnp.ones(n, jnp.float32)
    assert (
        peak_memory_bytes(lambda v: operator.sweep(v, jnp.ones(m, v.dtype))[1], v) < 4 * m * n / 8
    )


class _Features(eqx.Module):
    weights: jax.Array

    def __call__(self, x):
        return _features(self.weights, x)


FORMS = {
    "closure": lambda weights: lambda x: _features(weights, x),
    "module": _Features,
    "partial": lambda weights: jax.tree_util.Partial(_features, weights),
    "jitted": lambda weights: jax.jit(lambda x: _features(weights, x)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_function_is_differentiated(form, rng, dtype):
    weights, x = (
        rng.standard_normal((2, 3)).astype(dtype),
        rng.standard_normal((7, 2)).astype(dtype),
    )
    v, u = rng.standard_normal((3, 1)).astype(dtype), rng.standard_normal((7, 1)).astype(dtype)

    @jax.jit
    def gradients(weights):
        by_blocks = jax.grad(lambda w: _value(operators.Rows(FORMS[form](w), x, block=3), v, u))
        by_matrix = jax.grad(lambda w: _value(operators.Dense(_features(w, x)), v, u))
        return by_blocks(weights), by_matrix(weights)

    got, expected = gradients(weights)
    assert got.dtype == dtype
    _close(got, expected, dtype, condition=1000)


@jax.jit
def _products(operator, v, u):
    return operator.mv(v), operator.rmv(u), operator.sweep(v, u)


@pytest.mark.parametrize("form", ["closure", "module", "partial"])
def test_a_fresh_operator_of_the_same_operations_compiles_nothing(form, rng):
    def make():
        weights = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32)
        x = rng.standard_normal((7, 2)).astype(np.float32)
        return operators.Rows(FORMS[form](weights), x, block=3), np.cos(x @ weights) + 2

    v, u = np.ones(3, np.float32), np.ones(7, np.float32)
    _products(make()[0], v, u)
    other, dense = make()
    with count_compilations() as names:
        product = _products(other, v, u)[0]
    assert names == []
    _close(product, dense @ v, np.float32)


def test_a_solve_and_its_derivative_are_those_of_the_dense_matrix(rng, x64):
    weights, x, b = (jnp.asarray(rng.standard_normal(s)) for s in ((2, 3), (7, 2), (7,)))

    def value(weights, make):
        solution = lstsq(make(weights), b, damp=0.3, solver=LSMR(rtol=1e-12))
        return jnp.sum(jnp.sin(solution.value))

    def by_blocks(weights):
        return operators.Rows(lambda x: _features(weights, x), x, block=3)

    got = jax.value_and_grad(value)(weights, by_blocks)
    expected = jax.value_and_grad(value)(weights, lambda weights: _features(weights, x))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)


def test_the_number_of_columns_may_be_given_and_then_nothing_is_tried_on_one_row():
    heights = []

    def fn(x):
        heights.append(x.shape[0])
        return x[:, None] * jnp.ones(2, x.dtype)

    assert operators.Rows(fn, np.ones(6, np.float32), 2, block=3).shape == (6, 2)
    assert set(heights) == {3}
    assert operators.Rows(fn, np.ones(6, np.float32), block=3).shape == (6, 2)
    assert set(heights) == {1, 3}
    with pytest.raises(ValueError, match=r"shape \(t, n\), here \(3, 4\).* got shape \(3, 2\)"):
        operators.Rows(fn, np.ones(6, np.float32), 4, block=3)


def test_data_without_a_common_leading_axis_are_refused():
    for data in ((np.ones(3), np.ones((4, 3))), (np.ones(3), 1.0), np.ones((0, 2))):
        with pytest.raises(ValueError, match="data must be arrays with one common leading axis"):
            operators.Rows(lambda block: block, data)
    with pytest.raises(TypeError, match="data must hold at least one array"):
        operators.Rows(lambda block: block, ())
    with pytest.raises(TypeError, match="data must hold arrays only; got 'text'"):
        operators.Rows(lambda block: block, {"a": "text"})


def test_results_that_are_not_rows_are_refused():
    x = np.ones((6, 2), np.float32)
    for fn in (lambda x: x[:, 0], lambda x: x[None], lambda x: x.T, lambda x: x[:-1]):
        with pytest.raises(ValueError, match=r"fn must return an array of shape \(t, n\)"):
            operators.Rows(fn, x, block=3)
    with pytest.raises(ValueError, match=r"here \(3, 1\).* got shape \(3, 3\)"):
        operators.Rows(lambda x: x @ x.T, x, block=3)
    with pytest.raises(TypeError, match="fn must return one array"):
        operators.Rows(lambda x: (x, x), x)


def test_results_that_are_not_real_floating_point_are_refused():
    x = np.ones((6, 2), np.float32)
    for cast in (np.complex64, np.int32, bool):
        with pytest.raises(TypeError, match="fn must return real floating-point numbers"):
            operators.Rows(lambda x, cast=cast: x.astype(cast), x)


def test_arguments_of_the_wrong_kind_are_refused():
    x = np.ones((6, 2), np.float32)
    with pytest.raises(TypeError, match="fn must be a function of a block"):
        operators.Rows(x, x)
    for name in ("num_columns", "block"):
        for value in (2.0, True, "2"):
            with pytest.raises(TypeError, match=f"{name} must be a whole number"):
                operators.Rows(lambda x: 2 * x, x, **{name: value})
        for value in (0, -1):
            with pytest.raises(ValueError, match=f"{name} must be at least 1"):
                operators.Rows(lambda x: 2 * x, x, **{name: value})
