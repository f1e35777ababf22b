"""Parameters and results of an estimator, refused by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gplsq._core import check_choice, check_finite_scalar, check_mesh, describe, parts_of_type
from gplsq.constraints import AbstractConstraint
from gplsq.gp import MEANS, SOLVERS, check_mean, memory_budget
from gplsq.kernels import AbstractKernel, WithDerivatives
from gplsq.solvers import AbstractLeastSquares
from gplsq.tuning import as_loss, check_checkpoint, check_levels, check_optimizer, choose_objective


def check_common_parameters(model: Any, solvers: tuple[str, ...]) -> None:
    """Refuse parameters that all estimators have and that are of the wrong type or out of range.

    `solvers` are the names of those it may be asked for.
    """
    if model.kernel is not None and not isinstance(model.kernel, AbstractKernel):
        msg = (
            f"kernel must be a gplsq kernel or None; got {describe(model.kernel)}. Pass for "
            "example gplsq.kernels.RBF()."
        )
        raise TypeError(msg)
    if not isinstance(model.solver, AbstractLeastSquares):
        check_choice("solver", model.solver, solvers)
    check_choice("form", model.form, ("auto", "dense", "tiled"))
    if model.levels is not None:
        check_levels(model.levels, 2)
    check_optimizer(model.optimizer)
    if model.rtol is not None:
        check_finite_scalar("rtol", model.rtol, minimum=0.0, strict=True)
    memory_budget(model.memory)
    if model.checkpoint is not None:
        check_checkpoint(model.checkpoint, model.random_state)
    if model.constraints is not None and not isinstance(model.constraints, AbstractConstraint):
        msg = (
            f"constraints must be a constraint object or None; got {describe(model.constraints)}. "
            "Wrap a function of the kernel as gplsq.constraints.Constraint(fn) or Inequality(fn)."
        )
        raise TypeError(msg)
    if not isinstance(model.standardize, bool | np.bool_):
        msg = f"standardize must be True or False; got {describe(model.standardize)}."
        raise TypeError(msg)


def also_fixed(fixed: Any, name: str) -> Any:
    """`fixed` with one more name; what is no list of names is left for the tuner to refuse."""
    if fixed is None:
        return [name]
    known = isinstance(fixed, Sequence | set | frozenset) and not isinstance(fixed, str)
    return [*fixed, name] if known else fixed


def check_parameters(model: Any) -> None:
    """Refuse parameters of a `GPRegressor` that are of the wrong type or out of range."""
    check_common_parameters(model, SOLVERS)
    if not (isinstance(model.noise_variance, str) and model.noise_variance == "auto"):
        if isinstance(model.noise_variance, str):
            msg = f'noise_variance must be "auto" or a number; got {model.noise_variance!r}.'
            raise ValueError(msg)
        check_finite_scalar("noise_variance", model.noise_variance, minimum=0.0, strict=True)
    as_loss(model.loss)
    if model.objective is not None:
        choose_objective(model.objective, 2)
    check_choice("outputs", model.outputs, ("independent", "correlated"))
    check_choice("missing", model.missing, ("raise", "drop"))
    if not callable(model.mean):
        check_choice("mean", model.mean, ("zero", *MEANS))
        check_mean(model.kernel, model.mean)
    check_choice("variance", model.variance, ("auto", "exact", "neighbours"))
    check_mesh(model.mesh)
    if model.standardize and parts_of_type(model.kernel, WithDerivatives):
        msg = (
            "standardize must be False with a kernel WithDerivatives: its last column says "
            "what a row observes, and slopes scale unlike values. Scale inputs and targets "
            "before, if they need it."
        )
        raise ValueError(msg)
