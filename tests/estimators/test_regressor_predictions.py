"""What GPRegressor predicts, with its uncertainty, and joint draws."""

import jax.numpy as jnp
import numpy as np
import pytest
from single import KERNEL, NOISE, M, N, given, short
from sklearn.metrics import r2_score

from gplsq import Direct, GPRegressor
from gplsq.kernels import Matern32
from gplsq.testing import gp_draw, tolerance
from gplsq.tuning import AbstractObjective


def matern32(A, B):
    q = (((A[:, None] - B[None]) / np.array([0.75, 1.5])) ** 2).sum(-1)
    r = np.sqrt(3 * q)
    return 2.0 * (1 + r) * np.exp(-r)


def textbook(X, y, Z):
    """Posterior mean and covariance, Rasmussen & Williams (2006), eqs. 2.25 and 2.26."""
    S, k = matern32(X, X) + NOISE * np.eye(len(X)), matern32(X, Z)
    return k.T @ np.linalg.solve(S, y), matern32(Z, Z) - k.T @ np.linalg.solve(S, k)


# Predictions


def test_a_draw_from_a_known_process_is_recovered_with_honest_intervals(rng):
    X = rng.uniform(-2, 2, (400, 2))
    latent, noisy = gp_draw(rng, Matern32(2.0), X, 0.01)
    gp = GPRegressor(random_state=0).fit(X[:N], noisy[:N])
    mean, std = gp.predict(X[N:], return_std=True)
    assert r2_score(latent[N:], mean) > 0.9
    assert 0.88 < np.mean(np.abs(noisy[N:] - mean) < 1.96 * std) <= 0.995


def test_an_untuned_fit_is_the_textbook_posterior(table):
    X, y, Z = table
    gp = given(standardize=False).fit(X, y)
    mean, covariance = textbook(X, y, Z)
    scale, noise = gp.calibration_
    got_mean, got_covariance = gp.predict(Z, return_cov=True)
    np.testing.assert_allclose(got_mean, mean, atol=tolerance(np.float64, 1e3))
    np.testing.assert_allclose(
        got_covariance, scale * covariance + noise * np.eye(M), atol=tolerance(np.float64, 1e4)
    )
    std = gp.predict(Z, return_std=True, include_noise=False)[1]
    np.testing.assert_allclose(std**2, scale * np.diag(covariance), rtol=1e-8)


def test_standardize_is_the_same_as_standardising_by_hand(table):
    X, y, Z = table
    X, Z, y = 3 * X + 5, 3 * Z + 5, 100 * y - 7
    shift, scale, y_shift, y_scale = X.mean(0), X.std(0), y.mean(), y.std()
    mean, std = given().fit(X, y).predict(Z, return_std=True)
    by_hand = given(standardize=False).fit((X - shift) / scale, (y - y_shift) / y_scale)
    mean_hand, std_hand = by_hand.predict((Z - shift) / scale, return_std=True)
    np.testing.assert_allclose(mean, mean_hand * y_scale + y_shift, rtol=1e-8)
    np.testing.assert_allclose(std, std_hand * y_scale, rtol=1e-6)


def test_standardize_matters_when_the_data_are_not_standardised(table):
    X, y, Z = table
    on, off = given().fit(X, 10 * y + 5), given(standardize=False).fit(X, 10 * y + 5)
    assert np.abs(on.predict(Z) - off.predict(Z)).max() > 0.1


def test_lsmr_to_a_tight_tolerance_equals_the_direct_solver(table):
    X, y, Z = table
    direct = given(solver="direct").fit(X, y).predict(Z)
    lsmr = given(solver="lsmr", rtol=1e-10).fit(X, y).predict(Z)
    np.testing.assert_allclose(lsmr, direct, atol=1e-8)


def test_a_solver_object_is_used_as_it_is(table):
    X, y, Z = table
    gp = given(solver=Direct()).fit(X, y)
    assert "chosen by the caller" in gp.solver_report_
    np.testing.assert_array_equal(gp.predict(Z), given(solver="direct").fit(X, y).predict(Z))


def test_a_kernel_matrix_in_tiles_gives_the_predictions_of_a_kept_one(table):
    X, y, Z = table
    tiled, dense = (
        given(solver="lsmr", rtol=1e-10, form=form).fit(X, y) for form in ("tiled", "dense")
    )
    assert tiled.posterior_.operator.form == "tiled"
    assert dense.posterior_.operator.form == "dense"
    np.testing.assert_allclose(tiled.predict(Z), dense.predict(Z), atol=1e-8)


