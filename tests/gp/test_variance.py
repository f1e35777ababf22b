"""The neighbour bound, and variances where rounding is as large as they are."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gplsq import kernels
from gplsq.gp import condition
from gplsq.gp._variance import variance_by_solves
from gplsq.solvers import LSMR, STATUS

KERNEL = 1.3 * kernels.Matern32([0.8, 1.4])
METHODS = ("exact", "neighbours")


def _posterior(rng, n, dtype, solver="direct", noise=0.05, **settings):
    X = rng.standard_normal((n, 2)).astype(dtype)
    y = np.sin(2 * X[:, 0]).astype(dtype)
    return condition(KERNEL, X, y, noise_variance=noise, solver=solver, **settings)


def test_the_neighbour_variance_is_exact_with_64_rows_and_fewer(rng, x64):
    posterior = _posterior(rng, 64, np.float64)
    Z = rng.standard_normal((5, 2))
    np.testing.assert_allclose(
        posterior.variance(Z, "neighbours"), posterior.variance(Z, "exact"), rtol=1e-8
    )


def test_the_neighbour_variance_is_an_upper_bound_beyond(rng, x64):
    posterior = _posterior(rng, 300, np.float64)
    Z = 1.5 * rng.standard_normal((20, 2))
    exact, bound = (np.asarray(posterior.variance(Z, method)) for method in METHODS)
    assert np.all(bound >= exact * (1 - 1e-9))
    assert np.any(bound > exact * (1 + 1e-6))  # 64 rows do not tell all
    assert np.all(bound <= 1.3 * (1 + 1e-9))  # nor less than nothing
    # Tight where the kernel is short against the spread of 64 rows.
    assert np.all(bound <= 1.1 * exact)


def test_neighbours_are_chosen_by_correlation_and_not_by_covariance(rng, x64):
    # A kernel of unequal variances: the rows with the largest covariance are far away.
    kernel = kernels.RBF(0.3) * kernels.Polynomial(2, 1.0, 0.1)
    X = np.concatenate([0.2 * rng.standard_normal((64, 1)), 8 + 0.2 * rng.standard_normal((64, 1))])
    posterior = condition(kernel, X, X[:, 0], noise_variance=1e-4, solver="direct")
    Z = np.array([[0.1]])
    np.testing.assert_allclose(
        posterior.variance(Z, "neighbours"), posterior.variance(Z, "exact"), rtol=1e-3
    )


def test_auto_is_exact_with_a_factor_and_the_bound_without(rng):
    Z = rng.standard_normal((6, 2)).astype(np.float32)
    direct = _posterior(rng, 40, np.float32)
    np.testing.assert_array_equal(direct.variance(Z), direct.variance(Z, "exact"))
    lsmr = _posterior(rng, 40, np.float32, "lsmr")
    np.testing.assert_array_equal(lsmr.variance(Z), lsmr.variance(Z, "neighbours"))


def test_a_solve_that_stops_early_gives_a_variance_that_is_too_large(rng, x64):
    posterior = _posterior(rng, 40, np.float64)
    Z = rng.standard_normal((6, 2))
    exact = np.asarray(posterior.variance(Z, "exact"))
    solves = eqx.filter_jit(variance_by_solves)
    # Without a preconditioner, so that it takes more steps than it gets.
    loose, status = solves(posterior.operator, jnp.asarray(0.05), LSMR(max_steps=4), None, Z)
    assert np.all(status == STATUS.MAX_STEPS)
    assert np.all(loose >= exact * (1 - 1e-9))
    assert np.any(loose > exact * (1 + 1e-3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("solver", ["direct", "lsmr"])
def test_variances_are_never_negative_in_float32_with_little_noise(method, solver, rng):
    posterior = _posterior(rng, 40, np.float32, solver, noise=1e-5)
    Z = np.concatenate([posterior.X, posterior.X + np.float32(1e-3)])
    variance = np.asarray(posterior.variance(Z, method))
    assert variance.shape == (80,)
    assert np.all(variance >= 0)  # NaN fails too
    assert np.all(variance <= 1.3 * (1 + 1e-5))
    raw = np.asarray(posterior.raw_variance(Z, method))
    np.testing.assert_array_equal(variance, np.maximum(raw, 0))


def test_left_out_rows_are_not_among_their_own_neighbours(rng):
    posterior = _posterior(rng, 40, np.float32, "lsmr", noise=1e-3)
    rows = np.arange(0, 40, 8)
    _, latent = posterior.leave_one_out(rows)
    # With the row itself among the data, the variance would be below the noise.
    assert np.all(np.asarray(latent) > 2e-3)


def test_far_from_the_data_the_variance_is_that_of_the_prior(rng):
    posterior = _posterior(rng, 40, np.float32)
    far = np.full((1, 2), 1e3, np.float32)
    for method in METHODS:
        np.testing.assert_allclose(posterior.variance(far, method), [1.3], rtol=1e-5)


def test_variances_whose_solves_missed_the_tolerance_warn_once(rng):
    X = rng.standard_normal((40, 2)).astype(np.float32)
    stingy = LSMR(rtol=1e-14, max_steps=1)
    posterior = condition(kernels.RBF(), X, X[:, 0], noise_variance=0.01, solver=stingy)
    for compute in (lambda: posterior.variance(X, "exact"), lambda: posterior.covariance(X)):
        with pytest.warns(ConvergenceWarning, match=r"40 points missed.*not too small") as caught:
            compute()
        assert len(caught) == 1


@pytest.mark.parametrize("solver", ["direct", "lsmr"])
def test_in_float32_the_diagonal_of_a_covariance_is_the_variance(solver, rng):
    posterior = _posterior(rng, 40, np.float32, solver)
    # Far from the data, where it is the prior's; between points far apart distances by expansion
    # round the most.
    Z = 1000 + 100 * rng.standard_normal((300, 2)).astype(np.float32)
    np.testing.assert_allclose(np.diagonal(posterior.covariance(Z)), 1.3, rtol=1e-6)
