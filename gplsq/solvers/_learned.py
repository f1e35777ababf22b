"""A low-rank-plus-diagonal preconditioner that is trained on a family of systems."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from gplsq._core import check_count, like_columns, matmul, reduced_svd, stop_gradient
from gplsq.operators import AbstractEuclideanOperator, AbstractLinearOperator
from gplsq.solvers._column_scaling import column_lengths
from gplsq.solvers._precondition import AbstractPreconditioner, check_euclidean


class SquareRootInverse(AbstractEuclideanOperator):
    """`R^-1 = D^(-1/2) (I + W W^T)^(-1/2)`, where `R* R = D^(1/2) (I + W W^T) D^(1/2)`.

    With `W = Q S V^T` the root is `(I - Q Q^T) + Q (I + S^2)^(-1/2) Q^T`: O(n r) numbers and flops.
    """

    scale: Float[Array, " n"]  # D^(-1/2)
    basis: Float[Array, "n r"]  # Q
    shrink: Float[Array, " r"]  # (I + S^2)^(-1/2)

    @property
    def shape(self):
        return (self.scale.shape[0], self.scale.shape[0])

    @property
    def dtype(self):
        return self.scale.dtype

    def mv(self, v):
        return like_columns(self.scale, v) * self._root(v)

    def rmv(self, u):
        return self._root(like_columns(self.scale, u) * u)

    def _root(self, v):
        inside = matmul(self.basis.T, v)
        outside = v - matmul(self.basis, inside)
        # A second projection: what rounding leaves in the span of Q, A enlarges by up to S.
        outside = outside - matmul(self.basis, matmul(self.basis.T, outside))
        return outside + matmul(self.basis, like_columns(self.shrink, inside) * inside)


class LearnedPreconditioner(AbstractPreconditioner):
    """`P = D^(1/2) (I + W W^T) D^(1/2)` in place of `A* A + damp^2 I`, applied by Woodbury.

    An equinox module: its two arrays are trained, by `fit_preconditioner` or by any optimiser on
    `condition_surrogate`, and it is then passed to `lstsq` as `preconditioner`. It changes neither
    answers nor derivatives of a damped or full-column-rank system, only the number of steps.

    Parameters
    ----------
    log_diagonal
        Shape (n,): the logarithm of D.
    factor
        Shape (n, r): W.
    """

    log_diagonal: Float[Array, " n"]
    factor: Float[Array, "n r"]

    def build(self, operator, damp):
        del damp  # part of what was learned
        check_euclidean("LearnedPreconditioner", operator)
        n = operator.shape[1]
        if self.log_diagonal.shape != (n,) or self.factor.ndim != 2 or len(self.factor) != n:
            msg = (
                f"the preconditioner must be for {n} unknowns; got log_diagonal of shape "
                f"{self.log_diagonal.shape} and factor of shape {self.factor.shape}. Train it on "
                "systems of this size."
            )
            raise ValueError(msg)
        dtype = operator.dtype
        scale = jnp.exp(-0.5 * self.log_diagonal.astype(dtype))
        factor = self.factor.astype(dtype)
        orthonormal, triangular = jnp.linalg.qr(factor)
        left, values, _ = reduced_svd(triangular)
        return SquareRootInverse(scale, matmul(orthonormal, left), 1 / jnp.hypot(1, values))

    def solve(self, u: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """`P^-1 u`. Cost: O(n r) a column."""
        scale = jnp.exp(-0.5 * self.log_diagonal)[:, None]
        inner = scale * u
        small = matmul(self.factor.T, inner)
        return scale * (inner - matmul(self.factor, jnp.linalg.solve(self._capacitance(), small)))

    def log_determinant(self) -> Float[Array, ""]:
        """`log det P`, by the matrix determinant lemma."""
        return jnp.sum(self.log_diagonal) + jnp.linalg.slogdet(self._capacitance())[1]

    def _capacitance(self):
        return jnp.eye(self.factor.shape[1], dtype=self.factor.dtype) + matmul(
            self.factor.T, self.factor
        )


def condition_surrogate(
    preconditioner: LearnedPreconditioner,
    operator: AbstractLinearOperator,
    damp: Array | float,
    key: PRNGKeyArray,
    probes: int = 16,
) -> Float[Array, ""]:
    """Logarithm of Kaporin's condition number of `P^-1 H`, `H = A* A + damp^2 I`, up to a constant.

    `log(tr(P^-1 H) / n) + log det(P) / n`, without the term `-log det(H) / n`. It is smallest
    where P is a multiple of H, and bounds the steps of a Krylov method on `P^-1 H` (Kaporin 1994).

    Parameters
    ----------
    preconditioner
        What is trained.
    operator, damp
        The system.
    key
        A JAX random key.
    probes
        Random sign vectors of the trace (Hutchinson 1990).

    Returns
    -------
    Array
        A scalar, differentiable in the preconditioner and in everything else.

    Notes
    -----
    Cost: one product with A, of `probes` columns.
    """
    n, dtype = operator.shape[1], operator.dtype
    to_n, to_r = jax.random.split(key)
    signs = jax.random.rademacher(to_n, (n, probes), dtype)
    small = jax.random.rademacher(to_r, (preconditioner.factor.shape[1], probes), dtype)
    # Vectors of covariance P; times P^-1 they have covariance P^-1, and the mean of <z, H z> is the
    # trace. It is positive from any number of probes.
    spread = signs + matmul(preconditioner.factor, small)
    z = preconditioner.solve(jnp.exp(0.5 * preconditioner.log_diagonal)[:, None] * spread)
    damped = jnp.asarray(damp, dtype) ** 2 * jnp.sum(z * z, axis=0)
    trace = jnp.mean(jnp.sum(operator.mv(z) ** 2, axis=0) + damped)
    return jnp.log(trace / n) + preconditioner.log_determinant() / n


def fit_preconditioner(
    operators: AbstractLinearOperator | Sequence[AbstractLinearOperator],
    *,
    rank: int,
    damp: float = 0.0,
    steps: int = 500,
    learning_rate: float = 0.05,
    probes: int = 16,
    key: PRNGKeyArray | None = None,
) -> tuple[LearnedPreconditioner, Float[Array, " steps"]]:
    """Train a `LearnedPreconditioner` on a family of systems.

    Parameters
    ----------
    operators
        One operator, or several of the same type and shapes; each step uses one of them.
    rank
        Columns of W.
    damp
        Damping of the systems, a scalar.
    steps, learning_rate
        Of Adam (Kingma & Ba 2015), the rate decaying to zero along a cosine.
    probes
        Of `condition_surrogate`.
    key
        A JAX random key; a fixed one by default.

    Returns
    -------
    preconditioner
        The trained module.
    losses
        Shape (steps,): the surrogate at every step.

    Raises
    ------
    ValueError, TypeError
        If there is no operator, or they differ in type or shape; for a rank, steps or probes that
        are no whole numbers from 1 on.
    """
    family = [operators] if isinstance(operators, AbstractLinearOperator) else list(operators)
    if not family:
        msg = "operators must hold at least one operator; got none. Pass examples of the family."
        raise ValueError(msg)
    for operator in family:
        check_euclidean("fit_preconditioner", operator)
    outlines = {(jax.tree.structure(op), tuple(op.shape), str(op.dtype)) for op in family}
    if len(outlines) > 1:
        msg = (
            f"operators must be of one type and shape; got {len(outlines)} kinds. Train them apart."
        )
        raise ValueError(msg)
    for name, count in {"rank": rank, "steps": steps, "probes": probes}.items():
        check_count(name, count, minimum=1)
    arrays = [eqx.partition(operator, eqx.is_array)[0] for operator in family]
    static = eqx.partition(family[0], eqx.is_array)[1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
    key = jax.random.key(0) if key is None else key
    return _train(stacked, static, damp, key, learning_rate, (rank, steps, probes))


@eqx.filter_jit
def _train(stacked, static, damp, key, learning_rate, sizes):
    rank, steps, probes = sizes
    to_start, to_train = jax.random.split(key)
    count = jax.tree.leaves(stacked)[0].shape[0]

    def member(i):
        return eqx.combine(jax.tree.map(lambda leaf: leaf[i], stacked), static)

    first = member(0)
    n, dtype = first.shape[1], first.dtype
    squares = jax.lax.map(lambda i: column_lengths(member(i), probes, None) ** 2, jnp.arange(count))
    diagonal = jnp.mean(squares, axis=0) + jnp.asarray(damp, dtype) ** 2
    diagonal = jnp.where(diagonal > 0, diagonal, 1)
    factor = 0.1 / jnp.sqrt(n) * jax.random.normal(to_start, (n, rank))
    model: Any = LearnedPreconditioner(jnp.log(diagonal), factor.astype(dtype))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def step(carry, step_key):
        model, state = carry
        pick, draw = jax.random.split(step_key)
        operator = stop_gradient(member(jax.random.randint(pick, (), 0, count)))
        loss, gradient = jax.value_and_grad(condition_surrogate)(
            model, operator, damp, draw, probes
        )
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(model, updates), state), loss

    start = (model, optimizer.init(model))
    (model, _), losses = jax.lax.scan(step, start, jax.random.split(to_train, steps))
    return model, losses
