"""The Laplace approximation as a differentiable function of the kernel matrix."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import matmul
from gplsq.gp._class_likelihood import curvature, residual, row_weights
from gplsq.gp._laplace_spaces import MatrixSpace, weighted_matrix
from gplsq.gp._newton import find_mode
from gplsq.solvers import leave_one_out

# Of the adjoint: conjugate gradients meet these, or stop.
_ADJOINT_STEPS = 100


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def laplace_mode(
    K: Float[Array, "n n"], Y: Float[Array, "n k"], tolerance: float | None = None
) -> Float[Array, "n k"]:
    """Latent values F at the mode: `F = K (Y - p(F))`; see `find_mode`.

    Parameters
    ----------
    K
        Kernel matrix, symmetric positive semidefinite.
    Y
        Indicators of classes, shape (n, k).
    tolerance
        Of `find_mode`.

    Notes
    -----
    The derivative with respect to K is implicit: with c = Y - p(F) the cotangent of K is `q c^T`,
    where `(I + W K) q = dF`; W is minus the Hessian of the log likelihood. That system is solved by
    conjugate gradients in the kernel's inner product, preconditioned by the weighted system of the
    last Newton step; for one latent function the two are the same, and one step does. No derivative
    with respect to Y, and no forward mode.
    """
    return _forward(K, Y, tolerance)[0]


def _forward(K, Y, tolerance):
    mode = find_mode(MatrixSpace(K), Y, tolerance=tolerance)
    return mode.values, (K, Y, mode.values, mode.weights, mode.prepared)


def _backward(tolerance, kept, cotangent):
    del tolerance
    K, Y, F, weights, prepared = kept
    space = MatrixSpace(K)
    q = _solve_adjoint(space, F, weights, prepared, cotangent)
    return matmul(q, residual(F, Y).T), jnp.zeros_like(Y)


laplace_mode.defvjp(_forward, _backward)


def _solve_adjoint(space, F, weights, prepared, rhs):
    """`(I + W K)^-1 rhs` by preconditioned conjugate gradients in the kernel's inner product."""
    rtol = float(jnp.finfo(F.dtype).eps) ** 0.75

    def precondition(r):
        z = space.solve(prepared, weights, r)
        return z, space.values(z)

    z, Kz = precondition(rhs)
    rho = jnp.sum(rhs * Kz)

    def unfinished(carry):
        step, _, _, _, _, rho, first = carry
        return (step < _ADJOINT_STEPS) & (rho > rtol**2 * first)

    def advance(carry):
        step, x, r, d, Kd, rho, first = carry
        product = d + curvature(F, Kd)
        along = jnp.sum(product * Kd)
        t = rho / jnp.where(along > 0, along, 1)
        x, r = x + t * d, r - t * product
        z, Kz = precondition(r)
        new = jnp.sum(r * Kz)
        beta = new / rho
        return step + 1, x, r, z + beta * d, Kz + beta * Kd, new, first

    start = jnp.zeros((), jnp.int32), jnp.zeros_like(rhs), rhs, z, Kz, rho, rho
    return jax.lax.while_loop(unfinished, advance, start)[1]


def laplace_leave_one_out(
    K: Float[Array, "n n"], Y: Float[Array, "n k"], tolerance: float | None = None
) -> tuple[Float[Array, "n k"], Float[Array, " n"]]:
    """Mean and variance of every row's latent values given the others.

    In closed form for the normal approximation (Vehtari et al. 2016, "LA-LOO"): with s the
    posterior variance of a row and w its weight, the variance is `v = s / (1 - w s)` and the mean
    `F - v (Y - p(F))`, at which the likelihood of the row alone gives back F. Differentiable with
    respect to K.

    Parameters
    ----------
    K, Y, tolerance
        As for `laplace_mode`.

    Returns
    -------
    mean, variance
        Shapes (n, k) and (n,).

    Notes
    -----
    Cost: the mode, and about 3 n^3 flops.
    """
    F: Any = laplace_mode(K, Y, tolerance)
    weights = row_weights(F)
    S = weighted_matrix(K, weights)
    # 1 / diag(S^-1) = 1 + w v.
    total = leave_one_out(S, jnp.zeros(S.shape[0], S.dtype))[1]
    variance = jnp.maximum(total - 1, 0) / weights
    return F - variance[:, None] * residual(F, Y), variance


def laplace_predict(
    K: Float[Array, "n n"],
    cross: Float[Array, "n s"],
    prior: Float[Array, " s"],
    Y: Float[Array, "n k"],
    tolerance: float | None = None,
) -> tuple[Float[Array, "s k"], Float[Array, " s"]]:
    """Mean and variance of the latent values at other points; differentiable.

    Parameters
    ----------
    K, Y, tolerance
        As for `laplace_mode`.
    cross, prior
        Covariances of the rows with the points, and variances of these.

    Notes
    -----
    Rasmussen & Williams (2006), algorithm 3.2. Cost: the mode, n^3 / 3 and n^2 s flops.
    """
    F: Any = laplace_mode(K, Y, tolerance)
    weights = row_weights(F)
    lower = jnp.linalg.cholesky(weighted_matrix(K, weights))
    rhs = jnp.sqrt(weights)[:, None] * cross
    half = jax.scipy.linalg.solve_triangular(lower, rhs, lower=True)
    variance = jnp.maximum(prior - jnp.sum(half**2, axis=0), 0)
    return matmul(cross.T, residual(F, Y)), variance
