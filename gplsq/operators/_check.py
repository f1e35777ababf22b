"""A test of an operator of one's own: is `rmv` the adjoint of `mv`, and are both linear?"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gplsq._core import check_count, check_finite_scalar, default_rtol, describe, is_traced
from gplsq.operators._base import AbstractEuclideanOperator, AbstractLinearOperator


class AdjointReport(NamedTuple):
    """Largest relative discrepancies that `check_adjoint` found, and what it allows."""

    adjoint: float  # |<A v, u> - <v, A* u>| / (max(|A v|, |A* u|) |v| |u|)
    linearity: float  # of mv and of rmv
    consistency: float  # of forward, adjoint, sweep and domain_inner with mv and rmv
    tolerance: float


def check_adjoint(
    operator: AbstractLinearOperator,
    key: PRNGKeyArray | None = None,
    *,
    probes: int = 4,
    rtol: float | None = None,
) -> AdjointReport:
    """Test an operator on random vectors: `<A v, u> = <v, A* u>`, linearity, shapes and dtypes.

    A solver cannot know that an adjoint is wrong: it converges to the solution of another problem,
    or not at all. Inner products are the operator's own.

    Parameters
    ----------
    operator
        An operator; its dtype is that of the random vectors.
    key
        A JAX random key; a fixed one by default.
    probes
        Pairs of vectors, at least 1.
    rtol
        Largest relative discrepancy allowed. By default what rounding in the dtype may leave:
        ``eps ** 0.75`` (6.4e-6 in float32), or ``10 eps sqrt(max(m, n))`` where that is larger.

    Returns
    -------
    AdjointReport
        The discrepancies, all of them within `rtol`.

    Raises
    ------
    TypeError
        If `operator` is not an operator, or while tracing.
    ValueError
        If it fails; the message names the discrepancy and its size.

    Notes
    -----
    An error in a few of many rows shows by its share of the product: raise `probes` to find a
    smaller one. Cost: four products with A and six with its adjoint, of up to three times `probes`
    columns each.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from gplsq.operators import Dense, check_adjoint
    >>> check_adjoint(Dense(jnp.eye(3, 2))).adjoint < 1e-5
    True
    """
    if not isinstance(operator, AbstractLinearOperator):
        msg = f"operator must be an operator; got {describe(operator)}. Wrap arrays in Dense."
        raise TypeError(msg)
    check_count("probes", probes, minimum=1)
    if rtol is None:
        eps = float(jnp.finfo(operator.dtype).eps)
        rtol = max(default_rtol(operator.dtype), 10 * eps * max(operator.shape) ** 0.5)
    rtol = check_finite_scalar("rtol", rtol, minimum=0.0)
    key = jax.random.key(0) if key is None else key
    of_v, of_u = jax.random.split(key)
    rows, columns = operator.shape
    pair = jax.random.normal(of_v, (2, columns, probes), operator.dtype)
    dual = jax.random.normal(of_u, (2, rows, probes), operator.dtype)
    out = _products(operator, pair, dual)
    if any(is_traced(number) for number in out.values()):
        msg = "check_adjoint looks at numbers and cannot be traced. Call it outside of jax.jit."
        raise TypeError(msg)
    name = type(operator).__name__
    # Judged in float64 by NumPy, whatever the dtype: what is off is off in the operator.
    numbers = {what: np.asarray(product, np.float64) for what, product in out.items()}
    for product in ("mv", "rmv"):
        if not np.all(np.isfinite(numbers[product])):
            msg = (
                f"{name}.{product} must be finite on finite vectors; got NaN or infinity. Look for "
                "them in what the operator is made of."
            )
            raise ValueError(msg)
    worst = {"adjoint": 0.0, "linearity": 0.0, "consistency": 0.0}
    for test, error in zip(_TESTS, _discrepancies(numbers), strict=False):
        if not error <= rtol:
            msg = (
                f"{name}: {test.claim}; got a relative discrepancy of {error:.1e}, more than the "
                f"{rtol:.1e} allowed. {test.remedy}"
            )
            raise ValueError(msg)
        worst[test.kind] = max(worst[test.kind], error)
    return AdjointReport(worst["adjoint"], worst["linearity"], worst["consistency"], rtol)


class _Test(NamedTuple):
    """What is claimed of an operator; `kind` is a field of the report."""

    kind: str
    claim: str
    remedy: str


# In the order of `_discrepancies` and of reporting: a product that is not linear has no adjoint.
_TESTS = (
    _Test("linearity", "mv must be linear", "Take constants and non-linear terms out of it."),
    _Test("linearity", "rmv must be linear", "Take constants and non-linear terms out of it."),
    _Test(
        "consistency",
        "mv of a block must be that of its columns",
        "Check how it treats arrays of shape (n, k).",
    ),
    _Test(
        "consistency",
        "rmv of a block must be that of its columns",
        "Check how it treats arrays of shape (m, k).",
    ),
    _Test(
        "consistency",
        "domain_inner must be symmetric",
        "Compare domain_inner(v, w) with domain_inner(w, v).",
    ),
    _Test("consistency", "forward must return mv", "Compare it with mv(v)."),
    _Test(
        "consistency",
        "forward must return the norm of the domain",
        "Compare it with the square root of domain_inner(v, v).",
    ),
    _Test("consistency", "adjoint must return rmv", "Compare it with rmv(u)."),
    _Test(
        "adjoint",
        "rmv must be the adjoint of mv, <A v, u> = <v, A* u>",
        "Check rmv for a sign, a factor, a missing transpose or a missing term.",
    ),
    # The last two for Euclidean operators only.
    _Test(
        "consistency", "sweep must return w = mv(v) - shift", "Compare it with mv, or leave it out."
    ),
    _Test("consistency", "sweep must return rmv(w)", "Compare it with rmv, or leave it out."),
)


@eqx.filter_jit
def _products(
    operator: AbstractLinearOperator, pair: Float[Array, "2 n k"], dual: Float[Array, "2 m k"]
) -> dict[str, Array]:
    """What the operator makes of two blocks of its domain and two of its codomain."""
    (m, n), (v, w), (u, z) = operator.shape, pair, dual
    probes = v.shape[1]
    mv, rmv = _checked_product(operator, "mv", m), _checked_product(operator, "rmv", n)
    right, left = _combined(v, w), _combined(u, z)
    image, preimage = mv(right), rmv(left)
    Av, Au = image[:, :probes], preimage[:, :probes]
    forward, norms_right = operator.forward(right)
    adjoint, norms_left = operator.adjoint(left)
    norm_v, norm_u = norms_right[:probes], norms_left[:probes]
    norm_Av, norm_Au = operator.adjoint(Av)[1], operator.forward(Au)[1]
    # Inner products of vectors of norm 1: scales of 1e±30 stay inside float32.
    unit_v, unit_u = v / _or_one(norm_v), u / _or_one(norm_u)
    unit_Av, unit_Au = Av / _or_one(norm_Av), Au / _or_one(norm_Au)
    out = {
        "mv": image,
        "rmv": preimage,
        "mv of one": mv(v[:, 0])[:, None],
        "rmv of one": rmv(u[:, 0])[:, None],
        "forward": forward,
        "adjoint": adjoint,
        "norms": norms_right,
        "gain": norm_Av / _or_one(norm_v),
        "back gain": norm_Au / _or_one(norm_u),
        "own squares": operator.domain_inner(right, right),
        "v with w": operator.domain_inner(v, w),
        "w with v": operator.domain_inner(w, v),
        "in domain": operator.domain_inner(unit_v, unit_Au),
    }
    if not isinstance(operator, AbstractEuclideanOperator):
        # The codomain has a norm only; polarisation makes the inner product of it.
        plus = operator.adjoint(unit_Av + unit_u)[1]
        minus = operator.adjoint(unit_Av - unit_u)[1]
        return out | {"in codomain": (plus + minus) * (plus - minus) / 4}
    swept, back = operator.sweep(v / _or_one(norm_Av), unit_u)
    return out | {
        "in codomain": jnp.sum(unit_Av * unit_u, axis=0),
        "swept": swept,
        "not swept": unit_Av - unit_u,
        "swept back": back,
        "not swept back": rmv(jnp.concatenate([unit_Av - unit_u, unit_Av, unit_u], axis=1)),
    }


def _combined(v: Array, w: Array) -> Array:
    """v, w and 2.5 v - 1.25 w: a constant term shows, as 2.5 - 1.25 is not 1."""
    return jnp.concatenate([v, w, 2.5 * v - 1.25 * w], axis=1)


def _discrepancies(out: dict[str, np.ndarray]) -> list[float]:
    """Relative, in the order of `_TESTS`; worst over the probes."""
    own_norms = np.sqrt(np.maximum(out["own squares"], 0))
    probes = len(out["gain"])
    length = own_norms[:probes] * own_norms[probes : 2 * probes]
    scale = np.maximum(out["gain"], out["back gain"])
    pairing = out["in codomain"] * out["gain"] - out["in domain"] * out["back gain"]
    errors = [
        _nonlinearity(out["mv"]),
        _nonlinearity(out["rmv"]),
        _difference(out["mv of one"], out["mv"][:, :1]),
        _difference(out["rmv of one"], out["rmv"][:, :1]),
        _relative(out["v with w"] - out["w with v"], length),
        _difference(out["forward"], out["mv"]),
        _relative(out["norms"] - own_norms, own_norms),
        _difference(out["adjoint"], out["rmv"]),
        _relative(pairing, scale),
    ]
    if "swept" in out:
        errors.append(_norm(out["swept"] - out["not swept"]))
        back, first, second = np.split(out["not swept back"], 3, axis=1)
        errors.append(_relative(_norm(out["swept back"] - back), _norm(first) + _norm(second)))
    return [float(np.max(error)) for error in errors]


def _nonlinearity(products: np.ndarray) -> np.ndarray:
    first, second, combined = np.split(products, 3, axis=1)
    size = 2.5 * _norm(first) + 1.25 * _norm(second)
    return _relative(_norm(combined - (2.5 * first - 1.25 * second)), size)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| of each column, relative to the larger of both."""
    return _relative(_norm(a - b), np.maximum(_norm(a), _norm(b)))


def _norm(a: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a, axis=0)


def _relative(a: np.ndarray, size: np.ndarray) -> np.ndarray:
    """`|a| / size`, and 0 for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a == 0, 0, np.abs(a) / size)


def _checked_product(operator: AbstractLinearOperator, name: str, rows: int) -> Callable:
    """`operator.mv` or `operator.rmv`, looking at the shape and dtype of what comes out."""

    def product(v: Array) -> Array:
        out = getattr(operator, name)(v)
        shape = (rows, *v.shape[1:])
        if not eqx.is_array(out) or out.shape != shape or out.dtype != operator.dtype:
            msg = (
                f"{type(operator).__name__}.{name} must map shape {v.shape} to {shape}, as the "
                f"operator's shape is {tuple(operator.shape)}, in dtype {operator.dtype}; got "
                f"{describe(out)}. Return an array of that shape and dtype."
            )
            raise ValueError(msg)
        return out

    return product


def _or_one(size: Array) -> Array:
    return jnp.where(size == 0, 1, size)
