"""Runs that stop and go on: the same bits as if they had not stopped, from every step."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import optax
import pytest
from resumed import TRAINING_STEPS, bits, run

import gplsq
from gplsq import GPClassifier, GPRegressor, LoadError, kernels
from gplsq._core import _archive
from gplsq.tuning import (
    Holdout,
    Level,
    MarginalLikelihood,
    TuningInterrupted,
    _checkpoint,
    _run,
    mse,
    tune,
)

KERNEL = 1.0 * kernels.RBF([3.0, 3.0])
LONG = os.environ.get("GPLSQ_HYPOTHESIS") == "long"
# docs/concepts/reliability.md has both numbers.
KILLS, KILLS_LONG = 2, 20


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def files(path, monkeypatch):
    """The bytes of the checkpoint after every step."""
    write, seen = _checkpoint.write_saved, []

    def remember(*arguments):
        write(*arguments)
        if arguments[0] == str(path):  # not those of what comes before
            seen.append(path.read_bytes())

    monkeypatch.setattr(_checkpoint, "write_saved", remember)
    return seen


@pytest.fixture
def steps(monkeypatch):
    """One entry for every step that the tuner takes, but for the exam at the end of a level."""
    record, taken = _run.Run._record, []

    def counted(*arguments):
        taken.append(None)
        record(*arguments)

    monkeypatch.setattr(_run.Run, "_record", counted)
    return taken


SETTINGS = {
    "all rows": {"levels": [(30, 8)]},
    "levels of fresh rows": {"objective": Holdout(0.25), "levels": [(20, 7), (28, 4)]},
    "restarts": {"levels": [(30, 4)], "num_restarts": 2},
    "ends early": {"levels": [(30, 60)], "optimizer": optax.sgd(0.0)},
    "a line search": {"levels": [(30, 5)], "optimizer": optax.lbfgs()},
    "a loss of the variance": {"loss": "nlpd"},
    "probes": {"objective": MarginalLikelihood(direct_rows=1), "levels": [(30, 4)]},
    "several outputs": {"levels": [(30, 5)], "observed": True},
    "bounds": {"levels": [(30, 5)], "bounds": {"lengthscale": (0.1, 50)}, "start": "data"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_goes_on_from_every_step_with_the_same_bits(data, path, files, steps, name):
    X, y = data
    settings = dict(SETTINGS[name])
    if settings.pop("observed", False):
        y = np.stack([y, y**2], axis=1)
        settings["observed"] = np.arange(60).reshape(30, 2) % 7 != 0

    def result(checkpoint):
        rng = np.random.default_rng(4)
        found = tune(KERNEL, X, y, random_state=rng, checkpoint=checkpoint, **settings)
        return bits(found), rng.integers(2**62)

    expected = result(None)
    assert result(path) == expected
    written = list(files)
    assert len(written) == len(expected[0][3])
    # At most eight of them, the first and the last too.
    for i in np.unique(np.linspace(0, len(written) - 1, 8).astype(int)):
        path.write_bytes(written[i])
        steps.clear()
        assert result(path) == expected, f"after step {i + 1}"
        assert len(steps) == len(written) - (i + 1)
    assert os.listdir(path.parent) == [path.name]


def test_what_comes_before_the_last_steps_goes_on_too(data, path, monkeypatch):
    """A likelihood's levels by squared error and by itself have files of their own."""
    write, seen = _checkpoint.write_saved, []

    def remember(*arguments):
        write(*arguments)
        seen.append({file.name: file.read_bytes() for file in path.parent.iterdir()})

    def result():
        return bits(tune(KERNEL, *data, loss="nlpd", random_state=3, checkpoint=path))

    monkeypatch.setattr(_checkpoint, "write_saved", remember)
    expected = result()
    assert os.listdir(path.parent) == [path.name]
    snapshots = list(seen)
    names = {name for snapshot in snapshots for name in snapshot}
    assert names == {path.name, f"{path.name}.squares", f"{path.name}.loss"}
    turns = [i for i in range(1, len(snapshots)) if len(snapshots[i]) > len(snapshots[i - 1])]
    chosen = {0, len(snapshots) // 3, *turns, *(turn - 1 for turn in turns), len(snapshots) - 1}
    for i in sorted(chosen):
        for file in path.parent.iterdir():
            file.unlink()
        for name, content in snapshots[i].items():
            (path.parent / name).write_bytes(content)
        assert result() == expected, f"after step {i + 1}"
        assert os.listdir(path.parent) == [path.name]


def test_a_run_with_steps_that_fail_goes_on_with_the_same_bits(data, path, files):
    X, y = data
    # Steps so long that some have no finite loss.
    settings = {"levels": [(30, 12)], "optimizer": optax.sgd(1e20), "noise_variance": 1e-9}

    def result(checkpoint):
        return bits(tune(KERNEL, X, y, checkpoint=checkpoint, **settings))

    expected = result(None)
    assert result(path) == expected
    written = list(files)
    for content in written[::3]:
        path.write_bytes(content)
        assert result(path) == expected


def test_a_finished_run_is_not_run_again(data, path, monkeypatch):
    first = tune(KERNEL, *data, levels=[(30, 3)], checkpoint=path)
    before = path.read_bytes()
    monkeypatch.setattr(_run.Run, "_record", None)
    assert bits(tune(KERNEL, *data, levels=[(30, 3)], checkpoint=path)) == bits(first)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", lambda X: X + 1),
        ("y", lambda y: 2 * y),
        ("kernel", lambda kernel: 2.0 * kernel),
        ("levels", lambda levels: [(30, 4)]),
        ("optimizer", lambda optimizer: optax.adam(0.2)),
        ("loss", lambda loss: lambda y, mean, variance: 2 * mse(y, mean, variance)),
        ("random_state", lambda seed: 1),
        ("bounds", lambda bounds: {"variance": (None, 9.0)}),
    ],
)
def test_another_run_is_refused_by_what_differs(data, path, name, value):
    X, y = data
    settings = {"kernel": KERNEL, "X": X, "y": y, "levels": [(30, 3)], "random_state": 0}
    settings |= {"optimizer": optax.adam(0.1), "loss": "mse", "bounds": None}
    tune(**settings, checkpoint=path)
    before = path.read_bytes()
    settings[name] = value(settings[name])
    with pytest.raises(ValueError, match=f"differs in {name}. Delete the file"):
        tune(**settings, checkpoint=path)
    assert path.read_bytes() == before


