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
import numpy as np
import pytest
from oracles import (
    DIRECTIONS,
    POINTS,
    SIZES,
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

from gplsq import Direct, lstsq

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
