"""How accurate a gradient is, given the tolerances of its two solves; and failures of the second.

docs/derivations/adjoint.md has the relation in words. Let B = [A; damp I] with condition number
kappa (of its nonzero singular values), w = (B* B)^+ g for a cotangent g, and

    rho = |b - B x| / (|B| |x|),  rho* = |g - B* B w| / (|B| |B w|):

how far the data are from the range of B (b continued by zeros), and the cotangent from that of B*.
Relative to the terms that the gradient is made of,

    gradient in b            <= C (kappa + kappa^2 rho*) rtol_adjoint
    gradient in A and damp   <= C (kappa + kappa^2 (rho + rho*)) (rtol + rtol_adjoint).

Both solves are least-squares problems, whose solutions move by kappa for a consistent right-hand
side and by kappa^2 for what is outside the range (Wedin 1973). rho is 0 for an undamped system of
full row rank, or one that fits its data; rho* is 0 for a damped system and for full column rank.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import compiled

from gplsq import LSMR, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Dense, Kernel
from gplsq.solvers import DerivativeWarning
from gplsq.testing import matrix_with_spectrum

SAFETY = 2.0  # C. Measured: 1.2 is the most, and 0.14 the least of the worst cases of a family.
TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)
KAPPAS = (1e1, 1e2, 1e3, 1e4, 1e5)


class Family(NamedTuple):
    """Systems with one compiled program."""

    rows: int
    columns: int
    rank: int
    misfit: float  # of b, relative to its part in the range
    damped: bool = False


FAMILIES = {
    "tall, consistent": Family(40, 20, 20, 0.0),
    "tall, inconsistent": Family(40, 20, 20, 1.0),
    "singular, inconsistent": Family(40, 30, 20, 1.0),
    "square": Family(20, 20, 20, 0.0),
    "wide": Family(20, 40, 20, 0.0),
    "tall, damped": Family(40, 20, 20, 0.5, damped=True),
    "wide, damped": Family(20, 40, 20, 0.0, damped=True),
}


class System(NamedTuple):
    """A linear loss `<g, x>` of a least-squares solution."""

    A: np.ndarray
    b: np.ndarray
    damp: np.ndarray
    g: np.ndarray


class Truth(NamedTuple):
    """Its exact gradient, with what the errors are relative to, and the numbers of the bound."""

    gradient: dict[str, np.ndarray]
    size: dict[str, float]
    kappa: float
    rho: float
    rho_adjoint: float


def systems(family, kappa, dtype=np.float64):
    """Spectra spread evenly and with an outlier; cotangents of all kinds."""
    m, n, rank, misfit, damped = family
    damp = 1 / kappa if damped else 0.0
    smallest = 1e-2 * damp if damped else 1 / kappa
    even = np.geomspace(1, smallest, rank)
    outlier = np.concatenate([np.linspace(1, 0.5, rank - 3), np.geomspace(0.4, smallest, 3)])
    for seed, spectrum in enumerate([even, outlier]):
        rng = np.random.default_rng(seed)
        A = matrix_with_spectrum(rng, m, n, spectrum)
        U, _, Vt = np.linalg.svd(A, full_matrices=False)
        b = A @ rng.standard_normal(n)
        noise = rng.standard_normal(m)
        noise -= U[:, :rank] @ (U[:, :rank].T @ noise)
        if misfit:
            b += misfit * noise * np.linalg.norm(b) / np.linalg.norm(noise)
        for g in (rng.standard_normal(n), Vt[0], Vt[rank - 1]):
            yield System(*(np.asarray(part, dtype) for part in (A, b, damp, g)))


def truth_of(system, rank):
    """By singular values in float64, from the numbers as they are."""
    A, b, damp, g = (np.asarray(part, np.float64) for part in system)
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    U, s, Vt = U[:, :rank], s[:rank], Vt[:rank]
    inside, outside = Vt @ g, g - Vt.T @ (Vt @ g)
    square = s**2 + damp**2
    x = Vt.T @ (s / square * (U.T @ b))
    w = Vt.T @ (inside / square)
    r = b - A @ x
    if damp > 0:
        w = w + outside / damp**2
    p = U @ (s / square * inside)
    in_A = np.outer(r, w) - np.outer(p, x)
    length = np.linalg.norm
    largest = np.hypot(s[0], damp)
    Bw, misfit = np.hypot(length(p), damp * length(w)), np.hypot(length(r), damp * length(x))
    terms = misfit * length(w) + Bw * length(x)
    null_space = damp == 0 and rank < A.shape[1]
    if null_space:
        q = U @ ((Vt @ x) / s)
        in_A += np.outer(q, outside)
        terms += length(q) * length(outside)
    gradient = {"A": in_A, "b": p, "damp": np.array(-2 * damp * (w @ x))}
    size = {"A": terms, "b": Bw, "damp": 2 * damp * length(w) * length(x)}
    smallest = damp if damp > 0 and rank < A.shape[1] else np.hypot(s[-1], damp)
    return Truth(
        gradient,
        size,
        kappa=float(largest / smallest),
        rho=float(misfit / (largest * length(x))),
        rho_adjoint=float(length(outside) / (largest * Bw)) if null_space else 0.0,
    )


def gradient_program(damped):
    """The gradient as a compiled function of a system and of the two solvers."""

    def loss(A, b, damp, g, forward, adjoint):
        options = {"solver": forward, "adjoint_solver": adjoint, "throw": False}
        return jnp.vdot(g, lstsq(A, b, damp=damp if damped else 0.0, **options).value)

    names = ("A", "b", "damp") if damped else ("A", "b")
    gradient = compiled(jax.grad(loss, tuple(range(len(names)))))
    return lambda *args: dict(zip(names, gradient(*args), strict=True))


def error_of(got, truth):
    """Relative to the terms that the gradient is made of, which it exceeds nowhere."""
    return {
        name: np.linalg.norm(np.asarray(part, np.float64) - truth.gradient[name]) / truth.size[name]
        for name, part in got.items()
    }


def bound_of(name, truth, forward, adjoint):
    """The module's docstring, without C."""
    kappa, rho, rho_adjoint = truth.kappa, truth.rho, truth.rho_adjoint
    if name == "b":
        return (kappa + kappa**2 * rho_adjoint) * adjoint
    return (kappa + kappa**2 * (rho + rho_adjoint)) * (forward + adjoint)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_error_of_a_gradient_keeps_its_bound_and_the_bound_is_not_idle(x64, name):
    family = FAMILIES[name]
    program = gradient_program(family.damped)
    worst = {}
    for kappa in KAPPAS:
        for system in systems(family, kappa):
            truth = truth_of(system, family.rank)
            for forward, adjoint in itertools.product(TOLERANCES, TOLERANCES):
                if family.damped and kappa * adjoint >= 1:
                    continue  # reported, as another test shows
                got = program(*system, LSMR(rtol=forward), LSMR(rtol=adjoint))
                for part, error in error_of(got, truth).items():
                    used = error / bound_of(part, truth, forward, adjoint)
                    assert used <= SAFETY, (kappa, part, forward, adjoint, error)
                    worst[part] = max(worst.get(part, 0), used)
    assert min(worst.values()) >= SAFETY / 20, worst


