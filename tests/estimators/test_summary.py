"""The table of a fitted model says what the model is, in the units of the user."""

import pathlib

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import gplsq
from gplsq import GPRegressor
from gplsq.kernels import RBF, AbstractPairKernel, Constant, Linear, Matern32, Periodic, positive
from gplsq.operators import RowTable
from gplsq.tuning import MarginalLikelihood

DATA = pathlib.Path(__file__).parent / "data"
N = 70


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    X = np.array([10.0, 0.5]) * rng.standard_normal((N, 2)) + 3
    return X, 100 + 20 * np.sin(X[:, 0] / 10) + rng.standard_normal(N)


def given(kernel, data, **settings):
    fixed = {"noise_variance": 0.02, "objective": None, "random_state": 0}
    return GPRegressor(kernel, **{**fixed, **settings}).fit(*data)


def test_hyperparameters_are_in_the_units_of_columns_and_target(data):
    X, y = data
    gp = given(2.0 * Matern32(np.array([0.75, 1.5], np.float32)), data)
    gp.feature_names_in_ = np.array(["height", "width"], object)
    summary = gp.summary()
    assert summary["rows"].value == "70"
    assert summary["inputs"].value == "2"
    assert summary["dtype"].value == "float64"
    assert summary["kernel"].value == "variance * Matern32"
    row = summary["  Matern32 lengthscale height"]
    assert float(row.value) == pytest.approx(0.75 * X[:, 0].std(), rel=1e-3)
    assert row[2:] == ("height", "0.75")
    row = summary["  Matern32 lengthscale width"]
    assert float(row.value) == pytest.approx(1.5 * X[:, 1].std(), rel=1e-3)
    row = summary["  variance"]
    assert float(row.value) == pytest.approx(2 * y.var(), rel=1e-3)
    assert row[2:] == ("target²", "2")
    row = summary["noise std"]
    expected = np.sqrt(gp.calibration_.noise_variance)
    assert float(row.value) == pytest.approx(expected * y.std(), rel=1e-3)
    assert float(row.standardised) == pytest.approx(expected, rel=1e-3)
    assert float(summary["latent scale"].value) == pytest.approx(
        gp.calibration_.latent_scale, rel=1e-3
    )
    assert summary["solver"].value == gp.solver_report_
    assert summary["held-out loss"].value == "not tuned: objective=None"
    assert summary["seconds"].value == f"{gp.fit_seconds_:.1f}, no tuning"


def test_a_composed_kernel_is_written_out(data):
    X, y = data
    kernel = 2.0 * RBF(0.5).on(1) + Matern32(2.0) * (Periodic() + Constant(3.0)) + Linear([1.0, 2])
    summary = given(kernel, data).summary()
    formula = "variance * RBF.on(x1) + Matern32 * (Periodic + Constant) + Linear"
    assert summary["kernel"].value == formula
    assert summary["  RBF lengthscale"].unit == "x1"
    assert float(summary["  RBF lengthscale"].value) == pytest.approx(0.5 * X[:, 1].std(), rel=1e-3)
    assert summary["  Matern32 lengthscale"][1:] == ("2", "std of its inputs", "")
    # Inside a product a factor has no unit of its own.
    assert summary["  Constant variance"][1:3] == ("3", "standardised")
    row = summary["  Linear variance x1"]
    assert row.unit == "target²/x1²"
    assert float(row.value) == pytest.approx(2 * y.var() / X[:, 1].var(), rel=1e-3)


def test_kernels_of_the_same_kind_are_numbered_and_ones_own_are_shown(data):
    class Triangle(AbstractPairKernel):
        width: object = positive(default=4.0)

        def pair(self, x, z):
            return 1 / (1 + abs(x - z).sum() / self.width)

    summary = given(RBF(1.0).on(0) + RBF(2.0).on(1) + Triangle(), data).summary()
    assert summary["  RBF lengthscale"].unit == "x0"
    assert summary["  RBF 2 lengthscale"].unit == "x1"
    assert summary["  Triangle width"][1:] == ("4", "standardised", "")


