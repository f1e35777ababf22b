"""Derivatives of the Laplace approximation against differences and unrolled iterations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled import kernel, table

from gplsq.gp import indicators, laplace_leave_one_out, laplace_mode, laplace_predict
from gplsq.kernels import Matern32, Scaled


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_classes", [2, 4])
def test_derivatives_are_those_of_differences(rng, num_classes) -> None:
    X, codes = table(rng, 40, num_classes)
    Y = indicators(jnp.asarray(codes), num_classes, float)
    A, a = rng.normal(size=Y.shape), rng.normal(size=40)

    def matrix(logs):
        return Scaled(jnp.exp(logs[0]), Matern32(jnp.exp(logs[1])))(X, X)

    def mode(logs):
        return jnp.sum(A * laplace_mode(matrix(logs), Y, 1e-11))

    def left_out(logs):
        mean, variance = laplace_leave_one_out(matrix(logs), Y, 1e-11)
        return jnp.sum(A * mean) + jnp.sum(a * variance)

    def held_out(logs):
        K = matrix(logs)
        parts = K[:30, :30], K[:30, 30:], jnp.diagonal(K)[30:], Y[:30]
        mean, variance = laplace_predict(*parts, 1e-11)
        return jnp.sum(A[30:] * mean) + jnp.sum(a[30:] * variance)

    logs, h = jnp.array([1.2, 0.3]), 1e-5
    for fn in (mode, left_out, held_out):
        fn = jax.jit(jax.value_and_grad(fn))
        steps = h * np.eye(2)
        differences = [(fn(logs + e)[0] - fn(logs - e)[0]) / (2 * h) for e in steps]
        np.testing.assert_allclose(fn(logs)[1], differences, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_derivative_of_the_mode_is_that_of_an_unrolled_newton_method(rng, num_classes) -> None:
    X, codes = table(rng, 15, num_classes)
    Y = indicators(jnp.asarray(codes), num_classes, float)
    A = jnp.asarray(rng.normal(size=Y.shape))

    def gradient_of_objective(F, K):
        p = jax.nn.sigmoid(F) if num_classes == 2 else jax.nn.softmax(F)
        return F - K @ (Y - p)

    def unrolled(K):
        F = jnp.zeros_like(Y)
        for _ in range(30):
            J = jax.jacobian(gradient_of_objective)(F, K).reshape(F.size, F.size)
            F = F - jnp.linalg.solve(J, gradient_of_objective(F, K).ravel()).reshape(F.shape)
        return jnp.sum(A * F)

    K = kernel(1.0)(X, X)
    expected = jax.grad(unrolled)(K)
    got = jax.grad(lambda K: jnp.sum(A * laplace_mode(K, Y, 1e-11)))(K)
    np.testing.assert_allclose(got, expected, atol=1e-6)
