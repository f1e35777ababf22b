"""A constraint linearised at a point, and the one solve that projects and corrects.

With J the Jacobian of the residuals, the step is

    x = J^T m,    m = (J J^T + damp^2)^+ (J u + t),                                           (4)

and `u - x` is the update closest to u with `J (u - x) = -t`: undamped it holds exactly wherever it
can hold, and x is then the solution of `J x = J u + t` of minimum norm. m are the least-squares
multipliers. J is touched by its products alone, or, where there are few residuals, made by one
backward pass each and factorised.

docs/derivations/null-space.md has the derivation, and the number.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import (
    STATUS,
    column_norm,
    default_rtol,
    matmul,
    reduced_svd,
    safe_divide,
    status_ok,
    symmetric_eigen,
)
from gplsq.constraints._sparing import is_many
from gplsq.operators import AbstractEuclideanOperator, Composed, Dense, Diagonal, Transposed
from gplsq.solvers import LSMR, AbstractLeastSquares, Direct

# With so few residuals, and so many numbers in J, a factorisation is faster than iterating.
DENSE_ROWS = 64
DENSE_ENTRIES = 2**23
# Sign vectors of the estimator of the rank. With more parameters they go one after another: side by
# side their solves took five copies of the parameters each.
_PROBES = 4
# A Gram matrix whose condition is at most this times 1 / eps says enough of J.
_SAFE = 100.0


class Step(NamedTuple):
    """A solution of (4)."""

    value: Float[Array, " n"]  # x
    multipliers: Float[Array, " p"]  # m
    status: Array
    num_steps: Array


class Factors(NamedTuple):
    """`J^T = U diag(s) V^T`."""

    U: Float[Array, "n r"]
    s: Float[Array, " r"]
    V: Float[Array, "p r"]


def factorise(A: Float[Array, "n p"], idle: Array | None = None) -> Factors:
    """Singular value decomposition of J^T, from J J^T where its condition allows that.

    Forming J J^T squares the condition number but costs a hundredth of the decomposition of J^T.
    `idle` is 1 for columns that are zero because nobody asks for them: they do not make J J^T
    singular here, and what comes out is right for right-hand sides that are zero there.

    Equations (4) and (5) of docs/derivations/null-space.md.
    """
    n, p = A.shape
    if p > n:
        return _by_svd(A)
    gram = matmul(A.T, A)
    if idle is not None:
        largest = jnp.max(jnp.diagonal(gram))
        gram = gram + jnp.diag(idle * jnp.where(largest > 0, largest, 1))
    values, V = symmetric_eigen(gram)
    safe = values[0] > _SAFE * float(jnp.finfo(A.dtype).eps) * values[-1]

    def by_gram(A):
        s = jnp.sqrt(values)
        return Factors(matmul(A, V / s), s, V)

    return jax.lax.cond(safe, by_gram, _by_svd, A)


def _by_svd(A: Float[Array, "n p"]) -> Factors:
    if A.shape[0] > A.shape[1]:
        Q, R = jnp.linalg.qr(A)
        U, s, Vt = reduced_svd(R)
        return Factors(matmul(Q, U), s, Vt.T)
    U, s, Vt = reduced_svd(A)
    return Factors(U, s, Vt.T)


def _cutoff(factors: Factors) -> Array:
    """Singular values up to this count as zero."""
    eps = float(jnp.finfo(factors.s.dtype).eps)
    size = max(factors.U.shape[0], factors.V.shape[0])
    return eps * size * jnp.max(factors.s, initial=0.0)


class Projection(eqx.Module):
    """J at one point, with what (4) needs of it; made once a step, used several times.

    Equations (4), (5) and (21) of docs/derivations/null-space.md.
    """

    jacobian: AbstractEuclideanOperator  # (p, n)
    solver: AbstractLeastSquares
    damp: Array | None
    factors: Factors | None

    def solve(self, rhs: Float[Array, " p"], start: Float[Array, " p"] | None = None) -> Step:
        """`x = J^T m` with `(J J^T + damp^2) m = rhs`; `start` is a guess of m."""
        if self.factors is not None:
            return self._by_factors(self.factors, rhs)
        return self._iterate(rhs, start)

    def _by_factors(self, factors: Factors, rhs: Array) -> Step:
        U, s, V = factors
        d = jnp.zeros((), s.dtype) if self.damp is None else self.damp
        length = jnp.hypot(s, d)
        kept = length > _cutoff(factors)
        inverse = jnp.where(kept, 1 / jnp.where(kept, length, 1), 0)

        def once(b):
            inside = inverse * matmul(V.T, b)
            m = matmul(V, inverse * inside)
            if self.damp is not None and V.shape[0] > V.shape[1]:
                # Outside the range of J only damping holds m back.
                outside = b - matmul(V, matmul(V.T, b))
                m = m + jnp.where(d > _cutoff(factors), outside / jnp.where(d > 0, d, 1) ** 2, 0)
            return matmul(U, inverse * s * inside), m

        x, m = once(rhs)
        # What rounding left: one round of refinement with J itself.
        again = once(rhs - self.jacobian.mv(x) - d**2 * m)
        x, m = x + again[0], m + again[1]
        finite = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(m))
        status = jnp.where(finite, STATUS.EXACT, STATUS.NON_FINITE).astype(jnp.int32)
        return Step(x, m, status, jnp.zeros((), jnp.int32))

    def _iterate(self, rhs: Array, start: Array | None) -> Step:
        A, solver = Transposed(self.jacobian), self.solver
        left, known = rhs, None
        if start is not None:
            x0 = self.jacobian.rmv(start)
            damping = 0 if self.damp is None else self.damp**2
            left = rhs - self.jacobian.mv(x0) - damping * start
            # A guess that does not help is not taken.
            helps = column_norm(left) < column_norm(rhs)
            left = jnp.where(helps, left, rhs)
            known = jnp.where(helps, x0, 0), jnp.where(helps, start, 0)
            if isinstance(solver, LSMR):  # the tolerance is that of the whole, not of what is left
                solver = _with_reference(solver, column_norm(rhs))
        prepared = solver.prepare(A, self.damp, None)
        more = _saving(solver, A)
        x, m, status, stats = solver.run_adjoint(
            prepared, A, self.damp, left[:, None], None, **more
        )
        x, m = x[:, 0], m[:, 0]
        if known is not None:
            x, m = x + known[0], m + known[1]
        return Step(x, m, status[0], stats.num_steps[0])

    def effective_rank(self) -> Float[Array, ""]:
        """`sum s^2 / (s^2 + damp^2)`: the numerical rank of J if undamped.

        From the singular values where they are known, otherwise by Hutchinson's estimator with
        four sign vectors on its smaller side (exact where J has full rank). Cost: one block solve.
        """
        if self.factors is not None:
            assert isinstance(self.jacobian, Dense)  # what was factorised
            factors = _by_svd(self.jacobian.matrix.T)
            if self.damp is None:
                return jnp.sum(factors.s > _cutoff(factors)).astype(factors.s.dtype)
            return jnp.sum(safe_divide(factors.s**2, factors.s**2 + self.damp**2))
        p, n = self.jacobian.shape
        A, key = Transposed(self.jacobian), jax.random.key(0)
        signs = jax.random.rademacher(key, (min(n, p), _PROBES), self.jacobian.dtype)
        prepared = self.solver.prepare(A, self.damp, None)

        def trace(signs: Array) -> Array:
            rhs = self.jacobian.mv(signs) if n <= p else signs
            more = _saving(self.solver, A)
            x = self.solver.run_adjoint(prepared, A, self.damp, rhs, None, **more)[0]
            projected = x if n <= p else self.jacobian.mv(x)
            return jnp.sum(signs * projected, axis=0)

        if not is_many(n):
            return jnp.mean(trace(signs))
        return jnp.mean(jax.lax.map(lambda column: trace(column[:, None])[0], signs.T))

    def restricted(
        self, rows: Float[Array, " p"], columns: Float[Array, " n"] | None = None
    ) -> "Projection":
        """The same with zeros for the rows, and for the columns, where a mask is 0."""
        masked = Composed(Diagonal(rows), self.jacobian)
        if columns is not None:
            masked = Composed(masked, Diagonal(columns))
        dense = self.factors is not None
        return project_with(masked, self.solver, self.damp, dense, idle=1 - rows)


def _saving(solver: AbstractLeastSquares, operator: Transposed) -> dict[str, bool]:
    """With many parameters LSMR keeps fewer vectors as long as these."""
    saves = isinstance(solver, LSMR) and is_many(operator.shape[0])
    return {"by_dual": True} if saves else {}


def _with_reference(solver: LSMR, size: Array) -> LSMR:
    rtol = default_rtol(size.dtype) if solver.rtol is None else solver.rtol
    atol = 0 if solver.atol is None else solver.atol
    wanted = jnp.maximum(jnp.asarray(rtol, size.dtype) * size, atol)
    return eqx.tree_at(lambda s: s.atol, solver, wanted, is_leaf=lambda leaf: leaf is None)


def is_dense(rows: int, columns: int, solver: AbstractLeastSquares | None) -> bool:
    """Whether J is made and factorised: asked for by `Direct`, or small where nothing is asked."""
    if solver is not None:
        return isinstance(solver, Direct)
    return rows <= DENSE_ROWS and rows * columns <= DENSE_ENTRIES


def project_with(
    jacobian: AbstractEuclideanOperator,
    solver: AbstractLeastSquares | None,
    damp: Array | None,
    dense: bool,
    idle: Array | None = None,
) -> Projection:
    """A `Projection`; with `dense` J is formed by p backward passes, side by side."""
    method = default_solver() if solver is None else solver
    if not dense:
        return Projection(jacobian, method, damp, None)
    A = jacobian.rmv(jnp.eye(jacobian.shape[0], dtype=jacobian.dtype))
    return Projection(Dense(A.T), method, damp, factorise(A, idle))


def row_length(jacobian: AbstractEuclideanOperator) -> Float[Array, ""]:
    """Root mean square of the lengths of the rows, by one sign vector (Hutchinson 1990)."""
    rows, dtype = jacobian.shape[0], jacobian.dtype
    signs = jax.random.rademacher(jax.random.key(1), (rows,), dtype)
    length = column_norm(jacobian.rmv(signs)) / rows**0.5
    return jnp.where(length > 0, length, 1).astype(dtype)


def default_solver() -> LSMR:
    """Loose, because what a step leaves is corrected by the next one."""
    return LSMR(rtol=1e-4, max_steps=200)


def worse(a: Array, b: Array) -> Array:
    """Of two statuses the one that says more: a failure, or the later one."""
    return jnp.where(status_ok(b) & ~status_ok(a), a, b).astype(jnp.int32)
