"""Tables larger than memory: the same numbers, a few blocks at a time, and errors with rows."""

import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import BLOCK, D, N, Recording, parquet_path

from gplsq import LSMR, lstsq
from gplsq.kernels import RBF
from gplsq.operators import Features, Inducing, RowTable
from gplsq.solvers import SampledGram
from gplsq.testing import count_compilations, peak_memory_bytes, tolerance


def _memmap(X, folder):
    path = folder / "table.npy"
    np.save(path, X)
    return RowTable(np.load(path, mmap_mode="r"))


def _parquet(X, folder):
    names = [f"x{j}" for j in range(X.shape[1])]
    return RowTable(parquet_path(X, folder), columns=names)


def _parquet_file(X, folder):
    files = pytest.importorskip("pyarrow.parquet")
    path = parquet_path(X, folder)
    return RowTable(files.ParquetFile(path), columns=[f"x{j}" for j in range(X.shape[1])])


def _parquet_folder(X, folder):
    for part, rows in enumerate(np.array_split(np.arange(len(X)), 2)):
        (folder / "all" / str(part)).mkdir(parents=True)
        parquet_path(X[rows], folder / "all" / str(part))
    names = [f"x{j}" for j in range(X.shape[1])]
    return RowTable(folder / "all", columns=names)


def _blocks(X, folder):
    return RowTable([X[:40], X[40:40], X[40:41], X[41:]])


SOURCES = {
    "array": lambda X, folder: RowTable(X),
    "memmap": _memmap,
    "slices": lambda X, folder: RowTable(Recording(X)),
    "jax": lambda X, folder: RowTable(jnp.asarray(X)),
    "parquet": _parquet,
    "parquet-file": _parquet_file,
    "parquet-folder": _parquet_folder,
    "blocks": _blocks,
}


@pytest.fixture(params=SOURCES)
def made(request, rng, dtype, tmp_path):
    """A table and the array of its rows."""
    X = rng.uniform(-1, 1, (N, D)).astype(dtype)
    return SOURCES[request.param](X, tmp_path), X


def test_rows_are_those_of_the_source_in_any_order(made, dtype):
    table, X = made
    assert table.shape == X.shape
    assert table.dtype == dtype
    for start, stop in [(0, N), (38, 45), (5, 9), (N - 1, N), (7, 7), (29, 31)]:
        block = table.read(start, stop)
        assert block.dtype == dtype
        np.testing.assert_array_equal(block, X[start:stop])
    for index in ([N - 1, 0, 40, 40, -2], [], np.arange(N)[::-1]):
        index = np.asarray(index, int)
        np.testing.assert_array_equal(table.take(index), X[index])
    starts, blocks = zip(*table.blocks(25), strict=True)
    assert starts == (0, 25, 50, 75, 100)
    np.testing.assert_array_equal(np.concatenate(blocks), X)
    table.check()


def test_a_block_is_an_array_of_its_own(made):
    table, X = made
    table.read(0, 5)[:] = np.nan
    table.take([1, 2])[:] = np.nan
    np.testing.assert_array_equal(table.read(0, 5), X[:5])


# How to make an operator of rows, whatever they are.
def _inducing(X, Z, scale=0.7):
    return Inducing(RBF(scale), X, Z, block=BLOCK)


def _features(X, Z, scale=0.7):
    return Features(RBF(scale), X, 10, block=BLOCK)


MAKERS = {"inducing": _inducing, "features": _features}


@eqx.filter_jit
def _run(operator, v, u, index):
    """All that an operator does. Compiled once for all tables of a shape."""
    rows = operator.rows_at(index), jax.vmap(lambda i: operator.rows_at(i[None]))(index)
    return operator.mv(v), operator.rmv(u), operator.sweep(v, u), rows


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_products_and_rows_are_those_of_the_array(made, make, rng, dtype):
    table, X = made
    ours, oracle = make(table, X[:6]), make(X, X[:6])
    assert ours.shape == oracle.shape
    assert ours.dtype == dtype
    assert ours.X is table
    n, r = oracle.shape
    v, u = rng.standard_normal((r, 2)).astype(dtype), rng.standard_normal((n, 2)).astype(dtype)
    index = np.array([3, N - 1, 3, 0, 50])
    results = (jax.tree.leaves(_run(operator, v, u, index)) for operator in (ours, oracle))
    for got, want in zip(*results, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance(dtype, condition=100))


@pytest.mark.parametrize("source", SOURCES)
def test_solutions_are_those_of_the_array(source, rng, tmp_path):
    X = rng.uniform(-1, 1, (N, D)).astype(np.float32)

    def solved(rows):
        recipe, solver = SampledGram(40), LSMR(rtol=1e-5)
        operator = _inducing(rows, X[:6])
        return lstsq(operator, X[:, 0] ** 2, damp=0.3, solver=solver, preconditioner=recipe).value

    np.testing.assert_allclose(solved(SOURCES[source](X, tmp_path)), solved(X), atol=1e-4)


