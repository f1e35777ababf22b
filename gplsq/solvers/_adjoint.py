"""The derivative of a solve, forward and reverse: one more solve of the same kind.

Rectangular systems. With x = argmin |A x - b|^2 + damp^2 |x|^2 and r = b - A x, the pair (r, x)
solves the symmetric system

    [ I   A     ] [ r ]   [ f ]
    [ A*  -damp^2 ] [ x ] = [ g ],     f = b, g = 0,                                        (1)

and so does its tangent, with

    f = b' - A' x,      g = -A'* r + 2 damp damp' x.                                        (2)

(1) eliminates to (A* A + damp^2) x = A* f - g, again regularised least squares. Because (1) is
symmetric its transpose is itself: the adjoint of a cotangent dmu/dx = g is the solve with f = 0.
Collecting terms gives dmu = <dA w, r> + <A w, db - dA x> - 2 damp <w, x> d(damp), with
w = (A* A + damp^2)^-1 g. Undamped and of any (locally constant) rank, (1) is understood in the
least-squares sense, G: (f, g) -> x = A^+ f - (A* A)^+ g, r = (I - A A^+) f + A^+* g, and the null
space of A adds the third term of Golub & Pereyra (1973): (I - A^+ A) A'* q, q = A^+* x.

Kernel systems. S c = y with S = K + damp^2 I symmetric: S c' = y' - S' c; dmu = l^T (dy - dS c),
l = S^-1 dmu/dc.

The solves are wrapped in `jax.lax.custom_linear_solve`, which JAX can differentiate again and
transpose: forward mode, reverse mode and (damped, kernel, or full column rank) second order follow.
Memory does not grow with iterations.
"""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import status_ok, stop_gradient
from gplsq.operators import AbstractLinearOperator
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._solution import Stats


class DerivativeWarning(UserWarning):
    """A derivative's own solve missed its tolerance."""


@eqx.filter_custom_jvp
def solve_with_derivative(
    operator: AbstractLinearOperator,
    damp: Array | None,
    b: Array,
    x0: Array | None,
    prepared: Any,
    *,
    solver: AbstractLeastSquares,
    throw: bool,
) -> tuple[Array, Array, Stats]:
    """Solve (1) with f = b, g = 0. `x0` and `prepared` are hints: neither has a derivative."""
    del throw
    return solver.run(prepared, operator, damp, b, None, x0)


@solve_with_derivative.def_jvp
def _solve_jvp(primals, tangents, *, solver, throw):
    operator, damp, b, x0, prepared = primals
    t_operator, t_damp, t_b, _, _ = tangents
    out = solve_with_derivative(operator, damp, b, x0, prepared, solver=solver, throw=throw)
    x = out[0]
    hints = stop_gradient((prepared, operator, damp))
    arguments = (operator, damp, t_operator, t_damp, t_b, x, b, solver, hints, throw)
    rule = _kernel_tangent if isinstance(operator, KernelOperator) else _rectangular_tangent
    zeros = jax.tree.map(lambda _: None, out[1:])
    return out, (rule(*arguments), *zeros)


def _move(fn, operator, t_operator):
    """Directional derivative of `fn(operator)`."""
    return eqx.filter_jvp(fn, (operator,), (t_operator,))[1]


def _kernel_tangent(operator, damp, t_operator, t_damp, t_b, x, b, solver, hints, throw):
    prepared, fixed_operator, fixed_damp = hints

    def matvec(c):
        return operator.mv(c) if damp is None else operator.mv(c) + damp**2 * c

    def solve(_, rhs):
        c, status, _ = solver.run(prepared, fixed_operator, fixed_damp, rhs, None, None)
        return _report_failure(c, status, throw)

    rhs = jnp.zeros_like(b) if t_b is None else t_b
    if jax.tree.leaves(t_operator):
        rhs = rhs - _move(lambda moved: moved.mv(x), operator, t_operator)
    if damp is not None and t_damp is not None:
        rhs = rhs - 2 * damp * t_damp * x
    return jax.lax.custom_linear_solve(matvec, rhs, solve, symmetric=True)


def _rectangular_tangent(operator, damp, t_operator, t_damp, t_b, x, b, solver, hints, throw):
    prepared, fixed_operator, fixed_damp = hints
    rows = b.shape[0]

    # One concatenated unknown (r, x): the transposition of custom_linear_solve wants every part of
    # its right-hand side to be a tangent.
    def matvec(pair):
        r, v = pair[:rows], pair[rows:]
        lower = operator.rmv(r)
        lower = lower if damp is None else lower - damp**2 * v
        return jnp.concatenate([r + operator.mv(v), lower])

    def solve(_, rhs):
        f, g = rhs[:rows], rhs[rows:]
        v, status, _ = solver.run(prepared, fixed_operator, fixed_damp, f, g, None)
        # Undamped too: with v = A^+ f - (A* A)^+ g, f - A v is the upper part of G.
        r = f - fixed_operator.mv(v)
        return _report_failure(jnp.concatenate([r, v]), status, throw)

    def symmetric_solve(f, g):
        rhs = jnp.concatenate([f, g])
        pair = jax.lax.custom_linear_solve(matvec, rhs, solve, symmetric=True)
        return pair[:rows], pair[rows:]

    f = jnp.zeros_like(b) if t_b is None else t_b
    g = jnp.zeros_like(x)
    if jax.tree.leaves(t_operator):
        f = f - _move(lambda moved: moved.mv(x), operator, t_operator)
        r = b - operator.mv(x)
        g = g - _move(lambda moved: moved.rmv(r), operator, t_operator)
    if damp is not None and t_damp is not None:
        g = g + 2 * damp * t_damp * x
    tangent = symmetric_solve(f, g)[1]
    if damp is None and jax.tree.leaves(t_operator):
        # Third term of Golub & Pereyra; q solves A* q = x with minimum norm.
        q = symmetric_solve(jnp.zeros_like(b), x)[0]
        moved = _move(lambda op: op.rmv(q), operator, t_operator)
        tangent = tangent + moved - symmetric_solve(operator.mv(moved), jnp.zeros_like(x))[1]
    return tangent


def _report_failure(value: Array, status: Array, throw: bool) -> Array:
    """A derivative has no place for a status: raise, or warn, when its solve failed."""
    failed = ~jnp.all(status_ok(status))
    message = (
        "a derivative of lstsq is not accurate: its own solve missed the tolerance. Give the "
        "solver more max_steps, a larger rtol, or a better preconditioner."
    )
    if throw:
        return eqx.error_if(value, failed, message)

    def warn(failed):
        if failed:
            warnings.warn(message, DerivativeWarning, stacklevel=2)

    jax.debug.callback(warn, failed)
    return value
