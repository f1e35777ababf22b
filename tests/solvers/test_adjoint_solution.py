"""The adjoint solve by hand: its value, its status, and its use as a start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, Direct, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Function, Kernel
from gplsq.solvers import adjoint_solution
from gplsq.testing import matrix_with_spectrum, tolerance


@pytest.mark.parametrize("solver", [LSMR(), Direct()])
@pytest.mark.parametrize("damp", [0.0, 0.2, np.array([0.1, 0.0, 0.3, 0.2, 1.0])])
@pytest.mark.parametrize("shape", [(9, 5), (4, 5)])
def test_it_is_the_pseudo_inverse_of_the_normal_matrix(rng, dtype, shape, damp, solver):
    A = matrix_with_spectrum(rng, *shape, np.geomspace(1, 0.3, min(shape)))
    g = rng.standard_normal((5, 2))
    damp = np.asarray(damp, dtype) if np.ndim(damp) else damp
    square = A.T @ A + np.diag(np.broadcast_to(np.asarray(damp, float) ** 2, 5))
    expected = np.linalg.pinv(square, rcond=1e-10) @ g
    solution = adjoint_solution(A.astype(dtype), g.astype(dtype), damp=damp, solver=solver)
    assert solution.value.dtype == dtype
    assert solution.status.shape == (2,)
    assert bool(jnp.all(solution.ok))
    np.testing.assert_allclose(solution.value, expected, atol=tolerance(dtype, 3e4))


def test_of_a_kernel_it_is_the_solve_itself(rng, dtype):
    X = rng.standard_normal((20, 2)).astype(dtype)
    g = rng.standard_normal(20).astype(dtype)
    got = adjoint_solution(Kernel(RBF(), X), g, damp=0.5)
    np.testing.assert_allclose(
        got.value, lstsq(Kernel(RBF(), X), g, damp=0.5).value, atol=tolerance(dtype, 100)
    )


def test_of_a_function_it_keeps_the_structure_of_the_solution(dtype):
    like = {"a": np.zeros(2, dtype), "b": np.zeros((), dtype)}
    operator = Function(lambda t: jnp.append(3 * t["a"], 2 * t["b"]), like)
    g = {"a": np.array([9.0, 18.0], dtype), "b": np.array(4.0, dtype)}
    w = adjoint_solution(operator, g).value
    np.testing.assert_allclose(w["a"], [1, 2], rtol=1e-5)
    np.testing.assert_allclose(w["b"], 1, rtol=1e-5)


def test_a_good_start_saves_steps_and_a_bad_one_is_left_out(rng, x64):
    A = matrix_with_spectrum(rng, 60, 40, np.geomspace(1, 1e-2, 40))
    g = rng.standard_normal(40)
    cold = adjoint_solution(A, g, damp=0.02)
    near = cold.value * (1 + 1e-6 * rng.standard_normal(40))
    warm = adjoint_solution(A, g, damp=0.02, x0=near)
    assert int(warm.stats.num_steps) < int(cold.stats.num_steps)
    bad = adjoint_solution(A, g, damp=0.02, x0=1e6 * rng.standard_normal(40))
    assert int(bad.stats.num_steps) == int(cold.stats.num_steps)
    for other in (warm, bad):
        np.testing.assert_allclose(other.value, cold.value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("damp", [0.0, 0.1])
def test_a_guess_of_the_adjoint_changes_no_gradient(rng, x64, damp):
    A = matrix_with_spectrum(rng, 12, 6, np.geomspace(1, 0.1, 6))
    b, g = rng.standard_normal(12), rng.standard_normal(6)
    w = adjoint_solution(A, g, damp=damp).value

    def gradient(guess):
        return jax.grad(lambda m: jnp.vdot(g, lstsq(m, b, damp=damp, adjoint_x0=guess).value))(
            jnp.asarray(A)
        )

    plain = gradient(None)
    for guess in (w, rng.standard_normal(6)):
        np.testing.assert_allclose(gradient(guess), plain, rtol=1e-7, atol=1e-8)


def test_its_failure_can_be_read_off(rng):
    A = matrix_with_spectrum(rng, 40, 30, np.geomspace(1, 1e-4, 30), np.float32)
    solution = adjoint_solution(A, np.ones(30, np.float32), solver=LSMR(max_steps=3))
    assert not bool(solution.ok)
    assert "max_steps" in solution.report()


@pytest.mark.parametrize("g", [np.ones(4), np.ones((5, 1, 1)), "text", None])
def test_a_cotangent_of_the_wrong_shape_is_refused(g):
    with pytest.raises(ValueError, match="g must be shaped like the solution"):
        adjoint_solution(np.eye(6, 5, dtype=np.float32), g)
