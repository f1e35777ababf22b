"""Predictions of folds from the other rows, in closed form."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gplsq._core import inverse_from_cholesky, matmul, symmetric_cholesky


@jax.custom_jvp
def inverse_of_definite(S: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverse of a symmetric positive definite matrix; NaN where it is not one.

    Cost: about 2 n^3 flops, and twice that for a derivative,
    `dW = -W dS W`: differentiating a Cholesky factor takes several triangular solves more.
    """
    return inverse_from_cholesky(symmetric_cholesky(S))


@inverse_of_definite.defjvp
def _inverse_jvp(primals, tangents):
    W = inverse_of_definite(*primals)
    # W is symmetric: its transpose makes a plain product of the reverse mode, quicker on CPUs.
    return W, -matmul(matmul(W.T, tangents[0]), W)


def leave_out(
    S: Float[Array, "n n"], y: Float[Array, "n *p"], folds: Int[Array, "k m"]
) -> tuple[Float[Array, "k m *p"], Float[Array, "k m"]]:
    """Residual and variance of every row of a fold, predicted from the rows outside of it.

    With `W = S^-1` and `c = W y`, the rows F of a fold have residual `(W_FF)^-1 c_F` and the
    diagonal of `(W_FF)^-1` as variance, noise included: leave-one-out for blocks (Ginsbourger &
    Schärer 2021, theorem 1).

    Parameters
    ----------
    S
        `K + noise`, shape (n, n), symmetric positive definite. NaN comes back where it is not.
    y
        Targets, shape (n,), or (n, p) for p outputs of the same covariance.
    folds
        Rows of each of k folds. A fold is conditioned on all rows that are not in it, whether or
        not they are in another one.

    Returns
    -------
    residual, variance
        Shapes (k, m), or (k, m, p), and (k, m).

    Notes
    -----
    Cost: 2 (n^3 + k m^3) flops, one fold after the other.
    """
    W = inverse_of_definite(S)
    c = matmul(W, y)

    def fold(rows: Array) -> tuple[Array, Array]:
        V = inverse_of_definite(W[rows[:, None], rows[None, :]])
        return matmul(V, c[rows]), jnp.diagonal(V)

    return jax.lax.map(fold, folds)
