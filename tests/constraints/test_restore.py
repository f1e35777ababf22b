"""Parameters moved onto a constraint, and constraints examined."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR
from gplsq.constraints import (
    Constraint,
    Inequality,
    NormBall,
    Orthogonality,
    Sparsity,
    check_constraint,
    restore_feasibility,
)
from gplsq.solvers import STATUS


def test_a_matrix_becomes_orthogonal_by_a_short_way(rng, dtype) -> None:
    start = np.eye(5, 3) + 0.1 * rng.standard_normal((5, 3))
    params = {"W": jnp.asarray(start, dtype), "b": None}
    moved, result = jax.jit(lambda p: restore_feasibility(p, Orthogonality()))(params)
    W = np.asarray(moved["W"])
    assert W.dtype == dtype
    assert moved["b"] is None
    np.testing.assert_allclose(W.T @ W, np.eye(3), atol=20 * np.finfo(dtype).eps)
    assert bool(result.ok)
    assert int(result.status) == STATUS.CONVERGED_RESIDUAL
    U, _, Vt = np.linalg.svd(start, full_matrices=False)
    closest = np.linalg.norm(start - U @ Vt)
    assert float(result.distance) <= 1.1 * closest
    assert "met its tolerance" in result.report()


def test_backtracking_reaches_what_a_full_step_overshoots() -> None:
    constraint = Constraint(lambda x: jnp.arctan(x))  # Newton diverges from beyond 1.39
    moved, result = restore_feasibility(jnp.array([3.0]), constraint)
    assert bool(result.ok)
    assert abs(float(moved[0])) < 1e-5


def test_an_infeasible_constraint_is_called_that() -> None:
    _, result = restore_feasibility(jnp.array([1.5]), Constraint(lambda x: x**2 + 1))
    assert not bool(result.ok)
    assert int(result.status) in (STATUS.STAGNATED, STATUS.MAX_STEPS)
    assert float(result.violation) <= float(result.violation_before)
    assert "violation" in result.report()


def test_a_residual_of_nan_is_called_that() -> None:
    moved, result = restore_feasibility(jnp.array([1.5]), Constraint(lambda x: x / 0 - jnp.inf))
    assert int(result.status) == STATUS.NON_FINITE
    assert float(moved[0]) == 1.5


def test_inequalities_move_only_what_violates_them() -> None:
    params = jnp.array([2.0, -1.0, 0.5], jnp.float32)
    moved, result = restore_feasibility(params, Inequality(lambda x: x - 1.0))
    np.testing.assert_allclose(moved, [1.0, -1.0, 0.5], atol=1e-6)
    assert bool(result.ok)


def test_sparsity_keeps_the_largest_weights(rng) -> None:
    params = jnp.asarray(rng.standard_normal((6, 5)), jnp.float32)
    moved, result = restore_feasibility(params, Sparsity(0.8, end_step=100))
    assert int((moved == 0).sum()) == 24
    np.testing.assert_array_equal(moved[moved != 0], params[moved != 0])
    assert bool(result.ok)


def test_more_residuals_than_a_factorisation_takes(rng) -> None:
    params = jnp.asarray(rng.standard_normal((20, 14)), jnp.float32)
    moved, result = restore_feasibility(params, Orthogonality(), solver=LSMR(), tolerance=1e-6)
    assert bool(result.ok)
    np.testing.assert_allclose(moved.T @ moved, np.eye(14), atol=1e-5)


def test_a_check_says_rank_condition_and_what_is_left(rng) -> None:
    J = rng.standard_normal((3, 8))
    J = np.concatenate([J, J[:1]])
    params = jnp.zeros(8)
    check = check_constraint(Constraint(lambda x: jnp.asarray(J, x.dtype) @ x), params)
    s = np.linalg.svd(J[:3] * np.sqrt([[2], [1], [1]]), compute_uv=False)
    assert check.rank == 3
    assert check.exact
    assert check.condition == pytest.approx(s[0] / s[-1], rel=1e-3)
    assert check.null_space_dimension == 5
    assert "1 residuals depend on the others" in check.report()


def test_a_check_sees_a_constraint_that_leaves_nothing(rng) -> None:
    J = jnp.asarray(rng.standard_normal((20, 8)), jnp.float32)
    check = check_constraint(Constraint(lambda x: J @ x - 1), jnp.zeros(8, jnp.float32))
    assert "leaves nothing to train" in check.report()
    assert "The Jacobian is zero" in check_constraint(Constraint(lambda x: 0 * x), J[0]).report()
    scale = jnp.array([1.0, 1e5], jnp.float32)
    bad = check_constraint(Constraint(lambda x: scale * x[:2]), J[0])
    assert "badly conditioned" in bad.report()


def test_a_check_of_a_batch_and_of_pinned_entries(rng) -> None:
    params = jnp.asarray(rng.standard_normal((4, 5)), jnp.float32)
    batch = jnp.ones((3, 4), jnp.float32)
    both = Constraint(lambda W, x: x @ W) + Sparsity(0.5)
    check = check_constraint(both, params, batch=batch)
    assert check.num_pinned == 10
    assert check.rank + check.null_space_dimension == 10
    alone = check_constraint(Sparsity(0.5), params)
    assert alone.null_space_dimension == 10
    assert "10 of them held at zero" in alone.report()


def test_a_large_jacobian_is_only_probed(rng) -> None:
    params = jnp.asarray(rng.standard_normal((60, 50)), jnp.float32)
    constraint = Constraint(lambda W: W[:30] - 1.0)
    check = check_constraint(constraint, params, solver=LSMR())
    assert not check.exact
    assert check.rank == pytest.approx(1500, rel=0.01)


def test_a_check_is_not_for_traced_parameters() -> None:
    with pytest.raises(TypeError, match=r"Call it outside of jax\.jit"):
        jax.jit(lambda x: check_constraint(NormBall(1.0), x).rank)(jnp.ones(2))


def test_an_equinox_module_is_restored_whole() -> None:
    mlp = eqx.nn.MLP(2, 2, 8, 2, key=jax.random.key(0))
    constraint = Orthogonality(lambda m: m.layers[1].weight)
    moved, result = restore_feasibility(mlp, constraint)
    W = moved.layers[1].weight
    np.testing.assert_allclose(W @ W.T, np.eye(8), atol=1e-5)
    assert bool(result.ok)
    assert moved(jnp.ones(2)).shape == (2,)


def test_entries_that_are_zero_already_do_not_hide_a_residual() -> None:
    params = jnp.zeros((100, 100), jnp.float32).at[0].set(1.0)
    both = Constraint(lambda w: w[0].sum() - 100.01) + Sparsity(0.9)
    moved, result = restore_feasibility(params, both, tolerance=1e-3)
    assert float(result.violation_before) == pytest.approx(0.01, rel=1e-2)
    assert bool(result.ok)
    assert float(moved[0].sum()) == pytest.approx(100.01, abs=1e-3)


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_a_check_of_a_jacobian_that_is_not_finite_says_so(factor):
    params = jnp.ones(5, jnp.float32)
    constraint = Constraint(lambda p: jnp.stack([p[0] * factor, p.sum() - 1]))
    check = check_constraint(constraint, params)
    assert check.status == STATUS.NON_FINITE
    assert np.isnan(check.rank)
    assert "not finite here" in check.report()
