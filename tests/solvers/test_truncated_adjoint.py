"""Gradients whose own solve is cut short on purpose."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import problem, weigh

from gplsq import LSMR, lstsq
from gplsq.solvers import DerivativeWarning, adjoint_solution


@functools.partial(jax.jit, static_argnames="damp")
def _truncated(A, b, steps, damp):
    def value(A):
        cut = LSMR(max_steps=steps)
        return weigh(lstsq(A, b, damp=damp, adjoint_solver=cut, throw=False).value)

    return jax.grad(value)(A)


def truncated(A, b, damp, steps):
    """The gradient with an adjoint solve of so many steps."""

    gradient = _truncated(A, b, jnp.asarray(steps), damp)
    jax.effects_barrier()
    return gradient


@pytest.mark.parametrize("damp", [0.0, 0.1])
def test_a_truncated_adjoint_is_the_implicit_rule_with_the_iterate_of_its_solve(x64, rng, damp):
    A, b = problem(rng, 60, 25)
    x = lstsq(A, b, damp=damp).value
    g = jax.grad(weigh)(x)
    implicit = jax.jit(jax.grad(lambda A: weigh(lstsq(A, b, damp=damp).value)))(A)
    errors = []
    for steps in (2, 30):
        # The one way to silence it: the warning is right, and here it is meant.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DerivativeWarning)
            gradient = truncated(A, b, damp, steps)
        w = adjoint_solution(A, g, damp=damp, solver=LSMR(max_steps=steps)).value
        rule = jnp.outer(b - A @ x, w) - jnp.outer(A @ w, x)
        if damp == 0:
            # What the solve left of g counts as its part in the null space of A.
            rule += jnp.outer(jnp.linalg.pinv(A).T @ x, g - A.T @ (A @ w))
        np.testing.assert_allclose(gradient, rule, rtol=0, atol=1e-8 * np.abs(rule).max())
        errors.append(float(jnp.linalg.norm(gradient - implicit) / jnp.linalg.norm(implicit)))
    assert errors[0] > 0.05
    assert errors[1] < 1e-6


def test_a_truncated_adjoint_says_so_unless_told_not_to(rng):
    A, b = problem(rng, 40, 25, dtype=np.float32)
    with pytest.warns(DerivativeWarning, match="missed the tolerance"):
        truncated(A, b, 0.1, 2)
