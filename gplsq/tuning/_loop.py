"""The tuner: optax on the logarithms of hyperparameters, over levels of growing subsets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ArrayLike

from gplsq._core import (
    check_choice,
    check_count,
    check_finite_scalar,
    describe,
)
from gplsq.constraints import AbstractConstraint
from gplsq.kernels import AbstractKernel
from gplsq.tuning._checkpoint import Checkpoint, check_checkpoint
from gplsq.tuning._choose import choose_objective
from gplsq.tuning._closing import closing_optimizer, closing_start
from gplsq.tuning._constraints import feasible
from gplsq.tuning._data import as_groups_of_outputs, check_groups
from gplsq.tuning._group_holdout import GroupHoldout
from gplsq.tuning._levels import Level, check_levels, closing_level, default_levels
from gplsq.tuning._losses import Pinball, as_loss, crps, mse, nlpd
from gplsq.tuning._marginal_likelihood import MarginalLikelihood
from gplsq.tuning._objectives import AbstractObjective
from gplsq.tuning._restrictions import restrict
from gplsq.tuning._run import Run, TuningResult
from gplsq.tuning._start import start_from_data, target_variance
from gplsq.tuning._steps import start_model


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
    constraints: AbstractConstraint | None = None,
    groups: ArrayLike | None = None,
    observed: ArrayLike | None = None,
    random_state: int | np.random.Generator | None = 0,
    verbose: int = 0,
    checkpoint: Any = None,
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
        An optax transformation; Adam with short memory (b1 0.8, b2 0.95) and a cosine-decayed rate
        from 0.2 by default. A line search, as that of ``optax.lbfgs()``, is for a loss that is the
        same at every step: a level of all rows, with leave-one-out or a likelihood in closed form.
    levels
        `Level(rows, steps)`, one after the other; the optimiser's state is carried over. By
        default those of `default_levels`; for ``"nlpd"``, ``"crps"`` and ``"pinball"`` these by
        ``"mse"`` (and variances that fit the held-out errors) and by the loss, and then 40 steps by
        the loss, which are those of the history, from the first end, or from the second if it is
        more likely by 0.2 nats a held-out row.
    start
        ``"given"`` starts from the kernel's values, ``"data"`` from distances between rows, see
        `start_from_data`.
    num_restarts
        Further starts for the first level, each hyperparameter multiplied by the exponential of a
        standard normal number; the best goes on to the next levels.
    bounds
        From names of hyperparameters to pairs (low, high); None is no bound. A name is a whole
        dotted one (``"left.kernel.lengthscale"``), or where there is none such the end of some
        (``"lengthscale"``), and means all of these; see `gplsq.tuning.parameters_of`.
    fixed
        Names of hyperparameters that stay at their starting values.
    priors
        From names to the log density of a hyperparameter's value, an array function. Minus its sum
        is added to the loss as one row more would be: divided by n. With `MarginalLikelihood` or
        ``"nlpd"`` the result is a maximum a posteriori estimate.
    constraints
        A `gplsq.constraints` object on the kernel with its hyperparameters in their own units, for
        example ``Inequality(fn)`` of ``fn(kernel)`` or ``fn(kernel, noise_variance)``. It holds at
        the start, which is moved onto it, and for the result, to 1e-4 (root mean square of the
        residuals); every step is corrected, and one that misses this is not kept.
        Hyperparameters that are fixed or bounded stay so.
    groups
        A label for each row, for objectives that hold out groups.
    observed
        Which targets of several outputs there are, booleans of shape (n, p); all by default. Those
        that are missing are not looked at. Outputs observed at the same rows share their work. Of
        the rows of smaller groups up to 3 % are left out, so that these share programs.
    random_state
        Seed or generator of starts, subsets and splits; needed with `checkpoint`.
    verbose
        1 shows a progress bar.
    checkpoint
        Path of a file that is written anew after every step, as a whole or not at all. If it is
        there, the run goes on from it, bit for bit as if it had not stopped; one of other data or
        settings is refused by what differs. It stays after the run. Runs of two parts (see
        `levels`) have ``.squares`` and ``.loss`` beside it until they end.

    Returns
    -------
    TuningResult

    Raises
    ------
    ValueError, TypeError
        For wrong arguments, and for constraints that no start is found for.
    FloatingPointError
        If not a single step had a finite loss.
    TuningInterrupted
        By Ctrl-C, once a step is done; a `KeyboardInterrupt` with the best so far in `result`.
    LoadError, OSError
        If the file of `checkpoint` is damaged, or cannot be written.

    Warns
    -----
    ConvergenceWarning
        Naming hyperparameters that ended at a bound.

    Notes
    -----
    The hyperparameters kept are those with the lowest loss on the last level that ran: for a fixed
    objective on all rows its own value, otherwise that of every fifth step, the exam, which is on
    a fixed subset and split. Subsets are drawn afresh at the other steps, unless the objective asks
    for fixed ones.
    A level ends early when that has not improved by a thousandth for a while. A step whose loss or
    gradient is not finite is not taken: the run goes back to the best values with three times the
    noise, and three times as much again for every further failure.
    """
    given = dict(locals())
    if checkpoint is not None:
        check_checkpoint(checkpoint, random_state)
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
    given |= {"X": X_host, "y": y_host, "groups": _array(groups), "observed": _array(observed)}
    file = None if checkpoint is None else Checkpoint(checkpoint, {**given, "random_state": rng})
    parts, y_host = as_groups_of_outputs(y_host, observed)
    n = max(len(part.rows) for part in parts)
    chosen = choose_objective(objective, n, groups=groups is not None)
    schedule = check_levels(default_levels(n, chosen) if levels is None else levels, n)
    check_optimizer(optimizer)
    check_count("num_restarts", num_restarts)
    labels = check_groups(groups, rows)
    if labels is not None and isinstance(chosen, GroupHoldout):
        chosen.check_groups(labels)
    noise = 0.01 * target_variance(y_host)
    if start == "data":
        kernel, noise = start_from_data(kernel, X_host, y_host, rng)
    if not (isinstance(noise_variance, str) and noise_variance == "auto"):
        noise = check_finite_scalar("noise_variance", noise_variance, minimum=0.0, strict=True)
    dtype = np.dtype(jnp.asarray(X_host[:0]).dtype)
    rules = restrict(kernel, bounds, fixed, priors, n, dtype)
    data = X_host.astype(dtype), y_host.astype(dtype), labels, parts
    first = start_model(kernel, np.asarray(noise, dtype), rules)  # pyright: ignore
    limit = feasible(constraints, first, rules)
    settings = rules, limit, num_restarts, rng, verbose
    # Of a user's own loss nobody knows whether it looks at the variance.
    known = isinstance(score, Pinball) or score is nlpd or score is crps
    if not known or levels is not None or isinstance(chosen, MarginalLikelihood):
        return Run(data, chosen, score, optimizer, schedule, *settings, file).go(first)
    before = [None if file is None else file.beside(name) for name in ("squares", "loss")]
    by_squares, by_loss = (
        Run(data, chosen, each, optimizer, schedule, *settings, its_file)
        for each, its_file in zip((mse, score), before, strict=True)
    )
    last = closing_level(schedule)
    optimizer = closing_optimizer(last.steps) if optimizer is None else optimizer
    run = Run(data, chosen, score, optimizer, [last], rules, limit, 0, rng, verbose, file)
    if file is None or not file.exists():  # otherwise what follows is there already
        run.began = by_squares.began
        first = closing_start(run, first, by_squares, by_loss)
    result = run.go(first)
    for its_file in before:
        if its_file is not None:
            its_file.remove()
    return result


def _array(values: Any) -> np.ndarray | None:
    return None if values is None else np.asarray(values)


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is neither None nor an optax transformation, with a `TypeError`."""
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        msg = (
            f"optimizer must be an optax transformation; got {describe(optimizer)}. Pass for "
            "example optax.adam(0.1)."
        )
        raise TypeError(msg)
