"""Outliers and input-dependent noise, learnt from the residuals of a fit."""

import jax
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from gplsq import GPRegressor
from gplsq.gp import robust
from gplsq.kernels import RBF
from gplsq.operators import RowTable

# One shape and one number of steps: fits share their compiled functions.
N = 150
SETTINGS = {"levels": [(N, 20)], "random_state": 0}


def _nlpd(y, mean, variance):
    return np.mean(0.5 * np.log(2 * np.pi * variance) + 0.5 * (y - mean) ** 2 / variance)


@pytest.fixture
def spoiled(rng):
    X = rng.uniform(-3, 3, (N, 1))
    truth = 5 * np.sin(2 * X[:, 0]) + 100
    y = truth + 0.5 * rng.standard_normal(N)
    bad = np.arange(N) < 15
    return X, np.where(bad, y + rng.choice([-1, 1], N) * rng.uniform(30, 99, N), y), y, bad


def test_weights_find_the_outliers_and_a_fit_with_them_is_nearly_one_without(spoiled):
    X, y, sound, bad = spoiled
    first = GPRegressor(**SETTINGS, loss=lambda y, mean, v: abs(y - mean).mean()).fit(X, y)
    weights = first.outlier_weights(X, y)
    assert weights.shape == (N,)
    assert np.all((weights > 0) & (weights <= 1))
    assert weights[bad].max() < 0.1
    assert np.median(weights[~bad]) > 0.8
    Z = np.linspace(-2.8, 2.8, 100)[:, None]
    truth = 5 * np.sin(2 * Z[:, 0]) + 100

    def rmse(gp):
        return np.sqrt(np.mean((gp.predict(Z) - truth) ** 2))

    again = GPRegressor(**SETTINGS).fit(X, y, sample_weight=weights)
    assert rmse(again) < 1.5 * rmse(GPRegressor(**SETTINGS).fit(X, sound))
    assert rmse(again) < 0.3 * rmse(first)


def test_more_degrees_of_freedom_believe_more(spoiled):
    X, y, _, bad = spoiled
    gp = GPRegressor(1.0 * RBF(0.3), noise_variance=0.05, objective=None).fit(X, y)
    few, many = (gp.outlier_weights(X, y, df=df)[bad] for df in (2.0, 50.0))
    assert np.all(few < many)


@pytest.fixture
def quiet_and_loud(rng):
    """A noise whose standard deviation grows from 0.1 to 2 along the first column."""

    def draw(n):
        X = rng.uniform(-2, 2, (n, 2))
        std = 0.1 * 20 ** ((X[:, 0] + 2) / 4)
        return X, 3 * np.sin(2 * X[:, 1]) + std * rng.standard_normal(n), std**2

    return draw(N), draw(1000)


def test_noise_that_grows_is_learnt_and_gives_better_intervals(quiet_and_loud):
    (X, y, _), (Z, new, variance) = quiet_and_loud
    plain = GPRegressor(**SETTINGS).fit(X, y)
    noise = plain.noise_model(X, y)
    ratio = np.log(noise.variance(Z) / variance)
    assert abs(np.mean(ratio)) < 0.4
    assert np.sqrt(np.mean(ratio**2)) < 0.9  # a constant is off by about 1.7
    told = GPRegressor(**SETTINGS).fit(X, y, noise_variance=noise.variance(X))
    mean, total = told.predict(Z), noise.predictive_std(told, Z) ** 2
    equal, equal_std = plain.predict(Z, return_std=True)
    assert _nlpd(new, mean, total) < _nlpd(new, equal, equal_std**2) - 0.2
    for half in (Z[:, 0] < 0, Z[:, 0] > 0):
        inside = np.abs(new - mean)[half] < 1.96 * np.sqrt(total[half])
        assert 0.88 < inside.mean() < 0.99


