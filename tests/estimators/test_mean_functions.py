"""Mean functions: against generalised least squares, and what they are for."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from several import M, N, P, covariance, given, of_pairs

import gplsq
from gplsq import GPRegressor
from gplsq.gp import condition_around_mean
from gplsq.kernels import RBF, Linear
from gplsq.operators import RowTable
from gplsq.testing import central_difference

NOISE = 2.0**-5


@pytest.fixture
def trend(rng):
    """X, y of a wave on a slope, and new points Z."""
    X, Z = rng.standard_normal((N, 2)), rng.standard_normal((M, 2))
    return X, 5 + 3 * X[:, 0] + np.sin(3 * X[:, 1]) + 0.1 * rng.standard_normal(N), Z


def basis(mean, X):
    ones = np.ones((len(X), 1))
    return np.hstack([ones, X]) if mean == "linear" else ones


def textbook(mean, X, y, Z, noise=NOISE):
    """Rasmussen & Williams (2006), eq. 2.41 and 2.42: mean, covariance, and the coefficients."""
    S = covariance(X, X) + np.diag(np.broadcast_to(noise, len(X)))
    k, H = covariance(X, Z), basis(mean, X)
    information = H.T @ np.linalg.solve(S, H)
    b = np.linalg.solve(information, H.T @ np.linalg.solve(S, y))
    R = basis(mean, Z) - k.T @ np.linalg.solve(S, H)
    values = basis(mean, Z) @ b + k.T @ np.linalg.solve(S, y - H @ b)
    spread = R @ np.linalg.solve(information, R.T)
    return values, covariance(Z, Z) - k.T @ np.linalg.solve(S, k) + spread, b


@pytest.mark.parametrize("mean", ["constant", "linear"])
@pytest.mark.parametrize("way", ["direct", "lsmr", "inducing"])
def test_a_fitted_mean_is_generalised_least_squares(trend, mean, way):
    X, y, Z = trend
    settings = {"inducing": X} if way == "inducing" else {}
    gp = given(mean=mean, standardize=False, solver=way, rtol=1e-10, **settings).fit(X, y)
    expected, cov, b = textbook(mean, X, y, Z)
    atol = 1e-4 if way == "inducing" else 1e-7
    np.testing.assert_allclose(gp.predict(Z), expected, atol=atol)
    np.testing.assert_allclose(gp.posterior_.coefficients, b, atol=10 * atol)
    with jax.enable_x64(True):
        np.testing.assert_allclose(gp.posterior_.covariance(Z), cov, atol=atol)
        variance = gp.posterior_.variance(Z, "exact")
    np.testing.assert_allclose(variance, np.diag(cov), atol=atol)


def test_rows_are_left_out_of_the_mean_too(trend):
    X, y, _ = trend
    gp = given(mean="linear", standardize=False).fit(X, y)
    with jax.enable_x64(True):
        residual, latent = gp.posterior_.leave_one_out(np.arange(5))
    for i in range(5):
        rest = np.arange(N) != i
        expected, cov, _ = textbook("linear", X[rest], y[rest], X[i : i + 1])
        assert residual[i] == pytest.approx(y[i] - expected[0], abs=1e-8)
        assert latent[i] == pytest.approx(cov[0, 0], abs=1e-8)


def test_a_wide_prior_for_a_slope_approaches_it_and_float32_cannot_follow(trend):
    """Why the mean is not a kernel: on the way to the limit the matrix loses its digits."""
    X, y, Z = (part.astype(np.float32) for part in trend)
    expected, _, _ = textbook("linear", X.astype(float), y.astype(float), Z.astype(float))

    def error(**settings):
        gp = given(standardize=False, solver="direct", **settings).fit(X, y)
        return np.abs(gp.predict(Z) - expected).max()

    kernel = given().kernel
    wide = {width: kernel + width * (Linear(1.0) + 1.0) for width in (1e2, 1e6)}
    exact = error(mean="linear")
    assert exact < 1e-3
    assert exact < error(kernel=wide[1e2])
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite in this dtype"):
        error(kernel=wide[1e6])


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_far_from_the_data_predictions_go_to_the_mean(trend, precision):
    X, y, _ = trend
    X, far = X.astype(precision), np.array([[40.0, 40.0], [-40.0, 0.0]], precision)
    settings = {"random_state": 0, "kernel": 1.0 * RBF(np.ones(2))}
    zero, line, own = (
        GPRegressor(mean=mean, levels=[(N, steps)], **settings).fit(X, y)
        for mean, steps in (("zero", 20), ("linear", 80), (lambda rows: 3 * rows[:, 0] + 5, 20))
    )
    truth = 5 + 3 * far[:, 0]
    np.testing.assert_allclose(zero.predict(far), np.mean(y), rtol=1e-3)
    np.testing.assert_allclose(line.predict(far), truth, atol=0.2 * np.abs(far).max())
    # The function itself, and the average of what it leaves.
    np.testing.assert_allclose(own.predict(far), truth + np.mean(y - 5 - 3 * X[:, 0]), rtol=1e-5)
    assert line.predict(far).dtype == precision
    # The slope is not known exactly, and the further away the less.
    near, away = line.predict(np.array([[4.0, 4.0], [400.0, 400.0]], precision), return_std=True)[1]
    assert away > 3 * near
    assert line.score(X, y) > 0.95


def test_a_function_is_subtracted_and_added(trend):
    X, y, Z = trend

    def slope(rows):
        return 3 * rows[:, 0]

    own = given(mean=slope).fit(X, y)
    rest = given().fit(X, y - slope(X))
    np.testing.assert_allclose(own.predict(Z), rest.predict(Z) + slope(Z), rtol=1e-10)
    for noise in (True, False):
        ours, theirs = (gp.predict(Z, True, include_noise=noise)[1] for gp in (own, rest))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    difference = own.sample_y(Z, 3) - rest.sample_y(Z, 3)
    np.testing.assert_allclose(difference, slope(Z)[:, None] * np.ones(3), atol=1e-9)
    own.update(Z, slope(Z)), rest.update(Z, np.zeros(M))
    np.testing.assert_allclose(own.predict(Z), rest.predict(Z) + slope(Z), rtol=1e-10)


def test_weights_of_rows_weigh_in_the_mean(trend, rng):
    X, y, Z = trend
    noise = rng.uniform(0.01, 1.0, N)
    gp = given(mean="linear", standardize=False).fit(X, y, noise_variance=noise)
    np.testing.assert_allclose(gp.predict(Z), textbook("linear", X, y, Z, noise)[0], atol=1e-7)


def test_every_output_has_a_mean_of_its_own(several_outputs, holes):
    X, y, Z = several_outputs
    y = np.where(holes, np.nan, y)
    apart = given(mean="linear", missing="drop", standardize=False).fit(X, y).predict(Z)
    for j in range(P):
        there = ~holes[:, j]
        expected = textbook("linear", X[there], y[there, j], Z)[0]
        np.testing.assert_allclose(apart[:, j], expected, atol=1e-6)
    gp = of_pairs(mean="linear", standardize=False).fit(X, y)
    slopes = np.arange(P) * X[:, :1]
    moved = of_pairs(mean="linear", standardize=False).fit(X, y + slopes + 7)
    # What the basis can express passes through unchanged.
    expected = gp.predict(Z) + np.arange(P) * Z[:, :1] + 7
    np.testing.assert_allclose(moved.predict(Z), expected, atol=1e-6)


@pytest.mark.parametrize("outputs", [1, P])
def test_copies_saved_models_and_updates_keep_the_mean(several_outputs, tmp_path, outputs):
    X, y, Z = several_outputs
    y = y[:, 0] if outputs == 1 else y
    gp = given(mean="linear", standardize=False).fit(X[:30], y[:30])
    expected = gp.predict(Z, return_std=True)
    gp.save(tmp_path / "model.gplsq")
    whole = given(mean="linear", standardize=False).fit(X, y).predict(Z)
    for copy in (gplsq.load(tmp_path / "model.gplsq"), pickle.loads(pickle.dumps(gp))):
        np.testing.assert_array_equal(copy.predict(Z, return_std=True), expected)
        np.testing.assert_allclose(copy.update(X[30:], y[30:]).predict(Z), whole, atol=1e-7)
    assert gp.summary()["mean"].value == "linear"


def test_a_fit_around_a_mean_is_differentiable(trend, x64):
    X, y, Z = trend

    @eqx.filter_jit
    def value(theta):
        kernel = jnp.exp(theta[0]) * RBF(jnp.exp(theta[1]))
        settings = {"mean": "linear", "noise_variance": jnp.exp(theta[2]), "solver": "direct"}
        posterior = condition_around_mean(kernel, X, y + theta[3] * X[:, 0], **settings)
        return jnp.sum(posterior.mean(Z) ** 2) + jnp.sum(posterior.variance(Z))

    theta = np.array([0.1, -0.3, -2.0, 0.4])
    expected = central_difference(value, theta)
    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(theta)), expected, rtol=1e-5)


def test_a_column_that_never_changes_has_no_slope(trend):
    X, y, Z = trend
    still = np.column_stack([X, np.full(N, 3.0)]), np.column_stack([Z, np.full(M, 8.0)])
    settings = {"mean": "linear", "levels": [(N, 3)], "random_state": 0}
    gp = GPRegressor(**settings).fit(still[0], y)
    mean, std = gp.predict(still[1], return_std=True)
    np.testing.assert_allclose(mean, GPRegressor(**settings).fit(X, y).predict(Z), atol=0.3)
    assert np.isfinite(std).all()


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        ("quadratic", "mean must be one of 'zero', 'constant', 'linear'"),
        (None, "mean must be one of"),
        (lambda X: X, r"mean must return one finite number for each target, shape \(40,\)"),
        (lambda X: np.full(len(X), np.nan), "mean must return one finite number"),
    ],
)
def test_what_is_no_mean_is_refused_by_name(trend, mean, message):
    X, y, _ = trend
    with pytest.raises(ValueError, match=message):
        given(mean=mean).fit(X, y)


def test_means_that_cannot_be_are_refused(trend, tmp_path):
    X, y, _ = trend
    with pytest.raises(ValueError, match='models of a RowTable have mean="zero"'):
        given(mean="linear", solver="inducing").fit(RowTable(X.astype(np.float32)), y)
    gp = given(mean=lambda rows: rows[:, 0]).fit(X, y)
    with pytest.raises(TypeError, match="mean cannot be saved: got"):
        gp.save(tmp_path / "model.gplsq")
    assert not (tmp_path / "model.gplsq").exists()
