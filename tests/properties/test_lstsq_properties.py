"""`lstsq` on random systems: shapes, dtypes, memory orders, strides, scales, dependent rows."""

import functools

import jax
import numpy as np
from cases import cases, check_counts
from hypothesis import given
from hypothesis import strategies as st

from gplsq import LSMR, Direct, lstsq
from gplsq.solvers import STATUS

X64 = jax.config.jax_enable_x64
DTYPES = [np.dtype("float32"), *([np.dtype("float64")] if X64 else [])]
# Shapes of A and numbers of right-hand sides, few of them: each is compiled.
SYSTEMS = [
    ((1, 1), None),
    ((1, 4), None),
    ((5, 1), 2),
    ((6, 3), None),
    ((3, 6), 2),
    ((4, 4), None),
]
SOLVERS = {"lsmr": LSMR(), "direct": Direct()}
systems, dtypes = st.sampled_from(SYSTEMS), st.sampled_from(DTYPES)
solvers = st.sampled_from(list(SOLVERS))
# Of the rows and columns of A.
relations = st.sampled_from(
    ["free", "same rows", "same columns", "dependent", "zero column", "zero", "graded"]
)
seeds = st.integers(0, 2**32 - 1)
# Of A and b, together inside the dtype.
scales = st.sampled_from([1.0, 1e-3, 1e7, 1e-15, 1e15, 1e30, 1e-30])
damps = st.one_of(st.just(0.0), st.floats(-3, 1).map(lambda power: 10.0**power))
layouts = st.sampled_from(["C", "F", "stride", "reversed", "transposed", "read only"])