def test_equal_noise_is_found_to_be_nearly_equal(rng):
    X = rng.uniform(-2, 2, (N, 1)).astype(np.float32)
    y = np.sin(2 * X[:, 0]) + 0.3 * rng.standard_normal(N)
    gp = GPRegressor(**SETTINGS).fit(X, y)
    variance = gp.noise_model(X, y, num_rounds=1).variance(X)
    assert variance.dtype == np.float64
    assert np.all((variance > 0.03) & (variance < 0.27))
    assert abs(np.mean(variance) - 0.09) < 0.03


def test_the_noise_can_have_a_model_of_its_own(quiet_and_loud):
    (X, y, _), _ = quiet_and_loud
    gp = GPRegressor(RBF(0.5), noise_variance=0.1, objective=None).fit(X, y)
    smooth = GPRegressor(RBF(3.0), noise_variance=3.0, objective=None)
    noise = gp.noise_model(X, y, num_rounds=1, model=smooth)
    assert noise.model.kernel_ is not gp.kernel_
    assert not hasattr(smooth, "posterior_")
    assert np.corrcoef(np.log(noise.variance(X)), X[:, 0])[0, 1] > 0.8


def test_tables_with_names_keep_them(rng):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(rng.uniform(-2, 2, (60, 2)), columns=["a", "b"])
    y = np.sin(2 * X["a"]) + 0.1 * rng.standard_normal(60)
    gp = GPRegressor(RBF(0.7), noise_variance=0.05, objective=None).fit(X, y)
    noise = gp.noise_model(X, y, model=GPRegressor(RBF(2.0), noise_variance=1.0, objective=None))
    assert noise.variance(X).shape == gp.outlier_weights(X, y).shape == (60,)


UNTUNED = {"kernel": RBF(0.3), "noise_variance": 0.05, "objective": None}
EASY = GPRegressor(RBF(2.0), noise_variance=1.0, objective=None)


