"""The tuner: what it keeps, when it stops, what it records and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gplsq import kernels
from gplsq.tuning import Holdout, LeaveOneOut, Level, MarginalLikelihood, default_levels, mse, tune
from gplsq.tuning import _run as _run_module

KERNEL = 1.0 * kernels.RBF([3.0, 3.0])
LEVELS = (Level(30, 12),)
FROZEN = optax.sgd(0.0)
ASCENT = optax.sgd(-0.3)


def _run(data, **settings):
    return tune(KERNEL, *data, **{"levels": LEVELS, **settings})


def _leave_one_out_loss(result, data):
    return float(LeaveOneOut()(result.kernel, jnp.float32(result.noise_variance), *data, None, mse))


def test_tuning_improves_on_the_start_and_finds_which_column_matters(data):
    result = _run(data)
    assert result.loss < 0.7 * result.history[0]["loss"]
    short, long = result.kernel.kernel.lengthscale
    assert short < long
    # Evaluated here without jit: float32 rounding of another order of operations.
    assert _leave_one_out_loss(result, data) == pytest.approx(result.loss, rel=1e-2)


def test_equal_seeds_give_equal_runs(data):
    objective = Holdout(0.25)
    settings = {"objective": objective, "levels": (Level(24, 6),)}
    first = _run(data, random_state=3, **settings)
    second = _run(data, random_state=3, **settings)
    other = _run(data, random_state=4, **settings)
    losses = [[record["loss"] for record in run.history] for run in (first, second, other)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert first.noise_variance == second.noise_variance
    np.testing.assert_array_equal(first.kernel.kernel.lengthscale, second.kernel.kernel.lengthscale)
    # A random objective is examined every five steps.
    assert [record["exam"] is not None for record in first.history] == [True] + 4 * [False] + [True]


def test_exams_are_steps_on_a_fixed_subset(data, monkeypatch):
    """No program of their own, and no evaluation besides."""
    monkeypatch.setattr(_run_module, "evaluate", None)
    settings = {"objective": Holdout(0.25), "levels": (Level(24, 11),), "optimizer": FROZEN}
    result = _run(data, **settings)
    losses = [record["loss"] for record in result.history]
    exams = [record["exam"] for record in result.history]
    assert [i for i, exam in enumerate(exams) if exam is not None] == [0, 5, 10]
    # Nothing moves: on the same rows and split the loss is the same, on fresh ones it is not.
    assert exams[0] == exams[5] == exams[10] == result.loss
    assert len({loss for loss, exam in zip(losses, exams, strict=True) if exam is None}) == 8


def test_folds_of_a_cross_validation_share_a_compiled_step(rng):
    traced = []

    def loss(y, mean, variance):
        traced.append(len(y))
        return mse(y, mean, variance)

    for rows in (150, 151, 150):
        X = rng.uniform(-2, 2, (rows, 2)).astype(np.float32)
        result = tune(KERNEL, X, X[:, 0], loss=loss, optimizer=FROZEN)
        # Nearly all rows are all rows: the same at every step.
        assert len({record["loss"] for record in result.history}) == 1
    assert set(traced) == {148}
    assert len(traced) <= 2


def test_groups_of_nearly_as_many_rows_share_a_compiled_step(rng):
    traced = []

    def loss(y, mean, variance):
        traced.append(len(y))
        return mse(y, mean, variance)

    X = rng.uniform(-2, 2, (70, 2)).astype(np.float32)
    observed = np.arange(70)[:, None] < np.array([65, 64, 70])
    y = np.where(observed, X[:, :1], np.nan)
    result = tune(KERNEL, X, y, observed=observed, loss=loss, levels=(Level(70, 2),))
    assert set(traced) == {64, 70}
    assert len(traced) <= 3
    assert np.isfinite(result.loss)


def test_probes_of_a_stochastic_likelihood_are_those_of_the_level_at_every_step(data):
    """Values of steps that do not move are equal, so that small gains can be told from chance."""
    objective = MarginalLikelihood(direct_rows=1, num_probes=2)
    result = _run(data, objective=objective, optimizer=FROZEN, levels=(Level(30, 3),))
    assert len({record["loss"] for record in result.history}) == 1


def test_a_run_that_gets_worse_keeps_its_best_step(data):
    result = _run(data, optimizer=ASCENT)
    exams = [record["exam"] for record in result.history]
    assert exams[-1] > exams[0]
    assert result.loss == min(exams)
    best = result.history[int(np.argmin(exams))]
    assert result.noise_variance == pytest.approx(best["noise_variance"], rel=1e-6)
    np.testing.assert_allclose(
        result.kernel.kernel.lengthscale, best["kernel.lengthscale"], rtol=1e-6
    )


def test_a_run_without_progress_stops_early(data):
    result = _run(data, optimizer=FROZEN, levels=[(30, 100)])
    assert len(result.history) < 30
    assert "early" in result.history.message
    assert "early" in str(result.history)
    assert result.noise_variance == pytest.approx(0.01 * np.var(data[1]), rel=1e-5)
    np.testing.assert_allclose(result.kernel.kernel.lengthscale, [3.0, 3.0], rtol=1e-6)


def test_levels_follow_each_other_and_the_last_one_decides(data):
    result = _run(data, levels=[Level(20, 6), Level(30, 6)])
    assert [record["rows"] for record in result.history] == 6 * [20] + 6 * [30]
    assert [record["step"] for record in result.history] == list(range(12))
    last = [record["exam"] for record in result.history if record["rows"] == 30]
    assert result.loss <= min(last)
    # All 30 rows are in the last level, in another order.
    assert _leave_one_out_loss(result, data) == pytest.approx(result.loss, rel=1e-2)


def test_levels_are_cut_to_the_rows_there_are(data):
    result = _run(data, levels=[Level(10**6, 12)])
    assert {record["rows"] for record in result.history} == {30}


def test_start_given_keeps_the_kernel_and_start_data_does_not(data):
    given = _run(data).history[0]
    from_data = _run(data, start="data").history[0]
    np.testing.assert_allclose(given["kernel.lengthscale"], [3.0, 3.0], rtol=1e-6)
    assert given["variance"] == pytest.approx(1.0)
    assert from_data["variance"] == pytest.approx(np.var(data[1]), rel=1e-5)
    # Three times the median distance of two numbers uniform on a range of 4.
    typical = 3 * 4 * (1 - np.sqrt(0.5))
    np.testing.assert_allclose(from_data["kernel.lengthscale"], [typical] * 2, rtol=0.5)
    assert not np.allclose(from_data["kernel.lengthscale"], 3.0, rtol=1e-3)


def test_a_noise_variance_of_the_user_is_the_start(data):
    assert _run(data, noise_variance=0.3).history[0]["noise_variance"] == pytest.approx(0.3)


def test_a_loss_of_the_user_is_tuned(data):
    def absolute(y, mean, variance):
        return jnp.mean(jnp.abs(y - mean))

    result = _run(data, loss=absolute)
    assert result.loss < result.history[0]["loss"]


def test_history_prints_a_table_and_holds_records(data, capsys):
    history = _run(data).history
    records = list(history)
    assert len(history) == len(records) == 12
    assert all(type(record) is dict and record.keys() == records[0].keys() for record in records)
    expected = {"step", "start", "rows", "loss", "exam", "noise_variance", "seconds", "accepted"}
    assert expected | {"variance", "kernel.lengthscale"} == set(records[0])
    assert all(record["accepted"] is True for record in records)
    print(history)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["step", "rows", "loss", "exam"]
    assert lines[-1].split()[:2] == ["11", "30"]


def test_verbose_shows_a_bar_and_silence_is_silent(data, capsys):
    _run(data)
    assert capsys.readouterr() == ("", "")
    _run(data, verbose=1)
    shown = capsys.readouterr().err
    assert "tuning" in shown
    assert "12/12" in shown


def test_a_step_that_fails_is_recorded_and_the_noise_raised(data):
    X, y = (np.concatenate([part[:15], part[:15]]) for part in data)  # singular without noise
    result = tune(KERNEL, X, y, noise_variance=1e-8, levels=LEVELS)
    accepted = [record["accepted"] for record in result.history]
    assert not accepted[0]
    assert result.history[0]["exam"] is None
    assert result.history[1]["noise_variance"] > 2 * result.history[0]["noise_variance"]
    assert any(accepted)
    assert np.isfinite(result.loss)
    failed = accepted.count(False)
    said = f"{failed} of {len(accepted)} steps had no finite loss, the first of them step 0 at "
    assert result.history.failures.startswith(said + "noise_variance 1e-08, ")
    assert result.history.failures in str(result.history)


def test_a_loss_of_a_users_own_that_is_nan_is_named_and_the_best_so_far_kept(data):
    def run(limit):
        def loss(y, mean, variance):
            value = jnp.mean((y - mean) ** 2)
            return jnp.where(value < limit, jnp.nan, value)

        return tune(KERNEL, *data, loss=loss, levels=LEVELS, noise_variance=0.1)

    free = run(0.0)
    assert free.history.failures == ""
    limit = (free.loss + free.history[0]["loss"]) / 2
    result = run(limit)
    first = next(record for record in result.history if not record["accepted"])
    named = f"the first of them step {first['step']} at noise_variance "
    assert named in result.history.failures
    assert f"{first['noise_variance']:.3g}, " in result.history.failures
    assert "lengthscale " in result.history.failures
    assert limit <= result.loss <= free.history[0]["loss"]


def test_data_without_a_finite_loss_is_an_error(data):
    X, y = data
    with pytest.raises(
        FloatingPointError, match=r"finite held-out loss: \d+ of \d+ steps.*noise_variance 0.1,"
    ):
        tune(KERNEL, X, np.where(np.arange(30) == 3, np.nan, y), levels=LEVELS, noise_variance=0.1)


def test_float64_data_are_taken_in_every_mode(data):
    result = _run([part.astype(np.float64) for part in data])
    expected = np.float64 if jax.config.jax_enable_x64 else np.float32
    assert result.kernel.kernel.lengthscale.dtype == expected


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"loss": "mae"}, ValueError, "loss must be one of"),
        ({"objective": "holdout"}, TypeError, "objective must be"),
        ({"levels": []}, ValueError, "levels must be a sequence of pairs"),
        ({"levels": [(1, 5)]}, ValueError, "levels must be a sequence of pairs"),
        ({"levels": [(10, 0)]}, ValueError, "levels must be a sequence of pairs"),
        ({"noise_variance": 0.0}, ValueError, "noise_variance must be greater than 0"),
        ({"noise_variance": "much"}, TypeError, "noise_variance must be a real number"),
        ({"start": "middle"}, ValueError, "start must be one of 'given', 'data'"),
    ],
)
def test_bad_settings_are_refused(data, settings, error, message):
    with pytest.raises(error, match=message):
        _run(data, **settings)


def test_bad_data_and_kernels_are_refused(data):
    X, y = data
    for bad in ((X[:, 0], y), (X, y[:-1]), (X, y[:, None, None]), (X[:1], y[:1])):
        with pytest.raises(ValueError, match=r"X must have shape \(n, d\) and y shape \(n,\)"):
            tune(KERNEL, *bad)
    with pytest.raises(TypeError, match="kernel must be a gplsq kernel"):
        tune("rbf", X, y)


def test_default_levels_grow_with_the_data():
    # All rows are a few less, so that tables of similar length share what is compiled.
    assert default_levels(300, LeaveOneOut()) == (Level(296, 100),)
    assert default_levels(302, LeaveOneOut()) == (Level(296, 100),)
    assert all(0.968 * n <= default_levels(n, LeaveOneOut())[0].rows <= n for n in range(2, 800))
    assert [level.rows for level in default_levels(1500, LeaveOneOut())] == [500, 1472]
    assert [level.rows for level in default_levels(9000, LeaveOneOut())] == [500, 2000]
    assert default_levels(800, Holdout()) == (Level(800, 90),)
    assert [level.rows for level in default_levels(10**4, Holdout())] == [1000, 1600]
    assert [level.rows for level in default_levels(10**6, Holdout())] == [1000, 2000]