def system(seed, shape, k, relation, dtype):
    rng = np.random.default_rng(seed)
    m, n = shape
    A = rng.standard_normal(shape)
    if relation == "same rows":
        A = A[rng.integers(0, max(1, m // 2), m)]
    elif relation == "same columns":
        A = A[:, rng.integers(0, max(1, n // 2), n)]
    elif relation == "dependent":
        A = np.outer(A[:, 0], A[0])
    elif relation == "zero column":
        A[:, rng.integers(n)] = 0
    elif relation == "zero":
        A[:] = 0
    elif relation == "graded":
        A = A * np.logspace(0, -2, n)
    b = rng.standard_normal(m if k is None else (m, k))
    return A.astype(dtype), b.astype(dtype)


def laid_out(array, layout):
    """The same numbers in another order of memory."""
    if layout == "stride":
        wide = np.full([2 * size for size in array.shape], np.nan, array.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if layout == "reversed":
        return np.ascontiguousarray(array[::-1])[::-1]
    if layout == "transposed":
        return np.ascontiguousarray(array.T).T
    out = np.array(array, order="F" if layout == "F" else "C")
    out.flags.writeable = layout != "read only"
    return out


def exact(A, b, damp):
    """The solution in float64 by a singular value decomposition, and the gap that makes it so."""
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    kept = s > 1e-5 * s[0] if s[0] > 0 else np.zeros(len(s), bool)
    filters = np.where(kept, s / np.where(kept, s**2 + damp**2, 1), 0)
    # A perturbation moves directions without a singular value too, where they are not cut off.
    smallest = s[kept].min(initial=np.inf) if damp == 0 else s.min() * (A.shape[0] >= A.shape[1])
    condition = np.hypot(s[0], damp) / np.hypot(smallest, damp) if kept.any() else 1.0
    return Vt.T @ (filters[:, None] * (U.T @ b)), condition


@cases(400)
@given(
    shape=systems,
    relation=relations,
    dtype=dtypes,
    name=solvers,
    of_A=scales,
    of_b=scales,
    damp=damps,
    seed=seeds,
)
def test_an_answer_is_that_of_the_dense_decomposition_or_says_that_it_is_not(
    shape, relation, dtype, name, of_A, of_b, damp, seed
):
    size, k = shape
    A, b = system(seed, size, k, relation, dtype)
    if abs(np.log10(of_b / of_A)) > 30:
        of_b = of_A
    A, b, sigma = A * dtype.type(of_A), b * dtype.type(of_b), damp * of_A
    if sigma > 1e37:
        sigma = of_A
    solution = lstsq(A, b, damp=sigma, solver=SOLVERS[name], throw=False)
    value = np.asarray(solution.value, np.float64)
    assert solution.value.dtype == dtype
    assert value.shape == ((size[1],) if k is None else (size[1], k))
    # In units in which A and b are of order one.
    unit = max(float(np.abs(A).max()), 1e-300) if np.any(A) else 1.0
    A64, b64 = A.astype(float) / unit, b.astype(float).reshape(size[0], -1) / of_b
    x = value.reshape(size[1], -1) * (unit / of_b)
    best, condition = exact(A64, b64, sigma / unit)
    ok = np.ravel(np.asarray(solution.ok))
    eps = float(np.finfo(dtype).eps)
    if condition < 1e3:
        assert ok.all(), solution.report()
    rtol = eps**0.75 if name == "lsmr" else 100 * eps
    for j in np.flatnonzero(ok):
        off = np.linalg.norm(x[:, j] - best[:, j])
        length, rest = np.linalg.norm(best[:, j]), np.linalg.norm(b64[:, j] - A64 @ best[:, j])
        norm = np.hypot(np.linalg.norm(A64, 2), sigma / unit)
        # Wedin (1973), with the backward error that was asked for.
        size_of_b = np.linalg.norm(b64[:, j])
        bound = condition * (2 * length + size_of_b / max(norm, 1e-300)) + condition**2 * (
            rest / max(norm, 1e-300)
        )
        assert off <= 20 * rtol * bound, (off, rtol * bound, condition, solution.report())


@cases(120)
@given(shape=systems, relation=relations, dtype=dtypes, layout=layouts, seed=seeds)
def test_the_order_of_memory_changes_no_bit(shape, relation, dtype, layout, seed):
    A, b = system(seed, *shape, relation, dtype)
    plain = lstsq(A, b, throw=False)
    again = lstsq(laid_out(A, layout), laid_out(b, layout), throw=False)
    np.testing.assert_array_equal(again.value, plain.value)
    np.testing.assert_array_equal(again.status, plain.status)


@cases(120)
@given(
    shape=systems,
    relation=relations,
    dtype=dtypes,
    name=solvers,
    powers=st.tuples(st.integers(-50, 50), st.integers(-50, 50)),
    damp=damps,
    seed=seeds,
)
def test_powers_of_two_in_front_come_out_in_front(shape, relation, dtype, name, powers, damp, seed):
    A, b = system(seed, *shape, relation, dtype)
    of_A, of_b = (dtype.type(2.0**power) for power in powers)
    plain = lstsq(A, b, damp=damp, solver=SOLVERS[name], throw=False)
    scaled = lstsq(A * of_A, b * of_b, damp=damp * float(of_A), solver=SOLVERS[name], throw=False)
    np.testing.assert_array_equal(scaled.status, plain.status)
    back = np.asarray(scaled.value) * of_A / of_b
    if name == "lsmr":
        np.testing.assert_array_equal(back, plain.value)
    else:
        # LAPACK scales what is very large or small, by other numbers.
        condition = exact(A.astype(float), b.astype(float).reshape(len(b), -1), damp)[1]
        atol = 1e2 * condition**2 * np.finfo(dtype).eps
        size = np.abs(plain.value).max() + np.abs(b).max() / max(np.abs(A).max(), 1e-3)
        np.testing.assert_allclose(back, plain.value, rtol=0, atol=atol * size)


@cases(100)
@given(shape=systems, dtype=dtypes, name=solvers, damp=damps, seed=seeds)
def test_rows_in_another_order_give_the_same_solution(shape, dtype, name, damp, seed):
    A, b = system(seed, *shape, "free", dtype)
    condition = exact(A.astype(float), b.astype(float).reshape(len(b), -1), damp)[1]
    order = np.random.default_rng(seed).permutation(len(A))
    first = lstsq(A, b, damp=damp, solver=SOLVERS[name], throw=False)
    second = lstsq(A[order], b[order], damp=damp, solver=SOLVERS[name], throw=False)
    size = np.abs(first.value).max() + np.abs(b).max()
    atol = condition**2 * float(np.finfo(dtype).eps) ** 0.75 * size
    np.testing.assert_allclose(second.value, first.value, rtol=0, atol=atol)


@functools.partial(jax.jit, static_argnums=3)
def _batched(A, b, damp, name):
    return jax.vmap(lambda A, b: lstsq(A, b, damp=damp, solver=SOLVERS[name], throw=False))(A, b)


@cases(60)
@given(
    shape=st.sampled_from(SYSTEMS[3:]),
    relations=st.tuples(*[relations] * 3),
    dtype=dtypes,
    name=solvers,
    damp=st.floats(1e-3, 10.0),
    seed=seeds,
)
def test_a_batch_is_its_systems_one_by_one(shape, relations, dtype, name, damp, seed):
    size, k = shape
    many = [system(seed + i, size, k, relation, dtype) for i, relation in enumerate(relations)]
    A, b = (np.stack(parts) for parts in zip(*many, strict=True))
    sigma = dtype.type(damp)
    batch = _batched(A, b, sigma, name)
    for i in range(3):
        alone = lstsq(A[i], b[i], damp=float(sigma), solver=SOLVERS[name], throw=False)
        np.testing.assert_array_equal(batch.ok[i], alone.ok)
        size_of = np.abs(alone.value).max() + 1e-30
        # The tolerance is met by both; a step more or less is rounding.
        atol = 30 * (1 + (np.abs(A[i]).max() / damp) ** 2) * float(np.finfo(dtype).eps) ** 0.75
        np.testing.assert_allclose(batch.value[i], alone.value, rtol=0, atol=atol * size_of)


@cases(60)
@given(
    shape=st.sampled_from([SYSTEMS[2], SYSTEMS[4]]),
    relation=relations,
    dtype=dtypes,
    name=solvers,
    damp=damps,
    seed=seeds,
    of_second=scales,
)
def test_right_hand_sides_do_not_see_each_other(
    shape, relation, dtype, name, damp, seed, of_second
):
    A, b = system(seed, *shape, relation, dtype)
    other = b * np.array([1, of_second], dtype)
    first = lstsq(A, b, damp=damp, solver=SOLVERS[name], throw=False)
    second = lstsq(A, other, damp=damp, solver=SOLVERS[name], throw=False)
    assert np.ravel(first.status)[0] == np.ravel(second.status)[0]
    size = np.abs(first.value[:, 0]).max()
    atol = 1e3 * np.finfo(dtype).eps * size
    np.testing.assert_allclose(second.value[:, 0], first.value[:, 0], rtol=0, atol=atol)


@cases(80)
@given(
    shape=systems,
    dtype=dtypes,
    name=solvers,
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
    where=st.sampled_from(["A", "b"]),
    damp=damps,
    seed=seeds,
)
def test_a_number_that_is_not_finite_is_reported_wherever_it_stands(
    shape, dtype, name, bad, where, damp, seed
):
    A, b = system(seed, *shape, "free", dtype)
    array = A if where == "A" else b
    at = np.unravel_index(np.random.default_rng(seed).integers(array.size), array.shape)
    array[at] = bad
    solution = lstsq(A, b, damp=damp, solver=SOLVERS[name], throw=False)
    status = np.ravel(solution.status)
    column = at[1] if where == "b" and b.ndim == 2 else slice(None)
    assert np.all(status[column] == STATUS.NON_FINITE), solution.report()


def test_every_property_was_tried_on_the_cases_planned(tried):
    tried(check_counts(__name__))