def test_rows_without_a_target_are_left_out_and_weigh_nothing(spoiled):
    X, y, _, _ = spoiled
    gone = np.arange(N) % 3 == 0
    holes = np.where(gone, np.nan, y)
    gp, rest = GPRegressor(missing="drop", **UNTUNED), GPRegressor(**UNTUNED)
    gp.set_params(random_state=0).fit(X, holes)
    rest.set_params(random_state=0).fit(X[~gone], y[~gone])
    weights = gp.outlier_weights(X, holes)
    assert np.all(weights[gone] == 0)
    np.testing.assert_allclose(weights[~gone], rest.outlier_weights(X[~gone], y[~gone]), rtol=1e-10)
    ours, theirs = (
        model.noise_model(A, t, model=EASY).variance(X)
        for model, A, t in ((gp, X, holes), (rest, X[~gone], y[~gone]))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


def test_weights_of_other_rows_are_in_the_units_of_the_fit(spoiled):
    """The kernel is, so a table that is standardised by itself would be another model."""
    X, y, _, _ = spoiled
    X[:, 0] += 40
    gp = GPRegressor(**UNTUNED, mean=lambda rows: 3 * rows[:, 0]).fit(X, y + 3 * X[:, 0])
    some = X[:, 0] < 40
    points = ((X - X.mean()) / X.std())[some]
    target = ((y - y.mean()) / y.std())[some]
    with jax.enable_x64(True):
        fit = robust(RBF(0.3), points, target, noise_variance=0.05)
        expected = np.asarray(fit.weights) * 0.8
    weights = gp.outlier_weights(X[some], (y + 3 * X[:, 0])[some])
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_weights_are_told_by_given_inducing_points_too(spoiled):
    X, y, _, bad = spoiled
    Z = np.linspace(-1.7, 1.7, 30)[:, None]
    gp = GPRegressor(solver="inducing", inducing=Z, **UNTUNED).fit(X, y)
    assert gp.outlier_weights(X, y)[bad].max() < 0.3


def test_the_noise_is_learnt_around_the_average_whatever_the_mean_of_y(rng):
    X = rng.uniform(-2, 2, (60, 1))
    y = 50 * X[:, 0] + np.sin(2 * X[:, 0]) + 0.3 * rng.standard_normal(60)
    settings = {"kernel": RBF(0.7), "noise_variance": 0.1, "levels": [(60, 3)], "random_state": 0}
    gp = GPRegressor(mean=lambda rows: 50 * rows[:, 0], objective=None, **settings).fit(X, y)
    gp.set_params(priors={"lengthscale": lambda value: -value}, bounds={"lengthscale": (0.1, 9)})
    noise = gp.noise_model(X, y, num_rounds=1)
    assert noise.model.mean == "zero"
    assert noise.model.priors is None
    far = noise.variance(np.array([[30.0], [-30.0]]))
    assert np.all((far > 0.01) & (far < 1))


def test_a_model_with_a_checkpoint_has_a_noise_model(rng, tmp_path):
    """The file is that of the model's own tuning, not of the logarithms'."""
    X = rng.uniform(-2, 2, (60, 1))
    y = np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(60)
    settings = {"levels": [(60, 3)], "random_state": 0}
    gp = GPRegressor(checkpoint=tmp_path / "state", **settings).fit(X, y)
    before = (tmp_path / "state").read_bytes()
    variance = gp.noise_model(X, y).variance(X)
    assert (tmp_path / "state").read_bytes() == before
    plain = GPRegressor(**settings).fit(X, y).noise_model(X, y).variance(X)
    np.testing.assert_array_equal(variance, plain)


def test_the_noise_goes_to_its_average_far_away_without_standardisation(rng):
    X = rng.uniform(-2, 2, (60, 1))
    y = 1e-3 * (np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(60))
    settings = {"kernel": 1e-6 * RBF(0.7), "noise_variance": 1e-8, "objective": None}
    gp = GPRegressor(standardize=False, levels=[(60, 3)], random_state=0, **settings).fit(X, y)
    far = gp.noise_model(X, y, num_rounds=1).variance(np.array([[30.0], [-30.0]]))
    assert np.all((far > 1e-9) & (far < 1e-7))


@pytest.mark.parametrize("name", ["noise_model", "outlier_weights"])
def test_rows_are_checked_before_anything_is_done_with_them(spoiled, name):
    X, y, _, _ = spoiled
    learn = getattr(GPRegressor(missing="drop", **UNTUNED).fit(X, y), name)
    for rows, targets, error, words in (
        (X, np.r_[y, y], ValueError, "inconsistent numbers of samples"),
        (X, ["a"] * N, ValueError, "could not convert string to float"),
        (X, None, ValueError, "requires y to be passed"),
        (X[:, :0], y, ValueError, r"0 feature\(s\)"),
        (RowTable(X.astype(np.float32)), y, TypeError, "got a RowTable"),
        (X, np.column_stack([y, y]), ValueError, "y must have shape"),
    ):
        with pytest.raises(error, match=words):
            learn(rows, targets)


def test_rows_that_all_miss_their_targets_weigh_nothing(spoiled):
    X, y, _, _ = spoiled
    gp = GPRegressor(missing="drop", **UNTUNED).fit(X, y)
    np.testing.assert_array_equal(gp.outlier_weights(X[:2], [np.nan, np.nan]), [0, 0])
    with pytest.raises(ValueError, match="all targets are missing in y"):
        gp.noise_model(X[:2], [np.nan, np.nan])


def test_bad_input_is_refused(spoiled):
    X, y, _, _ = spoiled
    gp = GPRegressor(RBF(0.3), noise_variance=0.05, objective=None)
    for name in ("noise_model", "outlier_weights"):
        with pytest.raises(NotFittedError):
            getattr(gp, name)(X, y)
    gp.fit(X, y)
    with pytest.raises(ValueError, match="num_rounds must be at least 1"):
        gp.noise_model(X, y, num_rounds=0)
    with pytest.raises(ValueError, match="df must be"):
        gp.outlier_weights(X, y, df=-1)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        gp.noise_model(X, y[:9])
