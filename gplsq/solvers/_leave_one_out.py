"""Leave-one-out quantities of a regularised kernel system, in closed form."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import inverse_from_cholesky, like_columns, matmul, symmetric_cholesky


@jax.custom_jvp
def leave_one_out(
    S: Float[Array, "n n"], y: Float[Array, "n *p"]
) -> tuple[Float[Array, "n *p"], Float[Array, " n"]]:
    """Residual and variance of every row predicted from all the others.

    With `c = S^-1 y` and `D = diag(S^-1)`: residual `y_i - mean_i = c_i / D_i` and variance (noise
    included) `1 / D_i`. Rasmussen & Williams (2006), eq. 5.12.

    Parameters
    ----------
    S
        `K + noise`, shape (n, n), symmetric positive definite. NaN comes back where it is not.
    y
        Targets, shape (n,), or (n, p) for p outputs of the same covariance.

    Returns
    -------
    residual, variance
        Shaped like y, and (n,).

    Notes
    -----
    Cost: about 3 n^3 flops. The derivative is hand-written: with W = S^-1, `dc = W (dy - dS c)` and
    `dD = -diag(W dS W)`, one more product of n^3, where differentiating a Cholesky factor takes
    several triangular solves.
    """
    return _pieces(S, y)[:2]


def _pieces(S: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    lower = symmetric_cholesky(S)
    W = inverse_from_cholesky(lower)
    D = jnp.diagonal(W)
    c = jax.scipy.linalg.cho_solve((lower, True), y)
    return c / like_columns(D, c), 1 / D, c, W


@leave_one_out.defjvp
def _leave_one_out_jvp(primals, tangents):
    S, y = primals
    t_S, t_y = tangents
    residual, variance, c, W = _pieces(S, y)
    t_c = matmul(W, t_y - matmul(t_S, c))
    # W is symmetric. Written as W^T, its transpose in reverse mode is a plain product, which XLA
    # does twice as fast on a CPU.
    t_D = -jnp.sum(matmul(W.T, t_S) * W, axis=1)
    t_variance = -(variance**2) * t_D
    t_residual = t_c * like_columns(variance, c) + c * like_columns(t_variance, c)
    return (residual, variance), (t_residual, t_variance)
