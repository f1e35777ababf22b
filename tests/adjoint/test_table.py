"""The table of derivatives of `lstsq`: every combination, each with the check it passes.

A row is one combination of shape, rank, damping, start, right-hand side, transform, differentiated
argument and mode. A row is CHECKED against central differences and against dense autodiff, or
ABSENT: there is nothing to differentiate. No row raises.

Rows that differ in rank, start, argument or mode share compiled programs: one under jit, one under
vmap. The solver is LSMR; in batches of blocks, of pytrees and with a vector of damping, which LSMR
sees as rows of the operator, it is the dense one.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SIZES, Case, close, compiled, dense, golub_pereyra, make_data, ours, weigh

from gplsq import LSMR, Direct, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Kernel
from gplsq.solvers import adjoint_solution
from gplsq.testing import matrix_with_spectrum

pytestmark = pytest.mark.usefixtures("x64")


class Row(NamedTuple):
    """One combination."""

    shape: str
    rank: str
    damp: str
    start: str
    rhs: str
    transform: str
    argument: str
    mode: str


AXES = Row(
    shape=("tall", "square", "wide"),
    rank=("full", "deficient"),
    damp=("0", "scalar", "vector", "vector with a zero"),
    start=("zero", "non-zero"),
    rhs=("one", "many", "pytree"),
    transform=("jit", "vmap"),
    argument=("right-hand side", "operator", "damp"),
    mode=("forward", "reverse", "second order"),
)
TABLE = [Row(*values) for values in itertools.product(*AXES)]
CHECKED, ABSENT = "checked", "absent: a damp that is the number 0 is no variable"


def entry(row: Row) -> str:
    """What the table says of a row."""
    return ABSENT if row.damp == "0" and row.argument == "damp" else CHECKED


def case_of(row: Row) -> Case:
    """The program that a row belongs to."""
    damping = {"0": "none", "scalar": "scalar"}.get(row.damp, "vector")
    return Case(row.shape, damping, row.rhs)


CASES = list(dict.fromkeys(case_of(row) for row in TABLE))
SOLVER = LSMR(rtol=1e-13)
POINTS = np.array([[0.3, 0.2, 0.0], [-0.5, -0.4, 0.0]])
DIRECTIONS = np.eye(3)


def dampings(case: Case) -> dict[str, tuple]:
    """The dampings that share a program, each with its numbers at the two points."""
    n = SIZES[case.shape][1]
    if case.damping == "none":
        return {"0": (np.zeros(()),) * 2}
    if case.damping == "scalar":
        return {"scalar": (np.array(0.8), np.array(1.1))}
    full = np.linspace(0.6, 1.3, 2 * n).reshape(2, n)
    # The zero moves: its slope is not zero, and the second derivative is not either.
    return {"vector": tuple(full), "vector with a zero": tuple(full * (np.arange(n) > 0))}


def make_programs(case):
    """Under jit and under vmap: value, gradient and their derivatives along one direction.

    All arguments move at once. Under vmap each element of the batch has its own of everything.
    """

    def program(solver):
        # Failures are judged by the numbers alone, which compiles quicker.
        loss = ours(case, solver, throw=False)

        def of(p, direction, data, x0):
            def value_and_gradient(q):
                return jax.value_and_grad(lambda q: loss(*q, data, x0))(q)

            return jax.jvp(value_and_gradient, (p,), (direction,))

        return jax.jit(of)

    single = program(SOLVER)
    by_lsmr = case.rhs == "one" and case.damping != "vector"
    batched = single if by_lsmr else program(Direct())
    return compiled(single), compiled(jax.vmap(batched))


def stack(trees):
    """Arrays of equal trees side by side."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def computed(count, programs, data, x0):
    """{(transform, argument, mode): the derivative at both points}."""
    single, batch = programs
    pairs = list(itertools.product(range(2), DIRECTIONS[:count]))
    given = [(POINTS[k], direction, data[k], x0[k]) for k, direction in pairs]
    results = {"jit": stack([single(*each) for each in given]), "vmap": batch(*stack(given))}
    found = {}
    for transform, ((_, gradients), (slopes, rows)) in results.items():
        for i, argument in enumerate(AXES.argument[:count]):
            found[transform, argument, "forward"] = slopes[i::count]
            found[transform, argument, "reverse"] = gradients[i::count, i]
            found[transform, argument, "second order"] = rows[i::count]
    return found


