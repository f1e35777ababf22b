"""Correlated outputs: against dense algebra over pairs, and what they are for."""

import jax
import numpy as np
import pytest
from several import (
    KAPPA,
    LENGTHS,
    MIXING,
    WAYS,
    M,
    N,
    P,
    covariance,
    given,
    of_pairs,
    textbook,
)

from gplsq import GPRegressor
from gplsq.gp import CorrelatedOutputs
from gplsq.kernels import Coregionalised, Matern32


def test_draws_of_correlated_outputs_are_correlated(several_outputs):
    X, y, _ = several_outputs
    kernel = Coregionalised(Matern32(LENGTHS), 2, mixing=np.ones((2, 1)), kappa=[1e-3, 1e-3])
    gp = given(kernel=kernel, outputs="correlated").fit(X, y[:, :2])
    far = np.full((1, 2), 50.0)
    draws = gp.sample_y(far, 500, include_noise=False)
    assert np.corrcoef(draws[0])[0, 1] > 0.9
    apart = given().fit(X, y[:, :2]).sample_y(far, 500, include_noise=False)
    assert np.abs(np.corrcoef(apart[0])[0, 1]) < 0.2


def pair_covariance(A, B):
    """Over all pairs of a point and an output, point by point."""
    between = MIXING @ MIXING.T + np.diag(KAPPA)
    return np.kron(covariance(A, B) / 2, between)


@pytest.mark.parametrize(
    ("way", "with_holes"), [("direct", False), ("direct", True), ("kept", True)]
)
def test_correlated_outputs_are_those_of_the_textbook(several_outputs, holes, way, with_holes):
    X, y, Z = several_outputs
    gone = holes if with_holes else np.zeros_like(holes)
    gp = of_pairs(standardize=False, **WAYS[way]).fit(X, np.where(gone, np.nan, y))
    assert isinstance(gp.posterior_, CorrelatedOutputs)
    there = ~gone.ravel()
    K, k = pair_covariance(X, X)[np.ix_(there, there)], pair_covariance(X, Z)[there]
    mean, cov = textbook(K, k, pair_covariance(Z, Z), y.ravel()[there])
    np.testing.assert_allclose(gp.predict(Z), mean.reshape(M, P), atol=1e-5)
    with jax.enable_x64(True):
        joint = np.asarray(gp.posterior_.joint_covariance(Z))
        each = np.asarray(gp.posterior_.covariance(Z))
    cov = cov.reshape(M, P, M, P)
    np.testing.assert_allclose(joint, cov, atol=1e-6)
    np.testing.assert_allclose(each, np.einsum("iaja->ija", cov), atol=1e-6)


def test_an_output_of_few_rows_borrows_strength_from_another(rng):
    X, Z = rng.uniform(-3, 3, (60, 1)), rng.uniform(-3, 3, (100, 1))

    def truth(X):
        return np.column_stack([np.sin(2 * X[:, 0]), 4 * np.sin(2 * X[:, 0]) + np.cos(X[:, 0])])

    y = truth(X) + 0.05 * rng.standard_normal((60, 2))
    y[10:, 1] = np.nan
    settings = {"missing": "drop", "levels": [(70, 40)], "loss": "nlpd", "random_state": 0}
    errors = {}
    for outputs in ("independent", "correlated"):
        gp = GPRegressor(outputs=outputs, **settings).fit(X, y)
        errors[outputs] = np.sqrt(np.mean((gp.predict(Z) - truth(Z)) ** 2, axis=0))
    assert errors["correlated"][1] < 0.5 * errors["independent"][1]
    assert errors["correlated"][0] < 1.5 * errors["independent"][0]
    with jax.enable_x64(True):
        between = np.asarray(gp.kernel_.covariance)
    assert between[0, 1] > 0.7 * np.sqrt(between[0, 0] * between[1, 1])


def test_a_kernel_of_points_is_put_into_one_of_pairs_and_tuned(several_outputs):
    X, y, Z = several_outputs
    settings = {"outputs": "correlated", "objective": "auto", "levels": [(3 * N, 5)]}
    gp = given(**settings, random_state=0).fit(X, y)
    assert isinstance(gp.kernel_, Coregionalised)
    records = list(gp.history_)
    for name in ("mixing", "kappa", "kernel.variance", "kernel.kernel.lengthscale"):
        assert not np.allclose(records[0][name], records[-1][name]), name
    sum_of_two = given(
        kernel=Coregionalised(Matern32(LENGTHS), P) + Coregionalised(Matern32([3.0, 3.0]), P),
        **settings,
    )
    assert sum_of_two.fit(X, y).predict(Z).shape == (M, P)


def test_weights_and_correlated_outputs_go_together(several_outputs):
    X, y, Z = several_outputs
    times = np.arange(N) % 3
    weighted = of_pairs(standardize=False).fit(X, y, sample_weight=times)
    repeated = of_pairs(standardize=False).fit(
        np.repeat(X, times, axis=0), np.repeat(y, times, axis=0)
    )
    np.testing.assert_allclose(weighted.predict(Z), repeated.predict(Z), atol=1e-6)


def test_inducing_points_are_taken_at_all_outputs(several_outputs):
    X, y, Z = several_outputs
    exact = of_pairs(standardize=False).fit(X, y).predict(Z)
    low = of_pairs(standardize=False, solver="inducing", inducing=X, rtol=1e-8).fit(X, y)
    assert low.posterior_.pairs.Z.shape == (N * P, 3)
    np.testing.assert_allclose(low.predict(Z), exact, atol=1e-3 * np.abs(y).max())
