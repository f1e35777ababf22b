"""Systems for `lstsq.py` with a known answer, and the methods that solve them."""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gplsq import LSMR, lstsq

HAS = {name: importlib.util.find_spec(name) is not None for name in ("matfree", "lineax", "jaxopt")}
MAX_STEPS = 20_000


class Method(NamedTuple):
    """`solve(A, b) -> x`, and for those that count `steps(A, b)`, the number of iterations."""

    solve: Callable
    steps: Callable | None = None


def problem(rng, rows, columns, condition, dtype, right_hand_sides=1):
    """`A, b, g`: singular values 1 ... 1 / condition, b with one tenth of noise."""
    values = np.geomspace(1, 1 / condition, columns)
    right = np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    # A Gaussian matrix is orthogonal up to a condition number near 1, and costs no QR.
    A = rng.standard_normal((rows, columns)) / np.sqrt(rows) @ (values[:, None] * right.T)
    x = rng.standard_normal((columns, right_hand_sides))
    b = A @ x
    b += 0.1 * np.linalg.norm(b) / np.sqrt(b.size) * rng.standard_normal(b.shape)
    g = rng.standard_normal(x.shape)
    if right_hand_sides == 1:
        b, g = b[:, 0], g[:, 0]
    return A.astype(dtype), b.astype(dtype), g.astype(dtype)


def reference(A, b, g):
    """x and the gradients of <g, x> with respect to A and b, in float64."""
    A, b, g = (np.asarray(a, np.float64) for a in (A, b, g))
    Q, R = np.linalg.qr(A)
    x = np.linalg.solve(R, Q.T @ b)
    p = Q @ np.linalg.solve(R.T, g)
    w = np.linalg.solve(R, Q.T @ p)
    if b.ndim == 1:
        return x, np.outer(b - A @ x, w) - np.outer(p, x), p
    return x, (b - A @ x) @ w.T - p @ x.T, p


def ours(rtol, preconditioner=None, max_steps=MAX_STEPS) -> Method:
    """`gplsq.lstsq` by LSMR."""
    solver = LSMR(rtol=rtol, max_steps=max_steps)

    def solution(A, b):
        return lstsq(A, b, solver=solver, preconditioner=preconditioner, throw=False)

    return Method(
        lambda A, b: solution(A, b).value, lambda A, b: jnp.max(solution(A, b).stats.num_steps)
    )


def by_matfree(rtol: float, **options) -> Method:
    """matfree's LSMR."""
    import matfree.lstsq

    def run(A, b):
        limits = {"atol": rtol, "btol": rtol, "maxiter": MAX_STEPS}
        return matfree.lstsq.lsmr(**limits, **options)(lambda u, A: u @ A, b, A)

    return Method(lambda A, b: run(A, b)[0], lambda A, b: run(A, b)[1]["iteration_count"])


def by_lineax(solver) -> Method:
    """A solver of lineax, told that A is tall and of any rank."""
    import lineax

    def solution(A, b):
        return lineax.linear_solve(lineax.MatrixLinearOperator(A), b, solver, throw=False)

    iterative = not isinstance(solver, lineax.QR)
    steps = (lambda A, b: solution(A, b).stats["num_steps"]) if iterative else None
    return Method(lambda A, b: solution(A, b).value, steps)


def peers(rtol: float) -> dict[str, Method]:
    """The methods of other libraries, by name, of those that are installed."""
    found: dict[str, Method] = {}
    if HAS["matfree"]:
        found["matfree"] = by_matfree(rtol)
        found["matfree (full rank)"] = by_matfree(rtol, is_full_rank=True)
    if HAS["lineax"]:
        import lineax

        options = {"rtol": rtol, "atol": rtol, "max_steps": MAX_STEPS}
        found["lineax LSMR"] = by_lineax(lineax.LSMR(**options))
        found["lineax QR"] = by_lineax(lineax.QR())
        found["lineax Normal(CG)"] = by_lineax(lineax.Normal(lineax.CG(**options)))
    if HAS["jaxopt"]:
        from jaxopt.linear_solve import solve_normal_cg

        def by_jaxopt(A, b):
            start = jnp.zeros(A.shape[1], A.dtype)
            return solve_normal_cg(lambda x: A @ x, b, init=start, tol=rtol, maxiter=MAX_STEPS)

        found["jaxopt normal CG"] = Method(by_jaxopt)
    found["jnp.linalg.lstsq"] = Method(lambda A, b: jnp.linalg.lstsq(A, b)[0])
    return found


def unrolled(rtol: float, steps: int) -> Method:
    """Automatic differentiation through matfree's loop, at a fixed number of steps."""
    import matfree.lstsq

    def loop(_, body, start):
        return jax.lax.scan(lambda state, _: (body(state), None), start, None, length=steps)[0]

    run = matfree.lstsq.lsmr(atol=rtol, btol=rtol, custom_vjp=False, while_loop=loop)
    return Method(lambda A, b: run(lambda u, A: u @ A, b, A)[0], lambda A, b: steps)
