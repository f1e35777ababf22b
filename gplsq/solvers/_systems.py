"""The problems LSMR actually runs on: warm starts, preconditioners, and the adjoint.

Each is one least-squares problem `min |B z - b|^2 + damp^2 |z|^2`, with a way from z to x.
Kernel systems: (4), (16) and (17) of docs/derivations/function-space.md.
What a derivative takes from a solve on its way: docs/derivations/adjoint.md.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import column_norm, plain_norm, safe_sqrt
from gplsq.operators import (
    AbstractEuclideanOperator,
    AbstractLinearOperator,
    Composed,
    Identity,
    Scaled,
    Stacked,
    Transposed,
)
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._precondition import LowRankPlusDiagonal


class System(NamedTuple):
    """A damped least-squares problem in the inner products of its operator."""

    operator: AbstractLinearOperator
    damp: Array
    rhs: Float[Array, "m k"]
    cheap_norm: Callable[[Array], Array]  # |z| without a product, or a lower bound of it
    recover: Callable[[Array], Array]  # x from z
    linear: "LinearSystem | None" = None  # set where z solves a square system, and is judged by it
    reference: Array | None = None  # norm of the right-hand side before a warm start
    rows: int | None = None  # of the data, where damping is stacked below them
    preconditioned: bool = False  # the operator is A P, composed


class LinearSystem(NamedTuple):
    """The square system `S z = rhs` behind a kernel problem, judged in the Euclidean norm.

    Norms of a function space or a preconditioner's metric weigh directions by factors up to the
    condition number; `|y - S c| / |y|` is what carries over to predictions, whatever the metric.
    """

    multiply: Callable[[Array], Array]  # S z
    penalty: Callable[[Array], Array]  # damp^2 x of the recovered solution
    magnitude: Callable[[Array], Array]  # |S| |z| entrywise: what rounding errors are relative to
    reference: Float[Array, " k"]  # norm of the right-hand side before any warm start
    consistent: bool  # undamped as it stands, so that Craig's iterate makes sense


class PreconditionedKernel(AbstractLinearOperator):
    """`[E, damp I]` on H x R^n, with the metric P^-1 on the data space.

    The posterior mean is the minimum-norm solution of the consistent system `[E, damp I] z = y`,
    and with z represented by coefficients v (z = [E, damp I]' v): `T v = S v`, S = K + damp^2 I,
    norms `v^T S v`; adjoint `P^-1 u`, norms `u^T P^-1 u`. One product with K and one application of
    P^-1 a step; convergence by the eigenvalues of P^-1 S.

    Equations (16) and (17) of docs/derivations/function-space.md.
    """

    operator: KernelOperator
    damp: Array
    inverse: LowRankPlusDiagonal

    @property
    def shape(self):
        return self.operator.shape

    @property
    def dtype(self):
        return self.operator.dtype

    def mv(self, v):
        return self.operator.mv(v) + self.damp**2 * v

    def rmv(self, u):
        return self.inverse.solve(u)

    def domain_inner(self, v, w):
        return jnp.sum(v * self.mv(w), axis=0)

    def forward(self, v):
        product = self.mv(v)
        return product, _metric_norm(v, product)

    def adjoint(self, u):
        product = self.rmv(u)
        return product, _metric_norm(u, product)


def _metric_norm(v: Array, Mv: Array) -> Array:
    return safe_sqrt(jnp.sum(v * Mv, axis=0))


def _no_norm(x: Array) -> Array:
    """0: function-space norms cost a product, and a lower bound keeps the stopping rule strict."""
    return jnp.zeros(x.shape[1:], x.dtype)


def kernel_system(
    operator: KernelOperator, damp: Array | None, prepared: Any, f: Array, x0: Array | None
) -> System:
    """`(K + damp^2) c = f` in function space; a warm start only corrects the right-hand side."""
    sigma = jnp.zeros((), f.dtype) if damp is None else damp

    def multiply(c: Array) -> Array:
        return operator.mv(c) + sigma**2 * c

    def magnitude(c: Array) -> Array:
        return jnp.abs(operator.mv(jnp.abs(c))) + sigma**2 * jnp.abs(c)

    def recover(c: Array) -> Array:
        return c if x0 is None else x0 + c

    def penalty(c: Array) -> Array:
        return sigma**2 * recover(c)

    rhs = f if x0 is None else f - multiply(x0)
    linear = LinearSystem(multiply, penalty, magnitude, column_norm(f), prepared is not None)
    if prepared is None:
        return System(operator, sigma, rhs, _no_norm, recover, linear)
    inner = PreconditionedKernel(operator, sigma, prepared)
    return System(inner, jnp.zeros_like(sigma), rhs, _no_norm, recover, linear)


def damped_operator(
    operator: AbstractLinearOperator, damp: Array | None
) -> AbstractEuclideanOperator:
    """`[A; damp I]`."""
    assert isinstance(operator, AbstractEuclideanOperator)
    if damp is None:
        return operator
    return Stacked((operator, Scaled(damp, Identity(operator.shape[1], operator.dtype))))


def rectangular_system(
    operator: AbstractLinearOperator,
    damp: Array | None,
    prepared: Any,
    f: Array,
    x0: Array | None,
) -> System:
    """`min |A x - f|^2 + damp^2 |x|^2`, warm-started and preconditioned on the right.

    A warm start of a damped system solves for the correction on `[A; damp I]`; of an undamped one
    it is not used, because it would decide which of many solutions comes back.
    """
    zero = jnp.zeros((), f.dtype)
    if damp is None:
        return _precondition(operator, zero, f, prepared, None)
    if x0 is None and prepared is None:
        return System(operator, damp, f, plain_norm, _same)
    stacked = damped_operator(operator, damp)
    rhs = jnp.concatenate([f, jnp.zeros((operator.shape[1], f.shape[1]), f.dtype)])
    if x0 is not None:
        left = rhs - stacked.mv(x0)
        # A guess that does not help is not taken.
        helps = column_norm(left) < column_norm(rhs)
        rhs, x0 = jnp.where(helps, left, rhs), jnp.where(helps, x0, 0)
    system = _precondition(stacked, zero, rhs, prepared, x0)
    return system._replace(reference=column_norm(f), rows=f.shape[0])


def _precondition(operator, damp, rhs, prepared, x0) -> System:
    """Right preconditioning: x = R^-1 z."""

    def shift(x: Array) -> Array:
        return x if x0 is None else x0 + x

    if prepared is None:
        return System(operator, damp, rhs, plain_norm, shift)
    return System(
        Composed(operator, prepared),
        damp,
        rhs,
        plain_norm,
        lambda z: shift(prepared.mv(z)),
        preconditioned=True,
    )


def adjoint_system(
    operator: AbstractLinearOperator,
    damp: Array | None,
    prepared: Any,
    g: Array,
    w0: Array | None,
) -> tuple[System, Callable[[Array, Array], tuple[Array, Array]]]:
    """`B* p = g` of minimum norm, B = [A; damp I], and the way from (p, its dual) to (A w, w).

    Its solution is `p = B w` with `w = (A* A + damp^2)^+ g`; w is the dual that LSMR follows.
    With a right preconditioner R the system is `(B R^-1)* p = R^-* g`, and R^-1 gives w.

    Equation (1) of docs/derivations/adjoint.md.
    """
    stacked = damped_operator(operator, damp)
    rows, reference = operator.shape[0], column_norm(g)
    known = None
    if w0 is not None:
        guessed = stacked.mv(w0)
        left = g - stacked.rmv(guessed)
        # A guess that does not help is not taken.
        helps = column_norm(left) < reference
        known = jnp.where(helps, guessed, 0), jnp.where(helps, w0, 0)
        g = jnp.where(helps, left, g)

    def finish(p: Array, dual: Array) -> tuple[Array, Array]:
        w = dual if prepared is None else prepared.mv(dual)
        if known is not None:
            p, w = p + known[0], w + known[1]
        return p[:rows], w

    zero = jnp.zeros((), g.dtype)
    if prepared is None:
        flipped = _transposed(stacked)
        return System(flipped, zero, g, plain_norm, _same, reference=reference), finish
    inner = Transposed(Composed(stacked, prepared))
    return System(inner, zero, prepared.rmv(g), plain_norm, _same), finish


def _transposed(operator: AbstractEuclideanOperator) -> AbstractEuclideanOperator:
    """A^T; of a transposed operator what it is made of, whose own order of products is cheaper."""
    if isinstance(operator, Transposed):
        assert isinstance(operator.operator, AbstractEuclideanOperator)
        return operator.operator
    return Transposed(operator)


def _same(x: Array) -> Array:
    return x
