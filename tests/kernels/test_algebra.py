"""Sums, products, scalings and columns of kernels, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import kernels
from gplsq._core import parameters_of
from gplsq.testing import tolerance


@pytest.fixture
def X(rng):
    return rng.standard_normal((4, 3)).astype(np.float32)


def _close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(np.float32, 10))


def test_sum_and_product_act_pointwise(X):
    a, b = kernels.RBF(0.7), kernels.Linear(0.4)
    _close((a + b)(X), np.asarray(a(X)) + np.asarray(b(X)))
    _close((a * b)(X), np.asarray(a(X)) * np.asarray(b(X)))


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2.0), np.array(2.0)])
def test_a_number_is_a_variance_from_both_sides(X, number):
    k = kernels.RBF(0.7)
    for kernel in (number * k, k * number):
        assert isinstance(kernel, kernels.Scaled)
        _close(kernel(X), 2 * np.asarray(k(X)))
    for kernel in (number + k, k + number):
        assert isinstance(kernel, kernels.Sum)
        _close(kernel(X), 2 + np.asarray(k(X)))


def test_a_jax_scalar_is_a_variance(X):
    _close((jnp.float32(2.0) * kernels.RBF(0.7))(X), 2 * np.asarray(kernels.RBF(0.7)(X)))


@pytest.mark.parametrize("columns", [[2, 0], (2, 0), np.array([2, 0])])
def test_on_looks_at_the_chosen_columns_in_their_order(X, columns):
    kernel = kernels.RBF([0.5, 2.0])
    _close(kernel.on(columns)(X), kernel(X[:, [2, 0]]))


def test_on_takes_one_column_number(X):
    _close(kernels.RBF(0.5).on(1)(X), kernels.RBF(0.5)(X[:, [1]]))


def test_on_of_on_counts_within_the_first_choice(X):
    inner = kernels.RBF(0.5).on([1])
    _close(inner.on([0, 2])(X), kernels.RBF(0.5)(X[:, [2]]))


def test_lists_and_integers_become_floating_parameters():
    assert jnp.issubdtype(kernels.RBF(2).lengthscale.dtype, jnp.floating)
    assert jnp.issubdtype(kernels.RBF([1, 2]).lengthscale.dtype, jnp.floating)


def test_integer_points_are_taken_as_floats(X):
    points = np.array([[0, 1], [2, 3]])
    assert jnp.issubdtype(kernels.RBF()(points).dtype, jnp.floating)


def test_two_dtypes_are_promoted_to_the_wider_one(X):
    assert kernels.RBF()(X.astype(np.float16), X).dtype == np.float32


@pytest.mark.parametrize("points", [np.zeros(3), np.zeros((2, 3, 1)), 1.0])
def test_points_of_the_wrong_rank_are_refused(X, points):
    with pytest.raises(ValueError, match=r"table of points, shape \(n, d\)"):
        kernels.RBF()(points)
    with pytest.raises(ValueError, match=r"Z must be a table of points"):
        kernels.RBF()(X, points)


def test_complex_points_are_refused():
    with pytest.raises(TypeError, match="must be real"):
        kernels.RBF()(np.zeros((2, 2), np.complex64))


def test_tables_with_different_columns_are_refused(X):
    with pytest.raises(ValueError, match="columns"):
        kernels.RBF()(X, X[:, :2])


@pytest.mark.parametrize("lengthscale", [[1.0, 2.0], [[1.0, 2.0, 3.0]]])
@pytest.mark.parametrize(
    "kind",
    [
        kernels.RBF,
        kernels.Matern12,
        kernels.Matern32,
        kernels.Matern52,
        kernels.RationalQuadratic,
        kernels.Periodic,
    ],
)
def test_a_lengthscale_of_the_wrong_shape_is_refused(X, kind, lengthscale):
    with pytest.raises(ValueError, match=r"lengthscale must be a scalar or have one entry"):
        kind(lengthscale)(X)


def test_a_period_of_the_wrong_shape_is_refused(X):
    with pytest.raises(ValueError, match="period must be a scalar or have one entry"):
        kernels.Periodic(1.0, [1.0, 2.0])(X)


@pytest.mark.parametrize("columns", [[], [-1], [0, 0], [0.5], [True], "ab", -2])
def test_bad_column_numbers_are_refused(columns):
    with pytest.raises(ValueError, match="columns must be one or more different column numbers"):
        kernels.RBF().on(columns)


def test_columns_beyond_the_table_are_refused(X):
    with pytest.raises(ValueError, match="needs column 3, but the points have 3 columns"):
        kernels.RBF().on([0, 3])(X)


@pytest.mark.parametrize("number", [0, -1.0, float("nan"), np.array(-2.0)])
def test_numbers_that_are_not_positive_are_refused(number):
    with pytest.raises(ValueError, match="positive number"):
        number * kernels.RBF()
    with pytest.raises(ValueError, match="positive number"):
        kernels.RBF() + number


@pytest.mark.parametrize("other", ["2", None, [2.0]])
def test_what_is_neither_kernel_nor_number_is_refused(other):
    with pytest.raises(TypeError, match=r"unsupported operand|can only concatenate"):
        kernels.RBF() + other
    with pytest.raises(TypeError, match=r"unsupported operand|can't multiply"):
        kernels.RBF() * other


def test_arrays_of_numbers_are_refused():
    with pytest.raises(TypeError):
        kernels.RBF() + np.ones(3)
    with pytest.raises(TypeError):
        np.ones(3) * kernels.RBF()


@pytest.mark.parametrize("degree", [0, -1, 1.5, True, "2"])
def test_a_bad_degree_is_refused(degree):
    with pytest.raises((TypeError, ValueError), match=r"degree must be (a whole|at least 1)"):
        kernels.Polynomial(degree)


def test_a_boolean_hyperparameter_is_refused():
    with pytest.raises(TypeError, match="must be a real number; got True"):
        kernels.RBF(True)


@pytest.mark.parametrize("value", [2j, np.array([1, 2j]), np.array(["2"]), np.array([True])])
def test_a_hyperparameter_that_is_no_real_number_is_refused(value):
    with pytest.raises(TypeError, match="must be a real number"):
        kernels.RBF(value)


@pytest.mark.parametrize(
    "value",
    [2, [1, 2], np.array([1, 2]), np.int64(2), np.array(2), jnp.array([1, 2]), jnp.uint8(3)],
)
def test_whole_numbers_are_tuned_too(value):
    (parameter,) = parameters_of(kernels.RBF(value))
    assert parameter.name == "lengthscale"
    assert parameter.value.dtype == jnp.result_type(float)
    np.testing.assert_array_equal(parameter.value, np.asarray(value))


@pytest.mark.parametrize("value", [0, -1.0, [1.0, 0.0], np.nan, jnp.array(-1.0)])
def test_a_positive_hyperparameter_that_is_not_is_refused(value):
    with pytest.raises(ValueError, match="positive hyperparameter must be above 0"):
        kernels.RBF(value)
