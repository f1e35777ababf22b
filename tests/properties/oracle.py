"""Kernels composed at random, and their values in float64 NumPy with a bound of the rounding error.

Written anew from the formulas, entry by entry from differences of points; nothing of the package's
own arithmetic is used.
"""

from typing import NamedTuple

import jax
import numpy as np
from hypothesis import strategies as st

from gplsq import kernels
from gplsq._core import cast

WIDTH = 3
# Lengthscales: mostly those of a user, sometimes anything.
usual = st.floats(-1.5, 2.0).map(lambda power: 10.0**power)
extreme = st.floats(-30.0, 30.0).map(lambda power: 10.0**power)
lengthscales = st.one_of(usual, usual, usual, st.lists(usual, min_size=WIDTH, max_size=WIDTH))
any_lengthscales = st.one_of(lengthscales, lengthscales, extreme)
variances = st.floats(-2.0, 2.0).map(lambda power: 10.0**power)


def leaves(scales):
    """Kernels without parts."""
    return st.one_of(
        *(
            st.builds(kind, scales)
            for kind in (kernels.RBF, kernels.Matern12, kernels.Matern32, kernels.Matern52)
        ),
        st.builds(kernels.RationalQuadratic, scales, st.floats(0.3, 5.0)),
        st.builds(kernels.Periodic, usual, usual),
        st.builds(kernels.Linear, variances),
        st.builds(kernels.Constant, variances),
        st.builds(kernels.Polynomial, st.integers(1, 3), variances, variances),
    )


def composed(scales=any_lengthscales, depth: int = 4):
    """Sums, products, multiples and choices of columns, to a depth."""
    single = leaves(scales)
    if depth == 1:
        return single
    inner = composed(scales, depth - 1)
    # A kernel that looks at some columns has one lengthscale for them all.
    chosen = st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=WIDTH, unique=True)
    narrow = leaves(usual)
    return st.one_of(
        single,
        st.builds(lambda k, columns: k.on(columns), narrow, chosen),
        st.builds(lambda k, v: v * k, inner, variances),
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
    )


class Bounded(NamedTuple):
    """Values, and how far an evaluation in the dtype may be off."""

    value: np.ndarray
    error: np.ndarray


def oracle(kernel, X, Z, eps: float) -> Bounded:
    """`k(X, Z)` and a bound of its error, X and Z of the dtype whose epsilon is given."""
    with np.errstate(all="ignore"):
        value, error = _oracle(kernel, X.astype(np.float64), Z.astype(np.float64), eps)
    # A bound that is no number bounds nothing.
    return Bounded(value, np.where(np.isnan(error), np.inf, error))


def _oracle(kernel, X, Z, eps) -> Bounded:
    kind = type(kernel).__name__
    if kind in ("Sum", "Product"):
        a, b = _oracle(kernel.left, X, Z, eps), _oracle(kernel.right, X, Z, eps)
        if kind == "Sum":
            return Bounded(a.value + b.value, a.error + b.error + eps * np.abs(a.value + b.value))
        value = a.value * b.value
        error = np.abs(a.value) * b.error + np.abs(b.value) * a.error + a.error * b.error
        return Bounded(value, error + eps * np.abs(value) + _tiny(eps))
    if kind == "Scaled":
        inner, factor = _oracle(kernel.kernel, X, Z, eps), _number(kernel.variance)
        error = inner.error + 2 * eps * np.abs(inner.value)
        return Bounded(factor * inner.value, factor * error + _tiny(eps))
    if kind == "Columns":
        columns = list(kernel.columns)
        return _oracle(kernel.kernel, X[:, columns], Z[:, columns], eps)
    if kind == "Constant":
        value = np.full((len(X), len(Z)), _number(kernel.variance))
        return Bounded(value, eps * value)
    if kind in ("Linear", "Polynomial"):
        variance = _number(kernel.variance)
        product = np.sum(X[:, None] * variance * Z[None], axis=2)
        off = (X.shape[1] + 3) * eps * np.sum(np.abs(X[:, None] * variance * Z[None]), axis=2)
        if kind == "Linear":
            return Bounded(product, off)
        base = product + _number(kernel.bias)
        off = off + 3 * eps * np.abs(base) + eps * _number(kernel.bias)
        degree = kernel.degree
        slope = degree * (np.abs(base) + off) ** (degree - 1)
        return Bounded(base**degree, slope * off + 2 * degree * eps * np.abs(base) ** degree)
    return _stationary(kind, kernel, X, Z, eps)


