"""Sample weights and noise given by row: against repeated rows and textbook formulas."""

import pickle

import jax
import numpy as np
import pytest
import sklearn
from sklearn.model_selection import cross_val_score

import gplsq
from gplsq import GPClassifier, GPRegressor
from gplsq.kernels import Matern32, Scaled, Weighted
from gplsq.testing import tolerance
from gplsq.tuning import Holdout, MarginalLikelihood

N, M, NOISE = 40, 6, 2.0**-5
KERNEL = Scaled(2.0, Matern32(np.array([0.75, 1.5], np.float32)))


@pytest.fixture
def table(rng):
    X, Z = rng.standard_normal((N, 2)), rng.standard_normal((M, 2))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(N), Z


def given(**settings):
    return GPRegressor(**{"kernel": KERNEL, "noise_variance": NOISE, "objective": None} | settings)


def textbook(X, y, Z, noise):
    """Mean and variance with a noise variance for each row; no standardisation."""

    def k(A, B):
        r = np.sqrt(3 * (((A[:, None] - B[None]) / np.array([0.75, 1.5])) ** 2).sum(-1))
        return 2.0 * (1 + r) * np.exp(-r)

    solved = np.linalg.solve(k(X, X) + np.diag(noise), k(X, Z))
    return solved.T @ y, 2.0 - np.sum(k(X, Z) * solved, axis=0)


WAYS = {
    "direct": {"solver": "direct"},
    "kept": {"solver": "lsmr", "form": "dense", "rtol": 1e-10, "variance": "exact"},
    "tiled": {"solver": "lsmr", "form": "tiled", "rtol": 1e-10, "variance": "exact"},
}


@pytest.mark.parametrize("way", WAYS)
def test_noise_by_row_is_that_of_the_textbook(table, rng, way):
    X, y, Z = table
    noise = rng.uniform(0.01, 1.0, N)
    gp = given(standardize=False, **WAYS[way]).fit(X, y, noise_variance=noise)
    mean, variance = textbook(X, y, Z, noise)
    np.testing.assert_allclose(gp.predict(Z), mean, atol=1e-7)
    with jax.enable_x64(True):
        latent = gp.posterior_.variance(np.column_stack([Z, np.ones(M)]), gp.variance)
    np.testing.assert_allclose(latent, variance, atol=1e-7)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_whole_weights_are_repeated_rows(table, rng, standardize, precision):
    X, y, Z = table
    times = rng.integers(0, 4, N)
    X, Z = X.astype(precision), Z.astype(precision)
    model = given(standardize=standardize, solver="direct")
    weighted = model.fit(X, y, sample_weight=times).predict(Z)
    repeated = given(standardize=standardize, solver="direct").fit(
        np.repeat(X, times, axis=0), np.repeat(y, times)
    )
    # Condition of K + noise: about 2 N / NOISE.
    atol = tolerance(np.dtype(precision), 100)
    np.testing.assert_allclose(weighted, repeated.predict(Z), atol=atol)
    assert weighted.dtype == precision


