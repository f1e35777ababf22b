"""The derivative of a solve, forward and reverse, to any order and at any rank.

Notation: x = argmin |A x - b|^2 + damp^2 |x|^2, r = b - A x, primes are tangents, g a cotangent.
docs/derivations/adjoint.md has the derivation.

Damped. The pair (r, x) solves the symmetric, nonsingular system

    [ I   A       ] [ r ]   [ f ]
    [ A*  -damp^2 ] [ x ] = [ g ],     f = b, g = 0,                                        (1)

and so does its tangent, with

    f = b' - A' x,      g = -A'* r + 2 damp damp' x.                                        (2)

Because (1) is symmetric its transpose is itself: reverse mode is the solve with f = 0.

Undamped, of any (locally constant) rank. Let N = I - A^+ A be the projection on the null space of
A. The system

    [ I   A  ] [ r ]   [ f ]
    [ A*  -N ] [ x ] = [ g ]                                                                (3)

is symmetric and nonsingular, with x = A^+ f - (A* A)^+ g - N g and r = (I - A A^+) f + A^+* g. With
q = A^+* x and y = A'* q, Golub & Pereyra's derivative (1973) of x = A^+ b is, in terms of (3),

    x' = (y + g) + X(f - A (y + g), g),    X the x-part of the solution, f and g of (2),    (4)

and that of N v is y - X(A y + A' N v, 0) with y = v' - A'* A^+* v. Differentiating (3) and (4)
again with these rules gives every higher order.

The work. (3) with f = 0 is one solve: `A* p = g` of minimum norm has p = A^+* g, its residual is
N g, and LSMR finds w = (A* A)^+ g with p = A w on the way (`Directions`). In the same way the solve
for x finds q. So value and gradient are two solves, damped or not, at any rank.

Kernel systems. S c = y with S = K + damp^2 I symmetric: S c' = y' - S' c.

The solves are wrapped in `jax.lax.custom_linear_solve`, which JAX can differentiate and transpose.
Memory does not grow with iterations.
"""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from gplsq._core import STATUS, status_ok, stop_gradient
from gplsq.operators import AbstractLinearOperator
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._solution import Stats


class DerivativeWarning(UserWarning):
    """A derivative's own solve missed its tolerance."""


class Adjoint(eqx.Module):
    """How derivatives are solved for: hints and settings, none of them differentiated."""

    solver: AbstractLeastSquares
    prepared: Any
    operator: AbstractLinearOperator
    damp: Array | None
    guess: Array | None  # of w, or of S^-1 g
    throw: bool = eqx.field(static=True)


@eqx.filter_custom_jvp
def solve_with_derivative(
    operator: AbstractLinearOperator,
    damp: Array | None,
    b: Array,
    x0: Array | None,
    prepared: Any,
    solver: AbstractLeastSquares,
    adjoint: Adjoint,
    *,
    with_dual: bool = False,
) -> tuple[Array, Array | None, Array, Stats]:
    """The solution, its dual, status and stats; only the first has a derivative."""
    del adjoint
    return solver.run(prepared, operator, damp, b, x0, with_dual=with_dual)


@solve_with_derivative.def_jvp
def _solve_jvp(primals, tangents, *, with_dual=False):
    operator, damp, b, x0, prepared, solver, adjoint = primals
    t_operator, t_damp, t_b = tangents[:3]
    moves = bool(jax.tree.leaves(t_operator))
    need_dual = moves and damp is None and not isinstance(operator, KernelOperator)
    x, dual, status, stats = solve_with_derivative(
        operator, damp, b, x0, prepared, solver, adjoint, with_dual=with_dual or need_dual
    )
    if isinstance(operator, KernelOperator):
        tangent = _kernel_tangent(operator, damp, t_operator, t_damp, t_b, x, b, adjoint)
    elif damp is not None:
        tangent = _damped_tangent(operator, damp, t_operator, t_damp, t_b, x, b, adjoint)
    else:
        tangent = _undamped_tangent(operator, t_operator, t_b, x, dual, b, adjoint)
    out = (x, dual if with_dual else None, status, stats)
    return out, (tangent, *jax.tree.map(lambda _: None, out[1:]))


def _moved(fn, operator, t_operator):
    """Directional derivative of `fn(operator)`."""
    return eqx.filter_jvp(fn, (operator,), (t_operator,))[1]