def test_a_run_of_other_versions_is_refused(data, path, monkeypatch):
    tune(KERNEL, *data, levels=[(30, 2)], checkpoint=path)
    monkeypatch.setattr(_checkpoint, "VERSION", "0.0.0")
    with pytest.raises(ValueError, match="differs in versions"):
        tune(KERNEL, *data, levels=[(30, 2)], checkpoint=path)


@pytest.mark.parametrize("bad", [3, b"bytes", object()])
def test_a_checkpoint_that_is_no_path_is_refused(data, bad):
    with pytest.raises(TypeError, match="checkpoint must be the path"):
        tune(KERNEL, *data, checkpoint=bad)


@pytest.mark.parametrize("model", [GPRegressor, GPClassifier])
def test_a_checkpoint_needs_a_seed_and_says_so_at_once(data, path, model):
    X, y = data
    with pytest.raises(ValueError, match="checkpoint needs a random_state"):
        tune(KERNEL, X, y, random_state=None, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint needs a random_state"):
        model(checkpoint=path).fit(X, y > 0)
    # Also where nothing is tuned.
    with pytest.raises(TypeError, match="checkpoint must be the path"):
        model(checkpoint=5, objective=None).fit(X, y > 0)
    assert not path.exists()


class Rows:
    """Rows that only an array function can look into."""

    __slots__ = ("rows",)

    def __init__(self, rows):
        self.rows = rows

    def __array__(self, dtype=None, copy=None):
        return np.array(self.rows, dtype)


def test_other_targets_are_noticed_in_any_container(data, path):
    X, y = data
    tune(KERNEL, X, Rows(y), levels=[(30, 2)], checkpoint=path)
    tune(KERNEL, X, y, levels=[(30, 2)], checkpoint=path)
    with pytest.raises(ValueError, match="differs in y"):
        tune(KERNEL, X, Rows(2 * y), levels=[(30, 2)], checkpoint=path)


def test_unfinished_writes_of_other_runs_are_left_alone(data, path):
    mine, other = (path.parent / f".{name}.{'0f' * 8}.part" for name in ("run", "run.fold2"))
    mine.touch()
    other.touch()
    tune(KERNEL, *data, levels=[(30, 2)], checkpoint=path)
    assert other.exists()
    assert not mine.exists()


def test_a_damaged_file_is_refused_and_left_alone(data, path):
    tune(KERNEL, *data, levels=[(30, 3)], checkpoint=path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:100], b"", b"x" * 999, whole[:50] + b"!" + whole[51:]):
        path.write_bytes(content)
        with pytest.raises(LoadError, match="run"):
            tune(KERNEL, *data, levels=[(30, 3)], checkpoint=path)
        assert path.read_bytes() == content