def by_central_differences(program, p, data, x0, step=2e-5):
    """Gradient and Hessian at p from values and gradients around it."""

    def at(q):
        value, gradient = program(q, DIRECTIONS[0], data, x0)[0]
        return np.array([value, *gradient])

    moves = step * np.eye(3)
    slopes = np.stack([at(p + move) - at(p - move) for move in moves]) / (2 * step)
    return slopes[:, 0], slopes[:, 1:]


def by_dense_autodiff(case, rank):
    """Solution, gradient and Hessian at p by dense algebra and JAX's own forward mode."""
    solution = dense(case, rank)
    gradient = jax.jacfwd(lambda p, data: weigh(solution(p, data)))
    hessian = jax.jacfwd(gradient)
    return compiled(lambda p, data: (solution(p, data), gradient(p, data), hessian(p, data)))


# Measured: 7e-8 by the step of central differences, 1e-11 of autodiff.
RTOL = {"central differences": 1e-6, "dense autodiff": 1e-9}


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_every_checked_row_agrees_with_both_judges(case):
    count = 2 if case.damping == "none" else 3
    programs = make_programs(case)
    left = {row for row in TABLE if case_of(row) == case and entry(row) == CHECKED}
    for rank_name in AXES.rank:
        rank = min(SIZES[case.shape]) if rank_name == "full" else 2
        autodiff = by_dense_autodiff(case, rank)
        for damp, numbers in dampings(case).items():
            data = [make_data(case, rank, number) for number in numbers]
            exact = [autodiff(*given) for given in zip(POINTS, data, strict=True)]
            # A good guess: one that does not help is not taken, and would test nothing.
            near = [1.1 * np.asarray(solution) for solution, *_ in exact]
            far = [np.zeros_like(guess) for guess in near]
            answers = {
                "dense autodiff": stack([derivatives for _, *derivatives in exact]),
                "central differences": stack(
                    [
                        by_central_differences(programs[0], *given)
                        for given in zip(POINTS, data, far, strict=True)
                    ]
                ),
            }
            for start, x0 in (("zero", far), ("non-zero", near)):
                for key, got in computed(count, programs, data, x0).items():
                    row = Row(case.shape, rank_name, damp, start, case.rhs, *key)
                    left.remove(row)
                    i = AXES.argument.index(row.argument)
                    for judge, (gradient, hessian) in answers.items():
                        want = (hessian if row.mode == "second order" else gradient)[:, i]
                        close(got, want, RTOL[judge], (row, judge))
    assert not left, f"rows without a check: {sorted(left)}"


def test_the_table_is_the_full_product_of_its_axes():
    assert [len(values) for values in AXES] == [3, 2, 4, 2, 3, 2, 3, 3]
    assert len(TABLE) == len(set(TABLE)) == 2592
    verdicts = [entry(row) for row in TABLE]
    assert verdicts.count(ABSENT) == 216
    assert verdicts.count(CHECKED) == 2376
    assert {case_of(row) for row in TABLE} == set(CASES)


@pytest.mark.parametrize("damp", [0, 0.0, np.float64(0), np.zeros(())])
def test_the_absent_rows_have_no_variable(rng, damp):
    """The number 0 chooses the undamped problem, and a derivative in it cannot be asked for."""
    A, b = rng.standard_normal((3, 5)), rng.standard_normal(3)
    text = str(jax.make_jaxpr(lambda b: lstsq(A, b, damp=damp, solver=Direct()).value)(b))
    assert text == str(jax.make_jaxpr(lambda b: lstsq(A, b, solver=Direct()).value)(b))


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


@pytest.mark.parametrize("solver", [SOLVER, Direct()], ids=["lsmr", "direct"])
@pytest.mark.parametrize("shape", AXES.shape)
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