def _kernel_tangent(operator, damp, t_operator, t_damp, t_b, x, b, adjoint):
    def matvec(c):
        return operator.mv(c) if damp is None else operator.mv(c) + damp**2 * c

    def solve(_, rhs):
        c, _, status, _ = adjoint.solver.run(
            adjoint.prepared, adjoint.operator, adjoint.damp, rhs, adjoint.guess
        )
        return _report_failure(c, status, adjoint.throw)

    rhs = jnp.zeros_like(b) if t_b is None else t_b
    if jax.tree.leaves(t_operator):
        rhs = rhs - _moved(lambda moved: moved.mv(x), operator, t_operator)
    if damp is not None and t_damp is not None:
        rhs = rhs - 2 * damp * t_damp * x
    return jax.lax.custom_linear_solve(matvec, rhs, solve, symmetric=True)


def _right_hand_sides(operator, damp, t_operator, t_damp, t_b, x, b):
    """f and g: the right-hand sides of a derivative.

    Equation (2) of docs/derivations/adjoint.md.
    """
    f = jnp.zeros_like(b) if t_b is None else t_b
    g = jnp.zeros_like(x)
    if jax.tree.leaves(t_operator):
        f = f - _moved(lambda moved: moved.mv(x), operator, t_operator)
        r = b - operator.mv(x)
        g = g - _moved(lambda moved: moved.rmv(r), operator, t_operator)
    if damp is not None and t_damp is not None:
        g = g + 2 * damp * t_damp * x
    return f, g


def _damped_tangent(operator, damp, t_operator, t_damp, t_b, x, b, adjoint):
    """x' of a damped problem.

    Equation (1) of docs/derivations/adjoint.md.
    """
    fixed = adjoint.operator

    def matvec(r, v):
        return r + operator.mv(v), operator.rmv(r) - damp**2 * v

    def solve(f, g):
        _, w, status, _ = adjoint.solver.run_adjoint(
            adjoint.prepared, fixed, adjoint.damp, fixed.rmv(f) - g, adjoint.guess
        )
        # [A; damp I] has full column rank: a cotangent that its adjoint does not reach means that
        # damp is 0, or too small for this dtype, and then w is not what (1) asks for.
        status = jnp.where(status == STATUS.CONVERGED_NORMAL, STATUS.STAGNATED, status)
        return f - fixed.mv(w), w, status

    f, g = _right_hand_sides(operator, damp, t_operator, t_damp, t_b, x, b)
    return _solve_pair(matvec, solve, f, g, adjoint)[1]


def _undamped_tangent(operator, t_operator, t_b, x, dual, b, adjoint):
    """x' of an undamped problem, at any locally constant rank.

    Equation (4) of docs/derivations/adjoint.md.
    """
    f, g = _right_hand_sides(operator, None, t_operator, None, t_b, x, b)
    if not jax.tree.leaves(t_operator):
        return _undamped_pair(operator, f, g, adjoint)[1]
    if dual is None:  # a preconditioned solve does not find it on its way
        dual, _, status, _ = adjoint.solver.run_adjoint(
            adjoint.prepared, adjoint.operator, None, stop_gradient(x), None
        )
        dual = _report_failure(dual, status, adjoint.throw)
    q = _dual_vector(operator, x, dual, adjoint)
    shift = g + _moved(lambda moved: moved.rmv(q), operator, t_operator)
    return shift + _undamped_pair(operator, f - operator.mv(shift), g, adjoint)[1]


