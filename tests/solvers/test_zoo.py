"""LSMR over a zoo of a thousand systems: what "converged" means, and SciPy's LSMR beside it.

Systems of one shape are solved by one compiled call. All judgement is in float64, on the numbers in
the dtype that the solver saw, with the true norm of [A; damp I].
"""

import functools

import jax
import numpy as np
import pytest
from zoo_judge import (
    CONDITIONS,
    DAMPED,
    KINDS,
    ROUNDING,
    ROUNDING_AT_THE_LIMIT,
    SHAPES,
    Verdict,
    complain,
    default_rtol,
    judge,
    norms,
    rival,
    rounding,
    scipy_lsmr,
    solve,
    solved,
    step_limit,
    tolerances_of,
    zoo_of,
)

from gplsq import Direct, lstsq
from gplsq.solvers import STATUS, Solution
from gplsq.testing import Zoo, least_squares_zoo


def test_the_zoo_has_at_least_a_thousand_systems(dtype, tried):
    names = [n for shape in SHAPES for d in DAMPED for n in zoo_of(dtype, shape, d).names]
    assert len(set(names)) == len(names) >= 1000
    tried(f"{len(names):,} systems of least squares in {dtype}: judged in float64")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_zoo_has_the_spectra_and_ranks_it_says(dtype, shape):
    zoo = zoo_of(dtype, shape, False)
    values = np.linalg.svd(zoo.A.astype(float), compute_uv=False)
    values /= values[:, :1]
    index = np.arange(len(values))
    smallest = values[index, zoo.rank - 1]
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(smallest, 1 / zoo.condition, rtol=1e-3, atol=20 * eps)
    deficient = zoo.rank < min(shape)
    assert np.all(values[index[deficient], zoo.rank[deficient]] < 1e-15)


@pytest.mark.parametrize("tolerance", ["loose", "default", "tight", "below"])
@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_converged_never_comes_with_a_backward_error_above_the_tolerance(
    dtype, damped, tolerance, tried
):
    count, rtol = 0, tolerances_of(dtype)[tolerance]
    for shape in SHAPES:
        zoo, solution, verdict = solved(dtype, shape, damped, rtol)
        measure = verdict.error_measure(rounding(dtype, shape, solution))
        # The reported tolerance is rtol in the dtype.
        above = solution.ok & (measure > rtol * (1 + 4 * np.finfo(dtype).eps))
        assert not above.any(), complain(zoo, above, measure, solution.stats.num_steps)
        if tolerance != "below":
            assert solution.ok.any()
        count += solution.ok.sum()
    kind = KINDS[DAMPED.index(damped)]
    tried(f"{count} systems called solved ({dtype}, {kind}, {tolerance}): none is off by more")


@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_the_judge_refuses_an_answer_that_is_off_by_more(dtype, damped):
    rng = np.random.default_rng(5)
    rtol = default_rtol(dtype)
    for shape in SHAPES:
        zoo, solution, _ = solved(dtype, shape, damped, rtol)
        noise = rng.standard_normal(solution.value.shape)
        off = 100 * rtol * noise * (norms(solution.value) / norms(noise))[:, None]
        verdict = judge(zoo, solution.value + off)
        refused = verdict.error_measure(ROUNDING_AT_THE_LIMIT * np.finfo(dtype).eps) > rtol
        # Noise may hide in small singular values.
        assert refused.mean() > 0.9


@pytest.mark.parametrize("tolerance", ["loose", "default", "tight"])
@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_the_backward_error_is_never_above_that_of_scipy_nor_the_tolerance(
    dtype, damped, tolerance
):
    rtol = tolerances_of(dtype)[tolerance]
    for shape in SHAPES:
        zoo, solution, verdict = solved(dtype, shape, damped, rtol)
        allowed = rounding(dtype, shape, solution)
        ours = verdict.error_measure(allowed)
        theirs = rival(dtype, shape, damped, rtol)[1].error_measure(allowed)
        worse = ours > np.maximum(theirs, rtol) * (1 + 4 * np.finfo(dtype).eps)
        assert not worse.any(), complain(zoo, worse, ours, theirs, solution.stats.num_steps)


@pytest.mark.parametrize("tolerance", ["loose", "default", "tight"])
@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_the_error_is_never_above_twice_that_of_scipy_and_what_the_tolerance_implies(
    dtype, damped, tolerance
):
    """To first order a backward error of rtol moves the solution by `rtol * bound`."""
    rtol = tolerances_of(dtype)[tolerance]
    ahead, behind = 0, 0
    for shape in SHAPES:
        zoo, _, ours = solved(dtype, shape, damped, rtol)
        theirs = rival(dtype, shape, damped, rtol)[1]
        worse = ours.error > np.maximum(2 * theirs.error, rtol * ours.bound)
        assert not worse.any(), complain(zoo, worse, ours.error, theirs.error, rtol * ours.bound)
        ahead += np.sum(theirs.error > 2 * ours.error)
        behind += np.sum(ours.error > 2 * theirs.error)
    # Which one stops a step earlier is luck; over all, ours is the more accurate one.
    assert behind < ahead


