"""Displays draw the numbers they should: what is asserted is the data of the artists."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import gplsq
from gplsq import GPRegressor
from gplsq.kernels import RBF, Linear, Matern32, Periodic
from gplsq.operators import RowTable
from gplsq.plotting import (
    ConvergenceDisplay,
    CoverageDisplay,
    PosteriorDisplay,
    PredictionDisplay,
    RelevanceDisplay,
    TuningDisplay,
)

N = 70
ALL = [
    ConvergenceDisplay,
    CoverageDisplay,
    PosteriorDisplay,
    PredictionDisplay,
    RelevanceDisplay,
    TuningDisplay,
]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    X = 5 + 2 * rng.standard_normal((N, 2))
    return X, 10 + np.sin(X[:, 0]) + 0.1 * rng.standard_normal(N)


@pytest.fixture(scope="module")
def tuned(data):
    """Tuned, on columns with names."""
    gp = GPRegressor(levels=[(30, 6), (N, 6)], random_state=0).fit(*data)
    gp.feature_names_in_ = np.array(["left", "right"], object)
    return gp


def given(kernel, data, **settings):
    fixed = {"noise_variance": 0.02, "objective": None, "random_state": 0}
    return GPRegressor(kernel, **fixed, **settings).fit(*data)


def rendered(display):
    """Draw for real: some mistakes show only then."""
    display.figure_.canvas.draw()
    return display


# Tuning


def test_the_posterior_of_weighted_rows_shows_the_rows_themselves(data):
    X, y = data
    weights = np.linspace(0.5, 3, N)
    settings = {"kernel": RBF([1.0, 1.0]), "objective": None, "noise_variance": 0.01}
    gp = GPRegressor(**settings).fit(X, y, sample_weight=weights)
    display = PosteriorDisplay.from_estimator(gp, num_points=5)
    np.testing.assert_allclose(display.points[0], X[:, 0], rtol=1e-6)
    np.testing.assert_allclose(display.points[-1], y, rtol=1e-6)


def test_paths_are_those_of_the_history(tuned):
    display = rendered(TuningDisplay.from_estimator(tuned))
    history = list(tuned.history_)
    steps = np.arange(len(history))
    names = ["noise variance", "variance", "lengthscale left", "lengthscale right"]
    assert list(display.paths) == names
    assert set(display.lines_) - {"loss", "exam"} == set(names)
    scales = np.array([record["kernel.lengthscale"] for record in history])
    for name, values in zip(names[2:], scales.T, strict=True):
        line = display.lines_[name]
        np.testing.assert_array_equal(line.get_xdata(), steps)
        np.testing.assert_array_equal(line.get_ydata(), values)
    noise = [record["noise_variance"] for record in history]
    np.testing.assert_array_equal(display.lines_["noise variance"].get_ydata(), noise)
    np.testing.assert_array_equal(display.lines_["loss"].get_ydata(), [r["loss"] for r in history])
    assert display.axes_[1].get_yscale() == "log"
    texts = [text.get_text() for text in display.axes_[0].texts]
    assert texts == ["30 rows", "70 rows"]


def test_the_exam_is_drawn_where_it_was_taken(data):
    gp = GPRegressor(
        levels=[(N, 8)], objective=gplsq.tuning.Holdout(), random_state=0, kernel=RBF()
    ).fit(*data)
    display = rendered(TuningDisplay.from_estimator(gp))
    taken = [(r["step"], r["exam"]) for r in gp.history_ if r["exam"] is not None]
    assert 0 < len(taken) < len(gp.history_)
    np.testing.assert_array_equal(display.lines_["exam"].get_xydata(), taken)
    assert "lengthscale" in display.lines_


def test_a_fit_that_was_not_tuned_has_no_paths(data):
    with pytest.raises(ValueError, match=r"nothing was tuned .*objective=None"):
        TuningDisplay.from_estimator(given(RBF(), data))


# Relevance


def test_bars_are_inverse_lengthscales_with_the_largest_on_top(data):
    scales = np.array([4.0, 0.5], np.float32)
    gp = given(2.0 * Matern32(scales), data)
    gp.feature_names_in_ = np.array(["left", "right"], object)
    display = rendered(RelevanceDisplay.from_estimator(gp))
    assert display.relevance == {"left": 0.25, "right": 2.0}
    assert [bar.get_width() for bar in display.bars_] == [0.25, 2.0]
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels == ["left", "right"]


def test_each_part_of_a_composed_kernel_has_its_own_bars(data):
    kernel = 2.0 * RBF(0.5).on(1) + Matern32(2.0) * Periodic() + Linear()
    relevance = RelevanceDisplay.from_estimator(given(kernel, data)).relevance
    assert relevance == {"x1 (RBF 1)": 2.0, "all inputs (Matern32 2)": 0.5}


def test_lengthscales_of_chosen_columns_have_the_names_of_these(data):
    X, y = data
    table = np.column_stack([X, X[:, 0] - X[:, 1]])
    kernel = 1.0 * RBF([1.0, 2.0]).on([2, 0]) + Matern32(3.0).on([1])
    gp = GPRegressor(kernel, levels=[(N, 2)], random_state=0).fit(table, y)
    paths = TuningDisplay.from_estimator(gp).paths
    scales = gp.kernel_.left.kernel.kernel.lengthscale
    lines = {label.split()[-1]: values for label, values in paths.items() if "x" in label}
    assert set(lines) == {"x2", "x0"}
    bars = RelevanceDisplay.from_estimator(gp).relevance
    for i, name in enumerate(["x2", "x0"]):
        assert bars[f"{name} (RBF 1)"] == pytest.approx(1 / float(scales[i]))
        # The last step is not always the best one.
        assert np.any(np.isclose(lines[name], float(scales[i]), rtol=0.2))


def test_relevance_of_correlated_outputs_is_that_of_their_kernel(data):
    X, y = data
    targets = np.stack([y, y + X[:, 1]], axis=1)
    gp = GPRegressor(outputs="correlated", levels=[(N, 2)], random_state=0).fit(X, targets)
    assert set(RelevanceDisplay.from_estimator(gp).relevance) == {"x0", "x1"}


def test_a_kernel_without_lengthscales_is_refused(data):
    with pytest.raises(ValueError, match="Linear has no lengthscale"):
        RelevanceDisplay.from_estimator(given(Linear(), data))


# Coverage


def test_coverage_counts_the_targets_inside(rng):
    y, mean, std = rng.standard_normal(200), 0.1 * rng.standard_normal(200), np.full(200, 0.7)
    display = rendered(CoverageDisplay(y, mean, std).plot())
    for level, factor in ((0.5, 0.674490), (0.95, 1.959964)):
        share = np.mean(np.abs(y - mean) <= factor * std)
        assert display.coverage(level) == pytest.approx(share)
        at = np.argmin(np.abs(display.line_.get_xdata() - level))
        assert display.line_.get_ydata()[at] == pytest.approx(share)
    assert display.line_.get_ydata()[-1] == 1
    assert "50% intervals hold" in display.ax_.texts[0].get_text()


def test_honest_intervals_lie_in_the_band_and_narrow_ones_below(rng):
    y, mean = rng.standard_normal(400), np.zeros(400)
    honest, narrow = (CoverageDisplay(y, mean, np.full(400, s)) for s in (1.0, 0.5))
    assert np.abs(honest.covered - honest.promised).max() < 0.07
    assert np.all(narrow.covered <= honest.covered)
    assert narrow.coverage(0.95) < 0.75


def test_coverage_of_an_estimator_is_that_of_its_predictions(tuned, data):
    X, y = data
    frame = CoverageDisplay.from_estimator(Unnamed(tuned), X, y)
    mean, std = Unnamed(tuned).predict(X, return_std=True)
    np.testing.assert_array_equal(frame.covered, CoverageDisplay(y, mean, std).covered)


class Unnamed:
    """A fitted model that takes arrays without a warning on names."""

    def __init__(self, gp):
        self.gp = gp

    def predict(self, X, return_std):
        with pytest.warns(UserWarning, match="feature names"):
            return self.gp.predict(X, return_std=return_std)


# Predictions


def test_points_and_intervals_are_the_predictions(rng):
    y, mean, std = rng.standard_normal(30), rng.standard_normal(30), rng.uniform(0.3, 0.6, 30)
    display = rendered(PredictionDisplay(y, mean, std).plot())
    inside = np.abs(y - mean) <= 1.959964 * std
    assert 0 < inside.sum() < 30
    for artist, chosen in ((display.inside_, inside), (display.outside_, ~inside)):
        points, _, (bars,) = artist
        rows = np.argsort(mean)[chosen[np.argsort(mean)]]
        np.testing.assert_allclose(points.get_xydata(), np.c_[mean, y][rows])
        ends = np.array([segment[:, 0] for segment in bars.get_segments()])
        half = 1.959964 * std[rows]
        np.testing.assert_allclose(ends, np.c_[mean[rows] - half, mean[rows] + half])
    np.testing.assert_array_equal(*display.diagonal_.get_data())
    rmse = np.sqrt(np.mean((y - mean) ** 2))
    assert f"RMSE {rmse:.3g}" in display.ax_.get_title()
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert f"inside its 95 % interval ({inside.mean():.1%})" in labels


def test_of_many_predictions_some_are_shown_and_all_are_counted(rng):
    y, mean = rng.standard_normal(3000), rng.standard_normal(3000)
    display = PredictionDisplay(y, mean, np.ones(3000))
    assert len(display.shown) == 500
    assert len(set(display.shown)) == 500
    assert display.inside.shape == (3000,)
    assert mean[display.shown[[0, -1]]].tolist() == [mean.min(), mean.max()]


@pytest.mark.parametrize(
    "arrays",
    [
        ([1.0, 2.0], [1.0], [1.0, 1.0]),
        ([1.0], [np.nan], [1.0]),
        ([1.0], [1.0], [0.0]),
        ([[1.0]], [[1.0]], [[1.0]]),
        ([], [], []),
    ],
)
@pytest.mark.parametrize("display", [PredictionDisplay, CoverageDisplay])
def test_predictions_of_other_shapes_or_not_finite_are_refused(display, arrays):
    with pytest.raises(ValueError, match="y, mean and std must be finite arrays of one shape"):
        display(*arrays)


# Posterior


def test_one_input_shows_mean_bands_draws_and_rows(data):
    X, y = data
    gp = given(RBF(), (X[:, :1], y))
    predict, calls = gp.predict, []
    gp.predict = lambda *args, **settings: calls.append(settings) or predict(*args, **settings)
    display = rendered(PosteriorDisplay.from_estimator(gp, num_points=40, num_samples=2))
    assert sum(bool(settings.get("return_std")) for settings in calls) == 1
    del gp.predict
    t = display.mean_.get_xdata()
    assert len(t) == 40
    assert t[0] < X[:, 0].min() < X[:, 0].max() < t[-1]
    mean, latent = gp.predict(t[:, None], return_std=True, include_noise=False)
    _, std = gp.predict(t[:, None], return_std=True)
    np.testing.assert_allclose(display.mean_.get_ydata(), mean)
    for band, half in zip(display.bands_, (1.959964 * std, 1.959964 * latent), strict=True):
        corners = band.get_paths()[0].vertices
        np.testing.assert_allclose(corners[:, 1].max(), (mean + half).max())
        np.testing.assert_allclose(corners[:, 1].min(), (mean - half).min())
    draws = gp.sample_y(t[:, None], 2, include_noise=False)
    np.testing.assert_allclose(display.std, std, rtol=1e-6)
    np.testing.assert_allclose([line.get_ydata() for line in display.samples_], draws.T)
    shown = display.points_.get_offsets()
    np.testing.assert_allclose(np.sort(shown, 0), np.sort(np.c_[X[:, 0], y], 0), rtol=1e-6)


def test_two_inputs_show_mean_uncertainty_and_a_draw(data):
    X, _ = data
    gp = given(Matern32(np.ones(2, np.float32)), data)
    display = rendered(PosteriorDisplay.from_estimator(gp, num_points=12))
    first, second = display.grid
    Z = np.array([[a, b] for b in second for a in first])
    mean, std = gp.predict(Z, return_std=True, include_noise=False)
    draw = gp.sample_y(Z, 3, include_noise=False)[:, 0]
    for image, values in zip(display.images_, (mean, 1.959964 * std, draw), strict=True):
        np.testing.assert_allclose(np.ravel(image.get_array()), values)
    assert display.images_[0].get_clim() == display.images_[2].get_clim()
    np.testing.assert_allclose(np.sort(display.points_.get_offsets(), 0), np.sort(X, 0), rtol=1e-6)
    assert [ax.get_title()[:9] for ax in display.axes_] == ["Posterior", "95 % of t", "A draw of"]


def test_other_inputs_are_held_at_their_medians(data):
    X, _ = data
    gp = given(Matern32(np.ones(2, np.float32)), data)
    gp.feature_names_in_ = np.array(["left", "right"], object)
    display = rendered(PosteriorDisplay.from_estimator(gp, columns="right", num_points=9))
    Z = np.c_[np.full(9, np.median(X[:, 0])), display.grid[0]]
    np.testing.assert_allclose(display.mean, Unnamed(gp).predict(Z, True)[0])
    assert display.labels == ["right"]
    assert f"left = {np.median(X[:, 0]):.3g}" in display.axes_[0].get_title()
    assert display.points_ is None
    assert PosteriorDisplay.from_estimator(gp, columns=1, num_points=9).labels == ["right"]


def test_a_model_without_its_rows_asks_for_them(data):
    X, y = data
    gp = given(RBF(), (RowTable(X), y), solver="inducing", inducing=10)
    with pytest.raises(ValueError, match="does not have the rows of its fit"):
        PosteriorDisplay.from_estimator(gp)
    display = PosteriorDisplay.from_estimator(gp, X, y, num_points=5)
    assert display.mean.shape == (5, 5)
    assert PosteriorDisplay.from_estimator(gp, X, num_points=5).points_ is None
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        PosteriorDisplay.from_estimator(gp, X[:, :1])


@pytest.mark.parametrize("columns", [[0, 1, 1], 2, "other", [], [0, 0], -1])
def test_columns_that_are_not_one_or_two_inputs_are_refused(tuned, columns):
    with pytest.raises(ValueError, match="one or two of the 2 inputs"):
        PosteriorDisplay.from_estimator(tuned, columns=columns)


# Convergence


@pytest.mark.parametrize("solver", ["lsmr", "inducing"])
def test_error_falls_with_steps_and_faster_with_the_preconditioner(data, solver):
    inducing = {"inducing": 20} if solver == "inducing" else {}
    gp = given(Matern32(np.ones(2, np.float32)), data, solver=solver, **inducing)
    display = rendered(ConvergenceDisplay.from_estimator(gp, max_steps=40))
    assert set(display.lines_) == {"with the preconditioner", "without"}
    best, plain = (display.curves[label] for label in ("with the preconditioner", "without"))
    for (steps, errors), line in zip((best, plain), display.lines_.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.c_[steps, errors])
        assert np.all(np.diff(steps) > 0)
    assert plain[1][-1] < 0.01 * plain[1][0]
    # Of all 70 rows, or all 20 functions: it is exact.
    assert best[1][0] < 1e-6 < plain[1][0]
    tolerance = float(gp.posterior_.solution.stats.tolerance)
    assert display.tolerance == tolerance
    assert tolerance in [line.get_ydata()[0] for line in display.ax_.lines]


def test_without_steps_or_rows_there_is_no_convergence(tuned, data):
    with pytest.raises(ValueError, match="solver was direct"):
        ConvergenceDisplay.from_estimator(tuned)
    X, y = data
    gp = given(RBF(), (RowTable(X), y), solver="inducing", inducing=10)
    with pytest.raises(ValueError, match="rows of the fit are needed"):
        ConvergenceDisplay.from_estimator(gp)


# All of them


@pytest.mark.parametrize("display", ALL)
def test_an_unfitted_model_is_refused(display):
    data = ([[1.0]], [1.0]) if display in (CoverageDisplay, PredictionDisplay) else ()
    with pytest.raises(NotFittedError):
        display.from_estimator(GPRegressor(), *data)


def test_axes_are_taken_and_wrong_ones_refused(tuned, rng):
    figure, axes = plt.subplots(1, 3)
    display = TuningDisplay.from_estimator(tuned, ax=axes[:2])
    assert display.figure_ is figure
    assert axes[1].lines
    y = rng.standard_normal(9)
    assert CoverageDisplay(y, y + 1, np.ones(9)).plot(ax=axes[2]).ax_ is axes[2]
    with pytest.raises(ValueError, match="ax must be a list of 2 matplotlib axes"):
        TuningDisplay.from_estimator(tuned, ax=axes[0])
    with pytest.raises(ValueError, match="ax must be matplotlib axes, or None"):
        PredictionDisplay(y, y, np.ones(9)).plot(ax="left")
