"""The Gram matrix of a sample of rows as a preconditioner: few steps, the same answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Dense, Inducing
from gplsq.solvers import SampledGram


def smooth_problem(rng, dtype, rows=600, points=20):
    X = rng.uniform(-1, 1, (rows, 2)).astype(dtype)
    y = np.sin(4 * X[:, 0]) * X[:, 1] + 0.1 * rng.standard_normal(rows).astype(dtype)
    return X, y.astype(dtype), X[:points]


def test_it_saves_most_of_the_steps(rng, dtype):
    X, y, Z = smooth_problem(rng, dtype)
    operator = Inducing(RBF(0.7), X, Z)
    solver = LSMR(rtol=1e-3 if dtype == np.float32 else 1e-4)
    plain = lstsq(operator, y, damp=0.01, solver=solver)
    helped = lstsq(operator, y, damp=0.01, solver=solver, preconditioner=SampledGram())
    assert int(helped.stats.num_steps) <= 12
    assert int(plain.stats.num_steps) >= 3 * int(helped.stats.num_steps)
    fits = operator.mv(plain.value), operator.mv(helped.value)
    np.testing.assert_allclose(*fits, atol=0.02 if dtype == np.float32 else 5e-3)


def test_of_all_rows_it_solves_at_once(rng, dtype):
    X, y, Z = smooth_problem(rng, dtype)
    solution = lstsq(
        Inducing(RBF(0.7), X, Z),
        y,
        damp=0.1,
        solver=LSMR(rtol=1e-3),
        preconditioner=SampledGram(num_rows=600),
    )
    assert int(solution.stats.num_steps) <= 3


def test_it_changes_no_derivative(rng, x64):
    X, y, Z = smooth_problem(rng, float, 200, 8)
    g = rng.standard_normal(8)

    @jax.jit
    def gradients(scale, damp):
        def loss(scale, damp, preconditioner):
            options = {"solver": LSMR(rtol=1e-12), "preconditioner": preconditioner}
            return lstsq(Inducing(RBF(scale), X, Z), y, damp=damp, **options).value @ g

        return [jax.grad(loss, (0, 1))(scale, damp, p) for p in (None, SampledGram())]

    plain, helped = gradients(jnp.asarray(0.7), jnp.asarray(0.2))
    np.testing.assert_allclose(helped, plain, rtol=1e-6)


def test_a_singular_sample_does_no_harm(rng, dtype):
    """Fewer rows than columns: directions that the sample does not see cost steps only."""
    X, y, Z = smooth_problem(rng, dtype)
    operator = Inducing(RBF(0.7), X, Z)
    options = {"damp": 0.05, "solver": LSMR(rtol=1e-4)}
    helped = lstsq(operator, y, preconditioner=SampledGram(num_rows=5), **options)
    fits = operator.mv(helped.value), operator.mv(lstsq(operator, y, **options).value)
    np.testing.assert_allclose(*fits, atol=5e-3)


def test_operators_without_rows_are_refused(rng):
    matrix = rng.standard_normal((9, 3)).astype(np.float32)
    with pytest.raises(TypeError, match="needs an operator with rows_at"):
        lstsq(Dense(matrix), matrix[:, 0], damp=0.1, preconditioner=SampledGram())