@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_after_the_same_few_steps_the_iterate_is_that_of_scipy(x64, damped):
    dtype, steps = np.dtype("float64"), 5
    for shape in SHAPES:
        zoo = zoo_of(dtype, shape, damped)
        ours = solve(zoo, damped, 0.0, steps).value
        theirs = scipy_lsmr(zoo, 0.0, steps)
        # A system of fewer distinct singular values is solved, and what follows is rounding.
        same = (zoo.condition >= 10) & (zoo.condition <= 1e2) & (theirs.steps == steps)
        same &= np.array(["geometric" in name or "arithmetic" in name for name in zoo.names])
        assert same.sum() >= 12
        difference = norms(ours - theirs.value) / norms(theirs.value)
        assert np.max(difference[same]) < 1e-11


@pytest.mark.parametrize("tolerance", ["loose", "default", "tight", "below"])
@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_every_status_that_is_not_converged_is_deserved(dtype, damped, tolerance):
    rtol = tolerances_of(dtype)[tolerance]
    for shape in SHAPES:
        zoo, solution, verdict = solved(dtype, shape, damped, rtol)
        status, stats = solution.status, solution.stats
        expected = (STATUS.CONVERGED_RESIDUAL, STATUS.CONVERGED_NORMAL)
        unexpected = ~np.isin(status, (*expected, STATUS.STAGNATED, STATUS.MAX_STEPS))
        assert not unexpected.any(), complain(zoo, unexpected, status)  # all data are finite
        assert np.all(np.isfinite(solution.value))
        at_the_limit = status == STATUS.MAX_STEPS
        assert np.all(stats.num_steps[at_the_limit] == step_limit(shape))
        assert np.all(stats.num_steps <= step_limit(shape))
        missed = np.isin(status, (STATUS.STAGNATED, STATUS.MAX_STEPS))
        assert np.all(stats.error_measure[missed] > stats.tolerance[missed])
        # Rounding in b - A x may hide that the tolerance is met, and so may the norm of A, which is
        # estimated from below.
        measure = verdict.error_measure(-ROUNDING * np.finfo(dtype).eps)
        below = missed & (measure < 0.75 * rtol)
        assert not below.any(), complain(zoo, below, measure, status)


@pytest.mark.parametrize("tolerance", ["default", "tight"])
@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_no_system_runs_out_of_steps_that_scipy_solves_in_fewer(dtype, damped, tolerance):
    rtol = tolerances_of(dtype)[tolerance]
    for shape in SHAPES:
        zoo, solution, _ = solved(dtype, shape, damped, rtol)
        found, theirs = rival(dtype, shape, damped, rtol)
        allowed = ROUNDING_AT_THE_LIMIT * np.finfo(dtype).eps
        solved_by_scipy = (theirs.error_measure(allowed) <= rtol) & (found.stop != 7)
        lost = ~solution.ok & solved_by_scipy
        assert not lost.any(), complain(zoo, lost, solution.status, found.steps)


def test_well_conditioned_systems_all_converge_and_nearly_all_others(dtype):
    """The table is printed with `-s`."""
    fractions = {}
    for tolerance in ("default", "tight"):
        for damped, kind in zip(DAMPED, KINDS, strict=True):
            rtol = tolerances_of(dtype)[tolerance]
            runs = [solved(dtype, shape, damped, rtol) for shape in SHAPES]
            rivals = [rival(dtype, shape, damped, rtol) for shape in SHAPES]
            condition = np.concatenate([zoo.condition for zoo, _, _ in runs])
            ok = np.concatenate([solution.ok for _, solution, _ in runs])
            steps = np.concatenate([solution.stats.num_steps for _, solution, _ in runs])
            allowed = ROUNDING_AT_THE_LIMIT * np.finfo(dtype).eps
            theirs = np.concatenate([v.error_measure(allowed) <= rtol for _, v in rivals])
            for wanted in CONDITIONS:
                at = condition == wanted
                fractions[tolerance, kind, wanted] = ok[at].mean()
                row = f"{dtype} {tolerance:8} {kind:9} condition {wanted:.0e} of {at.sum():3}: "
                row += f"converged {ok[at].mean():6.1%}, steps at most {steps[at].max():4}; "
                print(row + f"SciPy within the tolerance {theirs[at].mean():6.1%}")
    assert all(f == 1 for (_, _, condition), f in fractions.items() if condition <= 1e4)
    assert min(fractions.values()) >= 0.95