def _stationary(kind, kernel, X, Z, eps):
    scale = _number(kernel.lengthscale)
    if kind == "Periodic":
        period = _number(kernel.period)
        turns = (X[:, None] - Z[None]) / period
        q = np.sum(4 * np.sin(np.pi * turns) ** 2 / scale**2, axis=2)
        # Points lie on circles; an angle is off by eps times itself.
        angles = 2 * np.pi * (np.abs(X).max() + np.abs(Z).max()) / period
        length = np.sum(np.broadcast_to(1 / scale**2, X.shape[1:]))
        moved = np.sqrt(length) * eps * (4 + 2 * np.max(angles))
        off = 2 * np.sqrt(q) * moved + moved**2 + 30 * eps * length
    else:
        left, right = X / scale, Z / scale
        q = np.sum((left[:, None] - right[None]) ** 2, axis=2)
        centre = right.mean(axis=0)
        sizes = np.sum((left - centre) ** 2, axis=1)[:, None] + np.sum((right - centre) ** 2, 1)
        # Rows are rounded before the centre is taken off.
        raw = np.sum(left**2, axis=1)[:, None] + np.sum(right**2, axis=1) + np.sum(centre**2)
        off = (X.shape[1] + 8) * eps * (sizes + np.sqrt(raw * (sizes + eps * raw))) + eps**2 * raw
    low, high = np.maximum(q - off, 0), q + off
    value = _profile(kind, kernel, q)
    error = np.maximum(_profile(kind, kernel, low) - value, value - _profile(kind, kernel, high))
    # Where `exp` is flushed to zero its factor, up to a hundred squared, is lost too.
    return Bounded(value, error + 8 * eps * (1 + np.sqrt(q)) * value + 1e5 * _tiny(eps))


def _profile(kind, kernel, q):
    if kind in ("RBF", "Periodic"):
        return np.exp(-q / 2)
    if kind == "Matern12":
        return np.exp(-np.sqrt(q))
    if kind == "Matern32":
        s = np.sqrt(3 * q)
        return (1 + s) * np.exp(-s)
    if kind == "Matern52":
        s = np.sqrt(5 * q)
        return (1 + s + s**2 / 3) * np.exp(-s)
    assert kind == "RationalQuadratic"
    alpha = _number(kernel.alpha)
    return (1 + q / (2 * alpha)) ** -alpha


def _number(leaf):
    return np.asarray(leaf, np.float64)


def _tiny(eps: float) -> float:
    return float(np.finfo(np.float32 if eps > 1e-10 else np.float64).tiny)


def in_dtype(kernel, dtype):
    """Hyperparameters rounded to a dtype, as the kernel is evaluated."""
    return jax.tree.map(np.asarray, cast(kernel, dtype))


def overflows(kernel, X, Z, dtype) -> bool:
    """Whether a squared distance or a value is near the end of the range of the dtype."""
    limit = float(np.finfo(dtype).max) / 100
    with np.errstate(all="ignore"):
        return _largest(kernel, X.astype(float), Z.astype(float)) > limit


def _largest(kernel, X, Z) -> float:
    kind = type(kernel).__name__
    if kind == "Columns":
        columns = list(kernel.columns)
        return _largest(kernel.kernel, X[:, columns], Z[:, columns])
    parts = [getattr(kernel, name) for name in ("left", "right", "kernel") if hasattr(kernel, name)]
    inner = [_largest(part, X, Z) for part in parts]
    if kind == "Product":
        inner.append(np.prod(inner))
    elif kind == "Scaled":
        inner.append(float(kernel.variance) * inner[0])
    elif hasattr(kernel, "lengthscale") and kind != "Periodic":
        inner.append(8 * np.sum((np.abs([*X, *Z]).max(0) / _number(kernel.lengthscale)) ** 2))
    elif kind in ("Linear", "Polynomial"):
        size = np.max(_number(kernel.variance)) * np.sum(np.abs([*X, *Z]).max(0) ** 2)
        bias, degree = getattr(kernel, "bias", 0.0), getattr(kernel, "degree", 1)
        inner.append((size + float(bias)) ** degree)
    elif not inner:
        inner.append(1e4)
    return float(np.max(inner))
