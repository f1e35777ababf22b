"""One run of the tuner: steps of levels, what is kept of them, and where a killed run goes on."""

import dataclasses
import functools
import math
import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from gplsq._core import constrain, parameters_of
from gplsq.kernels import AbstractKernel
from gplsq.tuning._checkpoint import Checkpoint
from gplsq.tuning._constraints import Feasible
from gplsq.tuning._history import History
from gplsq.tuning._levels import EVERYTHING, Level, bucket
from gplsq.tuning._restrictions import Restrictions
from gplsq.tuning._steps import add_gradient, evaluate, take_step

_LEARNING_RATE = 0.2
# Averages over fewer steps than Adam's usual 10 and 1000, which remember a first gradient from far
# away until the end: a likelihood of 80 rows stopped 0.1 to 0.2 nats a row above its minimum, and
# RMSE on UCI sets was up to a tenth higher (bike 0.0148 instead of 0.0132).
_B1, _B2 = 0.8, 0.95
# A noisy objective is examined every so many steps: that step is on a fixed subset, and its value
# tells how the model does. A program of its own would take 0.4 s to compile, for every level.
_EXAM_EVERY = 5
_MAX_REJECTED = 8
# Improvement of the kept loss, relative, that counts; and how many exams may pass without it.
_MIN_IMPROVEMENT = 1e-3
_PATIENCE_FIXED, _PATIENCE_RANDOM = 20, 6
# After a step that failed, the noise is raised by this factor: most failures are factorisations
# that the dtype could not do with so little noise.
_RESCUE_FACTOR = 3.0


class TuningResult(NamedTuple):
    """The best hyperparameters seen, and how they were found."""

    kernel: AbstractKernel
    noise_variance: float
    loss: float  # of the kept step: the exam on the last level
    history: History


class TuningInterrupted(KeyboardInterrupt):
    """Tuning was interrupted (Ctrl-C); `result` is the best of the steps that were done."""

    MESSAGE = "interrupted: the best of the steps that were done"  # of the result's history

    def __init__(self, result: TuningResult):
        super().__init__("tuning was interrupted; .result is the best of the steps that were done")
        self.result = result


@dataclasses.dataclass
class Progress:
    """Where a run is, between two steps; with the generator's state all that the next ones need.

    A stage is a level, or a restart of the first one. A model is the pair (unconstrained kernel,
    log noise variance).
    """

    stage: int
    rows: list[np.ndarray]  # the fixed subset of the level
    key: jax.Array  # of the exams
    model: Any
    state: Any  # the optimiser's
    best: tuple[float, Any]  # of this stage: loss and model
    kept: tuple[float, Any, Any] | None  # of the stages before: loss, model and state
    step: int = 0
    stale: int = 0
    rejected: int = 0
    ended: bool = False  # before its last step


