"""Hold-out levels fitted by inducing points: those of the inducing model, and their derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import kernels
from gplsq.gp import condition
from gplsq.tuning import Holdout, mse, nlpd, tune

KERNEL = 1.3 * kernels.RBF([0.7, 0.9])


@pytest.fixture
def table(rng):
    X = rng.uniform(-2, 2, (120, 2))
    y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.1 * rng.standard_normal(120)
    return jnp.asarray(X), jnp.asarray(y)


@pytest.mark.parametrize("loss", [mse, nlpd])
def test_the_loss_is_that_of_the_inducing_model(table, loss):
    X, y = table
    objective = Holdout(0.25, fresh=False, inducing=12)
    noise = jnp.asarray(0.02, X.dtype)
    found = objective(KERNEL, noise, X, y, jax.random.key(0), loss)
    points = X[:90][jnp.linspace(0, 89, 12).astype(int)]
    settings = {"noise_variance": 0.02, "inducing": points, "rtol": 1e-6}
    posterior = condition(KERNEL, X[:90], y[:90], solver="inducing", **settings)
    variance = posterior.variance(X[90:]) + 0.02
    expected = float(loss(y[90:], posterior.mean(X[90:]), variance))
    assert float(found) == pytest.approx(expected, rel=2e-2 if loss is nlpd else 5e-3)
    # Fewer rows than eight times the points are fitted as ever.
    dense = Holdout(0.25, fresh=False)(KERNEL, noise, X, y, jax.random.key(0), loss)
    many = Holdout(0.25, fresh=False, inducing=16)
    assert float(many(KERNEL, noise, X, y, jax.random.key(0), loss)) == float(dense)
    assert float(dense) != pytest.approx(expected, rel=1e-3)


def test_its_derivative_is_that_of_central_differences(table, x64):
    del x64
    X, y = table
    objective = Holdout(0.25, fresh=False, inducing=12)

    def loss(log):
        kernel = jnp.exp(log[0]) * kernels.RBF(jnp.exp(log[1:3]))
        return objective(kernel, jnp.exp(log[3]), X, y, jax.random.key(0), nlpd)

    at = jnp.log(jnp.array([1.3, 0.7, 0.9, 0.02]))
    found, step = jax.grad(loss)(at), 1e-4
    for i in range(4):
        e = jnp.zeros(4).at[i].set(step)
        expected = (loss(at + e) - loss(at - e)) / (2 * step)
        assert float(found[i]) == pytest.approx(float(expected), rel=2e-2, abs=1e-3)


def test_a_kernel_is_tuned_by_it(table):
    result = tune(KERNEL, *table, objective=Holdout(0.25, inducing=10), levels=[(120, 25)])
    assert result.loss < 0.1
