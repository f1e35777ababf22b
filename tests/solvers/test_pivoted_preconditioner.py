"""The low-rank-plus-diagonal preconditioner of kernel systems against dense algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import kernels, lstsq
from gplsq.operators import Kernel
from gplsq.solvers import LSMR, RandomlyPivotedCholesky, pivoted_cholesky


def _operator(rng, n, d, dtype):
    X = rng.standard_normal((n, d)).astype(dtype)
    return Kernel(2.0 * kernels.Matern32(3.0), X, "dense")


def test_it_applies_the_inverse_of_what_it_approximates(rng, dtype):
    operator, rank = _operator(rng, 200, 3, dtype), 40
    damp = jnp.asarray(0.3, dtype)
    recipe = RandomlyPivotedCholesky(rank=rank, block=10)
    u = rng.standard_normal((200, 3)).astype(dtype)
    found = recipe.build(operator, damp).solve(jnp.asarray(u))
    factor = np.asarray(pivoted_cholesky(operator, rank, 10, jax.random.key(0))[0], float)[:, :rank]
    wanted = 0.09 * np.linalg.solve(factor @ factor.T + 0.09 * np.eye(200), u)
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(u).max())


def test_its_rows_are_orthonormal_to_rounding_however_its_eigenvalues_spread(rng):
    """Those of the eigenvectors of `L^T L` are not: 1e-2 off here (spread of 4e4)."""
    operator = _operator(rng, 1500, 6, np.float32)
    prepared = RandomlyPivotedCholesky(rank=500, block=100).build(operator, jnp.float32(0.03))
    basis = np.asarray(prepared.basis, float)
    assert np.abs(basis @ basis.T - np.eye(500)).max() < 1e-5


@pytest.mark.parametrize("noise", [1e-2, 1e-3])
def test_columns_take_out_steps_in_float32_too(rng, noise):
    operator = _operator(rng, 2000, 6, np.float32)
    y = jnp.asarray(rng.standard_normal(2000), jnp.float32)

    def steps(rank):
        solution = lstsq(
            operator,
            y,
            damp=np.sqrt(noise),
            solver=LSMR(rtol=1e-2, max_steps=1000),
            preconditioner=RandomlyPivotedCholesky(rank=rank, block=100),
        )
        return int(solution.stats.num_steps[()])

    few, more, most = (steps(rank) for rank in (50, 200, 800))
    assert more < 0.7 * few
    assert most < 0.7 * more