class Run:
    """State of one tuning run that does not belong into a trace."""

    def __init__(
        self,
        data: Any,
        objective: Any,
        loss: Any,
        optimizer: optax.GradientTransformation | None,
        levels: list[Level],
        rules: Restrictions,
        limit: Feasible | None,
        num_restarts: int,
        rng: np.random.Generator,
        verbose: int,
        checkpoint: Checkpoint | None,
    ):
        # On the host: programs get the rows of a step, whatever the length of the table.
        self.X, y, self.groups, self.parts = data
        self.dtype = self.X.dtype
        self.targets, self.shares = [], []
        for part in self.parts:
            columns = list(part.columns)
            self.targets.append(y[:, columns] if columns else y)
            share = None if len(self.parts) == 1 else len(columns) / y.shape[1]
            self.shares.append(None if share is None else np.asarray(share, self.dtype))
        self.objective, self.loss, self.rules, self.limit = objective, loss, rules, limit
        self.levels, self.rng, self.num_restarts = levels, rng, num_restarts
        total = sum(level.steps for level in levels)
        self.optimizer = _default_optimizer(total) if optimizer is None else optimizer
        self.history, self.began, self.start = History(), time.perf_counter(), 0
        self.checkpoint = checkpoint
        self.at: Progress | None = None
        total += num_restarts * levels[0].steps
        self.bar = tqdm(total=total, disable=not verbose, desc="tuning", unit="step")

    def go(self, first: Any) -> TuningResult:
        """`search`, with a warning of hyperparameters that ended at a bound."""
        kept = self.search(first)
        self.rules.warn_at_bounds(kept[1])
        return self._result(*kept)

    def search(self, first: Any) -> tuple[float, Any]:
        """Run all levels from this model, and the first from others too: loss and model."""
        first = first if self.limit is None else self.limit.begin(first)
        at = self._resumed(first)
        try:
            with self.bar:
                kept = self._stages(first, at)
        except KeyboardInterrupt:
            found = self._best_so_far()
            if not np.isfinite(found[0]):
                raise
            self.history.message = TuningInterrupted.MESSAGE
            raise TuningInterrupted(self._result(*found)) from None
        if not np.isfinite(kept[0]):
            msg = (
                "tuning found no hyperparameters with a finite held-out loss: "
                f"{self.history.failures}. Standardise X and y, start from a larger "
                "noise_variance, pass float64 data, or check a loss of your own at those values."
            )
            raise FloatingPointError(msg)
        return kept[:2]

    def _stages(self, first: Any, at: Progress | None) -> tuple[float, Any, Any]:
        # One start after the other. Four at once by `vmap` took a fifth less time for leave-one-out
        # steps on 100 and 200 rows, of a millisecond each, and a quarter more from 500 rows on.
        restarts = self.num_restarts
        stages = [(self.levels[0], start) for start in range(restarts + 1)]
        stages += [(level, restarts) for level in self.levels[1:]]
        for stage in range(at.stage if at else 0, len(stages)):
            level, self.start = stages[stage]
            if at is None or at.stage < stage:
                at = self._entered(stage, first, at)
            self.at = at
            found = self._level(level, at)
            chosen = at.kept is None or stage > restarts or found[0] < at.kept[0]
            at.kept = found if chosen else at.kept
        assert at is not None
        assert at.kept is not None
        return at.kept

    def _initial(self, model: Any) -> Any:
        """The optimiser's state."""
        limit = self.limit
        optimizer = self.optimizer if limit is None else limit.optimizer(self.optimizer)
        return optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def _entered(self, stage: int, first: Any, before: Progress | None) -> Progress:
        """The beginning of a stage."""
        if before is None or stage > self.num_restarts:
            level = self.levels[max(0, stage - self.num_restarts)]
            rows, key = self.draw(level), self.new_key()
        else:
            rows, key = before.rows, before.key
        kept = None if before is None else before.kept
        if kept is not None and stage > self.num_restarts:
            _, model, state = kept
        else:
            model = first if before is None else self._shake(first)
            state = self._initial(model)
        return Progress(stage, rows, key, model, state, (np.inf, model), kept)

    def _resumed(self, first: Any) -> Progress | None:
        """Where the run of the checkpoint's file is, if there is one."""
        if self.checkpoint is None:
            return None
        state = self._initial(first)
        like = Progress(0, [], jax.random.key(0), first, state, (np.inf, first), None)
        found = self.checkpoint.read(like)
        if found is not None:
            self.at, self.history, self.rng.bit_generator.state = found
            if len(self.history):
                self.began -= self.history[-1]["seconds"]
            self.bar.update(len(self.history))
        return self.at

    def _save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.write(self.at, self.history, self.rng.bit_generator.state)

    def _best_so_far(self) -> tuple[float, Any]:
        at = self.at
        if at is None:
            return np.inf, None
        # A later level that has not examined anything yet has nothing better than the one before.
        later = at.stage > self.num_restarts and np.isfinite(at.best[0])
        return at.best if later or at.kept is None or at.best[0] < at.kept[0] else at.kept[:2]

    def _result(self, loss: float, model: Any) -> TuningResult:
        kernel, log_noise = model
        noise = _exponential(log_noise)
        return TuningResult(eqx.filter_jit(constrain)(kernel), noise, loss, self.history)

    def _shake(self, model: Any) -> Any:
        """Another start: every free coordinate moved by a standard normal number."""
        numbers, rest = eqx.partition(model, eqx.is_inexact_array)
        noise = jax.tree.map(
            lambda leaf: jnp.asarray(self.rng.standard_normal(leaf.shape), leaf.dtype), numbers
        )
        moved = jax.tree.map(jnp.add, numbers, self.rules.keep(noise))
        return self.allowed(eqx.combine(moved, rest))

    def allowed(self, model: Any) -> Any:
        """The nearest model within bounds, and on the constraint."""
        model = self.rules.project(model)
        return model if self.limit is None else self.limit.restore(model)[0]

    def _level(self, level: Level, at: Progress) -> tuple[float, Any, Any]:
        """The rest of a level; its best loss, the model that had it, and the optimiser's state."""
        everything = all(level.rows >= EVERYTHING * len(part.rows) for part in self.parts)
        noisy = self.objective.random or (self.objective.fresh_rows and not everything)
        patience = _PATIENCE_RANDOM if noisy else _PATIENCE_FIXED
        while at.step < level.steps and not at.ended:
            self._one_step(level, at, noisy, patience)
            at.step += 1
            self._save()
        if at.ended:
            return *at.best, at.state
        if self.limit is not None:
            at.model, violation = self.limit.restore(at.model)
            if not self.limit.keeps(violation):
                return *at.best, at.state
        # One step more is cheaper than a program of its own.
        exam = _finite(self._step(at.model, at.state, at.rows, at.key)[0])
        if exam < at.best[0] or (noisy and level is not self.levels[-1] and np.isfinite(exam)):
            # A level in between hands on its last values: steps on fresh rows average over
            # subsets, and choosing by one fixed subset would fit that subset.
            return exam, at.model, at.state
        return *at.best, at.state

    def _one_step(self, level: Level, at: Progress, noisy: bool, patience: int) -> None:
        examined = not noisy or at.step % _EXAM_EVERY == 0
        rows, key = (at.rows, at.key) if examined else (self.draw(level), self.new_key())
        value, new, new_state = self._step(at.model, at.state, rows, key)
        exam = value if examined and np.isfinite(value) else None
        if exam is not None and self.limit is not None:
            # A better loss off the constraint is none.
            exam = exam if self.limit.keeps(self.limit.violation(new_state)) else np.inf
        self._record(level, value, exam, at.model)
        if not np.isfinite(value):
            at.rejected += 1
            if at.rejected > _MAX_REJECTED:
                self.history.message = "stopped: too many steps without a finite loss"
                at.ended = True
                return
            # Back to the best values, with more noise: see _RESCUE_FACTOR.
            model = at.best[1]
            raised = model[0], model[1] + at.rejected * math.log(_RESCUE_FACTOR)
            at.model = self.allowed(raised) if self.rules.noise_is_free else model
            return
        if exam is not None:
            best = at.best[0]
            improved = np.isinf(best) or exam < best - _MIN_IMPROVEMENT * abs(best)
            at.stale = 0 if improved else at.stale + 1
            if exam < best:
                at.best = exam, at.model
            if at.stale > patience:
                self.history.message = (
                    f"level of {level.rows} rows ended early: its loss fell no more"
                )
                at.ended = True
                return
        at.model, at.state = new, new_state

    def _step(
        self, model: Any, state: Any, rows: list[np.ndarray], key: jax.Array
    ) -> tuple[float, Any, Any]:
        settings = key, self.rules, self.objective, self.loss
        *others, last = self._take(rows)
        # One compiled program for each number of rows; groups of outputs are not unrolled in it.
        total = None
        if others:
            numbers = self.dtype.type(0), eqx.filter(model, eqx.is_inexact_array)
            total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), numbers)
        for data in others:
            total = add_gradient(total, model, data, *settings)
        arguments = model, state, last, *settings, self.optimizer, self.limit, total
        value, new, new_state = take_step(*arguments)
        return float(value), new, new_state

    def exam(self, model: Any, rows: list[np.ndarray], key: jax.Array, loss: Any) -> float:
        """Another held-out loss of a model at these rows; infinite where it is not a number."""
        settings = key, self.rules, self.objective, loss
        if not np.isfinite(_exponential(model[1])):  # a noise that no number is
            return np.inf
        return _finite(sum(float(evaluate(model, data, *settings)) for data in self._take(rows)))

    def _take(self, rows: list[np.ndarray]) -> list[tuple]:
        """Points, targets, labels and share of each group of outputs."""
        return [
            (self.X[i], y[i], None if self.groups is None else self.groups[i], share)
            for i, y, share in zip(rows, self.targets, self.shares, strict=True)
        ]

    def _record(self, level: Level, value: float, exam: float | None, model: Any) -> None:
        kernel, log_noise = model
        record: dict[str, Any] = {
            "step": len(self.history),
            "start": self.start,
            "rows": level.rows,
            "loss": value,
            "exam": exam,
            "noise_variance": _exponential(log_noise),
            "seconds": time.perf_counter() - self.began,
            "accepted": bool(np.isfinite(value)),
        }
        for parameter in parameters_of(kernel):
            number = np.asarray(parameter.value)
            with np.errstate(over="ignore"):  # of a step that failed
                record[parameter.name] = np.exp(number) if parameter.positive else number
        self.history.append(record)
        self.bar.update()
        self.bar.set_postfix(rows=level.rows, loss=f"{value:.4g}", refresh=False)

    def draw(self, level: Level) -> list[np.ndarray]:
        """Rows of a subset for each group of outputs, in the order of the table."""
        chosen = []
        most = max(len(part.rows) for part in self.parts)
        for _, rows in self.parts:
            size = min(level.rows, len(rows))
            # Groups of nearly as many rows share the programs of a step.
            size = size if size in (level.rows, most) else bucket(size)
            chosen.append(rows[np.sort(self.rng.choice(len(rows), size=size, replace=False))])
        return chosen

    def new_key(self) -> jax.Array:
        return jax.random.key(int(self.rng.integers(2**31)))


@functools.lru_cache(maxsize=32)
def _default_optimizer(total: int) -> optax.GradientTransformation:
    """One object for each length of a run, so that the next run reuses the compiled step."""
    rate = optax.cosine_decay_schedule(_LEARNING_RATE, total, alpha=0.05)
    return optax.adam(rate, b1=_B1, b2=_B2)


def _finite(value: Any) -> float:
    """A loss, infinite where it is not a number."""
    return float(value) if np.isfinite(value) else np.inf


def _exponential(number: Any) -> float:
    """Of a step that failed it may be beyond the largest number."""
    return math.inf if number > 709 else math.exp(number)
