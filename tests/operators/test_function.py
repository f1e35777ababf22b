"""Linear functions as operators: one compilation for a program, and clear refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import lstsq
from gplsq.kernels import RBF, Matern12, Matern32, Matern52
from gplsq.operators import Function, Inducing, _program
from gplsq.testing import count_compilations, tolerance


def filtered(kernel, scale):
    """A fresh convolution with a fresh closure."""
    return Function(
        lambda t: {"out": jnp.convolve(scale * t["x"], kernel), "same": t["x"]},
        {"x": jnp.zeros(8, kernel.dtype)},
    )


def right_hand_side(dtype):
    return {"out": jnp.ones(10, dtype), "same": jnp.zeros(8, dtype)}


def test_a_fresh_function_of_the_same_operations_compiles_nothing(rng, dtype):
    def solve(kernel, scale):
        return lstsq(filtered(kernel, scale), right_hand_side(dtype), damp=0.1).value["x"]

    kernel = jnp.asarray(rng.standard_normal(3), dtype)
    scale = jnp.asarray(2.0, dtype)
    jax.block_until_ready(solve(kernel, scale))
    jax.block_until_ready(jax.grad(lambda k, s: solve(k, s).sum())(kernel, scale))
    others = jnp.asarray(rng.standard_normal(3), dtype), jnp.asarray(3.0, dtype)
    jax.block_until_ready(others)
    with count_compilations() as names:
        value = jax.block_until_ready(solve(*others))
        jax.block_until_ready(jax.grad(lambda k, s: solve(k, s).sum())(*others))
    assert names == []
    dense = np.asarray(filtered(*others).as_matrix(), float)
    b = np.concatenate([np.ones(10), np.zeros(8)])
    expected = np.linalg.solve(dense.T @ dense + 0.01 * np.eye(8), dense.T @ b)
    np.testing.assert_allclose(value, expected, atol=tolerance(dtype, 1e4))


def test_programs_that_differ_in_a_number_are_told_apart():
    def make(scale):
        return Function(lambda v: scale * v, jnp.zeros(2))

    assert make(2.0).fn.jaxpr is make(2.0).fn.jaxpr
    assert make(2.0).fn.jaxpr is not make(3.0).fn.jaxpr
    np.testing.assert_array_equal(make(3.0).mv(jnp.ones(2)), [3, 3])


def test_programs_that_differ_in_numbers_alone_are_not_kept_without_end():
    for i in range(3 * _program._ALIKE):
        Function(lambda v, i=i: float(i) * jnp.cumsum(v), jnp.zeros(3))
    assert max(map(len, _program._seen.values())) <= _program._ALIKE


@pytest.mark.parametrize(
    "pair",
    [
        (lambda v: v[:2], lambda v: v[1:3]),  # the same operations with other parameters
        (lambda v: v + v[::-1], lambda v: v[::-1] + v[::-1]),  # other variables
        (lambda v: (v, 2 * v), lambda v: (2 * v, v)),  # another order of results
        (
            lambda v: jax.lax.map(lambda a: 2 * a, v),  # another body inside
            lambda v: jax.lax.map(lambda a: 3 * a, v),
        ),
    ],
)
def test_programs_that_look_alike_are_told_apart(pair):
    first, second = (Function(fn, jnp.zeros(4)) for fn in pair)
    assert first.fn.jaxpr is not second.fn.jaxpr
    again = Function(pair[0], jnp.zeros(4))
    assert again.fn.jaxpr is first.fn.jaxpr


def ruled(rule_scale):
    """A fresh function with a fresh rule, which holds the function itself."""

    @jax.custom_jvp
    def fn(t):
        return jnp.exp(t)

    fn.defjvp(lambda primals, tangents: (fn(*primals), rule_scale * fn(*primals) * tangents[0]))
    return lambda v: fn(jnp.zeros(4)) * v


def test_functions_with_a_derivative_of_their_own_are_told_apart_by_it():
    made = [Function(ruled(scale), jnp.zeros(4)).fn.jaxpr for scale in (1.0, 1.0, 2.0)]
    assert made[0] is made[1]
    assert made[0] is not made[2]


@pytest.mark.parametrize("kernel", [RBF, Matern12, Matern32, Matern52])
def test_a_fresh_operator_of_a_kernel_compiles_nothing(rng, kernel):
    X = rng.standard_normal((40, 2)).astype(np.float32)

    def solve(lengthscale):
        return lstsq(Inducing(kernel(lengthscale), X, X[:5]), X[:, 0], damp=0.1).value

    jax.block_until_ready(solve(0.7))
    with count_compilations() as names:
        jax.block_until_ready(solve(0.9))
    assert names == []


def test_a_plain_function_is_accepted_with_an_example_of_its_argument(rng, dtype):
    A = rng.standard_normal((7, 3)).astype(dtype)
    b = rng.standard_normal(7).astype(dtype)
    expected = np.linalg.lstsq(A.astype(float), b.astype(float), rcond=None)[0]
    for options in ({"like": np.zeros(3, dtype)}, {"x0": np.zeros(3, dtype)}):
        value = lstsq(lambda v: A @ v, b, **options).value
        np.testing.assert_allclose(value, expected, atol=tolerance(dtype, 1e3))
    with pytest.raises(TypeError, match="pass `like`"):
        lstsq(lambda v: A @ v, b)


def test_a_function_that_is_not_linear_is_refused():
    with pytest.raises(TypeError, match="fn must be linear"):
        Function(lambda v: v**2, jnp.zeros(3))


def test_operators_of_lineax_are_accepted(rng, dtype):
    lineax = pytest.importorskip("lineax")
    A = jnp.asarray(rng.standard_normal((7, 3)), dtype)
    b = jnp.asarray(rng.standard_normal(7), dtype)
    expected = lstsq(A, b).value
    struct = jax.ShapeDtypeStruct((3,), dtype)
    operators = (lineax.MatrixLinearOperator(A), lineax.FunctionLinearOperator(A.dot, struct))
    for operator in operators:
        value = lstsq(operator, b).value
        np.testing.assert_allclose(value, expected, atol=tolerance(dtype, 1e3))
