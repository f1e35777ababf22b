"""More rows for a fitted model: what is constant stays so, and a failure changes nothing."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gplsq import GPRegressor
from gplsq.estimators import _updating
from gplsq.kernels import RBF

SETTINGS = {"kernel": RBF(0.8), "objective": None, "noise_variance": 0.02, "random_state": 0}
N = 40


@pytest.fixture
def table(rng):
    X = rng.uniform(-2, 2, (N, 2))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(N)


def line(X):
    return 3.0 + 2.0 * X[:, 0] - 0.7 * X[:, 1]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", ["one", "independent", "missing", "correlated"])
def test_an_output_that_stays_constant_is_calibrated_as_in_a_fit(table, outputs, weighted):
    X, y = table
    constant, wave = np.full(N, 7.3), y.copy()
    if outputs == "missing":
        wave[3] = np.nan
    y = constant if outputs == "one" else np.column_stack([wave, constant])
    kind = "correlated" if outputs == "correlated" else "independent"
    weights = {"sample_weight": np.linspace(0.5, 3, 30)} if weighted else {}
    gp = GPRegressor(outputs=kind, missing="drop", standardize=outputs != "one", **SETTINGS)
    gp.fit(X[:30], y[:30], **weights)
    for rows in (slice(30, 35), slice(35, 40)):
        gp.update(X[rows], y[rows])
        assert np.ravel(gp.calibration_.latent_scale)[-1] == 1
        assert np.ravel(gp.calibration_.noise_variance)[-1] == 0.02
    if outputs != "one":
        assert gp.calibration_.latent_scale[0] != 1
    # The first other value is something to learn from.
    more = np.broadcast_to(8.3, (1, *y.shape[1:]))
    gp.update(X[:1], more)
    assert np.ravel(gp.calibration_.latent_scale)[-1] != 1


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("mean", ["linear", line])
def test_a_target_that_is_its_mean_leaves_nothing_to_tune_and_calibrate(table, mean, precision):
    """Rounding errors of about 1e-16 must not be taken for a signal."""
    X = table[0].astype(precision)
    gp = GPRegressor(mean=mean, levels=[(N, 3)], random_state=0).fit(X[:30], line(X[:30]))
    assert "the target is constant" in str(gp.history_)
    assert gp.calibration_ == (1.0, gp.noise_variance_)
    gp.update(X[30:], line(X[30:]))
    assert gp.calibration_ == (1.0, gp.noise_variance_)
    mean_of, std = gp.predict(X, return_std=True)
    np.testing.assert_allclose(mean_of, line(X), atol=1e-3 if precision == "float32" else 1e-10)
    assert np.all(std > 1e-3)


@pytest.mark.parametrize("mean", ["linear", lambda X: np.full(len(X), 1e6)])
def test_a_small_signal_is_not_taken_for_rounding(table, mean):
    X, y = table
    gp = GPRegressor(mean=mean, **SETTINGS).fit(X, 1e6 + 1e-6 * y)
    assert gp.calibration_.latent_scale != 1
    assert np.corrcoef(gp.predict(X) - 1e6, y)[0, 1] > 0.9


OWN_MEANS = {
    "float32": lambda X: np.full(len(X), 1000, np.float32),
    "int16": lambda X: np.full(len(X), 1000, np.int16),
    "bool": lambda X: X[:, 0] < 9,
    "one row of 1e9": lambda X: np.where(X[:, 0] == X[:, 0].max(), 1e9, 1).astype(np.float32),
}


@pytest.mark.parametrize("mean", OWN_MEANS.values(), ids=OWN_MEANS.keys())
def test_a_signal_around_a_mean_of_low_precision_is_kept(table, mean):
    """1e-7 of the mean: float64 targets say it, whatever the dtype that the mean comes in."""
    X, y = table[0].astype(np.float32), table[1]
    own = mean(X).astype(float)
    target = own + 1e-7 * np.median(own) * y
    gp = GPRegressor(mean=mean, **SETTINGS).fit(X, target)
    assert gp.calibration_.latent_scale != 1
    left = np.asarray(gp.posterior_.y, float) * gp._y_scaling.scale + gp._y_scaling.shift
    np.testing.assert_allclose(left, target - own, atol=1e-11 * np.median(own))


def test_a_target_that_is_its_mean_but_for_rounding_in_each_row_is_constant(table):
    X, _ = table
    X[0] = 1e9
    X[1] = -1.5, 0.0
    gp = GPRegressor(mean=line, **SETTINGS).fit(X, 3.0 + (2.0 * X[:, 0] + X[:, 1] * -0.7))
    assert gp.calibration_ == (1.0, gp.noise_variance_)
    assert np.all(np.asarray(gp.posterior_.y) == 0)


def test_rows_near_the_mean_are_not_moved_onto_it_by_an_update(table):
    """Of a model that has seen a signal one row at a time says nothing of rounding."""
    X, y = table

    def mean(rows):
        return np.full(len(rows), 1e6)

    gp = GPRegressor(mean=mean, **SETTINGS).fit(X, 1e6 + 1e-8 * y)
    gp.update(X[:1] + 0.01, np.array([1e6 + 5e-10]))
    stored = np.asarray(gp.posterior_.y)[-1] * gp._y_scaling.scale + gp._y_scaling.shift
    assert stored == pytest.approx(np.array(1e6 + 5e-10) - 1e6, rel=1e-9)


@pytest.mark.parametrize("broken", ["check_finite_mean", "calibrate_by_rows", "solver_report"])
def test_an_update_that_fails_leaves_the_model_as_it_was(table, broken, monkeypatch):
    X, y = table
    gp = GPRegressor(**SETTINGS).fit(X[:30], y[:30])
    before = dict(vars(gp))

    def fail(*_):
        raise ConvergenceWarning("raised as an error")

    monkeypatch.setattr(_updating, broken, fail)
    with pytest.raises(ConvergenceWarning):
        gp.update(X[30:], y[30:])
    assert vars(gp).keys() == before.keys()
    assert all(vars(gp)[name] is value for name, value in before.items())
