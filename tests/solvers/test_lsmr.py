"""LSMR against the dense solver: values, statuses, columns, dtypes, scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, Direct, lstsq
from gplsq.kernels import Matern32
from gplsq.operators import Dense, Kernel
from gplsq.solvers import STATUS
from gplsq.testing import count_compilations, matrix_with_spectrum, tolerance

SHAPES = [(30, 12), (12, 12), (12, 30)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("damp", [0.0, 0.3])
@pytest.mark.parametrize("condition", [1e1, 1e3])
def test_agrees_with_the_pseudo_inverse(rng, dtype, shape, damp, condition):
    A = matrix_with_spectrum(rng, *shape, np.geomspace(1, 1 / condition, min(shape)))
    b = rng.standard_normal((shape[0], 3))
    square = A.T @ A + damp**2 * np.eye(shape[1])
    expected = np.linalg.solve(square, A.T @ b) if damp else np.linalg.pinv(A) @ b
    solution = lstsq(A.astype(dtype), b.astype(dtype), damp=damp)
    assert solution.value.dtype == dtype
    # The solver is asked for its default tolerance, and the least-squares solution moves with
    # the square of the condition number.
    effective = min(condition, 1 / damp if damp else np.inf) ** 2
    scale = np.linalg.norm(expected)
    error = np.linalg.norm(np.asarray(solution.value) - expected) / scale
    assert error < 10 * float(solution.stats.tolerance[0]) * effective
    assert bool(jnp.all(solution.ok))


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_deficient_systems_get_the_minimum_norm_solution(rng, x64, shape):
    A = matrix_with_spectrum(rng, *shape, np.geomspace(1, 0.1, 5))
    b = rng.standard_normal(shape[0])
    expected = np.linalg.pinv(A, rcond=1e-10) @ b
    for solver in (LSMR(), Direct()):
        value = np.asarray(lstsq(A, b, solver=solver).value)
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-9 * np.linalg.norm(expected))


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_scaling_the_right_hand_side_scales_the_solution(rng, dtype, scale):
    A = matrix_with_spectrum(rng, 20, 10, np.geomspace(1, 0.1, 10), dtype)
    b = rng.standard_normal(20).astype(dtype)
    unit = np.asarray(lstsq(A, b).value)
    scaled = lstsq(A, (b * dtype.type(scale)))
    assert bool(scaled.ok)
    allowed = 100 * float(scaled.stats.tolerance) * np.abs(unit).max()
    np.testing.assert_allclose(np.asarray(scaled.value) / scale, unit, rtol=0, atol=allowed)


def test_a_column_with_nan_does_not_disturb_or_slow_the_others(rng, dtype):
    A = matrix_with_spectrum(rng, 30, 15, np.geomspace(1, 0.1, 15), dtype)
    b = rng.standard_normal((30, 3)).astype(dtype)
    clean = lstsq(A, b)
    b[4, 1] = np.nan
    dirty = lstsq(A, b, throw=False)
    np.testing.assert_array_equal(np.asarray(dirty.ok), [True, False, True])
    assert int(dirty.status[1]) == STATUS.NON_FINITE
    np.testing.assert_allclose(
        np.asarray(dirty.value)[:, [0, 2]],
        np.asarray(clean.value)[:, [0, 2]],
        rtol=tolerance(dtype, 100),
        atol=tolerance(dtype, 100),
    )
    assert int(dirty.stats.num_steps[1]) == 0
    assert int(dirty.stats.num_steps.max()) <= int(clean.stats.num_steps.max()) + 1


def test_infinity_in_the_operator_is_reported(rng, dtype):
    A = rng.standard_normal((6, 4)).astype(dtype)
    A[2, 1] = np.inf
    solution = lstsq(A, np.ones(6, dtype), throw=False)
    assert int(solution.status) == STATUS.NON_FINITE
    assert "infinity" in solution.report()


def test_columns_stop_at_their_own_step_and_stay_frozen(rng, dtype):
    A = matrix_with_spectrum(rng, 40, 20, np.geomspace(1, 0.01, 20), dtype)
    left, _, _ = np.linalg.svd(A.astype(float), full_matrices=False)
    easy, hard = left[:, 0], rng.standard_normal(40)
    together = lstsq(A, np.stack([easy, hard], 1).astype(dtype))
    steps = np.asarray(together.stats.num_steps)
    assert steps[0] <= 3 < steps[1]
    alone = lstsq(A, easy.astype(dtype))
    np.testing.assert_allclose(
        np.asarray(together.value)[:, 0], np.asarray(alone.value), atol=tolerance(dtype, 10)
    )


def test_zero_right_hand_side_is_solved_by_zero_without_nan(dtype):
    solution = lstsq(np.eye(4, 3, dtype=dtype), np.zeros((4, 2), dtype), damp=0.1)
    np.testing.assert_array_equal(np.asarray(solution.value), 0)
    assert bool(jnp.all(solution.ok))


def test_right_hand_side_orthogonal_to_the_range_gives_zero(dtype):
    A = np.eye(4, 2, dtype=dtype)
    solution = lstsq(A, np.array([0, 0, 1, 2], dtype))
    np.testing.assert_array_equal(np.asarray(solution.value), 0)
    assert bool(solution.ok)


def test_too_few_steps_is_reported_as_such_with_a_remedy(rng, dtype):
    A = matrix_with_spectrum(rng, 40, 30, np.geomspace(1, 1e-3, 30), dtype)
    b = rng.standard_normal(40).astype(dtype)
    solution = lstsq(A, b, solver=LSMR(max_steps=3), throw=False)
    assert int(solution.status) == STATUS.MAX_STEPS
    assert not bool(solution.ok)
    assert "max_steps" in solution.report()


def test_a_tolerance_below_the_dtype_ends_as_stagnated_not_as_converged(rng):
    A = matrix_with_spectrum(rng, 60, 40, np.geomspace(1, 1e-4, 40), np.float32)
    b = rng.standard_normal(60).astype(np.float32)
    solution = lstsq(A, b, solver=LSMR(rtol=1e-14, max_steps=100_000), throw=False)
    assert int(solution.stats.num_steps) < 10_000
    assert int(solution.status) in (STATUS.STAGNATED, STATUS.MAX_STEPS)
    kernel_operator = Kernel(Matern32(), rng.standard_normal((80, 2)).astype(np.float32))
    solution = lstsq(
        kernel_operator,
        rng.standard_normal(80).astype(np.float32),
        damp=0.01,
        solver=LSMR(rtol=1e-14, max_steps=100_000),
        throw=False,
    )
    assert int(solution.status) == STATUS.STAGNATED
    assert int(solution.stats.num_steps) < 10_000


@pytest.mark.parametrize("condition", [1e0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("consistent", [True, False])
def test_converged_never_comes_with_a_backward_error_above_the_tolerance(
    rng, dtype, condition, consistent
):
    A = matrix_with_spectrum(rng, 40, 25, np.geomspace(1, 1 / condition, 25), dtype)
    x = rng.standard_normal((25, 4))
    b = A.astype(float) @ x + (0 if consistent else rng.standard_normal((40, 4)))
    solution = lstsq(A, b.astype(dtype), throw=False)
    wide = A.astype(float)
    value = np.asarray(solution.value, float)
    r = b.astype(dtype).astype(float) - wide @ value
    size = np.linalg.norm(value, axis=0) + np.linalg.norm(b, axis=0)  # |A| = 1
    normal = np.linalg.norm(wide.T @ r, axis=0)
    rtol = float(solution.stats.tolerance[0])
    residual = np.linalg.norm(r, axis=0)
    eps = np.finfo(dtype).eps
    converged = np.asarray(solution.ok)
    met = (residual <= 1.1 * rtol * size) | (normal <= 1.1 * rtol * residual + 20 * eps * size)
    assert np.all(met[converged])
    assert converged.any()


def test_a_block_equals_its_columns_one_by_one(rng, dtype):
    A = matrix_with_spectrum(rng, 20, 10, np.geomspace(1, 0.1, 10), dtype)
    b = rng.standard_normal((20, 3)).astype(dtype)
    block = np.asarray(lstsq(A, b, damp=0.1).value)
    for j in range(3):
        single = np.asarray(lstsq(A, b[:, j], damp=0.1).value)
        np.testing.assert_allclose(block[:, j], single, atol=tolerance(dtype, 10))


def test_jit_and_vmap_give_the_eager_answer(rng, dtype):
    A = matrix_with_spectrum(rng, 20, 10, np.geomspace(1, 0.1, 10), dtype)
    b = rng.standard_normal((3, 20)).astype(dtype)

    def solve(matrix, rhs):
        return lstsq(matrix, rhs, damp=0.2).value

    eager = np.stack([np.asarray(solve(A, row)) for row in b])
    np.testing.assert_allclose(jax.jit(solve)(A, b[0]), eager[0], atol=tolerance(dtype, 10))
    np.testing.assert_allclose(jax.vmap(solve, (None, 0))(A, b), eager, atol=tolerance(dtype, 10))


def test_new_values_and_settings_do_not_recompile(rng):
    A = rng.standard_normal((16, 9)).astype(np.float32)
    b = rng.standard_normal(16).astype(np.float32)
    jax.block_until_ready(lstsq(A, b, damp=0.1, solver=LSMR(rtol=1e-3, max_steps=20)).value)
    with count_compilations() as names:
        again = lstsq(2 * A, b + 1, damp=0.2, solver=LSMR(rtol=1e-4, max_steps=30))
        jax.block_until_ready(again.value)
    assert names == []


def test_direct_never_hides_a_matrix_that_is_not_positive_definite(rng):
    X = np.zeros((20, 2), np.float32)  # K is all ones: singular without noise
    operator = Kernel(Matern32(), X)
    solution = lstsq(operator, np.ones(20, np.float32), damp=1e-9, solver=Direct(), throw=False)
    assert int(solution.status) in (STATUS.BREAKDOWN, STATUS.NON_FINITE)
    assert "LSMR" in solution.report() or "NaN" in solution.report()


def test_direct_and_lsmr_share_their_interface(rng, dtype):
    A = Dense(matrix_with_spectrum(rng, 15, 6, np.geomspace(1, 0.5, 6), dtype))
    b = rng.standard_normal((15, 2)).astype(dtype)
    for solver in (LSMR(), Direct()):
        solution = lstsq(A, b, damp=0.1, solver=solver)
        assert solution.value.shape == (6, 2)
        assert solution.status.shape == solution.ok.shape == (2,)
        assert solution.stats.residual_norm.shape == (2,)
        assert isinstance(solution.report(), str)


def test_a_stagnated_kernel_system_starts_again_and_gets_to_the_rounding_of_its_product(rng):
    """Without restarts this system ends at a relative residual of 1.6e-5."""
    X = rng.standard_normal((200, 2)).astype(np.float32)
    y = np.sin(3 * X[:, 0]) + 0.1 * rng.standard_normal(200).astype(np.float32)
    operator = Kernel(Matern32(), X, "dense")
    solver = LSMR(rtol=1e-6, max_steps=5000)
    solution = lstsq(operator, y, damp=0.1, solver=solver, throw=False)
    K = np.asarray(operator.gram, float) + 0.01 * np.eye(200)
    residual = np.linalg.norm(y - K @ np.asarray(solution.value, float))
    # Recomputed in float64: the float32 product itself is off by a few 1e-6.
    assert residual <= 1e-5 * np.linalg.norm(y)
    assert bool(solution.ok)


def test_a_column_out_of_steps_does_not_keep_others_from_restarting(rng):
    X = rng.standard_normal((120, 2)).astype(np.float32)
    operator = Kernel(Matern32(), X, "dense")
    values, vectors = np.linalg.eigh(np.asarray(operator.gram, float))
    easy = vectors[:, -1].astype(np.float32)
    b = np.stack([easy, rng.standard_normal(120).astype(np.float32)], axis=1)
    solver = LSMR(rtol=1e-5, max_steps=25)
    both = lstsq(operator, b, damp=1e-2, solver=solver, throw=False)
    alone = lstsq(operator, easy, damp=1e-2, solver=solver, throw=False)
    assert int(both.status[0]) == int(alone.status) == STATUS.CONVERGED_RESIDUAL
    assert int(both.status[1]) == STATUS.MAX_STEPS
    assert values[-1] > 1


@pytest.mark.parametrize("solver", [LSMR(rtol=1e-2), Direct()], ids=["lsmr", "direct"])
@pytest.mark.parametrize("damp", [0.0, 0.3, "a vector"])
def test_norms_are_those_of_the_value_that_is_returned(rng, solver, damp):
    A = matrix_with_spectrum(rng, 30, 12, np.geomspace(1, 0.05, 12), np.float32)
    b = rng.standard_normal((30, 2)).astype(np.float32)
    damp = rng.uniform(0.1, 0.5, 12).astype(np.float32) if damp == "a vector" else damp
    solution = lstsq(A, b, damp=damp, solver=solver)
    x, A, b = (np.asarray(part, float) for part in (solution.value, A, b))
    left = b - A @ x
    normal = A.T @ left - np.square(np.asarray(damp, float)).reshape(-1, 1) * x
    stats = solution.stats
    np.testing.assert_allclose(stats.residual_norm, np.linalg.norm(left, axis=0), rtol=1e-4)
    np.testing.assert_allclose(stats.rhs_norm, np.linalg.norm(b, axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        stats.normal_residual_norm, np.linalg.norm(normal, axis=0), rtol=1e-2, atol=1e-5
    )
