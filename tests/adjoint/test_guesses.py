"""Guesses of the solution and of the adjoint save steps and change no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import POINTS, SIZES, SOLVER, Case, close, compiled, dampings, dense, make_data, ours

from gplsq import LSMR, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Kernel
from gplsq.solvers import adjoint_solution

pytestmark = pytest.mark.usefixtures("x64")


STARTED = [("tall", "scalar"), ("wide", "scalar"), ("wide", "none"), ("wide", "vector")]


@pytest.mark.parametrize("case", [Case(*words, "one") for words in STARTED], ids=", ".join)
def test_no_start_changes_an_answer_or_a_gradient(rng, case):
    loss = jax.value_and_grad(lambda p, data, x0: ours(case, SOLVER)(*p, data, x0))
    program, without = compiled(loss), compiled(lambda p, data: loss(p, data, None))
    p = POINTS[0]
    for rank in (2, min(SIZES[case.shape])):
        for numbers in dampings(case).values():
            data = make_data(case, rank, numbers[0])
            x = np.asarray(dense(case, rank)(p, data))
            noise = rng.standard_normal(x.shape)
            value, gradient = without(p, data)
            for x0 in (0 * x, x, 0.9 * x, x + 0.1 * noise, noise, 1e6 * noise):
                started = program(p, data, x0)
                close(started[0], value, 1e-11)
                close(started[1], gradient, 1e-10)


def test_a_guess_of_the_adjoint_of_a_kernel_saves_steps_and_changes_no_gradient(rng):
    X, g, b = rng.standard_normal((30, 2)), rng.standard_normal(30), rng.standard_normal(30)
    solver = LSMR(rtol=1e-12)

    @compiled
    def adjoint(x0):
        return adjoint_solution(Kernel(RBF(), X), g, damp=0.1, solver=solver, x0=x0)

    cold = adjoint(np.zeros(30))
    near = cold.value * (1 + 1e-8 * rng.standard_normal(30))
    assert 0 < int(adjoint(near).stats.num_steps) < int(cold.stats.num_steps)

    @compiled
    def gradient(guess):
        def loss(scale, b, damp):
            options = {"damp": damp, "solver": solver, "adjoint_x0": guess}
            return jnp.vdot(g, lstsq(Kernel(RBF(scale), X), b, **options).value)

        return jax.grad(loss, (0, 1, 2))(jnp.asarray(1.0), jnp.asarray(b), jnp.asarray(0.1))

    plain = gradient(np.zeros(30))
    for guess in (near, 0.9 * near, rng.standard_normal(30), 1e3 * rng.standard_normal(30)):
        for got, want in zip(gradient(guess), plain, strict=True):
            close(got, want, 1e-8)