def test_derivatives_are_those_of_the_array(rng, tmp_path, x64):
    X, y, g = rng.uniform(-1, 1, (N, D)), rng.standard_normal(N), rng.standard_normal(N)
    start = 0.7, jnp.asarray(X[:6]), 0.3

    def gradient(rows):
        def loss(parameters):
            scale, Z, damp = parameters
            operator = _inducing(rows, Z, scale)
            return g @ operator.mv(lstsq(operator, y, damp=damp, solver=LSMR(rtol=1e-12)).value)

        return jax.grad(loss)

    expected = jax.tree.leaves(jax.jit(gradient(X))(start))
    assert np.linalg.norm(expected[0]) > 1e-3
    results = jax.jit(gradient(_memmap(X, tmp_path)))(start), gradient(_blocks(X, tmp_path))(start)
    for result in results:
        for got, want in zip(jax.tree.leaves(result), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


def test_another_table_of_the_same_shape_compiles_nothing(rng):
    y = rng.standard_normal(N).astype(np.float32)
    X = [rng.uniform(-1, 1, (N, D)).astype(np.float32) for _ in range(3)]

    def loss(rows, scale):
        solution = lstsq(_features(rows, None, scale), y, damp=0.1, solver=LSMR(rtol=1e-5))
        return jnp.sum(solution.value**2)

    def solve(rows):
        return jax.value_and_grad(lambda scale: loss(rows, scale))(0.7)

    jax.block_until_ready(solve(RowTable(X[0])))
    with count_compilations() as names:
        second = jax.block_until_ready(solve(RowTable(list(np.array_split(X[1], 4)))))
        third = jax.block_until_ready(solve(RowTable(X[2]).standardised([0.1] * D, [2.0] * D)))
    assert names == []
    for (got, slope), rows in ((second, X[1]), (third, (X[2] - np.float32(0.1)) / 2)):
        np.testing.assert_allclose(got, loss(rows, 0.7), rtol=1e-3)
        step = (loss(rows, 0.71) - loss(rows, 0.69)) / 0.02
        np.testing.assert_allclose(slope, step, rtol=3e-2)


def test_an_operator_out_of_a_compiled_function_reads_its_own_table(rng):
    @jax.jit
    def same(operator):
        return operator

    tables = [RowTable(rng.uniform(-1, 1, (N, D)).astype(np.float32)) for _ in range(2)]
    for table in tables:
        operator = same(_features(table, None))
        assert operator.X is table
        expected = _features(table.read(0, N), None).mv(np.ones(10, np.float32))
        np.testing.assert_allclose(operator.mv(np.ones(10, np.float32)), expected, atol=1e-5)


def test_tables_outlive_their_operators_for_a_while_and_not_for_ever():
    """JAX may still compute when an operator is dropped."""

    def used():
        table = RowTable(np.ones((4, 2), np.float32))
        _features(table, None)
        return weakref.ref(table)

    first = used()
    gc.collect()
    assert first() is not None
    others = [used() for _ in range(16)]
    gc.collect()
    assert first() is None
    assert others[0]() is not None


def test_a_solve_reads_one_block_at_a_time_in_order(rng):
    """No slice is higher than a block, every pass is one over all rows."""
    source = Recording(rng.uniform(-1, 1, (N, D)).astype(np.float32))
    operator = _inducing(RowTable(source), source.array[:6])
    solution = lstsq(operator, source.array[:, 0], damp=0.3, solver=LSMR(rtol=1e-4))
    assert bool(solution.ok)
    assert max(source.heights) == operator.cross.height
    starts = [start for start, _ in source.slices]
    one_pass = list(range(0, N, operator.cross.height))
    assert len(starts) >= 3 * len(one_pass)
    assert starts == one_pass * (len(starts) // len(one_pass))


def test_the_memory_of_a_solve_and_of_its_gradient_does_not_hold_the_table(rng, tmp_path):
    """A sparse file of 64 MB; by XLA's count of what the compiled program needs."""
    n, d, m = 1_000_000, 16, 4
    path = tmp_path / "large.dat"
    rows = np.memmap(path, np.float32, "w+", shape=(n, d))
    rows[:: n // 50] = rng.standard_normal((50, d))
    table = RowTable(rows)
    assert table.shape[0] * table.shape[1] * 4 == 64_000_000
    Z, v, u = rng.standard_normal((m, d)), np.ones(m, np.float32), np.ones(n, np.float32)

    def swept(scale):
        return jnp.sum(Inducing(RBF(scale), table, Z).sweep(v, u)[1])

    for fn in (swept, jax.grad(swept)):
        assert peak_memory_bytes(fn, 1.0) < table.shape[0] * table.shape[1] * 4 / 3


def test_a_row_group_is_loaded_once_in_a_pass(rng, tmp_path, monkeypatch):
    table = _parquet(rng.uniform(-1, 1, (N, D)), tmp_path)
    loaded, load = [], table._source.load
    monkeypatch.setattr(table._source, "load", lambda number: loaded.append(number) or load(number))
    assert sum(len(block) for _, block in table.blocks(7)) == N
    table.take(np.arange(N)[::-1])
    assert loaded == [0, 1, 2, 3] * 2
    assert len(table._source.kept) == 1


def test_blocks_are_made_once_in_a_pass_and_forgotten(rng):
    X = rng.uniform(-1, 1, (N, D)).astype(np.float32)
    alive, most, made = [0], [0], [0]

    class Block(np.ndarray):
        def __del__(self):
            if self.base is None:
                alive[0] -= 1

    class Source:
        def __iter__(self):
            made[0] += 1
            for start in range(0, N, 10):
                block = np.ndarray.__new__(Block, X[start : start + 10].shape, np.float32)
                block[:] = X[start : start + 10]
                alive[0] += 1
                most[0] = max(most[0], alive[0])
                yield block
                del block

    table = RowTable(Source())
    operator = _features(table, None)
    np.testing.assert_allclose(
        operator.mv(np.ones(10, np.float32)),
        _features(X, None).mv(np.ones(10, np.float32)),
        atol=1e-5,
    )
    assert made[0] == 2  # the first one counts
    assert most[0] <= 2


def test_columns_are_standardised_when_they_are_read(rng, dtype):
    X = (1e3 + rng.standard_normal((N, D))).astype(dtype)
    table = RowTable(X)
    mean, std = table.moments()
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose(mean, X.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(std, X.std(axis=0, dtype=np.float64), rtol=1e-9)
    unit = table.standardised(mean, std)
    assert unit.dtype == dtype
    expected, rounding = (X.astype(float) - mean) / std, 1e-3 if dtype.itemsize == 4 else 1e-9
    np.testing.assert_allclose(unit.read(3, 9), expected[3:9], atol=rounding)
    again = unit.standardised([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    np.testing.assert_allclose(
        again.take([5]), (unit.take([5]) - [1.0, 2.0, 3.0]) / [4.0, 5.0, 6.0], atol=rounding
    )
    np.testing.assert_allclose(unit.moments()[0], 0, atol=1e-4)
    np.testing.assert_allclose(unit.moments()[1], 1, atol=1e-4)


def test_moments_do_not_cancel(rng):
    """A mean of 1e9 spreads; a textbook sum of squares would lose all digits."""
    X = rng.standard_normal((5000, 2))
    table = RowTable(1e9 + X, dtype=np.float64 if jax.config.jax_enable_x64 else None)
    if jax.config.jax_enable_x64:
        np.testing.assert_allclose(table.moments()[1], X.std(axis=0), rtol=1e-6)
        np.testing.assert_allclose(table.moments()[0] - 1e9, X.mean(axis=0), atol=1e-6)
    # Large numbers are shifted before they are rounded to float32.
    shifted = RowTable(1e9 + X, dtype=np.float32, shift=[1e9, 1e9])
    np.testing.assert_allclose(shifted.read(0, 50), X[:50], atol=1e-6)
    np.testing.assert_allclose(shifted.moments()[1], X.std(axis=0), rtol=1e-6)


def test_the_deviation_of_a_constant_column_is_zero_and_refused_as_a_scale():
    table = RowTable(np.full((3000, 2), 0.1))
    mean, std = table.moments()
    np.testing.assert_array_equal(std, 0)
    np.testing.assert_array_equal(mean, table.read(0, 1)[0])
    with pytest.raises(ValueError, match=r"scale must be positive; got .* Pass 1 for a constant"):
        table.standardised(mean, std)


def test_the_default_type_is_that_of_float32_sources_and_else_of_jax():
    default = np.float64 if jax.config.jax_enable_x64 else np.float32
    for source, expected in [(np.float32, np.float32), (np.float64, default), (np.int32, default)]:
        table = RowTable(np.ones((4, 2), source))
        assert table.dtype == expected
        assert table.read(0, 2).dtype == expected
        assert RowTable([np.ones((4, 2), source)]).dtype == expected
        assert RowTable(np.ones((4, 2), source), dtype=np.float32).read(0, 1).dtype == np.float32
    with pytest.raises(TypeError, match="dtype must be float32, or float64"):
        RowTable(np.ones((4, 2)), dtype=np.float16)
