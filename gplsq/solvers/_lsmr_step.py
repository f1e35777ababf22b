"""One iteration of LSMR on general inner products, for a block of right-hand sides.

Fong & Saunders (2011), "LSMR: an iterative algorithm for sparse least-squares problems", SIAM J.
Sci. Comput. 33(5); section and equation numbers refer to it. Inner products on both sides follow
Arioli (2013) and Chung & Saibaba (2017): the recurrences are unchanged, only norms and adjoint are
those of the operator's spaces.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import safe_divide, symmetric_givens
from gplsq.operators import AbstractLinearOperator


class Craig(eqx.Module):
    """Craig's method on the same bidiagonalisation: the iterate of smallest error, not residual.

    For a consistent system, where the undamped LSMR iterate minimises the normal residual, this one
    minimises the distance to the solution (Craig 1955; Saunders 1995, section 2), which for a
    preconditioned kernel system makes it the iterate of conjugate gradients. It costs two vector
    updates and no product, and is one Krylov dimension ahead.
    """

    x: Float[Array, "n k"]
    r: Float[Array, "m k"]  # b - A x
    zeta: Float[Array, " k"]

    def step(self, v: Array, Av: Array, alpha: Array, beta: Array) -> "Craig":
        """Take in the next right vector."""
        zeta = -safe_divide(beta * self.zeta, alpha)
        return Craig(self.x + zeta * v, self.r - zeta * Av, zeta)


class LSMRState(eqx.Module):
    """The iteration's state. Vectors carry one column a right-hand side; scalars are (k,)."""

    # Golub-Kahan bidiagonalisation
    u: Float[Array, "m k"]  # left vector, unit norm in the codomain
    v: Float[Array, "n k"]  # right vector, unit norm in the domain
    Av: Float[Array, "m k"]  # A v, made together with the norm of v
    alpha: Float[Array, " k"]
    # iterate and directions
    x: Float[Array, "n k"]
    h: Float[Array, "n k"]
    h_bar: Float[Array, "n k"]
    # their images, by the same recurrences: the residual b - A x without a product
    Ah: Float[Array, "m k"]
    Ah_bar: Float[Array, "m k"]
    r: Float[Array, "m k"]
    # scalars of the two QR factorisations (section 2.4)
    alpha_bar: Float[Array, " k"]
    rho: Float[Array, " k"]
    rho_bar: Float[Array, " k"]
    c_bar: Float[Array, " k"]
    s_bar: Float[Array, " k"]
    zeta: Float[Array, " k"]
    zeta_bar: Float[Array, " k"]  # |zeta_bar| = |A* r - damp^2 x|
    # residual norm (section 4.2)
    beta_dd: Float[Array, " k"]
    beta_d: Float[Array, " k"]
    rho_d_old: Float[Array, " k"]
    tau_tilde_old: Float[Array, " k"]
    theta_tilde: Float[Array, " k"]
    squared_d: Float[Array, " k"]
    residual: Float[Array, " k"]  # |[b - A x; -damp x]|
    # norm and condition (section 4.3, 4.4), both estimated from below
    norm_A: Float[Array, " k"]
    max_rho_bar: Float[Array, " k"]
    min_rho_bar: Float[Array, " k"]
    # companion iterate, for consistent systems only
    craig: Craig | None


def next_right_vector(
    operator: AbstractLinearOperator, v_raw: Float[Array, "n k"]
) -> tuple[Array, Array, Array]:
    """Normalise a right vector: `(v, A v, alpha)`, by one forward product of the raw vector."""
    Av_raw, alpha = operator.forward(v_raw)
    return safe_divide(v_raw, alpha), safe_divide(Av_raw, alpha), alpha


def initial_state(
    operator: AbstractLinearOperator, b: Float[Array, "m k"], *, consistent: bool = False
) -> LSMRState:
    """State before the first iteration, from x = 0; `consistent` adds the companion iterate."""
    v_raw, beta = operator.adjoint(b)
    u = safe_divide(b, beta)
    v, Av, alpha = next_right_vector(operator, safe_divide(v_raw, beta))
    zero, one = jnp.zeros_like(beta), jnp.ones_like(beta)
    craig = Craig(jnp.zeros_like(v), b, -one).step(v, Av, alpha, beta) if consistent else None
    return LSMRState(
        u=u,
        v=v,
        Av=Av,
        alpha=alpha,
        x=jnp.zeros_like(v),
        h=v,
        h_bar=jnp.zeros_like(v),
        Ah=Av,
        Ah_bar=jnp.zeros_like(Av),
        r=b,
        alpha_bar=alpha,
        rho=one,
        rho_bar=one,
        c_bar=one,
        s_bar=zero,
        zeta=zero,
        zeta_bar=alpha * beta,
        beta_dd=beta,
        beta_d=zero,
        rho_d_old=one,
        tau_tilde_old=zero,
        theta_tilde=zero,
        squared_d=zero,
        residual=beta,
        norm_A=alpha,
        max_rho_bar=zero,
        min_rho_bar=jnp.full_like(beta, jnp.inf),
        craig=craig,
    )


