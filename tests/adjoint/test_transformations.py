"""`lstsq` inside other people's programs: layers, differential equations, JAX's transformations."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gplsq import LSMR, Direct, lstsq
from gplsq.testing import count_compilations, matrix_with_spectrum, tolerance

BOTH = pytest.mark.parametrize("solver", [LSMR(), Direct()], ids=["lsmr", "direct"])


@pytest.fixture
def native():
    """The widest dtype of the run, for tests in which a mixture of dtypes would tell nothing."""
    return np.dtype(np.float64 if jax.config.jax_enable_x64 else np.float32)


def dense(A, b, damp):
    """The closed form."""
    return jnp.linalg.solve(A.T @ A + damp**2 * jnp.eye(A.shape[1], dtype=A.dtype), A.T @ b)


def oracle(fn, *arguments):
    """`fn` in float64 whatever the x64 flag, as NumPy arrays."""

    def double(leaf):
        return np.asarray(leaf, np.float64) if eqx.is_inexact_array_like(leaf) else leaf

    with jax.enable_x64(True):
        arguments = jax.tree.map(jnp.asarray, jax.tree.map(double, arguments))
        return jax.tree.map(np.asarray, fn(*arguments))


def assert_close(ours, expected, dtype, condition=30.0):
    """Leaf by leaf, in the dtype asked for, relative to the largest entry."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert mine.dtype == dtype
        atol = tolerance(dtype, condition) * (1 + np.abs(other).max())
        np.testing.assert_allclose(mine, other, rtol=0, atol=atol)


def problem(rng, dtype, shape=(9, 4), columns=()):
    A = matrix_with_spectrum(rng, *shape, np.geomspace(2, 0.5, min(shape)))
    b = rng.standard_normal((shape[0], *columns))
    return jnp.asarray(A, dtype), jnp.asarray(b, dtype)


def loss_with(solve, solver=None):
    """A scalar function of A, b and damp through `lstsq`, or through the closed form."""

    def loss(A, b, damp):
        x = dense(A, b, damp) if solve == "dense" else solved(A, b, damp, solver)
        return jnp.sum(jnp.sin(x) * jnp.arange(1, x.size + 1, dtype=x.dtype).reshape(x.shape))

    return loss


def solved(A, b, damp, solver=None):
    return lstsq(A, b, damp=damp, solver=solver).value


class RidgeLayer(eqx.Module):
    """Learned features and learned damping under a regression solved in closed form."""

    weight: jax.Array
    log_damp: jax.Array

    def __call__(self, X, y, Z, solve):
        coefficients = solve(jnp.tanh(X @ self.weight), y, jnp.exp(self.log_damp))
        return jnp.tanh(Z @ self.weight) @ coefficients


@BOTH
def test_an_equinox_layer_trains_through_a_ridge_problem_as_through_the_closed_form(
    rng, dtype, solver
):
    X = rng.uniform(-1, 1, (60, 2))
    y = np.sin(3 * X[:, 0] + X[:, 1])
    weight = rng.standard_normal((2, 6))

    def train(X, y, weight, solve):
        layer = RidgeLayer(weight, jnp.zeros((), weight.dtype))
        optimizer = optax.adam(0.05)
        state = optimizer.init(eqx.filter(layer, eqx.is_inexact_array))

        def loss(layer):
            return jnp.mean((layer(X[:40], y[:40], X[40:], solve) - y[40:]) ** 2)

        @eqx.filter_jit
        def step(layer, state):
            gradient = eqx.filter_grad(loss)(layer)
            updates, state = optimizer.update(gradient, state)
            return loss(layer), eqx.apply_updates(layer, updates), state

        losses = []
        for _ in range(15):
            value, layer, state = step(layer, state)
            losses.append(value)
        return jnp.stack(losses), layer

    ours, layer = train(
        *(jnp.asarray(a, dtype) for a in (X, y, weight)), functools.partial(solved, solver=solver)
    )
    expected, other = oracle(functools.partial(train, solve=dense), X, y, weight)
    assert ours[-1] < 0.7 * ours[0]
    assert_close(ours, expected, dtype, 1e3)
    assert_close(layer.log_damp, other.log_damp, dtype, 1e4)