@functools.lru_cache
def _at_unit_scale(dtype, shape, damped) -> tuple[Zoo, Solution, Verdict]:
    rng = np.random.default_rng([9, *shape])
    zoo = least_squares_zoo(rng, shape, dtype, damped=damped, conditions=CONDITIONS, scales=[1.0])
    plain = solve(zoo, damped, default_rtol(dtype))
    return zoo, plain, judge(zoo, plain.value)


@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_powers_of_two_change_neither_status_nor_steps_nor_relative_answer(dtype, damped):
    fifty = dtype.type(2.0**50)  # about 1e15
    for shape in SHAPES:
        zoo, plain, _ = _at_unit_scale(dtype, shape, damped)
        for of_A, of_b in [(fifty, 1), (1 / fifty, 1), (1, fifty), (1, 1 / fifty), (fifty, fifty)]:
            scaled = zoo._replace(A=zoo.A * of_A, b=zoo.b * of_b, damp=zoo.damp * of_A)
            solution = solve(scaled, damped, default_rtol(dtype))
            np.testing.assert_array_equal(solution.status, plain.status)
            np.testing.assert_array_equal(solution.stats.num_steps, plain.stats.num_steps)
            np.testing.assert_array_equal(solution.value * of_A / of_b, plain.value)


@pytest.mark.parametrize("scaled", ["A up", "A down", "b up", "b down"])
@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_scales_of_1e30_are_inside_float32(damped, scaled):
    dtype, factor = np.dtype("float32"), np.float32(2.0 ** (100 if "up" in scaled else -100))
    of_A, of_b = (factor, 1) if "A" in scaled else (1, factor)
    for shape in SHAPES:
        zoo, plain, verdict = _at_unit_scale(dtype, shape, damped)
        big = zoo._replace(A=zoo.A * of_A, b=zoo.b * of_b, damp=zoo.damp * of_A)
        solution = solve(big, damped, default_rtol(dtype))
        np.testing.assert_array_equal(solution.ok, plain.ok)
        relative = solution.value * of_A / of_b
        difference = norms(relative - plain.value) / norms(plain.value)
        allowed = default_rtol(dtype) * verdict.bound
        # Entries of A far below 1e-30 are flushed to zero: what is ill-conditioned, or has singular
        # values of 0 to keep apart from small ones, feels it.
        resolved = verdict.condition < np.inf
        if scaled == "A down":
            resolved = (verdict.condition < 1e3) & (zoo.rank == min(shape))
        off = resolved & (difference > allowed)
        assert resolved.any()
        assert not off.any(), complain(zoo, off, difference, allowed, solution.stats.num_steps)


@pytest.mark.parametrize("damped", DAMPED, ids=KINDS)
def test_norm_and_condition_are_estimated_from_below(dtype, damped):
    eps = float(np.finfo(dtype).eps)
    rtol = default_rtol(dtype)
    for shape in SHAPES:
        zoo, solution, verdict = solved(dtype, shape, damped, rtol)
        norm = solution.stats.norm_estimate / verdict.norm
        condition = solution.stats.condition_estimate / verdict.condition
        assert np.all(norm <= 1 + 10 * eps)
        assert np.all(norm >= 0.7)
        # A step past the end of the Krylov space takes in a little noise.
        assert np.all(condition <= 1 + 1e-3)
        # Where the tolerance resolves the smallest singular value, it has been seen. With damping
        # the solution needs no direction of a singular value below it.
        resolved = (verdict.condition * rtol < 1e-3) & (not damped)
        low = resolved & (condition < 0.25)
        assert not low.any(), complain(zoo, low, condition, verdict.condition)
        assert damped or resolved.mean() > 0.3


@functools.partial(jax.jit, static_argnums=3)
def _direct(A, b, damp, damped):
    def solve(A, b, damp):
        return lstsq(A, b, damp=damp if damped else 0.0, solver=Direct(), throw=False)

    return jax.vmap(solve)(A, b, damp)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_dense_solver_finds_the_true_rank_and_a_backward_stable_answer(dtype, shape):
    eps = float(np.finfo(dtype).eps)
    zoo = zoo_of(dtype, shape, False)
    solution = jax.tree.map(np.asarray, _direct(zoo.A, zoo.b, zoo.damp, False))
    verdict = judge(zoo, solution.value)
    # A singular value counts as zero below eps max(m, n) times the largest.
    clear = verdict.condition * eps * max(shape) < 0.3
    assert clear.mean() > 0.4
    np.testing.assert_array_equal(solution.stats.rank_estimate[clear], zoo.rank[clear])
    assert np.all(np.abs(solution.stats.norm_estimate / verdict.norm - 1) < 30 * eps)
    ratio = solution.stats.condition_estimate / verdict.condition
    assert np.all(np.abs(ratio - 1)[clear] < 10 * eps * verdict.condition[clear])
    assert np.all(solution.ok)
    assert np.all(verdict.error_measure(30 * eps)[clear] < 30 * eps)
    assert np.all(verdict.error[clear] <= 30 * eps * verdict.bound[clear])
