"""Values and slopes in one table, against formulas worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import GPRegressor, kernels
from gplsq.gp import condition, condition_around_mean
from gplsq.kernels import WithDerivatives, random_features
from gplsq.testing import tolerance

SCALES = np.array([0.8, 1.3])


def _rows(X, order):
    return np.column_stack([X, np.full(len(X), order)]).astype(X.dtype)


def _rbf(X, Z):
    """k, dk/dz_j, dk/dx_i, d2k/dx_i dz_j, indexed by (order of x, order of z)."""
    u = (X[:, None] - Z[None]) / SCALES**2
    k = np.exp(-(((X[:, None] - Z[None]) / SCALES) ** 2).sum(-1) / 2)
    table = {(0, 0): k}
    for j in range(2):
        table[0, j + 1] = k * u[..., j]
        table[j + 1, 0] = -k * u[..., j]
        for i in range(2):
            same = (i == j) / SCALES[j] ** 2
            table[i + 1, j + 1] = k * (same - u[..., i] * u[..., j])
    return table


def _matern(nu2, X, Z):
    """The same along one input for nu = 3/2 or 5/2, lengthscale 0.8."""
    r, a = X - Z.T, np.sqrt(nu2) / 0.8
    s = a * np.abs(r)
    e = np.exp(-s)
    if nu2 == 3:
        k, first, second = (1 + s) * e, -(a**2) * r * e, -(a**2) * (1 - s) * e
    else:
        k = (1 + s + s**2 / 3) * e
        first = -(a**2) / 3 * r * (1 + s) * e
        second = -(a**2) / 3 * (1 + s - s**2) * e
    return {(0, 0): k, (1, 0): first, (0, 1): -first, (1, 1): -second}


def test_rbf_covariances_are_those_of_the_textbook(rng, dtype):
    """Rasmussen & Williams (2006), section 9.4; also at equal points."""
    X = rng.standard_normal((5, 2)).astype(dtype)
    Z = np.concatenate([X[:2], rng.standard_normal((3, 2))]).astype(dtype)
    kernel = WithDerivatives(kernels.RBF(SCALES))
    for (i, j), expected in _rbf(X, Z).items():
        got = kernel(_rows(X, i), _rows(Z, j))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, atol=tolerance(dtype, 10))


@pytest.mark.parametrize(("kernel", "nu2"), [(kernels.Matern32, 3), (kernels.Matern52, 5)])
def test_matern_covariances_are_right_also_at_equal_points(kernel, nu2, rng, x64):
    X = rng.standard_normal((4, 1))
    Z = np.concatenate([X[:2], rng.standard_normal((3, 1))])
    for (i, j), expected in _matern(nu2, X, Z).items():
        got = WithDerivatives(kernel(0.8))(_rows(X, i), _rows(Z, j))
        np.testing.assert_allclose(got, expected, atol=1e-6)
    at_zero = {3: 3.0, 5: 5 / 3}[nu2] / 0.8**2
    slopes = WithDerivatives(kernel(0.8)).diagonal(jnp.asarray(_rows(X, 1)))
    np.testing.assert_allclose(slopes, at_zero, rtol=1e-9)


def test_sums_products_scalings_and_columns_are_differentiated_by_their_rules(rng, x64):
    X, Z = rng.standard_normal((2, 4, 2))
    left, right = kernels.RBF(0.9), kernels.Polynomial(2, 0.5, 1.0)
    inner = 2.0 * left * right + kernels.Periodic(1.0, 2.5).on(1)
    kernel = WithDerivatives(inner)
    for i, j in np.ndindex(3, 3):

        def partly(x, z, i=i, j=j):
            fn = inner.pair
            if j:
                fn = lambda x, z, fn=fn: jax.grad(fn, 1)(x, z)[j - 1]  # noqa: E731
            if i:
                fn = lambda x, z, fn=fn: jax.grad(fn, 0)(x, z)[i - 1]  # noqa: E731
            return fn(x, z)

        expected = jax.vmap(lambda x: jax.vmap(lambda z: partly(x, z))(Z))(X)
        np.testing.assert_allclose(kernel(_rows(X, i), _rows(Z, j)), expected, atol=1e-9)


def test_slopes_of_the_posterior_are_derivatives_of_its_mean(rng, x64):
    X, Z = rng.uniform(-2, 2, (25, 2)), rng.uniform(-2, 2, (4, 2))
    y = np.sin(2 * X[:, 0]) * X[:, 1]
    kernel = WithDerivatives(1.4 * kernels.RBF(SCALES))
    posterior = condition(kernel, _rows(X, 0), y, noise_variance=1e-3)

    def mean(z):
        return posterior.mean(jnp.append(z, 0.0)[None])[0]

    gradients = jax.vmap(jax.grad(mean))(jnp.asarray(Z))
    for j in (1, 2):
        np.testing.assert_allclose(posterior.mean(_rows(Z, j)), gradients[:, j - 1], atol=1e-8)


SOLVERS = {
    "direct": {},
    "lsmr": {"solver": "lsmr", "rtol": 1e-6},
    "inducing": {"solver": "inducing", "inducing": 60},
}


@pytest.mark.parametrize("name", SOLVERS)
def test_slopes_lower_the_error(name, rng, x64):
    X, Z = rng.uniform(-2, 2, (20, 2)), rng.uniform(-2, 2, (100, 2))

    def f(X):
        return np.sin(2 * X[:, 0]) * np.cos(X[:, 1])

    slopes = [
        2 * np.cos(2 * X[:, 0]) * np.cos(X[:, 1]),
        -np.sin(2 * X[:, 0]) * np.sin(X[:, 1]),
    ]
    kernel = WithDerivatives(kernels.RBF(SCALES))
    table = np.concatenate([_rows(X, j) for j in range(3)])
    target = np.concatenate([f(X), *slopes])
    errors, widths = [], []
    for rows in (20, 60):
        settings = {"noise_variance": 1e-4, **SOLVERS[name]}
        posterior = condition(kernel, table[:rows], target[:rows], **settings)
        points = _rows(Z, 0)
        errors.append(np.sqrt(np.mean((posterior.mean(points) - f(Z)) ** 2)))
        widths.append(float(np.mean(posterior.variance(points))))
    assert errors[1] < 0.4 * errors[0]
    assert widths[1] < 0.4 * widths[0]


def test_slopes_have_features_and_so_functions_are_drawn(rng):
    X, Z = rng.uniform(-1, 1, (2, 5, 2)).astype(np.float32)
    kernel = WithDerivatives(kernels.RBF(SCALES))
    X, Z = (np.concatenate([_rows(part, 0), _rows(part, 2)]) for part in (X, Z))

    @jax.jit
    @jax.vmap
    def estimate(key):
        phi = random_features(kernel, key, 24, 3)
        return phi(X) @ phi(Z).T

    estimates = np.asarray(estimate(jax.random.split(jax.random.key(0), 3000)), np.float64)
    error = estimates.mean(0) - np.asarray(kernel(X, Z))
    assert np.abs(error / (estimates.std(0) / np.sqrt(3000) + 1e-6)).max() < 5
    posterior = condition(kernel, X, np.ones(10), noise_variance=0.01)
    paths = posterior.sample_paths(jax.random.key(0), 2)
    step = np.float32(1e-2)
    points = Z[:5].copy()
    points[:, 1] += step
    difference = (paths(points) - paths(Z[:5])) / step
    np.testing.assert_allclose(paths(Z[5:]), difference, atol=0.05)


def test_an_estimator_takes_values_and_slopes_of_different_noise(rng):
    X = rng.uniform(-2, 2, (30, 1))
    table = np.concatenate([_rows(X, 0), _rows(X, 1)])
    y = np.concatenate([np.sin(3 * X[:, 0]), 3 * np.cos(3 * X[:, 0])])
    noise = np.repeat([1e-4, 1e-2], 30)
    kernel = WithDerivatives(kernels.RBF(1.0))
    gp = GPRegressor(kernel, standardize=False, levels=[(60, 30)], random_state=0)
    gp.fit(table, y, noise_variance=noise)
    Z = np.linspace(-1.8, 1.8, 40)[:, None]
    assert np.abs(gp.predict(_rows(Z, 0)) - np.sin(3 * Z[:, 0])).max() < 0.05
    assert np.abs(gp.predict(_rows(Z, 1)) - 3 * np.cos(3 * Z[:, 0])).max() < 0.3
    for mean in ("constant", "linear"):
        with pytest.raises(ValueError, match="mean must be zero, or a function of your own"):
            GPRegressor(2.0 * kernel, standardize=False, mean=mean).fit(X, y)
        with pytest.raises(ValueError, match="mean must be zero, or a function of your own"):
            condition_around_mean(2.0 * kernel, table, y, mean=mean, noise_variance=0.1)
    with pytest.raises(ValueError, match="standardize must be False with a kernel WithDeriv"):
        GPRegressor(2.0 * kernel).fit(table, y)


def test_kernels_without_derivatives_are_refused():
    rough = kernels.RBF() + 0.5 * (kernels.Matern12().on(0) * kernels.RBF())
    for kernel in (kernels.Matern12(), rough):
        with pytest.raises(ValueError, match="Matern12 kernel has no derivatives"):
            WithDerivatives(kernel)
    with pytest.raises(ValueError, match="cannot hold another one"):
        WithDerivatives(2.0 * WithDerivatives(kernels.RBF()))
    with pytest.raises(TypeError, match="kernel must be a gplsq kernel"):
        WithDerivatives("rbf")


@pytest.mark.parametrize("order", [3, -1, 0.5, np.nan])
def test_orders_that_do_not_exist_are_refused_or_nan(order, rng):
    X = rng.standard_normal((4, 2)).astype(np.float32)
    kernel = WithDerivatives(kernels.RBF())
    with pytest.raises(ValueError, match="last column of Z must say what a row observes"):
        kernel(_rows(X, 0), _rows(X, order))
    compiled = jax.jit(lambda Z: kernel(_rows(X, 0), Z))(_rows(X, order))
    assert np.isnan(compiled).all()
    posterior = condition(kernel, _rows(X, order), X[:, 0], noise_variance=0.1, solver="direct")
    assert not bool(posterior.solution.ok)
