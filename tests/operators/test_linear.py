"""Linear functions in many clothes are accepted without being run; affine ones are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq.operators import Function
from gplsq.operators._linear import maps_zero_to_zero

M = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
LIKE = np.zeros(4, np.float32)


def by_scan(v):
    def body(carry, row):
        total = carry + jnp.vdot(row, v)
        return total, 2 * total

    return jax.lax.scan(body, jnp.zeros((), v.dtype), jnp.asarray(M))[1]


def by_fori_loop(v):
    return jax.lax.fori_loop(0, 3, lambda i, w: jnp.asarray(M) @ w, v)


def by_cond(v):
    return jax.lax.cond(jnp.sum(jnp.asarray(M)) > 0, lambda w: w, lambda w: 3 * w, v)


def of_a_network(v):
    return jax.jvp(lambda w: jnp.tanh(jnp.asarray(M) @ w), (jnp.ones(4, v.dtype),), (v,))[1]


LINEAR = {
    "product": lambda v: jnp.asarray(M) @ v,
    "jitted": jax.jit(lambda v: jnp.asarray(M) @ v),
    "checkpointed": jax.checkpoint(lambda v: jnp.asarray(M) @ v),
    "sums and shifts": lambda v: jnp.concatenate([jnp.roll(v, 1) - v, jnp.cumsum(v)[1:], v[::-1]]),
    "padded": lambda v: jnp.pad(v.reshape(2, 2), 1),
    "scattered": lambda v: jnp.zeros(9, v.dtype).at[jnp.array([1, 5, 5, 7])].add(v),
    "written": lambda v: jnp.zeros(9, v.dtype).at[2:6].set(v),
    "masked": lambda v: jnp.where(jnp.array([True, False, True, False]), v, 0),
    "convolved": lambda v: jnp.convolve(v, jnp.asarray(M[0]), mode="same"),
    "scanned": by_scan,
    "looped": by_fori_loop,
    "chosen": by_cond,
    "tangent of a network": of_a_network,
    "mapped": jax.vmap(lambda x: 2 * x),
    "divided": lambda v: v / jnp.asarray(M[0]),
    "solved": lambda v: jnp.fft.irfft(jnp.fft.rfft(v), 4),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_the_zeros_of_a_linear_function_are_proved(kind):
    closed = jax.make_jaxpr(LINEAR[kind])(LIKE)
    assert maps_zero_to_zero(closed.jaxpr)
    operator = Function(LINEAR[kind], LIKE)
    expected = jax.jacobian(LINEAR[kind])(LIKE).reshape(operator.shape)
    np.testing.assert_allclose(operator.as_matrix(), expected, rtol=1e-5, atol=1e-6)


AFFINE = {
    "constant": lambda v: v + 1,
    "array": lambda v: jnp.asarray(M) @ v + jnp.asarray(M[0]),
    "inside a loop": lambda v: jax.lax.fori_loop(0, 3, lambda i, w: w + 0.5, v),
    "inside a scan": lambda v: jax.lax.scan(lambda c, x: (c, x + 1), 0.0, v)[1],
    "padded with ones": lambda v: jnp.pad(v, 1, constant_values=1),
    "masked with ones": lambda v: jnp.where(jnp.array([True, False, True, False]), v, 1),
    "of the branch that is taken": lambda v: jax.lax.cond(
        jnp.sum(jnp.asarray(M) ** 2) < 0, lambda w: w, lambda w: w + 1, v
    ),
    "jitted": jax.jit(lambda v: v - 2),
    "gathered with ones": lambda v: v.at[jnp.arange(6)].get(mode="fill", fill_value=1.0),
    "behind a barrier": lambda v: sum(jax.lax.optimization_barrier((v, jnp.ones(4, v.dtype)))),
}


@pytest.mark.parametrize("kind", AFFINE)
def test_no_affine_function_is_proved_linear_and_all_are_refused(kind):
    assert not maps_zero_to_zero(jax.make_jaxpr(AFFINE[kind])(LIKE).jaxpr)
    with pytest.raises(TypeError, match="must be linear; got one that does not map zero"):
        Function(AFFINE[kind], LIKE)


def test_an_affine_branch_that_is_not_taken_is_no_matter():
    def fn(v):
        return jax.lax.cond(jnp.sum(jnp.asarray(M) ** 2) < 0, lambda w: w + 1, lambda w: w, v)

    assert not maps_zero_to_zero(jax.make_jaxpr(fn)(LIKE).jaxpr)
    np.testing.assert_array_equal(Function(fn, LIKE).as_matrix(), np.eye(4))


def test_adding_an_array_of_zeros_is_linear():
    zeros = jnp.zeros(4, jnp.float32)
    operator = Function(lambda v: v + zeros, LIKE)
    np.testing.assert_array_equal(operator.as_matrix(), np.eye(4))


def test_under_jit_a_function_of_traced_arrays_is_taken_as_it_is():
    @jax.jit
    def apply(offset, v):
        return Function(lambda w: w + offset, LIKE).mv(v)

    np.testing.assert_array_equal(apply(jnp.zeros(4, jnp.float32), M[0]), M[0])
