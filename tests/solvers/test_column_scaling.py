"""Column scaling: fewer steps where columns have different units, the same answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Dense, Function, Kernel
from gplsq.solvers import ColumnScaling
from gplsq.testing import matrix_with_spectrum, tolerance


def uneven(rng, dtype):
    """Well-conditioned but for the lengths of its columns."""
    even = matrix_with_spectrum(rng, 60, 20, np.geomspace(1, 0.5, 20))
    return (even * np.geomspace(1, 1e-3, 20)).astype(dtype), rng.standard_normal(60).astype(dtype)


def test_it_needs_a_fraction_of_the_steps(rng, dtype):
    A, b = uneven(rng, dtype)
    solver = LSMR(rtol=1e-5)
    plain = lstsq(A, b, solver=solver, throw=False)
    scaled = lstsq(A, b, solver=solver, preconditioner=ColumnScaling())
    assert int(scaled.stats.num_steps) <= 25
    assert int(plain.stats.num_steps) >= 3 * int(scaled.stats.num_steps)


@pytest.mark.parametrize("damp", [0.0, 0.01])
def test_answers_and_derivatives_are_those_without(rng, x64, damp):
    A, b = uneven(rng, np.float64)

    def loss(matrix, recipe):
        value = lstsq(matrix, b, damp=damp, solver=LSMR(rtol=1e-13), preconditioner=recipe).value
        return jnp.sum(jnp.sin(value))

    expected = jax.value_and_grad(loss)(jnp.asarray(A), None)
    got = jax.value_and_grad(loss)(jnp.asarray(A), ColumnScaling())
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=1e-7 * np.abs(e).max())


def test_lengths_are_exact_for_a_matrix_and_estimated_otherwise(rng, dtype):
    A, _ = uneven(rng, dtype)
    lengths = np.linalg.norm(A.astype(float), axis=0)
    exact = ColumnScaling().build(Dense(A), None)
    np.testing.assert_allclose(1 / np.asarray(exact.entries), lengths, rtol=tolerance(dtype))
    damped = ColumnScaling().build(Dense(A), jnp.asarray(0.1, dtype))
    np.testing.assert_allclose(
        1 / np.asarray(damped.entries), np.hypot(lengths, 0.1), rtol=tolerance(dtype)
    )
    operator = Function(lambda v: A @ v, np.zeros(20, dtype))
    estimated = ColumnScaling(probes=400, key=jax.random.key(3)).build(operator, None)
    # A standard deviation is sqrt(1 / 800) = 3.5 %; twenty columns stay within four.
    np.testing.assert_allclose(1 / np.asarray(estimated.entries), lengths, rtol=0.15)


def test_a_column_of_zeros_is_left_alone(dtype):
    A = np.array([[2, 0], [0, 0], [1, 0]], dtype)
    value = lstsq(A, np.array([1, 1, 1], dtype), preconditioner=ColumnScaling()).value
    np.testing.assert_allclose(value, [0.6, 0], rtol=tolerance(dtype))


def test_kernels_and_bad_settings_are_refused(rng):
    X = rng.standard_normal((5, 2)).astype(np.float32)
    with pytest.raises(TypeError, match="RandomlyPivotedCholesky for a kernel"):
        lstsq(Kernel(RBF(), X), X[:, 0], damp=0.1, preconditioner=ColumnScaling())
    with pytest.raises(ValueError, match="probes must be at least 1"):
        ColumnScaling(probes=0)
