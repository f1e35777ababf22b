"""Golub-Kahan bidiagonalisation of an operator, one step at a time, for a block of columns.

From u_1 = b / |b| it makes orthonormal u_j and v_j with `A v_j = alpha_j u_j + beta_{j+1} u_{j+1}`
and `A* u_j = alpha_j v_j + beta_j v_{j-1}` (Golub & Kahan 1965; Paige & Saunders 1982).

The order of the two products within a step is chosen so that one sweep over the rows of the
operator can serve both.
These are (5), and for kernels (6), of docs/derivations/function-space.md.
What a derivative takes from a solve on its way: docs/derivations/adjoint.md.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import column_norm, plain_norm, safe_divide, usable_divisor
from gplsq.operators import AbstractEuclideanOperator, AbstractLinearOperator, Transposed


class Bidiagonal(eqx.Module):
    """The latest pair of vectors, of the operator divided by `unit`."""

    u: Float[Array, "m k"]  # left vector, unit norm in the codomain
    v: Float[Array, "n k"]  # right vector, unit norm in the domain
    alpha: Float[Array, " k"]
    Av: Float[Array, "m k"] | None  # where it is made together with v
    t: Float[Array, "m k"] | None  # v = A* t, where it is asked for (undamped only)
    # |A* b| / |b|, or the damping where that is larger: dividing by it keeps squares of an operator
    # scaled by 1e±30 inside float32.
    unit: Float[Array, " k"]
    # What u and t contain of the final residual r = (I - A A^+) b, where t is asked for.
    r_in_u: Float[Array, " k"] | None = None
    r_in_t: Float[Array, " k"] | None = None


def start_bidiagonal(
    operator: AbstractLinearOperator, b: Float[Array, "m k"], damp: Array, with_dual: bool
) -> tuple[Bidiagonal, Float[Array, " k"]]:
    """The first pair and beta_1 = |b|. The entries of b are of order 1.

    Equation (5) of docs/derivations/function-space.md.
    """
    if not isinstance(operator, AbstractEuclideanOperator):
        v_raw, beta = operator.adjoint(b)
        u = safe_divide(b, beta)
        v, Av, alpha = _normalised_image(operator, safe_divide(v_raw, beta))
        return Bidiagonal(u, v, alpha, Av, None, jnp.ones_like(beta)), beta
    beta, inverse = _norm(b)
    u = b * inverse
    back = operator.rmv(u)
    length = column_norm(back)
    unit = jnp.maximum(length, jnp.abs(damp))
    unit = usable_divisor(unit)
    alpha = length / unit
    v = back / usable_divisor(length)
    Av = operator.mv(v) / unit if isinstance(operator, Transposed) else None
    if not with_dual:
        return Bidiagonal(u, v, alpha, Av, None, unit), beta
    return Bidiagonal(u, v, alpha, Av, u, unit, inverse, inverse), beta


def next_pair(
    operator: AbstractLinearOperator, pair: Bidiagonal
) -> tuple[Bidiagonal, Float[Array, " k"]]:
    """The pair after `pair`, and the beta between them.

    Equation (5) of docs/derivations/function-space.md.
    """
    if not isinstance(operator, AbstractEuclideanOperator):
        assert pair.Av is not None
        u_raw = pair.Av - pair.alpha * pair.u
        v_raw, beta = operator.adjoint(u_raw)
        u = safe_divide(u_raw, beta)
        v_raw = safe_divide(v_raw, beta) - beta * pair.v
        v, Av, alpha = _normalised_image(operator, v_raw)
        return Bidiagonal(u, v, alpha, Av, None, pair.unit), beta
    if isinstance(operator, Transposed):
        # The sweep of the operator underneath pairs A* u with the A v of the step to come.
        inner = operator.operator
        assert pair.Av is not None
        assert isinstance(inner, AbstractEuclideanOperator)
        u_raw = pair.Av - pair.alpha * pair.u
        beta, inverse = _norm(u_raw)
        u = u_raw * inverse
        v_raw, Av_raw = inner.sweep(u / pair.unit, beta * pair.v)
        alpha, shrink = _norm(v_raw)
        v, Av = v_raw * shrink, _scaled(Av_raw, shrink, pair.unit)
    else:
        u_raw, back = operator.sweep(pair.v / pair.unit, pair.alpha * pair.u)
        beta, inverse = _norm(u_raw)
        u = u_raw * inverse
        v_raw = _scaled(back, inverse, pair.unit) - beta * pair.v
        alpha, shrink = _norm(v_raw)
        v, Av = v_raw * shrink, None
    if pair.t is None:
        return Bidiagonal(u, v, alpha, Av, None, pair.unit), beta
    assert pair.r_in_u is not None
    assert pair.r_in_t is not None
    t = (u - beta * pair.t) * shrink
    r_in_u = -pair.alpha * pair.r_in_u * inverse
    r_in_t = (r_in_u - beta * pair.r_in_t) * shrink
    return Bidiagonal(u, v, alpha, Av, t, pair.unit, r_in_u, r_in_t), beta


def _norm(a: Float[Array, "n k"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Norms and their inverses (0 for 0). In the unit of the operator squares are safe."""
    length = plain_norm(a)
    return length, safe_divide(jnp.ones_like(length), length)


def _scaled(a: Float[Array, "n k"], factor: Array, unit: Array) -> Float[Array, "n k"]:
    """`a factor / unit`, rounded once where the quotient is a number.

    After the last step beta is rounding, and with a unit below 1e-31 the product of the inverses of
    both is beyond float32.
    """
    both = factor / unit
    safe = jnp.isfinite(both)
    return a * jnp.where(safe, both, 1 / unit) * jnp.where(safe, 1, factor)


def _normalised_image(
    operator: AbstractLinearOperator, v_raw: Float[Array, "n k"]
) -> tuple[Array, Array, Array]:
    """`(v, A v, alpha)` by one forward product of the raw vector, which also gives its norm.

    Equation (6) of docs/derivations/function-space.md.
    """
    Av_raw, alpha = operator.forward(v_raw)
    return safe_divide(v_raw, alpha), safe_divide(Av_raw, alpha), alpha