def integrate(state, theta, solve):
    """RK4 of `M(theta, s) s' ~ f(s)`, the derivative found by damped least squares."""

    def velocity(s):
        rows = jnp.stack([s, jnp.roll(s, 1), jnp.sin(s)])
        mass = jnp.concatenate([jnp.diag(1 + theta**2), 0.3 * rows])
        force = jnp.concatenate([-s * theta, jnp.cos(s)])
        return solve(mass, force, 0.5)

    def step(s, _):
        h = 0.1
        k1 = velocity(s)
        k2 = velocity(s + 0.5 * h * k1)
        k3 = velocity(s + 0.5 * h * k2)
        k4 = velocity(s + h * k3)
        return s + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), s

    last, path = jax.lax.scan(step, state, length=12)
    return jnp.sum(last * jnp.arange(1, 4, dtype=last.dtype)) + jnp.sum(path**2)


@BOTH
def test_a_differential_equation_with_a_solve_on_its_right_hand_side(rng, dtype, solver):
    state, theta = (jnp.asarray(v, dtype) for v in rng.uniform(0.5, 1.5, (2, 3)))
    solve = functools.partial(solved, solver=solver)
    ours = jax.jit(jax.value_and_grad(functools.partial(integrate, solve=solve), argnums=(0, 1)))
    theirs = jax.value_and_grad(functools.partial(integrate, solve=dense), argnums=(0, 1))
    assert_close(ours(state, theta), oracle(theirs, state, theta), dtype, 100)


@pytest.mark.parametrize(("damp", "solver"), [(0.0, LSMR()), (0.4, LSMR()), (0.0, Direct())])
def test_gradients_under_checkpoint_are_the_same(rng, native, solver, damp):
    A, b = problem(rng, native)

    def loss(A, b):
        return loss_with("lstsq", solver)(A, b, damp)

    plain = jax.jit(jax.grad(loss, argnums=(0, 1)))(A, b)
    saved = jax.jit(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))(A, b)
    assert_close(saved, jax.tree.map(np.asarray, plain), native, 1)
    expected = oracle(jax.grad(lambda A, b: loss_with("dense")(A, b, damp), argnums=(0, 1)), A, b)
    assert_close(saved, expected, native)


def scanned(solve):
    def total(A, b, damp):
        def body(carry, shift):
            x = solve(A + 0.1 * shift, b + carry, damp)
            return jnp.sum(x), x

        carry, xs = jax.lax.scan(body, jnp.zeros((), A.dtype), jnp.arange(3, dtype=A.dtype))
        return carry + jnp.sum(jnp.sin(xs))

    return total


def mapped(solve):
    def total(A, b, damp):
        shifts = jnp.arange(3, dtype=A.dtype)
        return jnp.sum(jnp.sin(jax.lax.map(lambda s: solve(A + 0.1 * s, b, damp + s), shifts)))

    return total


def branched(solve):
    def total(A, b, damp):
        def branch(flag):
            return jax.lax.cond(flag, lambda: solve(A, b, damp), lambda: b[: A.shape[1]])

        return jnp.sum(jnp.sin(branch(b[0] < jnp.inf))) + jnp.sum(branch(b[0] > jnp.inf) ** 3)

    return total


def looped(solve):
    def total(A, b, damp):
        def body(i, x):
            return solve(A, b + 0.1 * jnp.sum(x), damp)

        return jnp.sum(jax.lax.fori_loop(0, 3, body, jnp.zeros(A.shape[1], A.dtype)))

    return total


