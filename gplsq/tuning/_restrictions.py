"""What the user says about hyperparameters: bounds, values that stay, and prior densities."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from sklearn.exceptions import ConvergenceWarning

from gplsq._core import Parameter, cast, describe, map_parameters, parameters_of
from gplsq.kernels import AbstractKernel

NOISE = "noise_variance"
# A hyperparameter so near to a bound, in units of the tuner (logarithms), is at it.
_NEAR = 1e-2


class Restrictions(eqx.Module):
    """Bounds and fixed values in the tuner's coordinates, shaped like (kernel, log noise).

    Priors are functions of the hyperparameters themselves.
    """

    low: PyTree[np.ndarray]
    high: PyTree[np.ndarray]
    free: PyTree[np.ndarray]
    priors: tuple[tuple[str, Callable], ...] = eqx.field(static=True)
    weight: np.ndarray  # of the log prior: one row's

    @property
    def noise_is_free(self) -> bool:
        """Whether the noise is tuned."""
        return bool(self.free[1])

    def project(self, model: PyTree) -> PyTree:
        """The nearest model within bounds."""
        numbers, rest = eqx.partition(model, eqx.is_inexact_array)
        clipped = jax.tree.map(jnp.clip, numbers, self.low, self.high)
        return eqx.combine(clipped, rest)

    def keep(self, changes: PyTree) -> PyTree:
        """Zero where a hyperparameter stays."""
        return jax.tree.map(lambda c, free: jnp.where(free, c, 0), changes, self.free)

    def penalty(
        self, kernel: AbstractKernel, noise_variance: Float[Array, ""]
    ) -> Float[Array, ""] | float:
        """Minus the log prior of hyperparameters (not of their logarithms), divided by n."""
        total: Any = 0.0
        for name, density in self.priors:
            values = [p.value for p in parameters_of(kernel) if p.name == name]
            total = total - jnp.sum(density(noise_variance if name == NOISE else values[0]))
        return self.weight * total

    def warn_at_bounds(self, model: PyTree) -> None:
        """Name the hyperparameters that ended at a bound."""
        kernel, log_noise = model
        for side, (bounds, log_noise_bound) in (
            ("lower", self.low),
            ("upper", self.high),
        ):
            pairs = [
                (p.name, p.value, bound.value, p.positive)
                for p, bound in zip(parameters_of(kernel), parameters_of(bounds), strict=True)
            ]
            pairs.append((NOISE, log_noise, log_noise_bound, True))
            free = [*jax.tree.leaves(self.free)]
            for (name, value, bound, positive), moves in zip(pairs, free, strict=True):
                near = np.abs(np.asarray(value) - np.asarray(bound)) < _NEAR
                if not np.any(near) or not bool(np.all(moves)):
                    continue
                limit = np.unique(np.asarray(bound)[near])[0]
                limit = np.exp(limit) if positive else limit
                where = f" (entries {np.flatnonzero(near).tolist()})" if near.ndim else ""
                message = (
                    f"{name}{where} ended at its {side} bound {limit:.4g}: the loss would be lower "
                    "beyond it. Widen its bounds, or fix it if the bound is what you mean."
                )
                warnings.warn(message, ConvergenceWarning, stacklevel=4)


def restrict(
    kernel: AbstractKernel,
    bounds: Mapping[str, Any] | None,
    fixed: Sequence[str] | None,
    priors: Mapping[str, Callable] | None,
    n: int,
    dtype: Any,
) -> Restrictions:
    """Verify what the user says about the hyperparameters of a kernel, and about the noise.

    Parameters
    ----------
    kernel
        With hyperparameters in their own units.
    bounds
        From names to pairs (low, high), either of them None where there is no bound.
    fixed
        Names.
    priors
        From names to functions: the log density of a hyperparameter's value.
    n
        Rows of the table.
    dtype
        Of the tuner's work.

    Returns
    -------
    Restrictions

    Raises
    ------
    ValueError, TypeError
        For names that fit no hyperparameter, and for bounds or priors that are none.
    """
    kernel = cast(kernel, dtype)
    known = parameters_of(kernel)
    names = [*(p.name for p in known), NOISE]
    limits: dict[str, tuple[Any, Any]] = {}
    for name, pair in _mapping("bounds", bounds).items():
        meant = _resolve("bounds", name, names)
        positive = any(p.positive for p in known if p.name in meant) or NOISE in meant
        limits.update(dict.fromkeys(meant, _pair(name, pair, positive)))
    if isinstance(fixed, str) or not isinstance(fixed, Sequence | set | frozenset | None):
        msg = f"fixed must be a list of names of hyperparameters; got {describe(fixed)}."
        raise TypeError(msg)
    still = {name for given in fixed or () for name in _resolve("fixed", given, names)}
    densities = []
    for name, density in _mapping("priors", priors).items():
        if not callable(density):
            msg = (
                f"priors[{name!r}] must be a function from values to their log density; got "
                f"{describe(density)}. Pass for example functools.partial(norm.logpdf, scale=2)."
            )
            raise TypeError(msg)
        densities += [(full, density) for full in _resolve("priors", name, names)]

    def side(which: int) -> PyTree[Array]:
        missing = (-np.inf, np.inf)[which]

        def bound(p: Parameter) -> np.ndarray:
            limit = limits.get(p.name, (None, None))[which]
            inner = missing if limit is None else _inner(limit, p)
            return np.broadcast_to(inner, p.value.shape).astype(dtype)

        return of_each(bound)

    def of_each(fn: Callable[[Parameter], np.ndarray]) -> PyTree[np.ndarray]:
        """What a function says of every hyperparameter, shaped like a model of the tuner."""
        noise: Any = np.zeros((), dtype)
        both = map_parameters(kernel, fn), fn(Parameter(NOISE, noise, True))
        return eqx.filter(both, lambda leaf: isinstance(leaf, np.ndarray))

    free = of_each(lambda p: np.full(p.value.shape, p.name not in still))
    return Restrictions(side(0), side(1), free, tuple(densities), np.asarray(1 / n, dtype))


def _inner(limit: Any, p: Parameter) -> Any:
    if np.ndim(limit) and np.shape(limit) != p.value.shape:
        msg = (
            f"bounds of {p.name} must be numbers or arrays of its shape {p.value.shape}; got shape "
            f"{np.shape(limit)}."
        )
        raise ValueError(msg)
    with np.errstate(divide="ignore"):
        return np.log(limit) if p.positive else np.asarray(limit)


def _mapping(argument: str, given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        msg = (
            f"{argument} must be a dict from names of hyperparameters; got {describe(given)}. "
            'Pass for example {"lengthscale": ...}.'
        )
        raise TypeError(msg)
    return given


def _resolve(argument: str, name: Any, names: Sequence[str]) -> list[str]:
    """Full names that a name means: itself, or all that end in it."""
    matches = [full for full in names if full.endswith(f".{name}")]
    found = [name] if name in names else matches
    if not found:
        msg = (
            f"{argument} names {name!r}, which is no hyperparameter. There are: {', '.join(names)}."
        )
        raise ValueError(msg)
    return found


def _pair(name: str, pair: Any, positive: bool) -> tuple[Any, Any]:
    msg = (
        f"bounds[{name!r}] must be a pair (low, high) with low < high, or None for no bound; got "
        f"{describe(pair)}."
    )
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(msg)
    low, high = (None if side is None else np.asarray(side, float) for side in pair)
    for side in (low, high):
        if side is not None and (np.any(np.isnan(side)) or (positive and np.any(side < 0))):
            more = " A positive hyperparameter has no negative bounds." if positive else ""
            raise ValueError(msg + more)
    if low is not None and high is not None and not np.all(low < high):
        raise ValueError(msg)
    return low, high
