"""Inducing points: an orthonormal basis of their span, whatever they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, lstsq
from gplsq.kernels import RBF, Matern52
from gplsq.operators import Inducing


def table(rng, dtype, rows=40, columns=2):
    return rng.uniform(-1, 1, (rows, columns)).astype(dtype)


def test_coordinates_measure_the_norm_of_the_function(rng, dtype):
    """`|v|^2 = a^T k(Z, Z) a`, up to the jitter."""
    X = table(rng, dtype)
    Z, kernel = X[:6], Matern52(0.7)
    operator = Inducing(kernel, X, Z)
    v = rng.standard_normal(6).astype(dtype)
    a = np.asarray(operator.coefficients(v), np.float64)
    K = np.asarray(kernel(Z.astype(np.float64)), np.float64)
    assert abs(a @ K @ a / (v @ v) - 1) < (5e-3 if dtype == np.float32 else 1e-7)


def test_rows_at_are_rows_of_the_matrix(rng, dtype):
    X = table(rng, dtype)
    operator = Inducing(Matern52(0.7), X, X[:6], block=16)
    index = np.array([3, 39, 3, 0])
    matrix = operator.as_matrix()
    np.testing.assert_allclose(operator.rows_at(index), matrix[index], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("copies", [2, 30])
def test_points_that_repeat_change_nothing(rng, dtype, copies):
    X = table(rng, dtype)
    y = np.sin(3 * X[:, 0]) + X[:, 1]
    kernel, few = 2.0 * RBF(0.8), X[:5]
    many = np.concatenate([few] * copies)

    def fitted(Z):
        operator = Inducing(kernel, X, Z)
        solution = lstsq(operator, y, damp=0.1, solver=LSMR(rtol=1e-4))
        return operator.mv(solution.value)

    tolerance = 2e-3 if dtype == np.float32 else 1e-4
    np.testing.assert_allclose(fitted(many), fitted(few), atol=tolerance)


def test_derivatives_in_lengthscale_data_and_points(rng, x64):
    X, Z = table(rng, float, 15), table(rng, float, 4)
    y, g = rng.standard_normal(15), rng.standard_normal(15)

    def loss(scale, X, Z):
        operator = Inducing(RBF(scale), X, Z, block=4)
        v = lstsq(operator, y, damp=0.3, solver=LSMR(rtol=1e-13)).value
        return g @ operator.mv(v)

    def dense(scale, X, Z):
        kernel = RBF(scale)
        K, jitter = kernel(Z), 4 * np.finfo(float).eps
        B = jnp.linalg.solve(jnp.linalg.cholesky(K + jitter * jnp.eye(4)), kernel(Z, X)).T
        v = jnp.linalg.solve(B.T @ B + 0.09 * jnp.eye(4), B.T @ y)
        return g @ (B @ v)

    given = jnp.asarray(0.7), jnp.asarray(X), jnp.asarray(Z)
    ours, oracle = (jax.jit(jax.grad(fn, (0, 1, 2)))(*given) for fn in (loss, dense))
    for got, expected in zip(ours, oracle, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-8)
    step = 1e-5
    for i in range(3):
        direction = rng.standard_normal(given[i].shape)
        moved = [
            loss(*(p + (sign * step * direction if j == i else 0) for j, p in enumerate(given)))
            for sign in (1, -1)
        ]
        slope = (moved[0] - moved[1]) / (2 * step)
        np.testing.assert_allclose(np.vdot(ours[i], direction), slope, rtol=1e-5)


def test_points_of_another_space_are_refused(rng):
    X = table(rng, np.float32)
    with pytest.raises(ValueError, match="same number of columns; got 2 and 3"):
        Inducing(RBF(), X, np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="Z must be a table of points"):
        Inducing(RBF(), X, np.zeros(4, np.float32))


def test_points_that_are_not_finite_are_reported_by_the_solve(rng):
    X = table(rng, np.float32)
    Z = X[:4].copy()
    Z[1, 0] = np.nan
    solution = lstsq(Inducing(RBF(), X, Z), X[:, 0], damp=0.1, throw=False)
    assert not bool(solution.ok)
    assert "NaN" in solution.report()
