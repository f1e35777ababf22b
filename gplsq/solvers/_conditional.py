"""Conditionals of a normal vector on others that are observed with noise, in closed form."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import matmul, symmetric_cholesky


@jax.custom_jvp
def conditional_mean(
    S: Float[Array, "n n"], k: Float[Array, "h n"], y: Float[Array, "n *p"]
) -> Float[Array, "h *p"]:
    """Means `k S^-1 y` of values whose covariance with the observed ones is k.

    Parameters
    ----------
    S
        `K + noise` of the observed rows, shape (n, n), symmetric positive definite. NaN comes back
        where it is not.
    k
        Covariances of predicted values and observed rows, shape (h, n).
    y
        Observations, shape (n,), or (n, p) for p outputs of the same covariance.

    Returns
    -------
    mean
        Shape (h,), or (h, p).

    Notes
    -----
    Cost: n^3 / 3 flops; a derivative takes one more pair of triangular solves for each output, by
    the same factor.
    """
    return matmul(k, _solve(symmetric_cholesky(S), y))


@conditional_mean.defjvp
def _conditional_mean_jvp(primals, tangents):
    S, k, y = primals
    t_S, t_k, t_y = tangents
    lower = symmetric_cholesky(S)
    c = _solve(lower, y)
    t_c = _solve(lower, t_y - matmul(t_S, c))
    return matmul(k, c), matmul(t_k, c) + matmul(k, t_c)


@jax.custom_jvp
def conditional(
    S: Float[Array, "n n"], k: Float[Array, "h n"], y: Float[Array, "n *p"]
) -> tuple[Float[Array, "h *p"], Float[Array, " h"]]:
    """Means `k S^-1 y`, and what the observations take from the variances: `k_j S^-1 k_j^T`.

    Parameters
    ----------
    S, k, y
        As for `conditional_mean`.

    Returns
    -------
    mean, explained
        Shapes (h,), or (h, p), and (h,). The variance of value j is that of its prior minus
        `explained[j]`. Rasmussen & Williams (2006), eq. 2.25 and 2.26.

    Notes
    -----
    Cost: n^3 / 3 + 2 n^2 h flops. The derivative is hand-written: with `V = k S^-1` and
    `c = S^-1 y`, `dmean = dk c + V (dy - dS c)` and `dexplained_j = V_j (2 dk_j - V_j dS)^T`. The
    solutions are those of the adjoint problems too: a gradient takes one product of 2 n^2 h flops
    more and no solve.
    """
    return _pieces(S, k, y)[:2]


def _pieces(S: Array, k: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    # As columns the transpose of k is what LAPACK reads, without a copy.
    right = jnp.concatenate([k, y.reshape(len(y), -1).T])
    solved = _solve(symmetric_cholesky(S), right.T).T
    V, c = solved[: len(k)], solved[len(k) :].T.reshape(y.shape)
    return matmul(k, c), jnp.sum(k * V, axis=1), V, c


@conditional.defjvp
def _conditional_jvp(primals, tangents):
    S, k, y = primals
    t_S, t_k, t_y = tangents
    mean, explained, V, c = _pieces(S, k, y)
    t_mean = matmul(t_k, c) + matmul(V, t_y - matmul(t_S, c))
    return (mean, explained), (t_mean, jnp.sum(V * (2 * t_k - matmul(V, t_S)), axis=1))


def _solve(lower: Array, right: Array) -> Array:
    return jax.scipy.linalg.cho_solve((lower, True), right)
