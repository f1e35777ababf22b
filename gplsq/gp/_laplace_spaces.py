"""The spaces in which a Laplace approximation is sought: all of the kernel's, or a basis's span."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import jittered_cholesky, matmul, tile_rows
from gplsq.gp._newton import AbstractSpace
from gplsq.kernels import Weighted
from gplsq.operators import Inducing, InducingBasis
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers import AbstractLeastSquares, lstsq


class MatrixSpace(AbstractSpace):
    """All functions of a kernel whose matrix is at hand: `f = sum_i u_i k(., x_i)`.

    For what is differentiated with respect to the matrix. Cost of `prepare`: n^3 / 3 flops.
    """

    K: Float[Array, "n n"]

    @property
    def size(self):
        return self.K.shape[0]

    def values(self, u):
        return matmul(self.K, u)

    def gradient(self, u, g):
        return u - g

    def inner(self, u, v, v_values):
        return jnp.sum(u * v_values)

    def prepare(self, weights):
        return jax.lax.linalg.cholesky(weighted_matrix(self.K, weights), symmetrize_input=False)

    def solve(self, prepared, weights, r):
        root = jnp.sqrt(weights)[:, None]
        rhs = root * matmul(self.K, r)
        return r - root * jax.scipy.linalg.cho_solve((prepared, True), rhs)


def weighted_matrix(K: Float[Array, "n n"], weights: Float[Array, " n"]) -> Float[Array, "n n"]:
    """`I + diag(w)^(1/2) K diag(w)^(1/2)`: well conditioned however ill K is."""
    root = jnp.sqrt(weights)
    index = jnp.arange(K.shape[0])
    return (root[:, None] * K * root).at[index, index].add(1)


class KernelSpace(AbstractSpace):
    """All functions of a kernel, `f = sum_i u_i k(., x_i)`; solves by a solver of the library.

    With c the solution of `lstsq(E_w, w^(1/2) K r, damp=1)`, E_w evaluation at the rows in the
    space of the weighted kernel, the wanted coordinates are `r - w^(1/2) c`.
    """

    operator: KernelOperator
    solver: AbstractLeastSquares
    preconditioner: Any

    @property
    def size(self):
        return self.operator.shape[0]

    def values(self, u):
        return self.operator.mv(u)

    def gradient(self, u, g):
        return u - g

    def inner(self, u, v, v_values):
        return jnp.sum(u * v_values)

    def prepare(self, weights):
        operator = weighted_operator(self.operator, weights)
        one = jnp.ones((), operator.dtype)
        return operator, self.solver.prepare(operator, one, self.preconditioner)

    def solve(self, prepared, weights, r):
        operator, factor = prepared
        root = jnp.sqrt(weights)[:, None]
        rhs = root * self.operator.mv(r)
        settings = {"solver": self.solver, "preconditioner": factor, "throw": False}
        solution = lstsq(operator, rhs, damp=jnp.ones((), rhs.dtype), **settings)
        return r - root * solution.value


def weighted_operator(operator: KernelOperator, weights: Float[Array, " n"]) -> KernelOperator:
    """Evaluation in the space of the kernel with weighted rows, in the same form."""
    return KernelOperator(
        Weighted(operator.kernel), with_column(operator.X, jnp.sqrt(weights)), operator.form
    )


def with_column(X: Float[Array, "n d"], root: Float[Array, " n"]) -> Float[Array, "n e"]:
    """Points of a `Weighted` kernel."""
    return jnp.concatenate([X, root[:, None]], axis=1)


class BasisSpace(AbstractSpace):
    """The span of kernel sections at inducing points; u are coordinates in an orthonormal basis.

    Parameters
    ----------
    operator
        Evaluation at the rows.
    keep
        Whether the functions at the rows, n m numbers, are kept, or made again in every product.
    """

    operator: Inducing
    kept: Float[Array, "n m"] | None

    def __init__(self, operator: Inducing, keep: bool):
        self.operator = operator
        points: Any = operator.X
        self.kept = _features(operator.basis, points) if keep else None

    @property
    def size(self):
        return self.operator.shape[1]

    def values(self, u):
        if self.kept is not None:
            return matmul(self.kept, u)
        return self.operator.mv(u)

    def gradient(self, u, g):
        if self.kept is not None:
            return u - matmul(self.kept.T, g)
        return u - self.operator.rmv(g)

    def inner(self, u, v, v_values):
        return jnp.sum(u * v)

    def prepare(self, weights):
        """Lower Cholesky factor of `A^T diag(w) A + I`. Cost: 2 n m^2 flops, n m^2 more if A is
        made again.
        """
        n, m = self.operator.shape
        height = min(n, tile_rows(n, m))
        data: Any = self.operator.X if self.kept is None else self.kept

        def add(i, total):
            # The last block overlaps the one before it: what was counted has the weight 0.
            start = jnp.minimum(i * height, n - height)
            rows = jax.lax.dynamic_slice_in_dim(data, start, height)
            if self.kept is None:
                rows = self.operator.features(rows)
            weight = jax.lax.dynamic_slice_in_dim(weights, start, height)
            weight = jnp.where(start + jnp.arange(height) >= i * height, weight, 0)
            rows = jnp.sqrt(weight)[:, None] * rows
            return total + matmul(rows.T, rows)

        gram = jax.lax.fori_loop(0, -(-n // height), add, jnp.eye(m, dtype=data.dtype))
        # With every eigenvalue at least 1 a factor exists but for rounding errors of the sum.
        unit = float(jnp.finfo(gram.dtype).eps) * jnp.trace(gram)
        return jittered_cholesky(gram, unit)[0]

    def solve(self, prepared, weights, r):
        return jax.scipy.linalg.cho_solve((prepared, True), r)


@eqx.filter_jit
def _features(basis: InducingBasis, X: Array) -> Array:
    return basis.features(X)
