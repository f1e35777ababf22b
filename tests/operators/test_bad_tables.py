"""What is no table, and tables that cannot be read: errors with row numbers."""

import pickle

import jax
import numpy as np
import pytest
from tables import BLOCK, D, N, Passes, Recording, parquet_path

from gplsq import lstsq
from gplsq.kernels import RBF
from gplsq.operators import Features, RowTable


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            lambda: (b for b in [np.ones((2, 2))]),
            TypeError,
            "exhausted after one pass: pass",
        ),
        (lambda: iter([np.ones((2, 2))]), TypeError, "exhausted after one pass: pass"),
        (lambda: 3, TypeError, "source must be an array, a Parquet file"),
        (lambda: np.ones(3), ValueError, r"source must have shape \(n, d\); got \(3,\)"),
        (lambda: np.ones((3, 2), complex), TypeError, "source must be real"),
        (lambda: np.array([["a", "b"]]), TypeError, "source must hold real numbers"),
        (lambda: np.ma.ones((3, 2)), TypeError, "source must not be a masked array"),
        (lambda: np.ones((0, 2)), ValueError, "source must have rows and columns"),
        (list, ValueError, "source must have rows and columns"),
    ],
)
def test_what_is_no_table_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        RowTable(source())


def test_bad_arguments_are_refused():
    X = np.ones((4, 2), np.float32)
    with pytest.raises(ValueError, match=r"shift must be finite numbers, shape \(2,\)"):
        RowTable(X, shift=[1.0])
    with pytest.raises(ValueError, match=r"scale must be finite numbers, shape \(2,\)"):
        RowTable(X, scale=[1.0, np.nan])
    with pytest.raises(TypeError, match="columns is for Parquet sources"):
        RowTable(X, columns=["a"])
    with pytest.raises(IndexError, match="rows 2:5 are not all in a table of 4 rows"):
        RowTable(X).read(2, 5)
    with pytest.raises(IndexError, match="rows 1 to 4 are not all in a table of 4 rows"):
        RowTable(X).take([1, 4])
    with pytest.raises(TypeError, match="index must be row numbers"):
        RowTable(X).take([1.0])
    with pytest.raises(TypeError, match="Make it again from its source"):
        pickle.dumps(RowTable(X))


def test_parquet_columns_that_are_not_numbers_are_named(rng, tmp_path):
    path = parquet_path(rng.uniform(-1, 1, (N, D)), tmp_path)
    with pytest.raises(ValueError, match=r"columns of numbers, \['x0', .*; got \['name'\] besides"):
        RowTable(path)
    with pytest.raises(ValueError, match=r"got \['y'\] besides"):
        RowTable(path, columns=["x0", "y"])


def test_missing_numbers_of_integer_columns_are_found(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    files = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"a": arrow.array([1, 2, 3, None, 5, 6])})
    files.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    rows = RowTable(tmp_path / "a.parquet")
    np.testing.assert_array_equal(rows.read(0, 3), [[1], [2], [3]])
    with pytest.raises(ValueError, match="the first in row 3, column 0"):
        rows.check()


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("gplsq.operators._table.importlib.import_module", missing)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        RowTable(tmp_path / "table.parquet")


def _good(rows=30):
    return np.ones((rows, 2), np.float32)


def _with_nan():
    block = _good()
    block[4, 1] = np.nan
    return block


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (_with_nan(), "hold 1 numbers that are not finite, the first in row 34, column 1"),
        (np.ones((30, 3)), r"rows 30 to 59 of the table came as shape \(30, 3\), and not as"),
        (_good() * 1j, "rows 30 to 59 of the table could not be read: TypeError: .* must be real"),
        (np.ma.ones((30, 2)), "rows 30 to 59 of the table could not be read: .* masked array"),
        (np.ones(30), r"rows 30 and after of the table come as shape \(30,\)"),
        (None, "rows 30 and after of the table come as shape"),
    ],
)
def test_bad_blocks_are_refused_by_row_numbers_in_every_pass(block, message):
    with pytest.raises(ValueError, match=message):
        RowTable([_good(), block, _good()])
    table = RowTable(Passes([_good()] * 3, [_good(), block, _good()]))
    table.read(0, 30)
    with pytest.raises(ValueError, match=message):
        table.read(25, 60)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ([_good(), _good(20), _good()], "rows 30 to 59 of the table came as 30 in the first .* 20"),
        ([_good()], "rows 30 to 59 of the table came as 30 in the first pass .* as 0 now"),
        ([_good()] * 4, "rows 90 and after of the table came only after the first pass"),
    ],
)
def test_a_pass_of_another_length_is_refused_by_row_numbers(later, message):
    source = Passes([_good()] * 3, later, [_good()] * 3)
    table = RowTable(source)
    with pytest.raises(ValueError, match=message):
        table.check()
    table.check()  # an error leads to a fresh pass
    assert source.count == 3


@pytest.mark.parametrize("jit", [False, True])
def test_an_error_of_reading_in_a_compiled_program_names_the_rows(jit):
    X = np.ones((90, 2), np.float32)
    X[34, 1] = np.inf
    operator = Features(RBF(0.7), RowTable(X), 10, block=BLOCK)
    message = "ValueError: rows 30 to 44 of the table hold 1 numbers that are not finite"
    product = jax.jit(lambda v: operator.mv(v)) if jit else operator.mv
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(product(np.ones(10, np.float32)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(lstsq(operator, X[:, 0], damp=0.1).value)
    with pytest.raises(ValueError, match="the first in row 34, column 1"):
        operator.X.check()


def test_an_error_of_the_source_gets_row_numbers():
    class Broken(Recording):
        def __getitem__(self, rows):
            if rows.stop > 60:
                raise OSError("disk")
            return super().__getitem__(rows)

    table = RowTable(Broken(np.ones((90, 2), np.float32)))
    with pytest.raises(ValueError, match="rows 50 to 69 of the table could not be read: OSError"):
        table.read(50, 70)
    short = Recording(np.ones((90, 2), np.float32))
    table = RowTable(short)
    short.array = short.array[:60]
    with pytest.raises(ValueError, match=r"rows 50 to 69 of the table came as shape \(10, 2\)"):
        table.read(50, 70)