def test_equal_weights_change_nothing(table):
    X, y, Z = table
    plain, weighted = (given(levels=[(N, 5)], objective="auto", random_state=0) for _ in range(2))
    plain.fit(X, y)
    weighted.fit(X, y, sample_weight=np.ones(N))
    for ours, theirs in zip(
        weighted.predict(Z, return_std=True), plain.predict(Z, return_std=True), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("points", ["chosen", "given"])
def test_a_model_of_inducing_points_takes_weights(table, points):
    X, y, Z = table
    noise = np.where(X[:, 0] > 0, 0.01, 1.0)
    exact = given(standardize=False).fit(X, y, noise_variance=noise).predict(Z)
    inducing = N if points == "chosen" else X
    model = given(standardize=False, solver="inducing", rtol=1e-8, inducing=inducing)
    np.testing.assert_allclose(model.fit(X, y, noise_variance=noise).predict(Z), exact, atol=1e-3)


def test_a_model_of_features_is_weighted_ridge_regression_on_them(table, rng):
    X, y, Z = table
    noise = rng.uniform(0.01, 1.0, N)
    settings = {"standardize": False, "solver": "features", "rtol": 1e-10, "num_features": 60}
    gp = given(**settings, random_state=0).fit(X, y, noise_variance=noise)
    with jax.enable_x64(True):
        # Points of weight one have the features of the kernel alone.
        features = gp.posterior_.basis.features
        Phi, other = (np.asarray(features(np.column_stack([A, np.ones(len(A))]))) for A in (X, Z))
    weighted = Phi.T @ (Phi / noise[:, None]) + np.eye(Phi.shape[1])
    mean = other @ np.linalg.solve(weighted, Phi.T @ (y / noise))
    np.testing.assert_allclose(gp.predict(Z), mean, atol=1e-6)


def test_a_weighted_kernel_of_ones_own_takes_the_last_column_for_the_weight(table):
    X, y, Z = table
    weight = np.linspace(0.5, 2, N)
    points = np.column_stack([X, weight]), np.column_stack([Z, np.ones(M)])
    gp = given(kernel=Weighted(KERNEL), standardize=False).fit(points[0], y * weight)
    mean = textbook(X, y, Z, NOISE / weight**2)[0]
    np.testing.assert_allclose(gp.predict(points[1]), mean, atol=1e-7)


@pytest.mark.parametrize("objective", ["auto", Holdout(0.25), MarginalLikelihood()], ids=str)
def test_tuning_listens_to_the_noise_of_rows(rng, objective):
    """A third of the rows are wrong by a lot and say so."""
    X = rng.uniform(-2, 2, (90, 1))
    truth = np.sin(2 * X[:, 0])
    noise = np.where(np.arange(90) % 3 == 0, 9.0, 0.01)
    y = truth + np.sqrt(noise) * rng.standard_normal(90)
    settings = {"objective": objective, "levels": [(90, 30)], "random_state": 0}
    told = GPRegressor(**settings).fit(X, y, noise_variance=noise)
    deaf = GPRegressor(**settings).fit(X, y)
    errors = [np.sqrt(np.mean((gp.predict(X) - truth) ** 2)) for gp in (told, deaf)]
    assert errors[0] < 0.12
    assert errors[0] < 0.5 * errors[1]
    # Not tuned: the noise of a row of typical noise, in standardised units.
    typical = np.exp(np.mean(np.log(noise))) / np.var(y)
    assert told.noise_variance_ == pytest.approx(typical, rel=1e-5)


def test_copies_saved_models_and_updates_know_the_weights(table, tmp_path):
    X, y, Z = table
    weights = np.linspace(0.1, 3, N)
    gp = given().fit(X, y, sample_weight=weights)
    expected = gp.predict(Z, return_std=True)
    gp.save(tmp_path / "model.gplsq")
    for copy in (gplsq.load(tmp_path / "model.gplsq"), pickle.loads(pickle.dumps(gp))):
        np.testing.assert_array_equal(copy.predict(Z, return_std=True), expected)
    more = given(standardize=False).fit(X, y, sample_weight=weights).update(Z, np.zeros(M))
    noise = NOISE / np.concatenate([weights, np.ones(M)])
    mean = textbook(np.concatenate([X, Z]), np.concatenate([y, np.zeros(M)]), Z, noise)[0]
    np.testing.assert_allclose(more.predict(Z), mean, atol=1e-7)
    assert "rows" in str(gp.summary())


@pytest.mark.parametrize("name", ["sample_weight", "noise_variance"])
def test_cross_validation_slices_them(table, name):
    X, y, _ = table
    numbers = np.linspace(0.1, 1, N)
    with sklearn.config_context(enable_metadata_routing=True):
        gp = given().set_fit_request(**{name: True})
        gp = gp.set_score_request(sample_weight=True) if name == "sample_weight" else gp
        scores = cross_val_score(gp, X, y, cv=2, params={name: numbers})
        plain = cross_val_score(given(), X, y, cv=2)
    assert np.isfinite(scores).all()
    assert not np.allclose(scores, plain)


@pytest.mark.parametrize("weight", [1e-6, 1.5, 2.0, 1000.0])
def test_equal_weights_of_any_size_are_no_weights(rng, weight):
    """Repeated rows would be predicted by their own copies, and the noise tuned away."""
    X = rng.uniform(-2, 2, (120, 2))
    truth = np.sin(2 * X[:, 0]) + 0.5 * X[:, 1]
    y = truth + 0.3 * rng.standard_normal(120)
    settings = {"levels": [(120, 40)], "random_state": 0}
    plain = GPRegressor(**settings).fit(X, y).predict(X)
    weighted = GPRegressor(**settings).fit(X, y, sample_weight=np.full(120, weight)).predict(X)
    np.testing.assert_allclose(weighted, plain, atol=0.05)
    labels = y > 0
    probabilities = [
        GPClassifier(**settings).fit(X, labels, sample_weight=w).kernel_.kernel.lengthscale
        for w in (None, np.full(120, weight))
    ]
    np.testing.assert_allclose(*probabilities, rtol=1e-6)


@pytest.mark.parametrize("tuned", [True, False])
def test_large_weights_take_no_more_memory(table, tuned):
    """As repeated rows they would be 3e11."""
    X, y, _ = table
    weights = np.full(N, 10.0**10)
    settings = {"objective": "auto" if tuned else None, "levels": [(N, 3)], "random_state": 0}
    gp = GPRegressor(KERNEL, noise_variance=1e4, **settings).fit(X, y, sample_weight=weights)
    assert gp.score(X, y) > 0.5
    codes = (y > 0).astype(int)
    model = GPClassifier(1e-8 * KERNEL, **settings).fit(X, codes, sample_weight=weights)
    assert model.score(X, codes) > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sample_weight": np.ones(N - 1)},
            "sample_weight must hold one number for each of the 40",
        ),
        ({"sample_weight": -np.ones(N)}, "sample_weight must be finite and not negative"),
        ({"sample_weight": np.full(N, np.nan)}, "sample_weight must be finite"),
        ({"sample_weight": np.zeros(N)}, "sample_weight is zero for all rows"),
        ({"sample_weight": np.array(["a"] * N)}, "sample_weight must hold one number"),
        (
            {"noise_variance": np.ones(N - 1)},
            "noise_variance must hold one number for each of the 40",
        ),
        ({"noise_variance": np.zeros(N)}, "noise_variance must be finite and positive"),
        ({"noise_variance": np.ones((N, 2))}, "noise_variance must hold one number"),
        ({"noise_variance": 0.1}, "noise_variance must hold one number"),
        ({"noise_variance": np.ones(N), "sample_weight": np.ones(N)}, "cannot both be given"),
    ],
)
def test_what_is_no_weight_is_refused_by_name(table, arguments, message):
    X, y, _ = table
    with pytest.raises(ValueError, match=message):
        given().fit(X, y, **arguments)


def test_outputs_with_holes_are_scaled_by_the_weights_of_their_rows(table, rng):
    X, y, _ = table
    targets = np.stack([y, 3 * y + 7], axis=1)
    targets[::3, 1] = np.nan
    weights = rng.uniform(0.5, 4, N)
    gp = given(missing="drop").fit(X, targets, sample_weight=weights)
    for j, there in enumerate(np.isfinite(targets).T):
        mean = np.average(targets[there, j], weights=weights[there])
        np.testing.assert_allclose(gp._y_scaling.shift[j], mean, rtol=1e-10)
