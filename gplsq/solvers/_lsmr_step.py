"""One iteration of LSMR on general inner products, for a block of right-hand sides.

Fong & Saunders (2011), "LSMR: an iterative algorithm for sparse least-squares problems", SIAM J.
Sci. Comput. 33(5); section and equation numbers refer to it. Inner products on both sides follow
Arioli (2013) and Chung & Saibaba (2017): the recurrences are unchanged, only norms and adjoint are
those of the operator's spaces. The recurrences are (11), (12) and (19) of
docs/derivations/function-space.md.
What a derivative takes from a solve on its way: docs/derivations/adjoint.md.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import safe_divide, safe_sqrt
from gplsq.operators import AbstractEuclideanOperator, AbstractLinearOperator
from gplsq.solvers._bidiagonal import Bidiagonal, next_pair, start_bidiagonal


class Directions(eqx.Module):
    """A vector `start + sum_j y_j v_j`, updated by short recurrences.

    The iterate x is such a vector. So is A x - b, with `A v_j` in place of `v_j`, and the dual s
    with `x = A* s`, with `t_j` in place of `v_j`.

    Equation (12) of docs/derivations/function-space.md.
    """

    value: Float[Array, "p k"]
    h: Float[Array, "p k"]
    h_bar: Float[Array, "p k"]

    @classmethod
    def start(cls, v: Array, value: Array | None = None) -> "Directions":
        """Before the first step, with the first direction."""
        zero = jnp.zeros_like(v)
        return cls(zero if value is None else value, v, zero)

    def step(self, v: Array, back: Array, length: Array, turn: Array) -> "Directions":
        """Take in the next direction."""
        h_bar = self.h - back * self.h_bar
        return Directions(self.value + length * h_bar, v - turn * self.h, h_bar)


class Craig(eqx.Module):
    """Craig's method on the same bidiagonalisation: the iterate of smallest error, not residual.

    For a consistent system, where the undamped LSMR iterate minimises the normal residual, this one
    minimises the distance to the solution (Craig 1955; Saunders 1995, section 2), which for a
    preconditioned kernel system makes it the iterate of conjugate gradients. It costs two vector
    updates and no product, and is one Krylov dimension ahead.

    Equation (19) of docs/derivations/function-space.md.
    """

    x: Float[Array, "n k"]
    misfit: Float[Array, "m k"]  # A x - b
    zeta: Float[Array, " k"]

    def step(self, pair: Bidiagonal, beta: Array) -> "Craig":
        """Take in the next right vector."""
        assert pair.Av is not None
        zeta = -safe_divide(beta * self.zeta, pair.alpha)
        return Craig(self.x + zeta * pair.v, self.misfit + zeta * pair.Av, zeta)


class LSMRState(eqx.Module):
    """The iteration's state. Vectors carry one column a right-hand side; scalars are (k,).

    Scalars, and x, are those of the operator divided by `pair.unit`.
    """

    pair: Bidiagonal
    x: Directions | None  # None where it is to be made of the dual
    misfit: Directions | None  # A x - b, for kernel systems
    dual: Directions | None  # s with x = A* s, where it is asked for
    excess: Directions | None  # the number of final residuals in the dual
    craig: Craig | None  # for consistent kernel systems
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

    @property
    def iterate(self) -> Directions:
        """x, where it is followed."""
        assert self.x is not None
        return self.x


def initial_state(
    operator: AbstractLinearOperator,
    b: Float[Array, "m k"],
    damp: Array,
    *,
    consistent: bool = False,
    with_dual: bool = False,
    follow_x: bool = True,
) -> LSMRState:
    """State before the first iteration, from x = 0.

    `consistent` adds Craig's iterate, `with_dual` the vector s with `x = A* s`; without `follow_x`
    that alone is followed.
    """
    pair, beta = start_bidiagonal(operator, b, damp, with_dual)
    alpha, zero, one = pair.alpha, jnp.zeros_like(beta), jnp.ones_like(beta)
    follow = not isinstance(operator, AbstractEuclideanOperator)
    craig = Craig(jnp.zeros_like(pair.v), -b, -one).step(pair, beta) if consistent else None
    return LSMRState(
        pair=pair,
        x=Directions.start(pair.v) if follow_x else None,
        misfit=Directions.start(pair.Av, -b) if follow and pair.Av is not None else None,
        dual=None if pair.t is None else Directions.start(pair.t),
        excess=None if pair.r_in_t is None else Directions.start(pair.r_in_t),
        craig=craig,
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
    )


def lsmr_step(operator: AbstractLinearOperator, damp: Array, state: LSMRState) -> LSMRState:
    """One iteration: one product with A, one with its adjoint.

    Equation (11) of docs/derivations/function-space.md.
    """
    s = state
    # Bidiagonalisation, eq. (2.2).
    pair, beta = next_pair(operator, s.pair)
    alpha = pair.alpha

    # Rotation that takes out the damping, section 5.
    c_hat, s_hat, alpha_hat = _givens(s.alpha_bar, jnp.broadcast_to(damp, alpha.shape) / pair.unit)
    # First QR.
    c, sn, rho = _givens(alpha_hat, beta)
    theta_new = sn * alpha
    alpha_bar = c * alpha
    # Second QR.
    theta_bar = s.s_bar * rho
    rho_temp = s.c_bar * rho
    c_bar, s_bar, rho_bar = _givens(rho_temp, theta_new)
    zeta = c_bar * s.zeta_bar
    zeta_bar = -s_bar * s.zeta_bar

    # Iterate and directions.
    lengths = (
        safe_divide(theta_bar * rho, s.rho * s.rho_bar),
        safe_divide(safe_divide(zeta, rho), rho_bar),
        safe_divide(theta_new, rho),
    )

    # Residual norm of the damped system.
    beta_acute = c_hat * s.beta_dd
    beta_check = -s_hat * s.beta_dd
    beta_hat = c * beta_acute
    beta_dd = -sn * beta_acute
    c_tilde, s_tilde, rho_tilde_old = _givens(s.rho_d_old, theta_bar)
    theta_tilde = s_tilde * rho_bar
    rho_d_old = c_tilde * rho_bar
    beta_d = -s_tilde * s.beta_d + c_tilde * beta_hat
    tau_tilde_old = safe_divide(s.zeta - s.theta_tilde * s.tau_tilde_old, rho_tilde_old)
    tau_d = safe_divide(zeta - theta_tilde * tau_tilde_old, rho_d_old)
    squared_d = s.squared_d + beta_check**2
    residual = safe_sqrt(squared_d + (beta_d - tau_d) ** 2 + beta_dd**2)

    # A column of the bidiagonal matrix is no longer than |A|.
    column = safe_sqrt(s.pair.alpha**2 + beta**2 + (damp / pair.unit) ** 2)
    return LSMRState(
        pair=pair,
        x=_follow(s.x, pair.v, lengths),
        misfit=_follow(s.misfit, pair.Av, lengths),
        dual=_follow(s.dual, pair.t, lengths),
        excess=_follow(s.excess, pair.r_in_t, lengths),
        craig=None if s.craig is None else s.craig.step(pair, beta),
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
        norm_A=jnp.maximum(s.norm_A, column),
        max_rho_bar=jnp.maximum(s.max_rho_bar, rho_temp),
        min_rho_bar=jnp.minimum(s.min_rho_bar, rho_temp),
    )


def _follow(part: Directions | None, v: Array | None, lengths: tuple) -> Directions | None:
    return None if part is None or v is None else part.step(v, *lengths)


def _givens(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """`(c, s, r)` with `c a + s b = r >= 0` and `-s a + c b = 0`; `(1, 0, 0)` for two zeros.

    Arguments are in the unit of the operator, so that their squares need no scaling.

    Equation (11) of docs/derivations/function-space.md.
    """
    r = safe_sqrt(a * a + b * b)
    zero = r == 0
    inverse = 1 / jnp.where(zero, 1, r)
    return jnp.where(zero, 1, a * inverse), b * inverse, r


def select(taken: Array, new: LSMRState, old: LSMRState) -> LSMRState:
    """`new` where a column takes the step, and otherwise the iterates and estimates of `old`.

    The other recurrences of a column that is done run on: nothing reads them any more.
    """

    def kept(state: LSMRState):
        parts = (state.x, state.misfit, state.dual, state.excess)
        vectors = [part.value for part in parts if part is not None]
        vectors += [] if state.craig is None else [state.craig.x, state.craig.misfit]
        return [
            *vectors,
            state.zeta_bar,
            state.residual,
            state.norm_A,
            state.max_rho_bar,
            state.min_rho_bar,
        ]

    merged = [jnp.where(taken, a, b) for a, b in zip(kept(new), kept(old), strict=True)]
    return eqx.tree_at(kept, new, merged)