def lsmr_step(operator: AbstractLinearOperator, damp: Array, state: LSMRState) -> LSMRState:
    """One iteration: one product with A, one with its adjoint."""
    s = state
    # Bidiagonalisation, eq. (2.2).
    u_raw = s.Av - s.alpha * s.u
    v_raw, beta = operator.adjoint(u_raw)
    u = safe_divide(u_raw, beta)
    v, Av, alpha = next_right_vector(operator, safe_divide(v_raw, beta) - beta * s.v)

    # Rotation that takes out the damping, section 5.
    c_hat, s_hat, alpha_hat = symmetric_givens(s.alpha_bar, jnp.broadcast_to(damp, alpha.shape))
    # First QR.
    c, sn, rho = symmetric_givens(alpha_hat, beta)
    theta_new = sn * alpha
    alpha_bar = c * alpha
    # Second QR.
    theta_bar = s.s_bar * rho
    rho_temp = s.c_bar * rho
    c_bar, s_bar, rho_bar = symmetric_givens(s.c_bar * rho, theta_new)
    zeta = c_bar * s.zeta_bar
    zeta_bar = -s_bar * s.zeta_bar

    # Iterate and directions.
    back = safe_divide(theta_bar * rho, s.rho * s.rho_bar)
    length = safe_divide(safe_divide(zeta, rho), rho_bar)
    turn = safe_divide(theta_new, rho)
    h_bar, Ah_bar = s.h - back * s.h_bar, s.Ah - back * s.Ah_bar
    x, r = s.x + length * h_bar, s.r - length * Ah_bar
    h, Ah = v - turn * s.h, Av - turn * s.Ah

    # Residual norm of the damped system.
    beta_acute = c_hat * s.beta_dd
    beta_check = -s_hat * s.beta_dd
    beta_hat = c * beta_acute
    beta_dd = -sn * beta_acute
    c_tilde, s_tilde, rho_tilde_old = symmetric_givens(s.rho_d_old, theta_bar)
    theta_tilde = s_tilde * rho_bar
    rho_d_old = c_tilde * rho_bar
    beta_d = -s_tilde * s.beta_d + c_tilde * beta_hat
    tau_tilde_old = safe_divide(s.zeta - s.theta_tilde * s.tau_tilde_old, rho_tilde_old)
    tau_d = safe_divide(zeta - theta_tilde * tau_tilde_old, rho_d_old)
    squared_d = s.squared_d + beta_check**2
    residual = jnp.sqrt(squared_d + (beta_d - tau_d) ** 2 + beta_dd**2)

    # A column of the bidiagonal matrix is no longer than |A|.
    norm_A = jnp.maximum(s.norm_A, jnp.sqrt(s.alpha**2 + beta**2 + damp**2))
    max_rho_bar = jnp.maximum(s.max_rho_bar, rho_temp)
    min_rho_bar = jnp.minimum(s.min_rho_bar, rho_temp)
    return LSMRState(
        u=u,
        v=v,
        Av=Av,
        alpha=alpha,
        x=x,
        h=h,
        h_bar=h_bar,
        Ah=Ah,
        Ah_bar=Ah_bar,
        r=r,
        alpha_bar=alpha_bar,
        rho=rho,
        rho_bar=rho_bar,
        c_bar=c_bar,
        s_bar=s_bar,
        zeta=zeta,
        zeta_bar=zeta_bar,
        beta_dd=beta_dd,
        beta_d=beta_d,
        rho_d_old=rho_d_old,
        tau_tilde_old=tau_tilde_old,
        theta_tilde=theta_tilde,
        squared_d=squared_d,
        residual=residual,
        norm_A=norm_A,
        max_rho_bar=max_rho_bar,
        min_rho_bar=min_rho_bar,
        craig=None if s.craig is None else s.craig.step(v, Av, alpha, beta),
    )
