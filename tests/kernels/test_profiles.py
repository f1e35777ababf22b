"""Closed forms of the kernels, written out with NumPy, and derivatives at distance zero."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import kernels
from gplsq._core import cast
from gplsq.kernels._profiles import matern12_profile, matern32_profile, matern52_profile
from gplsq.testing import tolerance

# The widest dtype of this mode; the contract suite looks at both.
DTYPE = jnp.zeros(()).dtype
LENGTHSCALE = np.array([0.7, 1.6])


def _distance(X, Z, scale=LENGTHSCALE):
    return np.sqrt((((X[:, None] - Z[None]) / scale) ** 2).sum(axis=2))


def _matern32(r):
    s = np.sqrt(3) * r
    return (1 + s) * np.exp(-s)


def _matern52(r):
    s = np.sqrt(5) * r
    return (1 + s + s**2 / 3) * np.exp(-s)


def _periodic(X, Z):
    gap = X[:, None] - Z[None]
    return np.exp(-2 * (np.sin(np.pi * gap / np.array([1.3, 2.4])) ** 2 / LENGTHSCALE**2).sum(2))


FORMULAS = {
    "constant": (kernels.Constant(1.7), lambda X, Z: np.full((len(X), len(Z)), 1.7)),
    "linear": (kernels.Linear([0.5, 2.0]), lambda X, Z: X * np.array([0.5, 2.0]) @ Z.T),
    "polynomial": (kernels.Polynomial(3, 0.5, 0.8), lambda X, Z: (0.5 * X @ Z.T + 0.8) ** 3),
    "rbf": (kernels.RBF(LENGTHSCALE), lambda X, Z: np.exp(-(_distance(X, Z) ** 2) / 2)),
    "rbf-scalar": (kernels.RBF(0.7), lambda X, Z: np.exp(-(_distance(X, Z, 0.7) ** 2) / 2)),
    "matern12": (kernels.Matern12(LENGTHSCALE), lambda X, Z: np.exp(-_distance(X, Z))),
    "matern32": (kernels.Matern32(LENGTHSCALE), lambda X, Z: _matern32(_distance(X, Z))),
    "matern52": (kernels.Matern52(LENGTHSCALE), lambda X, Z: _matern52(_distance(X, Z))),
    "rational-quadratic": (
        kernels.RationalQuadratic(LENGTHSCALE, 0.6),
        lambda X, Z: (1 + _distance(X, Z) ** 2 / 1.2) ** -0.6,
    ),
    "periodic": (kernels.Periodic(LENGTHSCALE, [1.3, 2.4]), _periodic),
}


@pytest.mark.parametrize(("kernel", "formula"), FORMULAS.values(), ids=FORMULAS.keys())
def test_values_are_those_of_the_formula(kernel, formula, rng):
    X, Z = rng.standard_normal((3, 2)).astype(DTYPE), rng.standard_normal((4, 2)).astype(DTYPE)
    expected = formula(X.astype(float), Z.astype(float))
    got = eqx.filter_jit(kernel)(X, Z)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(DTYPE, 10))


# k as a function of one gap, and d2k/dxdz at distance r with lengthscale l.
MIXED = {
    "rbf": (kernels.RBF, lambda r, l: np.exp(-(r**2) / (2 * l**2)) * (1 - (r / l) ** 2) / l**2),
    "matern32": (
        kernels.Matern32,
        lambda r, l: 3 / l**2 * (1 - np.sqrt(3) * r / l) * np.exp(-np.sqrt(3) * r / l),
    ),
    "matern52": (
        kernels.Matern52,
        lambda r, l: (
            (5 / (3 * l**2))
            * (1 + np.sqrt(5) * r / l - 5 * (r / l) ** 2)
            * np.exp(-np.sqrt(5) * r / l)
        ),
    ),
}


@pytest.mark.parametrize(("kind", "formula"), MIXED.values(), ids=MIXED.keys())
def test_second_derivative_is_right_also_at_distance_zero(kind, formula):
    l, x = 0.8, np.asarray(0.4, DTYPE)
    gaps = np.array([0.0, 0.3, 1.1], DTYPE)
    kernel = cast(kind(l), DTYPE)

    def by_pair(x, z):
        return kernel.pair(x[None], z[None])

    def by_cross(x, z):
        return kernel.cross(x[None, None], z[None, None])[0, 0]

    @jax.jit
    def mixed(x, z):
        ways = (jax.grad(jax.grad(way, 0), 1) for way in (by_pair, by_cross))
        return [jax.vmap(way, (None, 0))(x, z) for way in ways]

    expected = formula(gaps.astype(float), l)
    for found in mixed(x, x + gaps):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(DTYPE, 10))


def test_variance_of_the_derivative_of_matern_processes(x64):
    l, origin = 1.7, jnp.zeros(1)
    for kind, factor in ((kernels.Matern32, 3.0), (kernels.Matern52, 5 / 3)):
        mixed = jax.jit(jax.jacfwd(jax.grad(kind(l).pair, 0), 1))(origin, origin)
        np.testing.assert_allclose(mixed, [[factor / l**2]], rtol=1e-12)


def test_profile_slopes_at_zero_are_exact():
    zero = jnp.zeros(())
    assert float(jax.grad(matern12_profile)(zero)) == 0.0  # the kink, by convention
    assert float(jax.grad(matern32_profile)(zero)) == -0.5
    assert float(jax.grad(matern52_profile)(zero)) == pytest.approx(-1 / 6, rel=1e-6)
    assert float(jax.grad(jax.grad(matern52_profile))(zero)) == pytest.approx(1 / 12, rel=1e-6)


def test_rational_quadratic_tends_to_rbf(rng, x64):
    X = rng.standard_normal((4, 2))
    np.testing.assert_allclose(
        kernels.RationalQuadratic(0.9, 1e7)(X), kernels.RBF(0.9)(X), atol=1e-6
    )


def test_periodic_repeats_after_its_period(rng):
    x = rng.standard_normal((3, 1)).astype(DTYPE)
    kernel = kernels.Periodic(0.8, 1.5)
    np.testing.assert_allclose(kernel(x, x + 1.5), kernel(x, x), atol=tolerance(DTYPE, 100))