def test_exact_variances_by_lsmr_are_the_textbook_ones_and_neighbours_bound_them(table):
    X, y, Z = table
    variances = {}
    for method in ("exact", "neighbours"):
        gp = given(solver="lsmr", rtol=1e-10, variance=method, standardize=False).fit(X, y)
        std = gp.predict(Z, return_std=True, include_noise=False)[1]
        variances[method] = std**2 / gp.calibration_.latent_scale
    exact = np.diag(textbook(X, y, Z)[1])
    np.testing.assert_allclose(variances["exact"], exact, rtol=1e-6)
    assert (variances["neighbours"] >= exact * (1 - 1e-9)).all()
    assert (variances["neighbours"] > exact * (1 + 1e-9)).any()


@pytest.mark.parametrize("loss", ["nlpd", lambda y, mean, variance: abs(y - mean).mean()])
def test_other_losses_tune_to_a_model_that_predicts(table, loss):
    X, y, _ = table
    gp = short(loss=loss).fit(X, y)
    assert gp.score(X, y) > 0.8
    assert gp.history_[-1]["loss"] < gp.history_[0]["loss"]


class NoiseNearHalf(AbstractObjective):
    """Smallest at a noise variance of 0.5, whatever the data."""

    def __call__(self, kernel, noise_variance, X, y, key, loss, groups=None):
        return jnp.log(noise_variance / 0.5) ** 2

    @property
    def random(self):
        return False

    @property
    def fresh_rows(self):
        return False


def test_another_objective_is_the_one_that_is_tuned(table):
    X, y, _ = table
    gp = short(objective=NoiseNearHalf(), kernel=KERNEL, noise_variance=0.25).fit(X, y)
    assert 0.4 < gp.noise_variance_ < 0.6
    np.testing.assert_array_equal(gp.kernel_.kernel.lengthscale, [0.75, 1.5])


def test_the_diagonal_of_the_covariance_is_the_squared_std(table):
    X, y, Z = table
    gp = short().fit(X, y)
    for include_noise in (True, False):
        mean, std = gp.predict(Z, return_std=True, include_noise=include_noise)
        mean_again, covariance = gp.predict(Z, return_cov=True, include_noise=include_noise)
        assert mean.shape == std.shape == (M,)
        assert covariance.shape == (M, M)
        np.testing.assert_array_equal(mean, mean_again)
        np.testing.assert_allclose(np.diag(covariance), std**2, rtol=1e-8)
        np.testing.assert_allclose(covariance, covariance.T)


def test_uncertainty_without_noise_is_smaller_by_the_calibrated_noise(table):
    X, y, Z = table
    gp = short().fit(X, y)
    mean, std = gp.predict(Z, return_std=True)
    latent_mean, latent_std = gp.predict(Z, return_std=True, include_noise=False)
    np.testing.assert_array_equal(mean, latent_mean)
    assert (latent_std < std).all()
    noise = gp.calibration_.noise_variance * y.std() ** 2
    np.testing.assert_allclose(std**2 - latent_std**2, noise, rtol=1e-6)


def test_score_is_the_coefficient_of_determination(table):
    X, y, _ = table
    gp = short().fit(X, y)
    assert gp.score(X, y) == pytest.approx(r2_score(y, gp.predict(X)))


# Joint draws


def test_draws_have_the_mean_and_covariance_of_the_prediction(table):
    X, y, Z = table
    gp = short().fit(X, y)
    draws = gp.sample_y(Z, 4000, random_state=3)
    mean, covariance = gp.predict(Z, return_cov=True)
    assert type(draws) is np.ndarray
    assert draws.shape == (M, 4000)
    std = np.sqrt(np.diag(covariance))
    assert (np.abs(draws.mean(1) - mean) < 5 * std / np.sqrt(4000)).all()
    relative = (np.cov(draws) - covariance) / np.outer(std, std)
    assert np.abs(relative).max() < 5 * np.sqrt(2 / 4000)


def test_draws_without_noise_vary_less(table):
    X, y, Z = table
    gp = short().fit(X, y)
    noisy, latent = gp.sample_y(Z, 500), gp.sample_y(Z, 500, include_noise=False)
    assert (latent.var(1) < noisy.var(1)).all()


def test_draws_repeat_with_a_seed_and_differ_between_seeds(table):
    X, y, Z = table
    gp = short().fit(X, y)
    assert gp.sample_y(Z).shape == (M, 1)
    np.testing.assert_array_equal(gp.sample_y(Z, 2), gp.sample_y(Z, 2, random_state=0))
    assert (gp.sample_y(Z, 2, random_state=1) != gp.sample_y(Z, 2, random_state=2)).all()
