"""The zoo of systems, their solutions, and the judge of these."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg

from gplsq import LSMR, lstsq
from gplsq.solvers import Solution
from gplsq.testing import Zoo, least_squares_zoo

SHAPES = [(48, 32), (32, 32), (32, 48)]
CONDITIONS = [1.0, 1e1, 1e2, 1e3, 1e4, 1e6, 1e8, 1e10, 1e12]
DAMPED = [False, True]
KINDS = ["damped" if damped else "undamped" for damped in DAMPED]

# What rounding adds to a normal residual, in eps (|A| |x| + |b|) |A|: b - A x in the dtype is off
# by about that. 2.7 is the most that a system needed that stopped by itself, over two kinds of
# processor. One that is judged at the step limit may use all that the solver allows, eight.
ROUNDING, ROUNDING_AT_THE_LIMIT = 4.0, 8.5


class Verdict(NamedTuple):
    """Judgement of solutions in float64, one number a system, free of the scales of A and b."""

    residual: np.ndarray  # |[b - A x; -damp x]| / size
    normal: np.ndarray  # |A* (b - A x) - damp^2 x| / (|A| size)
    size: np.ndarray  # |A| |x| + |b|, |b| = 1
    error: np.ndarray  # |x - exact| / |exact|
    bound: np.ndarray  # of the error, for a backward error of 1
    norm: np.ndarray  # true norm of [A; damp I]
    condition: np.ndarray  # true condition number of [A; damp I]

    def error_measure(self, rounding: np.ndarray | float) -> np.ndarray:
        """The smallest rtol that these solutions meet."""
        normal = np.maximum(self.normal - rounding, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            by_normal = np.where(normal > 0, normal / self.residual, 0)
        return np.minimum(self.residual, by_normal)


def judge(zoo: Zoo, value: np.ndarray) -> Verdict:
    """Backward and forward errors of solutions of shape (s, n)."""
    A, b, damp, x = (np.asarray(a, np.float64) for a in (zoo.A, zoo.b, zoo.damp, value))
    of_A, of_b = np.abs(A).max((1, 2)), np.linalg.norm(b, axis=1)
    A, damp, b = A / of_A[:, None, None], damp / of_A, b / of_b[:, None]
    x = x * (of_A / of_b)[:, None]
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    kept = np.arange(s.shape[1]) < zoo.rank[:, None]
    norm = np.hypot(s[:, 0], damp)
    smallest = np.hypot(np.where(kept, s, np.inf).min(1), damp)
    filters = np.where(kept, s / np.where(kept, s**2 + damp[:, None] ** 2, 1), 0)
    exact = np.einsum("sri,sr->si", Vt, filters * np.einsum("sir,si->sr", U, b))

    def residuals(x):
        r = b - np.einsum("sij,sj->si", A, x)
        normal = np.einsum("sij,si->sj", A, r) - damp[:, None] ** 2 * x
        return np.hypot(norms(r), damp * norms(x)), norms(normal)

    r, normal = residuals(x)
    size = norm * norms(x) + 1
    condition = norm / smallest
    # Wedin (1973): what a relative change of A and b by 1 does to x, to first order.
    length = norm * norms(exact)
    bound = condition * (2 + 1 / length + condition * residuals(exact)[0] / length)
    error = norms(x - exact) / norms(exact)
    return Verdict(r / size, normal / (norm * size), size, error, bound, norm * of_A, condition)


def norms(a: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.asarray(a, np.float64), axis=1)


@functools.lru_cache
def zoo_of(dtype: np.dtype, shape: tuple[int, int], damped: bool) -> Zoo:
    rng = np.random.default_rng([7, *shape, damped])
    return least_squares_zoo(rng, shape, dtype, damped=damped, conditions=CONDITIONS)


@functools.partial(jax.jit, static_argnums=3)
def _lsmr(A, b, damp, damped, rtol, max_steps):
    solver = LSMR(rtol=rtol, max_steps=max_steps)

    def solve(A, b, damp):
        return lstsq(A, b, damp=damp if damped else 0.0, solver=solver, throw=False)

    return jax.vmap(solve)(A, b, damp)


def step_limit(shape: tuple[int, int]) -> int:
    """The default of `LSMR`."""
    return 20 * min(shape) + 200


def default_rtol(dtype: np.dtype) -> float:
    """The default of `LSMR`."""
    return float(np.finfo(dtype).eps) ** 0.75


def solve(zoo: Zoo, damped: bool, rtol: float, max_steps: int | None = None) -> Solution:
    """By LSMR; tolerances and step limits are arguments of one compiled function."""
    limit = step_limit(zoo.A.shape[1:]) if max_steps is None else max_steps
    arguments = jnp.asarray(rtol, zoo.A.dtype), jnp.asarray(limit, jnp.int32)
    solution = _lsmr(zoo.A, zoo.b, zoo.damp, damped, *arguments)
    return jax.tree.map(np.asarray, solution)


@functools.lru_cache
def solved(dtype, shape, damped, rtol) -> tuple[Zoo, Solution, Verdict]:
    zoo = zoo_of(dtype, shape, damped)
    solution = solve(zoo, damped, rtol)
    return zoo, solution, judge(zoo, solution.value)


class Rival(NamedTuple):
    """SciPy's answers."""

    value: np.ndarray
    stop: np.ndarray  # its code: 1 and 2 converged, 3 and 6 condition, 4 and 5 rounding, 7 steps
    steps: np.ndarray


def scipy_lsmr(zoo: Zoo, rtol: float, max_steps: int) -> Rival:
    """SciPy's LSMR at the same tolerance and step limit, system by system.

    Its bidiagonalisation works in the dtype of A; from float32 data it makes x in float64.
    """
    results = []
    with np.errstate(all="ignore"):
        for A, b, damp in zip(zoo.A, zoo.b, zoo.damp, strict=True):
            results.append(
                scipy.sparse.linalg.lsmr(
                    A, b, float(damp), atol=rtol, btol=rtol, conlim=0, maxiter=max_steps
                )
            )
    return Rival(*(np.array([result[i] for result in results]) for i in range(3)))


@functools.lru_cache
def rival(dtype, shape, damped, rtol) -> tuple[Rival, Verdict]:
    zoo = zoo_of(dtype, shape, damped)
    found = scipy_lsmr(zoo, rtol, step_limit(shape))
    return found, judge(zoo, found.value)


def rounding(dtype, shape, solution: Solution) -> np.ndarray:
    at_the_limit = solution.stats.num_steps >= step_limit(shape)
    units = np.where(at_the_limit, ROUNDING_AT_THE_LIMIT, ROUNDING)
    return units * np.finfo(dtype).eps


def tolerances_of(dtype: np.dtype) -> dict[str, float]:
    eps = float(np.finfo(dtype).eps)
    return {"loose": 1e-3, "default": default_rtol(dtype), "tight": 8 * eps, "below": eps / 100}


def complain(zoo: Zoo, bad: np.ndarray, *numbers: np.ndarray) -> str:
    lines = [f"{zoo.names[i]}: {[float(n[i]) for n in numbers]}" for i in np.flatnonzero(bad)[:5]]
    return f"{bad.sum()} of {len(bad)}\n" + "\n".join(lines)
