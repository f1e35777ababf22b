"""Problems with known answers: prescribed spectra, draws from known Gaussian processes."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gplsq.kernels import AbstractKernel

SPECTRA = ("geometric", "arithmetic", "clustered", "small outlier", "large outlier")


def matrix_with_spectrum(
    rng: np.random.Generator, m: int, n: int, singular_values: Any, dtype: Any = np.float64
) -> np.ndarray:
    """An (m, n) matrix with these singular values (zeros filled up), random singular vectors."""
    values = np.asarray(singular_values, np.float64)
    left = np.linalg.qr(rng.standard_normal((m, m)))[0][:, : len(values)]
    right = np.linalg.qr(rng.standard_normal((n, n)))[0][:, : len(values)]
    return ((left * values) @ right.T).astype(dtype)


def spectrum(kind: str, count: int, condition: float) -> np.ndarray:
    """`count` singular values of a kind in `SPECTRA`, from 1 down to `1 / condition`."""
    low = 1 / condition
    if kind == "geometric":
        return np.geomspace(1, low, count)
    if kind == "arithmetic":
        return np.linspace(1, low, count)
    if kind == "clustered":
        third = count // 3
        centres = np.repeat([1, np.sqrt(low), low], [count - 2 * third, third, third])
        return np.clip(centres * np.linspace(1.1, 1, count), low, 1)
    if kind == "small outlier":
        return np.append(np.linspace(1, max(0.5, low), count - 1), low)
    if kind == "large outlier":
        return np.append(1.0, np.linspace(min(2 * low, 1), low, count - 1))
    msg = f"kind must be one of {SPECTRA}; got {kind!r}."
    raise ValueError(msg)


class Zoo(NamedTuple):
    """Least-squares systems of one shape, stacked, with the facts to judge a solver by."""

    A: np.ndarray  # (s, m, n)
    b: np.ndarray  # (s, m)
    damp: np.ndarray  # (s,)
    rank: np.ndarray  # (s,), exact: a deficient matrix repeats its rows and columns
    condition: np.ndarray  # (s,), as asked for in float64; undamped, of the nonzero singular values
    names: tuple[str, ...]


def least_squares_zoo(
    rng: np.random.Generator,
    shape: tuple[int, int],
    dtype: Any,
    *,
    damped: bool,
    conditions: Sequence[float],
    scales: Sequence[float] = (1e-15, 1.0, 1e15),
    copies: int = 1,
) -> Zoo:
    """Every spectrum x condition x rank x consistency, at scales of A and b drawn from `scales`.

    `shape` is (m, n), both even. Deficient matrices have half the rank. Inconsistent right-hand
    sides have a part outside the range between 1e-3 and 10 times the part inside; damping is
    between 1e-5 and 1 times the norm of A.
    """
    m, n = shape
    cases = itertools.product(SPECTRA, conditions, (1, 2), (True, False), range(copies))
    parts: list[tuple] = []
    for kind, condition, repeat, consistent, _ in cases:
        rank = min(m, n) // repeat
        core = matrix_with_spectrum(rng, m // repeat, n // repeat, spectrum(kind, rank, condition))
        # Copies of rows and columns are exact in any dtype, and so is the rank.
        A = np.tile(core, (repeat, repeat)) / repeat
        b = A @ rng.standard_normal(n)
        b /= np.linalg.norm(b)
        if not consistent:
            outside = rng.standard_normal(m)
            b = b + 10.0 ** rng.uniform(-3, 1) * outside / np.linalg.norm(outside)
        of_A, of_b = rng.choice(scales, 2)
        damp = of_A * 10.0 ** rng.uniform(-5, 0) if damped else 0.0
        kind_of_b = "consistent" if consistent else "inconsistent"
        name = f"{kind} to {condition:.0e}, rank {rank}, {kind_of_b}, A by {of_A:.0e}, b by "
        name += f"{of_b:.0e}, damp {damp:.1e}, {np.dtype(dtype)} {shape}"
        parts.append((of_A * A, of_b * b, damp, rank, condition, name))
    As, bs, damps, ranks, wanted, names = zip(*parts, strict=True)
    numbers = (np.stack(As), np.stack(bs), np.stack(damps))
    A, b, damp = (stack.astype(dtype) for stack in numbers)
    return Zoo(A, b, damp, np.array(ranks), np.array(wanted), names)


def gp_draw(
    rng: np.random.Generator,
    kernel: AbstractKernel,
    X: np.ndarray,
    noise_variance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """A latent function drawn from the prior at X, and noisy observations of it; both (n,)."""
    K = np.asarray(kernel(X), np.float64)
    values, vectors = np.linalg.eigh(K)
    latent = vectors @ (np.sqrt(np.maximum(values, 0)) * rng.standard_normal(len(X)))
    noisy = latent + np.sqrt(noise_variance) * rng.standard_normal(len(X))
    return latent.astype(X.dtype), noisy.astype(X.dtype)