def test_a_full_disk_ends_the_run_and_leaves_the_last_step(data, path, files, monkeypatch):
    expected = bits(tune(KERNEL, *data, levels=[(30, 6)]))
    fsync, left = os.fsync, iter(range(2 * 3))

    def full(handle):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(_archive.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tune(KERNEL, *data, levels=[(30, 6)], checkpoint=path)
    monkeypatch.undo()
    assert path.read_bytes() == files[-1]
    assert os.listdir(path.parent) == [path.name]
    assert bits(tune(KERNEL, *data, levels=[(30, 6)], checkpoint=path)) == expected


@pytest.mark.parametrize("kind", ["tuning", "constrained"])
def test_killed_processes_lose_nothing(path, tmp_path, kind, tried):
    """SIGKILL at random times."""
    rng = np.random.default_rng(None if LONG else 0)
    kills, done = KILLS_LONG if LONG else KILLS, tmp_path / "result"
    script = pathlib.Path(__file__).parent / "resumed.py"
    command = [sys.executable, str(script), kind, str(path), str(done)]
    whole = TRAINING_STEPS if kind == "constrained" else len(run(None).history)
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    landed, steps, runs = 0, 0, 1
    while landed < kills:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert child.stdout is not None
        # Few steps a process, so that there are some left for the next ones.
        for _ in range(int(rng.integers(1, max(2, 40 // kills)))):
            steps += child.stdout.readline() == "step\n"
        time.sleep(rng.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        steps += len(child.stdout.readlines())
        child.stdout.close()
        assert child.wait() in (0, -signal.SIGKILL)
        landed += child.returncode != 0
        if done.exists():  # a run that came through all its kills; there are more to come
            resumed, straight = json.loads(done.read_text())
            assert resumed == straight
            done.unlink()
            path.unlink()
            runs += 1
    last = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    steps += last.stdout.count("step\n")
    resumed, straight = json.loads(done.read_text())
    assert resumed == straight
    # A kill costs the one step that was being written.
    assert runs * whole <= steps <= runs * whole + landed
    # Unfinished writes of killed processes are cleared away by the tuner.
    left = sorted(name for name in os.listdir(tmp_path) if not name.endswith(".part"))
    assert left == ["result", "run"]
    assert kind == "constrained" or len(os.listdir(tmp_path)) == 2
    tried(f"{landed} processes killed ({kind}): none lost a step")


def interrupt_at(monkeypatch, step):
    """Ctrl-C while that step is taken."""
    take, count = _run.take_step, iter(range(10**6))

    def stopping(*arguments):
        if next(count) == step:
            raise KeyboardInterrupt
        return take(*arguments)

    monkeypatch.setattr(_run, "take_step", stopping)


@pytest.mark.parametrize("settings", [{}, {"num_restarts": 1}, {"levels": [(20, 4), (30, 9)]}])
@pytest.mark.parametrize("step", [1, 6, 12])
def test_ctrl_c_leaves_the_best_so_far(data, monkeypatch, settings, step):
    interrupt_at(monkeypatch, step)
    settings = {"levels": [(30, 20)], **settings}
    with pytest.raises(TuningInterrupted) as caught:
        tune(KERNEL, *data, **settings)
    result = caught.value.result
    assert isinstance(caught.value, KeyboardInterrupt)
    assert "interrupted" in str(result.history)
    losses = [r["exam"] for r in result.history if r["rows"] == result.history[-1]["rows"]]
    assert result.loss == pytest.approx(min(losses), rel=1e-6)
    assert np.isfinite(result.noise_variance)


def test_ctrl_c_before_the_first_step_is_done_leaves_nothing(data, monkeypatch):
    interrupt_at(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt) as caught:
        tune(KERNEL, *data, levels=[(30, 20)])
    assert type(caught.value) is KeyboardInterrupt


def test_after_ctrl_c_an_estimator_is_fitted_with_the_best_so_far(data, monkeypatch, path):
    X, y = data
    gp = GPRegressor(levels=[Level(30, 20)], random_state=0, checkpoint=path)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        with pytest.raises(KeyboardInterrupt, match="best hyperparameters of 7 steps"):
            gp.fit(X, y)
    mean, std = gp.predict(X, return_std=True)
    assert np.all(np.isfinite(mean))
    assert np.all(std > 0)
    assert len(gp.history_) == 7
    # The next fit goes on, and ends where one without a stop does.
    whole = GPRegressor(levels=[Level(30, 20)], random_state=0).fit(X, y).predict(X)
    np.testing.assert_array_equal(gp.fit(X, y).predict(X), whole)
    assert len(gp.history_) == 20


def test_after_ctrl_c_in_the_solve_an_estimator_is_as_it_was(data, monkeypatch):
    gp = GPRegressor(levels=[Level(30, 3)], random_state=0)

    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("gplsq.estimators._regressor.condition_outputs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gp.fit(*data)
    assert not hasattr(gp, "posterior_")


def test_a_classifier_goes_on_too(data, monkeypatch, path):
    X, y = data
    labels = y > np.median(y)
    settings = {"levels": [Level(30, 6)], "random_state": 0}
    whole = GPClassifier(**settings).fit(X, labels).predict_proba(X)
    gp = GPClassifier(**settings, checkpoint=path)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt, match="3 steps"):
            gp.fit(X, labels)
    assert gp.predict_proba(X).shape == (30, 2)
    np.testing.assert_array_equal(gp.fit(X, labels).predict_proba(X), whole)


def test_a_saved_model_does_not_hold_the_path(data, path, tmp_path):
    gp = GPRegressor(levels=[Level(30, 2)], random_state=0, checkpoint=path).fit(*data)
    gp.save(tmp_path / "model")
    assert gplsq.load(tmp_path / "model").checkpoint is None


def test_the_run_of_the_killed_processes_has_levels_and_restarts():
    assert len(run(None).history) > 30
