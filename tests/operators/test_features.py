"""Random features as an operator, and the model they give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, GPRegressor, lstsq
from gplsq.gp import condition
from gplsq.kernels import RBF, Linear, Matern52, Polynomial
from gplsq.operators import Features
from gplsq.solvers import SampledGram

NOISE = 0.05


def data(rng, rows=200, dtype=np.float64):
    X = rng.uniform(-2, 2, (rows, 2)).astype(dtype)
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2 / 3 + 0.2 * rng.standard_normal(rows)
    return X, y.astype(dtype), rng.uniform(-2, 2, (25, 2)).astype(dtype)


def test_rows_are_the_features_of_the_points(rng, dtype):
    X = data(rng, 50, dtype)[0]
    operator = Features(1.5 * RBF(0.7) + Linear(0.2), X, 31, block=16)
    assert operator.shape == (50, operator.basis.size)
    assert operator.basis.size == 30  # pairs of a cosine and a sine, and two slopes
    matrix = operator.as_matrix()
    assert matrix.dtype == dtype
    np.testing.assert_allclose(matrix, operator.features(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        operator.rows_at(np.array([3, 49])), matrix[np.array([3, 49])], rtol=1e-5, atol=1e-5
    )


def test_a_gradient_through_the_solve_is_that_of_dense_algebra(rng, x64):
    X, y, points = data(rng, 60)

    def by_lstsq(p):
        operator = Features(p[0] * Matern52(p[1]), X, 20, block=16)
        settings = {"damp": p[2], "solver": LSMR(rtol=1e-12), "preconditioner": SampledGram()}
        return jnp.sum(jnp.sin(operator.features(points) @ lstsq(operator, y, **settings).value))

    def dense(p):
        operator = Features(p[0] * Matern52(p[1]), X, 20)
        A = operator.features(X)
        w = jnp.linalg.solve(A.T @ A + p[2] ** 2 * jnp.eye(20), A.T @ y)
        return jnp.sum(jnp.sin(operator.features(points) @ w))

    p = jnp.array([1.4, 0.8, 0.3])
    np.testing.assert_allclose(jax.grad(by_lstsq)(p), jax.grad(dense)(p), rtol=1e-7)


def test_mean_and_covariance_are_those_of_linear_regression(rng, x64):
    X, y, points = data(rng)
    kernel = 1.5 * RBF(0.9)
    posterior = condition(
        kernel, X, y, noise_variance=NOISE, solver="features", num_features=30, rtol=1e-12
    )
    assert "random features" in posterior.plan
    A, B = posterior.basis.features(X), posterior.basis.features(points)
    inner = A.T @ A + NOISE * np.eye(30)
    np.testing.assert_allclose(
        posterior.mean(points), B @ np.linalg.solve(inner, A.T @ y), rtol=1e-6, atol=1e-8
    )
    covariance = NOISE * B @ np.linalg.solve(inner, B.T)
    np.testing.assert_allclose(posterior.covariance(points), covariance, atol=1e-7)
    np.testing.assert_allclose(posterior.variance(points), np.diag(covariance), atol=1e-7)
    with pytest.raises(AttributeError, match="no inducing points"):
        _ = posterior.Z


def test_the_model_tends_to_the_exact_one_as_features_are_added(rng, x64):
    X, y, points = data(rng)
    kernel = 1.5 * RBF(0.9)
    exact = condition(kernel, X, y, noise_variance=NOISE, solver="direct")
    errors, widths = [], []
    for count in (16, 256, 4096):
        posterior = condition(
            kernel, X, y, noise_variance=NOISE, solver="features", num_features=count
        )
        errors.append(float(np.sqrt(np.mean((posterior.mean(points) - exact.mean(points)) ** 2))))
        ratio = posterior.variance(points) / exact.variance(points)
        widths.append(float(np.sqrt(np.mean((ratio - 1) ** 2))))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02
    assert widths[-1] < 0.1


def test_an_estimator_of_features_predicts(rng):
    X, y, points = data(rng, 400, np.float32)
    model = GPRegressor(solver="features", num_features=1000, random_state=0).fit(X, y)
    assert "random features" in model.solver_report_
    mean, std = model.predict(points, return_std=True)
    truth = np.sin(2 * points[:, 0]) + points[:, 1] ** 2 / 3
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.13
    assert np.all((std > 0.15) & (std < 0.4))


def test_a_kernel_without_features_is_refused(rng):
    X, y, _ = data(rng, 20, np.float32)
    with pytest.raises(NotImplementedError, match="Polynomial"):
        condition(Polynomial(), X, y, noise_variance=NOISE, solver="features")
