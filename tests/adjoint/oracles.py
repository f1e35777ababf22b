"""Families of least-squares problems that move with three numbers, and dense answers beside them.

The right-hand side moves with p[0], the operator with p[1], the damping with p[2]. The operator is
A(p) = B(p) C(p). Its rank is that of the factors whatever p is, and the undamped solution of
minimum norm has the formula `C^T (C C^T)^-1 (B^T B)^-1 B^T b`, which JAX differentiates by itself.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gplsq import LSMR, lstsq
from gplsq.operators import Function
from gplsq.testing import matrix_with_spectrum

# Small programs that run a few times each: what compiles quickly serves best.
compiled = functools.partial(
    jax.jit,
    compiler_options={
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    },
)

SIZES = {"tall": (6, 4), "square": (4, 4), "wide": (4, 6)}
SOLVER = LSMR(rtol=1e-13)
POINTS = np.array([[0.3, 0.2, 0.0], [-0.5, -0.4, 0.0]])
DIRECTIONS = np.eye(3)


class Case(NamedTuple):
    """What needs a compiled program of its own."""

    shape: str
    damping: str  # "none", "scalar" or "vector"
    rhs: str  # "one", "many" or "pytree"


class Data(NamedTuple):
    """The numbers of a problem: values at p = 0, and slopes. Of one shape whatever the rank."""

    left: np.ndarray  # (m, min(m, n)); columns beyond the rank are zero
    left_slope: np.ndarray
    right: np.ndarray  # (min(m, n), n); rows beyond the rank are zero
    right_slope: np.ndarray
    rhs: np.ndarray
    rhs_slope: np.ndarray
    damp: np.ndarray
    damp_slope: np.ndarray

    def factors(self, p1: Any) -> tuple[Any, Any]:
        """B and C."""
        left = self.left + 0.3 * jnp.sin(p1) * self.left_slope
        return left, self.right + 0.3 * p1 * self.right_slope

    def others(self, p0: Any, p2: Any) -> tuple[Any, Any]:
        """The right-hand side and the damping."""
        return self.rhs + jnp.sin(p0) * self.rhs_slope, self.damp + p2 * self.damp_slope


def weigh(value: Any) -> Any:
    """A scalar that treats all entries differently."""
    flat = ravel_pytree(value)[0]
    return jnp.sum(jnp.sin(flat) * (1 + jnp.arange(flat.size, dtype=flat.dtype)))


def close(a: Any, b: Any, rtol: float, what: Any = "") -> None:
    """The largest error, relative to the largest entry."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, what
    error, allowed = np.abs(a - b).max(), rtol * max(np.abs(b).max(), 1e-3)
    assert error <= allowed, f"{what}: error {error:.2e}, allowed {allowed:.2e}"


def make_data(case: Case, rank: int, damp: np.ndarray) -> Data:
    """The same numbers in every run."""
    rng = np.random.default_rng([rank, *(ord(letter) for word in case for letter in word)])
    m, n = SIZES[case.shape]
    spectrum = np.linspace(1.4, 0.7, rank)
    left, right = (matrix_with_spectrum(rng, *s, spectrum) for s in ((m, rank), (rank, n)))
    slopes = rng.standard_normal((m, rank)), rng.standard_normal((rank, n))
    missing = min(m, n) - rank
    wide, high = ((0, 0), (0, missing)), ((0, missing), (0, 0))
    left, left_slope = (np.pad(part, wide) for part in (left, slopes[0]))
    right, right_slope = (np.pad(part, high) for part in (right, slopes[1]))
    shape = (m, 2) if case.rhs == "many" else (m,)
    rhs, rhs_slope = rng.standard_normal(shape), rng.standard_normal(shape)
    damp_slope = rng.uniform(0.3, 0.6, damp.shape)
    return Data(left, left_slope, right, right_slope, rhs, rhs_slope, damp, damp_slope)


def dampings(case: Case) -> dict[str, tuple]:
    """The dampings that share a program, each with its numbers at the two points."""
    n = SIZES[case.shape][1]
    if case.damping == "none":
        return {"0": (np.zeros(()),) * 2}
    if case.damping == "scalar":
        return {"scalar": (np.array(0.8), np.array(1.1))}
    full = np.linspace(0.6, 1.3, 2 * n).reshape(2, n)
    # The zero moves: its slope is not zero, and the second derivative is not either.
    return {"vector": tuple(full), "vector with a zero": tuple(full * (np.arange(n) > 0))}


def ours(case: Case, solver: Any, **options: Any) -> Callable[..., Any]:
    """The loss of `lstsq`'s solution as a function of (p0, p1, p2, data, x0)."""

    def to_domain(v: Any) -> Any:
        return {"head": v[:1], "tail": v[1:, None]}

    def loss(p0: Any, p1: Any, p2: Any, data: Data, x0: Any) -> Any:
        B, C = data.factors(p1)
        b, damp = data.others(p0, p2)
        if case.damping == "none":
            damp = 0.0
        if case.rhs != "pytree":
            return weigh(lstsq(B @ C, b, damp=damp, x0=x0, solver=solver, **options).value)

        def fn(tree: Any) -> Any:
            out = B @ (C @ jnp.concatenate([tree["head"], tree["tail"][:, 0]]))
            return {"low": out[:2][None], "up": out[2:]}

        operator = Function(fn, to_domain(np.zeros(C.shape[1])))
        damp = to_domain(damp) if case.damping == "vector" else damp
        x0 = None if x0 is None else to_domain(x0)
        tree = {"low": b[:2][None], "up": b[2:]}
        return weigh(lstsq(operator, tree, damp=damp, x0=x0, solver=solver, **options).value)

    return loss


def dense(case: Case, rank: int) -> Callable[..., Any]:
    """The dense solution as a function of (p, data): shape (n,) or (n, 2)."""

    def solution(p: Any, data: Data) -> Any:
        B, C = data.factors(p[1])
        b, damp = data.others(p[0], p[2])
        if case.damping == "none":
            B, C = B[:, :rank], C[:rank]
            return C.T @ jnp.linalg.solve(C @ C.T, jnp.linalg.solve(B.T @ B, B.T @ b))
        A = B @ C
        square = jnp.diag(jnp.broadcast_to(damp, A.shape[1:]) ** 2)
        return jnp.linalg.solve(A.T @ A + square, A.T @ b)

    return solution


def golub_pereyra(A: Any, b: Any, dA: Any, db: Any) -> np.ndarray:
    """The derivative of `A^+ b` in the directions dA and db (Golub & Pereyra 1973)."""
    inverse = np.linalg.pinv(A, rcond=1e-10)
    x = inverse @ b
    r = b - A @ x
    shift = dA.T @ (inverse.T @ x)
    return inverse @ (db - dA @ x + inverse.T @ (dA.T @ r)) + shift - inverse @ (A @ shift)