def _undamped_pair(operator, f, g, adjoint):
    """(r, x) of the undamped system.

    Equation (3) of docs/derivations/adjoint.md.
    """
    fixed, solver = adjoint.operator, adjoint.solver

    def matvec(r, v):
        return r + operator.mv(v), operator.rmv(r) - _project_on_null_space(operator, v, adjoint)

    def by_two(f, g):
        z, _, forward, _ = solver.run(adjoint.prepared, fixed, None, f, None)
        p, w, backward, _ = solver.run_adjoint(adjoint.prepared, fixed, None, g, None)
        status = jnp.where(status_ok(forward), backward, forward)
        return f - fixed.mv(z) + p, z - w - (g - fixed.rmv(p)), status

    def by_normal_residual(f, g):
        """From `A* A x = A* f - g`. The rounding of A* f is refined away in a second round."""

        def more(carry):
            return (carry[0] < 1) | ((carry[0] < 2) & jnp.any(f != 0))

        def improve(carry):
            round_, r, x, outside, status = carry
            h = fixed.rmv(f - fixed.mv(x)) - g
            p, w, new, _ = solver.run_adjoint(adjoint.prepared, fixed, None, h, None)
            outside = jnp.where(round_ == 0, h - fixed.rmv(p), outside)
            return round_ + 1, r - p, x + w, outside, jnp.where(status_ok(new), status, new)

        fine = jnp.full(f.shape[1:], STATUS.EXACT, jnp.int32)
        start = (jnp.zeros((), jnp.int32), f, jnp.zeros_like(g), jnp.zeros_like(g), fine)
        _, r, x, outside, status = jax.lax.while_loop(more, improve, start)
        return r, x + outside, status

    # One loop where the normal residual says it all, two where A* would hide a part of f.
    solve = by_normal_residual if operator.shape[0] >= operator.shape[1] else by_two
    return _solve_pair(matvec, solve, f, g, adjoint)


def _solve_pair(matvec, solve, f, g, adjoint):
    """A symmetric solve on pairs, whose right-hand sides are both tangents or both not."""
    rows = f.shape[0]

    def reported(_, rhs):
        r, x, status = solve(rhs[:rows], rhs[rows:])
        # On both parts: a gradient in b alone reads only r, one in A alone may read only x.
        return _report_failure(jnp.concatenate([r, x]), status, adjoint.throw)

    # One concatenated unknown: the transposition of custom_linear_solve wants every part of its
    # right-hand side to be a tangent.
    solution = jax.lax.custom_linear_solve(
        lambda z: jnp.concatenate(matvec(z[:rows], z[rows:])),
        jnp.concatenate([f, g]),
        reported,
        symmetric=True,
    )
    return solution[:rows], solution[rows:]


@eqx.filter_custom_jvp
def _dual_vector(operator, x, dual, adjoint):
    """`q = A^+* x`, which the solve for x has found already."""
    del operator, x, adjoint
    return dual


@_dual_vector.def_jvp
def _dual_vector_jvp(primals, tangents):
    operator, x, dual, adjoint = primals
    zeros = jnp.zeros_like(dual)

    def honest(moved, v):
        return _undamped_pair(moved, zeros, v, adjoint)[0]

    # The primal keeps this rule for the next derivative.
    primal = _dual_vector(operator, x, dual, adjoint)
    return primal, eqx.filter_jvp(honest, (operator, x), tangents[:2])[1]


@eqx.filter_custom_jvp
def _project_on_null_space(operator, v, adjoint):
    """`N v = v - A^+ A v`.

    Equation (5) of docs/derivations/adjoint.md.
    """
    del operator
    fixed = adjoint.operator
    p, _, status, _ = adjoint.solver.run_adjoint(adjoint.prepared, fixed, None, v, None)
    return _report_failure(v - fixed.rmv(p), status, adjoint.throw)


@_project_on_null_space.def_jvp
def _project_on_null_space_jvp(primals, tangents):
    operator, v, adjoint = primals
    t_operator, t_v, _ = tangents
    out = _project_on_null_space(operator, v, adjoint)
    y = jnp.zeros_like(v) if t_v is None else t_v
    rows = jnp.zeros((operator.shape[0], v.shape[1]), v.dtype)
    zeros = jnp.zeros_like(v)
    moved_null = rows
    if jax.tree.leaves(t_operator):
        q = _undamped_pair(operator, rows, v, adjoint)[0]
        y = y - _moved(lambda moved: moved.rmv(q), operator, t_operator)
        moved_null = _moved(lambda moved: moved.mv(out), operator, t_operator)
    tangent = y + _undamped_pair(operator, -operator.mv(y) - moved_null, zeros, adjoint)[1]
    return out, tangent


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


def make_adjoint(solver, prepared, operator, damp, guess, throw) -> Adjoint:
    """Settings of the derivative, cut off from differentiation."""
    solver, prepared, operator, damp, guess = stop_gradient(
        (solver, prepared, operator, damp, guess)
    )
    return Adjoint(solver, prepared, operator, damp, guess, throw)
