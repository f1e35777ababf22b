"""Constraints on hyperparameters, which the user states in their own units."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from gplsq._core import constrain, describe
from gplsq.constraints import AbstractConstraint, constrained, restore_feasibility
from gplsq.tuning._restrictions import Restrictions

# Violation, as the root mean square of the residuals, that a step corrects, and that is too much
# for hyperparameters that are kept.
_TOLERANCE, _LIMIT = 1e-6, 1e-4
_RESTORATION_STEPS, _MOST_STEPS = 5, 50


class _OfHyperparameters(AbstractConstraint):
    """A constraint on (kernel, noise variance) as one on the tuner's model; see `_steps`."""

    inner: AbstractConstraint
    rest: PyTree  # of the model, but for its numbers
    free: PyTree[bool]

    @property
    def kind(self):
        return self.inner.kind

    def residuals(self, params, batch=None, step=None):
        del batch
        # What stays is no way to meet a constraint.
        moving = jax.tree.map(
            lambda leaf, free: leaf if free else jax.lax.stop_gradient(leaf),
            params,
            self.free,
        )
        kernel, log_noise = eqx.combine(moving, self.rest)
        return self.inner.residuals(constrain(kernel), jnp.exp(log_noise), step)


class _Bounds(AbstractConstraint):
    """The tuner's own bounds."""

    low: PyTree
    high: PyTree

    def residuals(self, params, batch=None, step=None):
        """None: they are projected on."""
        return []

    def box(self, params, step=None):
        return self.low, self.high


class Feasible(NamedTuple):
    """What keeps a tuner's models on a constraint."""

    constraint: AbstractConstraint

    def optimizer(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """The same under the constraint."""
        return constrained(
            optimizer,
            self.constraint,
            restoration_steps=_RESTORATION_STEPS,
            tolerance=_TOLERANCE,
            rank_every=0,
        )

    def restore(self, model: PyTree) -> tuple[PyTree, float]:
        """The nearest feasible model that is found, and what is left of the violation."""
        numbers, rest = eqx.partition(model, eqx.is_inexact_array)
        moved, violation = _moved(numbers, self.constraint)
        return eqx.combine(moved, rest), float(violation)

    @staticmethod
    def violation(state: Any) -> float:
        """At the model that the last step began from."""
        return float(state.report.violation_before)

    @staticmethod
    def keeps(violation: float) -> bool:
        """Whether so much is small enough."""
        return violation <= _LIMIT

    def begin(self, model: PyTree) -> PyTree:
        """A feasible start.

        Raises
        ------
        ValueError
            If none is found.
        """
        moved, violation = self.restore(model)
        if not self.keeps(violation):
            msg = (
                "constraints must have a solution near the starting hyperparameters; got a "
                f"violation of {violation:.1e} at the best ones found. Start from a kernel and a "
                "noise_variance that meet them, ask for less, or free what is fixed or bounded."
            )
            raise ValueError(msg)
        return moved


@eqx.filter_jit
def _moved(numbers: PyTree, constraint: AbstractConstraint) -> tuple[PyTree, Any]:
    moved, result = restore_feasibility(
        numbers, constraint, tolerance=_TOLERANCE, max_steps=_MOST_STEPS
    )
    return moved, result.violation


def feasible(constraints: Any, model: PyTree, rules: Restrictions) -> Feasible | None:
    """Verify what the user passed, and bring it into the tuner's coordinates.

    Parameters
    ----------
    constraints
        None, or a constraint of `gplsq.constraints` (a sum of several) on a kernel with
        hyperparameters in their own units. `Constraint(fn)` may take the noise variance as well:
        ``fn(kernel, noise_variance)``.
    model
        Of the tuner.
    rules
        Bounds, which become a part of it, and what stays.

    Raises
    ------
    TypeError
        If it is no constraint.
    ValueError
        If it pins or bounds entries.
    """
    if constraints is None:
        return None
    if not isinstance(constraints, AbstractConstraint):
        msg = (
            f"constraints must be a constraint object; got {describe(constraints)}. Wrap a "
            "function of the kernel, or of kernel and noise variance, as "
            "gplsq.constraints.Constraint(fn) or Inequality(fn)."
        )
        raise TypeError(msg)
    rest = eqx.filter(model, eqx.is_inexact_array, inverse=True)
    free = jax.tree.map(lambda flags: bool(np.all(flags)), rules.free)
    parts: list[AbstractConstraint] = []
    for part in constraints.parts():
        cls = type(part)
        if (cls.box, cls.pinned) != (AbstractConstraint.box, AbstractConstraint.pinned):
            msg = (
                f"constraints must be equations and inequalities; got {describe(part)}. Pass "
                "bounds={'name': (low, high)} for bounds of single hyperparameters."
            )
            raise ValueError(msg)
        parts.append(_OfHyperparameters(part, rest, free))
    limits = jax.tree.leaves((rules.low, rules.high))
    if any(np.any(np.isfinite(limit)) for limit in limits):
        parts.append(_Bounds(rules.low, rules.high))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return Feasible(total)
