"""The derivative of `lstsq` where the matrix is singular, and data are in its range or nearly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SIZES, SOLVER, close, compiled, golub_pereyra, weigh

from gplsq import Direct, lstsq
from gplsq.testing import matrix_with_spectrum

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("solver", [SOLVER, Direct()], ids=["lsmr", "direct"])
@pytest.mark.parametrize("shape", SIZES)
def test_a_singular_matrix_of_free_entries_has_golub_and_pereyras_derivative(rng, shape, solver):
    """Any perturbation, also one that raises the rank: the formula is linear in it."""
    m, n = SIZES[shape]
    A, b = matrix_with_spectrum(rng, m, n, [1.5, 0.8]), rng.standard_normal(m)
    dA, db, g = rng.standard_normal((m, n)), rng.standard_normal(m), rng.standard_normal(n)

    def solve(A, b):
        return lstsq(A, b, solver=solver).value

    forward, transpose = compiled(
        lambda A, b: (jax.jvp(solve, (A, b), (dA, db))[1], jax.vjp(solve, A, b)[1](g))
    )(A, b)
    close(forward, golub_pereyra(A, b, dA, db), 1e-10)
    units = np.eye(m * n).reshape(m * n, m, n)
    by_entry = [g @ golub_pereyra(A, b, unit, 0 * b) for unit in units]
    close(transpose[0], np.reshape(by_entry, (m, n)), 1e-10)
    close(transpose[1], [g @ golub_pereyra(A, b, 0 * A, unit) for unit in np.eye(m)], 1e-10)


def test_damping_that_leaves_the_system_singular(rng):
    """Several zeros: the stacked operator has a null space of its own, of constant dimension."""
    m, n, rank = 4, 6, 2
    B, C, b = rng.standard_normal((m, rank)), rng.standard_normal((rank, n)), np.ones(m)
    B_slope, C_slope = rng.standard_normal((m, rank)), rng.standard_normal((rank, n))
    undamped = np.array([1.0, 0, 0, 0, 0, 1])  # 2 + 2 independent rows for 6 unknowns

    def data(p):
        return (B + p[0] * B_slope) @ (C + p[0] * C_slope), (1 + p[1]) * undamped

    def loss(p):
        A, damp = data(p)
        return weigh(lstsq(A, b, damp=damp, solver=SOLVER).value)

    def oracle(p):
        # Full-rank factors of [A; D]: rows of [C; E] with E the damped unit vectors.
        rows = np.array([0, 5])
        units = data(p)[1][rows][:, None] * np.eye(n)[rows]
        right = jnp.concatenate([C + p[0] * C_slope, units])
        left = jax.scipy.linalg.block_diag(B + p[0] * B_slope, jnp.eye(2))
        rhs = jnp.concatenate([b, jnp.zeros(2)])
        z = jnp.linalg.solve(left.T @ left, left.T @ rhs)
        return weigh(right.T @ jnp.linalg.solve(right @ right.T, z))

    p = np.array([0.2, 0.1])
    (value, gradient), (expected, slopes) = compiled(
        lambda p: (jax.value_and_grad(loss)(p), jax.value_and_grad(oracle)(p))
    )(p)
    close(value, expected, 1e-10)
    close(gradient, slopes, 1e-9)


def test_systems_that_are_consistent_up_to_rounding(rng):
    """Singular systems with data, and cotangents, in the range but for a part of any size."""
    m, n, rank, many = 6, 4, 2, 100

    def both(A, b, dA, db, g):
        def solve(A, b):
            return lstsq(A, b, solver=SOLVER).value

        back = jax.vjp(solve, A, b)[1](g)
        return jax.jvp(solve, (A, b), (dA, db))[1], jnp.vdot(back[0], dA) + jnp.vdot(back[1], db)

    program = compiled(jax.vmap(both))
    spectrum = np.linspace(1.4, 0.7, rank)
    A = np.stack([matrix_with_spectrum(rng, m, n, spectrum) for _ in range(many)])
    left, right = rng.standard_normal((many, m, 1)), rng.standard_normal((many, n, 1))
    dA, db = rng.standard_normal((many, m, n)), rng.standard_normal((many, m))
    for outside in (0.0, 1e-14, 1e-12, 1e-8, 1e-4):
        b = (A @ right + outside * left)[..., 0]
        g = (A.swapaxes(1, 2) @ left + outside * right)[..., 0]
        exact = [golub_pereyra(*each) for each in zip(A, b, dA, db, strict=True)]
        forward, reverse = program(A, b, dA, db, g)
        for i in range(many):
            close(forward[i], exact[i], 1e-9, outside)
            close(reverse[i], g[i] @ exact[i], 1e-9, outside)
