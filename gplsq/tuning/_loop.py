"""The tuner: optax on the logarithms of hyperparameters, over levels of growing subsets."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ArrayLike
from tqdm import tqdm

from gplsq._core import (
    check_choice,
    check_count,
    check_finite_scalar,
    constrain,
    describe,
    parameters_of,
)
from gplsq.kernels import AbstractKernel
from gplsq.tuning._choose import choose_objective
from gplsq.tuning._data import check_groups, check_targets
from gplsq.tuning._history import History
from gplsq.tuning._levels import EVERYTHING, Level, check_levels, default_levels
from gplsq.tuning._losses import as_loss
from gplsq.tuning._objectives import AbstractObjective
from gplsq.tuning._restrictions import restrict
from gplsq.tuning._start import start_from_data, target_variance
from gplsq.tuning._steps import add_gradient, evaluate, start_model, take_step

_LEARNING_RATE = 0.2
# A noisy objective is examined on a fixed subset every so many steps.
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


def tune(
    kernel: AbstractKernel,
    X: ArrayLike,
    y: ArrayLike,
    *,
    objective: AbstractObjective | str = "auto",
    loss: str | Callable = "mse",
    noise_variance: float | str = "auto",
    optimizer: optax.GradientTransformation | None = None,
    levels: Sequence[Level] | None = None,
    start: str = "given",
    num_restarts: int = 0,
    bounds: Mapping[str, Any] | None = None,
    fixed: Sequence[str] | None = None,
    priors: Mapping[str, Callable] | None = None,
    groups: ArrayLike | None = None,
    observed: ArrayLike | None = None,
    random_state: int | np.random.Generator | None = 0,
    verbose: int = 0,
) -> TuningResult:
    """Tune hyperparameters by gradient on a held-out predictive loss.

    Parameters
    ----------
    kernel
        A kernel; its positive hyperparameters are tuned on a logarithmic scale.
    X, y
        Shapes (n, d), and (n,) or (n, p) for p independent outputs of the same kernel and noise,
        best standardised. The dtype of X is that of all work. The loss of several outputs is their
        mean.
    objective
        Where held-out loss comes from. ``"auto"``: leave-one-out in closed form up to 2000 rows,
        repeated hold-out beyond.
    loss
        ``"mse"``, ``"nlpd"``, ``"crps"``, ``"pinball"`` or a callable of (y, mean, variance), all
        of shape (s,).
    noise_variance
        Starting value, in squared units of y; ``"auto"`` is a hundredth of the target's variance.
    optimizer
        An optax transformation; Adam with a cosine-decayed rate from 0.2 by default.
    levels
        `Level(rows, steps)`, one after the other; the optimiser's state is carried over. See
        `default_levels`.
    start
        ``"given"`` starts from the kernel's values, ``"data"`` from distances between rows, see
        `start_from_data`.
    num_restarts
        Further starts for the first level, each hyperparameter multiplied by the exponential of a
        standard normal number; the best goes on to the next levels.
    bounds
        From names of hyperparameters to pairs (low, high); None is no bound. A name is the last
        part of its dotted name (``"lengthscale"``, ``"noise_variance"``) and means all that end in
        it, or the whole (``"left.kernel.lengthscale"``); see `gplsq.tuning.parameters_of`.
    fixed
        Names of hyperparameters that stay at their starting values.
    priors
        From names to the log density of a hyperparameter's value, an array function. Minus its sum
        is added to the loss as one row more would be: divided by n. With `MarginalLikelihood` or
        ``"nlpd"`` the result is a maximum a posteriori estimate.
    groups
        A label for each row, for objectives that hold out groups.
    observed
        Which targets of several outputs there are, booleans of shape (n, p); all by default. Those
        that are missing are not looked at. Outputs observed at the same rows share their work.
    random_state
        Seed or generator of starts, subsets and splits.
    verbose
        1 shows a progress bar.

    Returns
    -------
    TuningResult

    Raises
    ------
    ValueError, TypeError
        For wrong arguments.
    FloatingPointError
        If not a single step had a finite loss.

    Warns
    -----
    ConvergenceWarning
        Naming hyperparameters that ended at a bound.

    Notes
    -----
    The hyperparameters kept are those with the lowest loss on the last level that ran: for a fixed
    objective on all rows its own value, otherwise an exam on a fixed subset and split every five
    steps. Subsets are drawn afresh at every step, unless the objective asks for fixed ones.
    A level ends early when that has not improved by a thousandth for a while. A step whose loss or
    gradient is not finite is not taken: the run goes back to the best values with three times the
    noise, and three times as much again for every further failure.
    """
    score = as_loss(loss)
    check_choice("start", start, ("given", "data"))
    rng = np.random.default_rng(random_state)
    X_host, y_host = np.asarray(X), np.asarray(y)
    rows = X_host.shape[0] if X_host.ndim == 2 else 0
    if rows < 2 or y_host.shape[:1] != (rows,) or y_host.ndim > 2 or y_host.size == 0:
        msg = (
            f"X must have shape (n, d) and y shape (n,) or (n, p), n at least 2; got "
            f"{X_host.shape} and {y_host.shape}."
        )
        raise ValueError(msg)
    if not isinstance(kernel, AbstractKernel):
        msg = f"kernel must be a gplsq kernel; got {describe(kernel)}. Pass gplsq.kernels.RBF()."
        raise TypeError(msg)
    parts, y_host = check_targets(y_host, observed)
    n = max(len(part.rows) for part in parts)
    chosen = choose_objective(objective, n)
    schedule = check_levels(default_levels(n, chosen) if levels is None else levels, n)
    check_optimizer(optimizer)
    check_count("num_restarts", num_restarts)
    labels = check_groups(groups, rows)
    noise = 0.01 * target_variance(y_host)
    if start == "data":
        kernel, noise = start_from_data(kernel, X_host, y_host, rng)
    if not (isinstance(noise_variance, str) and noise_variance == "auto"):
        noise = check_finite_scalar("noise_variance", noise_variance, minimum=0.0, strict=True)
    dtype = np.dtype(jnp.asarray(X_host[:0]).dtype)
    rules = restrict(kernel, bounds, fixed, priors, n, dtype)
    if observed is not None:
        y_host = np.where(observed, y_host, 0)
    data = X_host.astype(dtype), y_host.astype(dtype), labels, parts
    run = _Run(data, chosen, score, optimizer, schedule, rules, num_restarts, rng, verbose)
    return run.go(kernel, noise)


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is neither None nor an optax transformation, with a `TypeError`."""
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        msg = (
            f"optimizer must be an optax transformation; got {describe(optimizer)}. Pass for "
            "example optax.adam(0.1)."
        )
        raise TypeError(msg)