def worst_errors(program, family, kappa, forward, adjoint):
    """The largest error of each part of the gradient, over the systems of one kappa."""
    worst = {}
    for system in systems(family, kappa):
        got = program(*system, LSMR(rtol=forward), LSMR(rtol=adjoint))
        for part, error in error_of(got, truth_of(system, family.rank)).items():
            worst[part] = max(worst.get(part, 0), error)
    return worst


def test_the_square_of_kappa_belongs_to_the_residual(x64):
    """Of two families with one program, the inconsistent one alone goes with kappa^2."""
    program = gradient_program(False)

    def largest(name, kappa):
        """In units of the tolerance; over tolerances, each of which LSMR may beat by luck."""
        tolerances = [rtol for rtol in TOLERANCES if kappa * rtol < 0.1]
        family = FAMILIES[name]
        errors = [worst_errors(program, family, kappa, rtol, 1e-12)["A"] for rtol in tolerances]
        return max(np.divide(errors, tolerances))

    for kappa in (1e2, 1e3, 1e4):
        assert 0.1 * kappa <= largest("tall, consistent", kappa) <= SAFETY * kappa
        assert 0.01 * kappa**2 <= largest("tall, inconsistent", kappa) <= SAFETY * kappa**2


@pytest.mark.parametrize("name", ["tall, inconsistent", "wide", "tall, damped"])
def test_the_gradient_in_the_data_does_not_depend_on_the_forward_tolerance(x64, name):
    family = FAMILIES[name]
    program = gradient_program(family.damped)
    for system in systems(family, 1e2):
        loose, tight = (program(*system, LSMR(rtol=rtol), LSMR())["b"] for rtol in (1e-2, 1e-12))
        np.testing.assert_array_equal(loose, tight)


@pytest.mark.parametrize("name", ["tall, inconsistent", "wide", "tall, damped"])
def test_either_tolerance_spoils_the_gradient_in_the_operator(x64, name):
    family = FAMILIES[name]
    program = gradient_program(family.damped)
    both = worst_errors(program, family, 1e2, 1e-10, 1e-10)["A"]
    for forward, adjoint in ((1e-4, 1e-10), (1e-10, 1e-4)):
        assert worst_errors(program, family, 1e2, forward, adjoint)["A"] > 30 * both


@pytest.mark.parametrize("name", FAMILIES)
def test_in_float32_the_defaults_keep_the_bound(name):
    family, rtol = FAMILIES[name], float(np.finfo(np.float32).eps) ** 0.75
    program = gradient_program(family.damped)
    for kappa in (1e1, 1e2, 1e3):
        for system in systems(family, kappa, np.float32):
            truth = truth_of(system, family.rank)
            got = program(*system, LSMR(), LSMR())
            assert all(part.dtype == np.float32 for part in got.values())
            for part, error in error_of(got, truth).items():
                assert error <= SAFETY * bound_of(part, truth, rtol, rtol), (kappa, part)


