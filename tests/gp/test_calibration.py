"""Calibration on synthetic residuals whose scale and noise are known."""

import numpy as np
import pytest

from gplsq.gp import calibrate


def _nlpd(residual, variance):
    return np.mean(0.5 * np.log(2 * np.pi * variance) + 0.5 * residual**2 / variance)


@pytest.mark.parametrize(("scale", "noise"), [(2.5, 0.3), (0.4, 1.0), (1.0, 0.02)])
def test_scale_and_noise_are_recovered(scale, noise, rng):
    latent = rng.gamma(1.0, 1.0, 20_000)
    residual = np.sqrt(scale * latent + noise) * rng.standard_normal(20_000)
    found = calibrate(residual, latent)
    # Standard errors of both are about 2 to 4%.
    assert found.latent_scale == pytest.approx(scale, rel=0.15)
    assert found.noise_variance == pytest.approx(noise, rel=0.15)


def test_a_pure_noise_gets_next_to_no_latent_part(rng):
    latent = rng.gamma(1.0, 1.0, 20_000)
    found = calibrate(0.5 * rng.standard_normal(20_000), latent)
    assert found.latent_scale < 0.01
    assert found.noise_variance == pytest.approx(0.25, rel=0.05)


def test_a_pure_scale_gets_next_to_no_noise(rng):
    latent = rng.uniform(0.5, 3, 20_000)
    found = calibrate(np.sqrt(1.7 * latent) * rng.standard_normal(20_000), latent)
    total = found.latent_scale * latent + found.noise_variance
    np.testing.assert_allclose(total, 1.7 * latent, rtol=0.1)


@pytest.mark.parametrize("size", [2, 30, 1000])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["normal", "heavy", "unrelated", "zero latent"])
def test_calibration_is_never_worse_than_one_constant_variance(kind, scale, size, rng):
    latent = rng.gamma(0.5, 1.0, size)
    residual = {
        "normal": np.sqrt(latent + 0.1) * rng.standard_normal(size),
        "heavy": rng.standard_t(2, size),
        "unrelated": rng.standard_normal(size) / (0.1 + latent),
        "zero latent": rng.standard_normal(size),
    }[kind]
    residual = scale * residual
    latent = 0 * latent if kind == "zero latent" else latent
    found = calibrate(residual, latent)
    total = found.latent_scale * latent + found.noise_variance
    assert found.latent_scale > 0
    assert found.noise_variance > 0
    constant = _nlpd(residual, np.mean(residual**2))
    # L-BFGS stops at a relative change of 2e-9.
    assert _nlpd(residual, total) <= constant + 1e-6


def test_float32_and_negative_rounding_of_variances_are_taken(rng):
    latent = rng.gamma(1.0, 1.0, 500).astype(np.float32)
    latent[:3] = -1e-7
    residual = (np.sqrt(np.maximum(latent, 0) + 0.1) * rng.standard_normal(500)).astype(np.float32)
    found = calibrate(residual, latent)
    assert isinstance(found.latent_scale, float)
    assert found == calibrate(residual.astype(float), np.maximum(latent, 0).astype(float))


def test_residuals_of_zero_leave_finite_positive_numbers(rng):
    found = calibrate(np.zeros(10), rng.gamma(1.0, 1.0, 10))
    assert all(np.isfinite(number) and number > 0 for number in found)


def test_rows_all_alike_keep_the_ratio_of_the_model(rng):
    latent = np.full(500, 0.02) * rng.uniform(0.99, 1.01, 500)
    residual = np.sqrt(3 * (0.02 + 0.1)) * rng.standard_normal(500)
    found = calibrate(residual, latent, 0.1)
    # Both three times the model's, to the standard error of a variance of 500 rows and the prior.
    assert found.latent_scale == pytest.approx(3, rel=0.25)
    assert found.noise_variance == pytest.approx(0.3, rel=0.25)


@pytest.mark.parametrize("model_noise", [1e-6, 1.0, 1e3])
def test_rows_that_differ_overrule_the_ratio_of_the_model(model_noise, rng):
    latent = rng.gamma(1.0, 1.0, 20_000)
    residual = np.sqrt(2.5 * latent + 0.3) * rng.standard_normal(20_000)
    found = calibrate(residual, latent, model_noise)
    assert found.latent_scale == pytest.approx(2.5, rel=0.15)
    assert found.noise_variance == pytest.approx(0.3, rel=0.15)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_calibration_has_the_units_of_its_residuals(scale, rng):
    latent = rng.gamma(1.0, 1.0, 200)
    residual = np.sqrt(latent + 0.5) * rng.standard_normal(200)
    found = calibrate(residual, latent, 0.5)
    scaled = calibrate(scale * residual, scale**2 * latent, scale**2 * 0.5)
    assert scaled.latent_scale == pytest.approx(found.latent_scale, rel=1e-3)
    assert scaled.noise_variance == pytest.approx(scale**2 * found.noise_variance, rel=1e-3)