def test_without_standardisation_units_are_those_of_the_model(data):
    gp = given(Matern32(np.array([7.0, 1.5], np.float32)), data, standardize=False)
    row = gp.summary()["  Matern32 lengthscale x0"]
    assert row[1:] == ("7", "x0", "")


@pytest.mark.parametrize("loss", ["mse", "nlpd"])
def test_the_held_out_loss_is_the_best_of_the_last_level(data, loss):
    gp = GPRegressor(levels=[(40, 3), (N, 4)], loss=loss, random_state=0).fit(*data)
    row = gp.summary()["held-out loss"]
    best = min(r["exam"] for r in gp.history_ if r["rows"] == N and r["exam"] is not None)
    if loss == "mse":
        assert float(row.value) == pytest.approx(np.sqrt(best) * data[1].std(), rel=1e-3)
        assert row.unit == "target, root of mse"
    else:
        assert float(row.value) == pytest.approx(best, rel=1e-3)
        assert row.unit == "nlpd, standardised"
    assert gp.summary()["seconds"].value.endswith("of them tuning")


def test_a_marginal_likelihood_is_not_called_a_held_out_loss(data):
    gp = GPRegressor(objective=MarginalLikelihood(), levels=[(N, 3)], random_state=0).fit(*data)
    row = gp.summary()["objective"]
    assert float(row.value) == pytest.approx(min(r["exam"] for r in gp.history_), rel=1e-3)
    assert row.unit.startswith("minus log marginal likelihood")
    assert "held-out loss" not in str(gp.summary())


def test_coverage_is_that_of_rows_predicted_from_the_others(data):
    X, y = data
    gp = given(Matern32(np.ones(2, np.float32)), data, standardize=False)
    inside = 0
    kernel = gp.kernel_
    for i in range(N):
        rest = np.delete(np.arange(N), i)
        other = gplsq.gp.condition(
            kernel, X[rest].astype("float32"), y[rest].astype("float32"), noise_variance=0.02
        )
        mean = np.asarray(other.mean(X[i : i + 1].astype("float32")))
        latent = np.asarray(other.variance(X[i : i + 1].astype("float32")))
        scale, noise = gp.calibration_
        inside += abs(y[i] - mean[0]) <= 1.959964 * np.sqrt(scale * latent[0] + noise)
    text = gp.summary()["inside 95 %"].value
    assert text == f"{inside / N:.1%} of 70 rows, each predicted from the others"


def test_models_without_rows_or_times_say_so(data):
    X, y = data
    gp = given(RBF(), (RowTable(X), y), solver="inducing", inducing=10)
    assert gp.summary()["rows"].value == "70"
    assert gp.summary()["inside 95 %"].value.endswith("others, estimated")
    old = gplsq.load(DATA / "inducing-v1.gplsq").summary()
    assert old["seconds"].value == "not known, no tuning"
    import pickle

    bare = pickle.loads(pickle.dumps(gp)).summary()
    assert bare["rows"].value == "not kept with the model"
    assert bare["inside 95 %"].value == "not known without the rows"


def test_it_prints_as_a_table_and_in_notebooks(data):
    gp = given(2.0 * RBF(np.ones(2, np.float32)), data)
    gp.feature_names_in_ = np.array(["a<b", "c"], object)
    summary = gp.summary()
    text = str(summary)
    assert repr(summary) == text
    lines = text.splitlines()
    assert len(lines) == len(summary.rows)
    pairs = [pair for pair in zip(lines, summary.rows, strict=True) if pair[1].unit]
    ends = {line.index(row.value) + len(row.value) for line, row in pairs}
    assert len(ends) == 1  # numbers with a unit end in one column
    assert "(1 standardised)" in text
    assert "a&lt;b" in summary._repr_html_()
    with pytest.raises(KeyError):
        summary["nothing"]


def test_an_unfitted_model_has_no_summary():
    with pytest.raises(NotFittedError):
        GPRegressor().summary()