def failing(kind):
    """A loss whose solve converges, and whose derivative's own solve is cut short for some g."""
    rng = np.random.default_rng(1)
    spectrum = np.geomspace(1, 1e-2, 20)
    m, n = (20, 30) if kind == "wide" else (30, 20)
    A = matrix_with_spectrum(rng, m, n, spectrum, np.float32)
    X = rng.standard_normal((30, 2)).astype(np.float32)
    b = rng.standard_normal(m).astype(np.float32)
    short = LSMR(max_steps=2)
    easy = np.linalg.svd(A)[2][0] if kind != "kernel" else np.zeros(30, np.float32)

    def loss(g, b, throw):
        operator = Kernel(RBF(), X) if kind == "kernel" else Dense(A)
        damp = 0.05 if kind in ("damped", "kernel") else 0.0
        options = {"damp": damp, "adjoint_solver": short, "throw": throw}
        return jnp.vdot(g, lstsq(operator, b, **options).value)

    return loss, b, easy, rng.standard_normal(easy.shape).astype(np.float32)


def forward(loss, g, b, throw):
    """A directional derivative, as a gradient is shaped."""
    return jax.jvp(lambda b: loss(g, b, throw), (b,), (b[::-1].copy(),))[1]


def reverse(loss, g, b, throw):
    """The gradient in b."""
    return jax.grad(loss, 1)(g, b, throw)


KINDS = ["tall", "wide", "damped", "kernel"]
REPORT = "its own solve missed the tolerance"


def finished(fn, *args):
    """The result, after every callback has run."""
    out = jax.block_until_ready(fn(*args))
    jax.effects_barrier()
    return out


@pytest.mark.parametrize("mode", [forward, reverse])
@pytest.mark.parametrize(
    ("kind", "wrap"),
    [(kind, compiled) for kind in KINDS] + [(kind, lambda fn: fn) for kind in ("wide", "kernel")],
    ids=[*(f"{kind}, jit" for kind in KINDS), "wide, eager", "kernel, eager"],
)
def test_a_failed_adjoint_warns_without_throw_and_raises_with_it(kind, wrap, mode):
    loss, b, _, hard = failing(kind)
    with pytest.warns(DerivativeWarning, match=REPORT):
        finished(wrap(lambda b: mode(loss, hard, b, False)), b)
    with pytest.raises(RuntimeError, match=REPORT):
        finished(wrap(lambda b: mode(loss, hard, b, True)), b)


@pytest.mark.parametrize("kind", KINDS)
def test_one_failure_in_a_batch_is_reported_and_spoils_no_other(kind):
    loss, b, easy, hard = failing(kind)
    lenient, strict = (
        compiled(jax.vmap(lambda g, throw=throw: reverse(loss, g, b, throw)))
        for throw in (False, True)
    )
    fine = finished(strict, np.stack([easy, easy]))
    with pytest.warns(DerivativeWarning, match=REPORT):
        mixed = finished(lenient, np.stack([hard, easy]))
    np.testing.assert_allclose(mixed[1], fine[1], rtol=1e-4, atol=1e-5)
    # Not always a RuntimeError: JAX's quick path, from the second call on, has a ValueError.
    with pytest.raises((RuntimeError, ValueError), match=REPORT):
        finished(strict, np.stack([hard, easy]))
    assert finished(lenient, np.stack([easy, easy])).shape == fine.shape  # and no warning


def test_a_tolerance_too_loose_for_the_damping_is_reported(x64):
    """At kappa rtol = 10 the solve stops before it has seen the damping."""
    family, kappa = FAMILIES["tall, damped"], 1e5
    system = next(systems(family, kappa))
    program = gradient_program(family.damped)
    with pytest.warns(DerivativeWarning, match=REPORT):
        got = finished(program, *system, LSMR(), LSMR(rtol=10 / kappa))
    assert error_of(got, truth_of(system, family.rank))["A"] > 0.5
    finished(program, *system, LSMR(), LSMR(rtol=0.01 / kappa))  # and no warning


@pytest.mark.parametrize("name", ["tall, inconsistent", "wide", "wide, damped"])
def test_a_truncated_adjoint_gives_a_rough_gradient_and_says_so(name):
    family = FAMILIES[name]
    program = gradient_program(family.damped)
    system = next(systems(family, 1e1, np.float32))
    truth = truth_of(system, family.rank)

    def error(max_steps):
        got = finished(program, *system, LSMR(), LSMR(max_steps=max_steps))
        return error_of(got, truth)["A"]

    errors = []
    for max_steps in (1, 2, 4, 8):
        with pytest.warns(DerivativeWarning, match=REPORT):
            errors.append(error(max_steps))
    errors.append(error(100))  # and no warning
    assert all(b < a for a, b in itertools.pairwise(errors)), errors
    assert errors[0] > 0.05
    assert errors[-1] < 1e-3
