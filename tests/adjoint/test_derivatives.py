"""The derivative of `lstsq`: against central differences and dense autodiff, in float64.

Of matrices by the dense solver; test_table.py has every case by LSMR.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, Direct, lstsq
from gplsq.kernels import RBF, Matern32, Scaled
from gplsq.operators import Kernel
from gplsq.solvers import DerivativeWarning, RandomlyPivotedCholesky
from gplsq.testing import central_difference, matrix_with_spectrum, peak_memory_bytes

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = {"tall": (9, 5), "square": (6, 6), "wide": (5, 9)}


def close(a, b, rtol):
    a, b = np.asarray(a), np.asarray(b)
    assert np.abs(a - b).max() <= rtol * max(np.abs(b).max(), 1e-3)


def weigh(value):
    """A scalar that treats all entries differently."""
    flat = jnp.ravel(value)
    return jnp.sum(jnp.sin(flat) * (1 + jnp.arange(flat.size)))


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_damped(rng, shape, columns):
    m, n = SHAPES[shape]
    A = matrix_with_spectrum(rng, m, n, np.geomspace(1, 0.1, min(m, n)))
    b = rng.standard_normal(m if columns is None else (m, columns))

    def dense(A, b, damp):
        return weigh(jnp.linalg.solve(A.T @ A + damp**2 * jnp.eye(n), A.T @ b))

    def ours(A, b, damp):
        return weigh(lstsq(A, b, damp=damp, solver=Direct()).value)

    arguments = (jnp.asarray(A), jnp.asarray(b), jnp.asarray(0.3))
    reverse = jax.grad(ours, (0, 1, 2))(*arguments)
    expected = jax.grad(dense, (0, 1, 2))(*arguments)
    for got, want in zip(reverse, expected, strict=True):
        close(got, want, 1e-9)
    for i in range(3):
        numeric = central_difference(
            lambda value, i=i: dense(*arguments[:i], value, *arguments[i + 1 :]), arguments[i]
        )
        close(reverse[i], numeric, 1e-6)
    tangents = tuple(jnp.asarray(rng.standard_normal(np.shape(a))) for a in arguments)
    forward = jax.jvp(ours, arguments, tangents)[1]
    close(forward, jax.jvp(dense, arguments, tangents)[1], 1e-9)


@pytest.mark.parametrize("rank", ["full", 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_undamped_at_any_rank(rng, shape, rank):
    """Perturbations that keep the rank: A = B C."""
    m, n = SHAPES[shape]
    r = min(m, n) if rank == "full" else rank
    B, C, b = rng.standard_normal((m, r)), rng.standard_normal((r, n)), rng.standard_normal(m)

    def dense(B, C, b):
        return weigh(np.linalg.pinv(np.asarray(B @ C), rcond=1e-10) @ b)

    def ours(B, C, b):
        return weigh(lstsq(B @ C, b, solver=Direct()).value)

    arguments = (B, C, b)
    reverse = jax.grad(ours, (0, 1, 2))(*map(jnp.asarray, arguments))
    for i in range(3):
        numeric = central_difference(
            lambda value, i=i: dense(*arguments[:i], value, *arguments[i + 1 :]),
            arguments[i],
            step=1e-6,
        )
        close(reverse[i], numeric, 1e-6)
    tangents = tuple(rng.standard_normal(np.shape(a)) for a in arguments)
    points, directions = (tuple(map(jnp.asarray, t)) for t in (arguments, tangents))
    forward = jax.jvp(ours, points, directions)[1]
    inner = sum(np.sum(np.asarray(g) * t) for g, t in zip(reverse, tangents, strict=True))
    # These random factors have condition numbers up to a few hundred,
    # and the second term of the derivative carries their square.
    close(forward, inner, 1e-7)


def gp_problem(rng, n=25):
    X = rng.standard_normal((n, 3))
    return X, np.sin(X[:, 0]) + 0.1 * rng.standard_normal(n)


GP_SOLVERS = {
    "lsmr": (LSMR(rtol=1e-12), None, "tiled"),
    "lsmr, kept": (LSMR(rtol=1e-12), None, "dense"),
    "preconditioned": (LSMR(rtol=1e-12), RandomlyPivotedCholesky(rank=10, block=5), "dense"),
    "direct": (Direct(), None, "tiled"),
}


@pytest.mark.parametrize("how", GP_SOLVERS)
def test_gp_with_respect_to_everything(rng, how):
    """Lengthscales, kernel variance, noise, y and X: relative error 1e-6 to central differences."""
    solver, recipe, form = GP_SOLVERS[how]
    X, y = gp_problem(rng)
    Z = rng.standard_normal((4, 3))

    def dense(lengthscale, variance, noise, y, X):
        kernel = Scaled(variance, Matern32(lengthscale))
        K = kernel.cross(X, X) + noise**2 * jnp.eye(len(y))
        return weigh(kernel.cross(Z, X) @ jnp.linalg.solve(K, y))

    def ours(lengthscale, variance, noise, y, X):
        kernel = Scaled(variance, Matern32(lengthscale))
        options = {"solver": solver, "preconditioner": recipe}
        c = lstsq(Kernel(kernel, X, form), y, damp=noise, **options).value
        return weigh(kernel.cross(Z, X) @ c)

    arguments = tuple(map(jnp.asarray, ([0.7, 1.3, 2.0], 1.7, 0.3, y, X)))
    reverse = jax.grad(ours, (0, 1, 2, 3, 4))(*arguments)
    expected = jax.grad(dense, (0, 1, 2, 3, 4))(*arguments)
    for i, (got, want) in enumerate(zip(reverse, expected, strict=True)):
        close(got, want, 1e-8)
        numeric = central_difference(
            lambda value, i=i: dense(*arguments[:i], value, *arguments[i + 1 :]), arguments[i]
        )
        close(got, numeric, 1e-6)
    tangents = tuple(jnp.asarray(rng.standard_normal(np.shape(a))) for a in arguments)
    close(jax.jvp(ours, arguments, tangents)[1], jax.jvp(dense, arguments, tangents)[1], 1e-8)


def test_gp_second_order(rng):
    X, y = gp_problem(rng, 15)

    def dense(p):
        K = RBF(p[0]).cross(X, X) + p[1] ** 2 * jnp.eye(15)
        return weigh(jnp.linalg.solve(K, y))

    def ours(p):
        return weigh(lstsq(Kernel(RBF(p[0]), X), y, damp=p[1], solver=LSMR(rtol=1e-12)).value)

    point = jnp.array([1.1, 0.5])
    expected = jax.hessian(dense)(point)
    close(jax.jacfwd(jax.grad(ours))(point), expected, 1e-7)
    close(jax.jacfwd(jax.jacfwd(ours))(point), expected, 1e-7)


def test_damped_second_order(rng):
    A, b = rng.standard_normal((7, 4)), rng.standard_normal(7)

    def dense(p):
        M = A * p[0] + p[1]
        return weigh(jnp.linalg.solve(M.T @ M + p[2] ** 2 * jnp.eye(4), M.T @ b))

    def ours(p):
        return weigh(lstsq(A * p[0] + p[1], b, damp=p[2], solver=LSMR(rtol=1e-13)).value)

    point = jnp.array([1.1, 0.2, 0.5])
    close(jax.jacfwd(jax.grad(ours))(point), jax.hessian(dense)(point), 1e-7)


def test_under_jit_and_vmap(rng):
    A = rng.standard_normal((3, 7, 4))
    b = rng.standard_normal(7)

    def loss(matrix):
        return weigh(lstsq(matrix, b, damp=0.4).value)

    one_by_one = np.stack([jax.grad(loss)(jnp.asarray(a)) for a in A])
    close(jax.vmap(jax.grad(loss))(jnp.asarray(A)), one_by_one, 1e-8)
    close(jax.jit(jax.grad(loss))(jnp.asarray(A[0])), one_by_one[0], 1e-8)


def test_the_hand_written_rule_ran_and_not_autodiff_through_the_loop(rng):
    """A while loop has no reverse mode: a gradient at all proves the rule."""
    A, b = jnp.asarray(rng.standard_normal((6, 3))), jnp.ones(6)
    text = str(jax.make_jaxpr(jax.grad(lambda m: weigh(lstsq(m, b, damp=0.1).value)))(A))
    assert "while" in text


def test_memory_of_a_gradient_does_not_grow_with_iterations(rng):
    X, y = rng.standard_normal((200, 3)), rng.standard_normal(200)

    def loss(scale, steps):
        operator = Kernel(RBF(scale), X, "tiled")
        solver = LSMR(rtol=1e-12, max_steps=steps)
        return weigh(lstsq(operator, y, damp=0.1, solver=solver, throw=False).value)

    few = peak_memory_bytes(jax.grad(lambda s: loss(s, 10)), jnp.asarray(1.0))
    many = peak_memory_bytes(jax.grad(lambda s: loss(s, 10_000)), jnp.asarray(1.0))
    assert many == few


def test_a_failed_adjoint_is_reported_and_never_silent(rng):
    A = jnp.asarray(matrix_with_spectrum(rng, 40, 30, np.geomspace(1, 1e-4, 30)))
    easy = A[:, 0]  # x = e_1 needs few steps less than a random cotangent does
    solver = LSMR(rtol=1e-10, max_steps=12)
    weight = jnp.asarray(rng.standard_normal(30))

    def loss(b, throw):
        solution = lstsq(A, b, damp=1e-4, solver=solver, throw=throw)
        return jnp.vdot(weight, solution.value)

    def failing_gradient():
        jax.block_until_ready(jax.grad(loss)(easy, False))
        jax.effects_barrier()

    with pytest.warns(DerivativeWarning, match="its own solve missed the tolerance"):
        failing_gradient()


@pytest.mark.parametrize("damp", [0.0, 1e-4])
@pytest.mark.parametrize("argument", ["A", "b"])
def test_a_failed_adjoint_raises_whatever_is_differentiated(rng, argument, damp):
    A = jnp.diag(jnp.logspace(0, -3, 30))
    easy = jnp.zeros(30).at[0].set(1.0)
    solver = LSMR(max_steps=3)

    def loss(A, b):
        return lstsq(A, b, damp=damp, solver=solver).value.sum()

    gradient = jax.grad(loss, 0 if argument == "A" else 1)
    for fn in (gradient, jax.jit(gradient)):
        with pytest.raises(Exception, match="a derivative of lstsq is not accurate"):
            jax.block_until_ready(fn(A, easy))
