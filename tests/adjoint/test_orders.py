"""Derivatives that the table has not: one mode twice, third order, one argument, checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    DIRECTIONS,
    POINTS,
    SOLVER,
    Case,
    close,
    compiled,
    dampings,
    dense,
    make_data,
    ours,
    weigh,
)

from gplsq import Direct

pytestmark = pytest.mark.usefixtures("x64")


def along(fn, direction):
    """The derivative of `fn` in one direction."""
    return lambda p: jax.jvp(fn, (p,), (direction,))[1]


def small(damping, rank=2):
    """One point of the smallest family: its problem, its data and its dense loss."""
    case = Case("wide", damping, "one")
    data = make_data(case, rank, next(iter(dampings(case).values()))[0])
    solution = dense(case, rank)
    return case, data, lambda p: weigh(solution(p, data))


@pytest.mark.parametrize("damping", ["none", "scalar"])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_second_order_of_one_mode_twice(damping, mode):
    """By the dense solver, like the next: the rule is the same, and compiles quickly."""
    case, data, oracle = small(damping)
    loss, p = ours(case, Direct()), POINTS[0]
    u, v = DIRECTIONS[0] + DIRECTIONS[2], DIRECTIONS[1] - DIRECTIONS[0]

    def at(q):
        return loss(*q, data, None)

    hessian = compiled(jax.hessian(oracle))(p)
    if mode == "forward":
        close(compiled(along(along(at, u), v))(p), u @ hessian @ v, 1e-9)
    else:
        got = compiled(jax.grad(lambda q: jnp.vdot(jax.grad(at)(q), v)))(p)
        close(got, hessian @ v, 1e-9)


@pytest.mark.parametrize("damping", ["none", "scalar", "vector"])
def test_one_argument_moves_while_the_others_rest(damping):
    """The rule is told that they have no tangent at all."""
    case, data, oracle = small(damping)
    count = 2 if damping == "none" else 3
    loss, p = ours(case, Direct()), POINTS[0]

    @compiled
    def derivatives():
        found = []
        for i in range(count):

            def moved(t, i=i):
                return loss(*(t if i == j else p[j] for j in range(3)), data, None)

            both = jax.value_and_grad(jax.grad(moved))(p[i])
            found.append((along(moved, jnp.ones(()))(p[i]), *both))
        return jnp.array(found)

    gradient, hessian = compiled(lambda p: (jax.grad(oracle)(p), jax.hessian(oracle)(p)))(p)
    close(derivatives(), np.stack([gradient, gradient, np.diag(hessian)], axis=1)[:count], 1e-9)


@pytest.mark.parametrize("damping", ["none", "scalar"])
def test_a_checkpointed_loss_has_the_same_gradient(damping):
    case, data, oracle = small(damping)
    loss = ours(case, SOLVER)
    again = jax.checkpoint(lambda p: loss(*p, data, None))
    gradient, expected = compiled(lambda p: (jax.grad(again)(p), jax.grad(oracle)(p)))(POINTS[0])
    close(gradient, expected, 1e-9)


@pytest.mark.parametrize("damping", ["none", "scalar"])
def test_third_order(damping):
    """Undamped by the dense solver too."""
    case, data, oracle = small(damping)
    loss = ours(case, SOLVER if damping == "scalar" else Direct())
    v, w = DIRECTIONS[0] + DIRECTIONS[1], DIRECTIONS[1] - DIRECTIONS[2]

    def third(fn):
        return compiled(along(along(jax.grad(fn), v), w))(POINTS[0])

    close(third(lambda p: loss(*p, data, None)), third(oracle), 1e-8)