class _Run:
    """State of one tuning run that does not belong into a trace.

    A model is the pair (unconstrained kernel, log noise variance).
    """

    def __init__(self, data, objective, loss, optimizer, levels, rules, num_restarts, rng, verbose):
        # On the host: programs get the rows of a step, whatever the length of the table.
        self.X, y, self.groups, self.parts = data
        self.dtype = self.X.dtype
        self.targets, self.shares = [], []
        for part in self.parts:
            columns = list(part.columns)
            self.targets.append(y[:, columns] if columns else y)
            share = None if len(self.parts) == 1 else len(columns) / y.shape[1]
            self.shares.append(None if share is None else np.asarray(share, self.dtype))
        self.objective, self.loss, self.rules = objective, loss, rules
        self.levels, self.rng, self.num_restarts = levels, rng, num_restarts
        total = sum(level.steps for level in levels)
        self.optimizer = _default_optimizer(total) if optimizer is None else optimizer
        self.history, self.began, self.start = History(), time.perf_counter(), 0
        total += num_restarts * levels[0].steps
        self.bar = tqdm(total=total, disable=not verbose, desc="tuning", unit="step")

    def go(self, kernel: AbstractKernel, noise: float) -> TuningResult:
        """Run all levels from these hyperparameters, and the first from others too."""
        first = start_model(kernel, np.asarray(noise, self.dtype), self.rules)  # pyright: ignore
        best: Any = None
        with self.bar:
            rows, key = self._rows(self.levels[0]), self._key()
            for start in range(self.num_restarts + 1):
                self.start = start
                model = self._shake(first) if start else first
                state = self.optimizer.init(eqx.filter(model, eqx.is_inexact_array))
                found = self._level(self.levels[0], model, state, rows, key)
                best = found if best is None or found[0] < best[0] else best
            loss, model, state = best
            for level in self.levels[1:]:
                rows, key = self._rows(level), self._key()
                loss, model, state = self._level(level, model, state, rows, key)
        if not np.isfinite(loss):
            msg = (
                "tuning found no hyperparameters with a finite held-out loss. Standardise X and y, "
                "start from a larger noise_variance, or pass float64 data."
            )
            raise FloatingPointError(msg)
        self.rules.warn_at_bounds(model)
        kernel, log_noise = model
        noise = math.exp(log_noise)
        return TuningResult(eqx.filter_jit(constrain)(kernel), noise, loss, self.history)

    def _shake(self, model: Any) -> Any:
        """Another start: every free coordinate moved by a standard normal number."""
        numbers, rest = eqx.partition(model, eqx.is_inexact_array)
        noise = jax.tree.map(
            lambda leaf: jnp.asarray(self.rng.standard_normal(leaf.shape), leaf.dtype), numbers
        )
        moved = jax.tree.map(jnp.add, numbers, self.rules.keep(noise))
        return self.rules.project(eqx.combine(moved, rest))

    def _level(
        self, level: Level, model: Any, state: Any, fixed: Any, exam_key: jax.Array
    ) -> tuple[float, Any, Any]:
        """One level; returns its best loss, the model that had it, and the optimiser's state."""
        everything = all(level.rows >= EVERYTHING * len(part.rows) for part in self.parts)
        noisy = self.objective.random or (self.objective.fresh_rows and not everything)
        patience = _PATIENCE_RANDOM if noisy else _PATIENCE_FIXED
        best, best_model, stale, rejected = np.inf, model, 0, 0
        for inner in range(level.steps):
            rows = self._rows(level) if noisy else fixed
            key = self._key() if noisy else exam_key
            value, new, new_state = self._step(model, state, rows, key)
            exam = None
            if np.isfinite(value):
                if not noisy:
                    exam = value
                elif inner % _EXAM_EVERY == 0:
                    exam = self._exam(model, fixed, exam_key)
            self._record(level, value, exam, model)
            if not np.isfinite(value):
                rejected += 1
                if rejected > _MAX_REJECTED:
                    self.history.message = "stopped: too many steps without a finite loss"
                    return best, best_model, state
                # Back to the best values, with more noise: see _RESCUE_FACTOR.
                raised = best_model[0], best_model[1] + rejected * math.log(_RESCUE_FACTOR)
                model = self.rules.project(raised) if self.rules.noise_is_free else best_model
                continue
            if exam is not None:
                improved = np.isinf(best) or exam < best - _MIN_IMPROVEMENT * abs(best)
                stale = 0 if improved else stale + 1
                if exam < best:
                    best, best_model = exam, model
                if stale > patience:
                    self.history.message = f"level of {level.rows} rows ended early: no progress"
                    return best, best_model, state
            model, state = new, new_state
        if noisy:
            exam = self._exam(model, fixed, exam_key)
        else:  # One step more is cheaper than a program of its own.
            exam = _finite(self._step(model, state, fixed, exam_key)[0])
        if exam < best or (noisy and level is not self.levels[-1] and np.isfinite(exam)):
            # A level in between hands on its last values: steps on fresh rows average over
            # subsets, and choosing by one fixed subset would fit that subset.
            return exam, model, state
        return best, best_model, state

    def _step(
        self, model: Any, state: Any, rows: list[np.ndarray], key: jax.Array
    ) -> tuple[float, Any, Any]:
        settings = key, self.rules, self.objective, self.loss
        *others, last = self._take(rows)
        # One compiled program for each number of rows; groups of outputs are not unrolled in it.
        total = None
        if others:
            zeros = jax.tree.map(jnp.zeros_like, eqx.filter(model, eqx.is_inexact_array))
            total = jnp.zeros((), self.dtype), zeros
        for data in others:
            total = add_gradient(total, model, data, *settings)
        arguments = model, state, last, *settings, self.optimizer, total
        value, new, new_state = take_step(*arguments)
        return float(value), new, new_state

    def _exam(self, model: Any, rows: list[np.ndarray], key: jax.Array) -> float:
        settings = key, self.rules, self.objective, self.loss
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
            "noise_variance": math.exp(log_noise),
            "seconds": time.perf_counter() - self.began,
            "accepted": bool(np.isfinite(value)),
        }
        for parameter in parameters_of(kernel):
            number = np.asarray(parameter.value)
            record[parameter.name] = np.exp(number) if parameter.positive else number
        self.history.append(record)
        self.bar.update()
        self.bar.set_postfix(rows=level.rows, loss=f"{value:.4g}", refresh=False)

    def _rows(self, level: Level) -> list[np.ndarray]:
        """Rows of a subset for each group of outputs, in the order of the table."""
        chosen = []
        for _, rows in self.parts:
            size = min(level.rows, len(rows))
            chosen.append(rows[np.sort(self.rng.choice(len(rows), size=size, replace=False))])
        return chosen

    def _key(self) -> jax.Array:
        return jax.random.key(int(self.rng.integers(2**31)))


@functools.lru_cache(maxsize=32)
def _default_optimizer(total: int) -> optax.GradientTransformation:
    """One object for each length of a run, so that the next run reuses the compiled step."""
    return optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, total, alpha=0.05))


def _finite(value: Any) -> float:
    """A loss, infinite where it is not a number."""
    return float(value) if np.isfinite(value) else np.inf
