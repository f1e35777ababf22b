"""Factorisations of matrices that hold NaN or infinity come back, where LAPACK may not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import Direct, lstsq
from gplsq._core import reduced_svd, symmetric_eigen
from gplsq.solvers import STATUS


@pytest.mark.parametrize("shape", [(3, 6), (6, 3), (4, 4)])
def test_a_reduced_svd_is_that_of_the_matrix(rng, dtype, shape):
    A = rng.standard_normal((2, *shape)).astype(dtype)
    U, s, Vt = reduced_svd(jnp.asarray(A))
    assert s.dtype == dtype
    tolerance = 50 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose((U * s[:, None]) @ Vt, A, rtol=0, atol=tolerance)
    np.testing.assert_allclose(s, np.linalg.svd(A, compute_uv=False), rtol=tolerance)


def test_eigenvalues_and_vectors_are_those_of_the_matrix(rng, dtype):
    A = rng.standard_normal((2, 5, 5)).astype(dtype)
    A = A + A.mT
    values, vectors = symmetric_eigen(jnp.asarray(A))
    atol = 100 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(A @ vectors, vectors * values[:, None], rtol=0, atol=atol)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(A), rtol=0, atol=atol)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_matrix_that_is_not_finite_gives_nan_and_leaves_its_neighbours_alone(rng, bad):
    A = rng.standard_normal((2, 5, 5)).astype(np.float32)
    A = A + A.mT
    broken = A.copy()
    broken[1, 2, 3] = broken[1, 3, 2] = bad
    for factorise in (reduced_svd, symmetric_eigen):
        for part, sound in zip(jax.jit(factorise)(broken), factorise(A), strict=True):
            np.testing.assert_array_equal(part[0], sound[0])
            assert np.all(np.isnan(part[1]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_dense_solve_returns_wherever_the_entry_stands(rng, bad):
    A = rng.standard_normal((3, 6)).astype(np.float32)
    b = np.ones((3, 2), np.float32)
    many = np.stack([A] * A.size)
    many.reshape(A.size, -1)[np.diag_indices(A.size)] = bad

    def solve(A):
        return lstsq(A, b, damp=1.0, solver=Direct(), throw=False).status

    assert np.all(jax.jit(jax.vmap(solve))(many) == STATUS.NON_FINITE)
    # One by one: a batch of decompositions is another program.
    assert all(np.all(solve(A) == STATUS.NON_FINITE) for A in many)