@pytest.mark.parametrize(
    ("program", "solver"),
    [
        (scanned, LSMR()),
        (mapped, LSMR()),
        (branched, LSMR()),
        (scanned, Direct()),
        (looped, Direct()),
    ],
)
def test_solves_and_gradients_inside_control_flow(rng, dtype, solver, program):
    A, b = problem(rng, dtype)
    damp = jnp.asarray(0.4, dtype)
    solve = functools.partial(solved, solver=solver)
    ours = jax.jit(jax.value_and_grad(program(solve), argnums=(0, 1, 2)))(A, b, damp)
    theirs = oracle(jax.value_and_grad(program(dense), argnums=(0, 1, 2)), A, b, damp)
    assert_close(ours, theirs, dtype, 100)


@pytest.mark.parametrize(
    ("axes", "solver"),
    [
        ((0, 0, 0), LSMR()),
        ((None, 0, None), LSMR()),
        ((0, None, None), Direct()),
        ((None, None, 0), Direct()),
    ],
)
def test_a_batch_of_gradients_is_the_gradients_one_by_one(rng, native, solver, axes):
    matrices, sides = zip(*(problem(rng, native) for _ in range(3)), strict=True)
    stacks = jnp.stack(matrices), jnp.stack(sides), jnp.asarray([0.3, 0.5, 0.9], native)
    arguments = [stack if axis == 0 else stack[0] for stack, axis in zip(stacks, axes, strict=True)]
    gradient = jax.grad(loss_with("lstsq", solver), argnums=(0, 1, 2))
    ours = jax.jit(jax.vmap(gradient, in_axes=axes))(*arguments)
    theirs = jax.vmap(jax.grad(loss_with("dense"), argnums=(0, 1, 2)), in_axes=axes)
    assert_close(ours, oracle(theirs, *arguments), native)


@BOTH
def test_a_training_step_may_donate_its_arguments(rng, native, solver):
    A, b = problem(rng, native)
    expected = oracle(
        lambda A, b: (dense(A, b, 0.4), A - 0.1 * jax.grad(loss_with("dense"))(A, b, 0.4)), A, b
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(A, b):
        gradient = jax.grad(loss_with("lstsq", solver))(A, b, 0.4)
        return solved(A, b, 0.4, solver), A - 0.1 * gradient

    given = jnp.copy(A)
    ours = step(given, b)
    assert given.is_deleted()
    assert_close(ours, expected, native)
    other = b + 1
    with count_compilations() as compiled:
        step(ours[1], other)
    assert compiled == []


@pytest.mark.parametrize(
    ("shape", "solver"), [((9, 4), Direct()), ((4, 9), LSMR())], ids=["tall", "wide"]
)
def test_linearize_and_vjp_are_the_forward_derivative_and_its_transpose(rng, native, solver, shape):
    A, b = problem(rng, native, shape, (2,))
    damp = jnp.asarray(0.4, native)
    tangents = tuple(jnp.asarray(rng.standard_normal(part.shape), native) for part in (A, b, damp))
    cotangent = jnp.asarray(rng.standard_normal((shape[1], 2)), native)
    solve = functools.partial(solved, solver=solver)

    def both(fn, primals, tangents, cotangent):
        value, push = jax.linearize(fn, *primals)
        other, pull = jax.vjp(fn, *primals)
        return value, other, push(*tangents), pull(cotangent)

    ours = both(solve, (A, b, damp), tangents, cotangent)
    theirs = oracle(functools.partial(both, dense), (A, b, damp), tangents, cotangent)
    assert_close(ours, theirs, native)
    pushed, pulled = ours[2:]
    forward = jnp.vdot(cotangent, pushed)
    backward = sum(jnp.vdot(p, t) for p, t in zip(pulled, tangents, strict=True))
    np.testing.assert_allclose(forward, backward, rtol=tolerance(native, 100))


def test_a_linearized_solve_maps_over_tangents_to_the_dense_inverse(rng, native):
    A, b = problem(rng, native)
    _, push = jax.linearize(lambda b: solved(A, b, 0.4), b)
    columns = jax.vmap(push, out_axes=1)(jnp.eye(9, dtype=native))
    assert_close(columns, oracle(lambda A: dense(A, jnp.eye(9), 0.4), A), native)
