"""The numerical rank estimated without a matrix."""

import jax
import numpy as np
import pytest

from gplsq import LSMR, Direct, lstsq
from gplsq.operators import Function
from gplsq.solvers import estimate_rank
from gplsq.testing import matrix_with_spectrum


@pytest.mark.parametrize("shape", [(60, 40), (40, 40)])
def test_full_column_rank_is_found_exactly(rng, dtype, shape):
    A = matrix_with_spectrum(rng, *shape, np.geomspace(1, 0.01, 40), dtype)
    estimate = estimate_rank(A)
    assert bool(estimate.ok)
    np.testing.assert_allclose(estimate.value, 40, rtol=1e-3)
    assert float(estimate.standard_error) < 0.05


@pytest.mark.parametrize("rank", [3, 17, 30])
@pytest.mark.parametrize("shape", [(60, 40), (30, 50)])
def test_a_lower_rank_is_found_within_its_standard_error(rng, x64, shape, rank):
    A = matrix_with_spectrum(rng, *shape, np.geomspace(1, 0.01, rank))
    estimate = estimate_rank(A, probes=64, key=jax.random.key(1))
    error, spread = abs(float(estimate.value) - rank), float(estimate.standard_error)
    assert 0 < spread < 1
    assert error < 4 * spread


def test_it_needs_no_matrix(rng, dtype):
    A = matrix_with_spectrum(rng, 30, 20, np.ones(20), dtype)
    like = {"a": np.zeros(12, dtype), "b": np.zeros((4, 2), dtype)}
    operator = Function(lambda t: A[:, :12] @ t["a"] + A[:, 12:] @ t["b"].ravel(), like)
    np.testing.assert_allclose(estimate_rank(operator).value, 20, rtol=1e-3)


def test_the_solution_of_direct_carries_the_rank_and_lsmr_says_it_does_not_know(rng, x64):
    A = matrix_with_spectrum(rng, 30, 20, np.geomspace(1, 0.1, 7))
    b = rng.standard_normal(30)
    assert int(lstsq(A, b, solver=Direct()).stats.rank_estimate) == 7
    assert int(lstsq(A, b, solver=LSMR(rtol=1e-6)).stats.rank_estimate) == -1
