"""Tables of rows that stay where they are, and are read a block at a time."""

import bisect
import contextlib
import functools
import importlib
import itertools
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from gplsq._core import check_real_array, describe, tile_rows

# Rows that `take` looks through at once, where a source cannot be asked for scattered rows.
_WINDOW = 1024


class RowTable:
    """n rows of d numbers, larger than memory: read in blocks where and when they are needed.

    The `X` of `gplsq.operators.Inducing` and `gplsq.operators.Features` can be a table.

    Parameters
    ----------
    source
        - A NumPy array or memory map (``np.load(path, mmap_mode="r")``), shape (n, d), or
          something with a ``shape`` and slices of rows, such as a data set of h5py or zarr.
        - The path of a Parquet file or folder, a `pyarrow.dataset.Dataset` or a
          `pyarrow.parquet.ParquetFile`, read by row groups.
        - An object whose ``iter()`` starts a fresh pass over blocks, shape (t, d), such as a list.
          A first pass counts and verifies them, and all must give the same heights. Reading goes
          forwards, and starts again where an earlier block is asked for.
    columns
        Names of the columns of a Parquet source; all of them by default.
    dtype
        float32 or float64. The default is float32 where the source is float32, and otherwise
        float64 with JAX's x64 mode on and float32 without.
    shift, scale
        Shape (d,). Rows are ``(row - shift) / scale``, computed in the higher of the precisions
        of the source and of `dtype`.

    Raises
    ------
    TypeError
        If the source is none of these, an iterator that can be used only once, or not real; or
        `dtype` is another one.
    ValueError
        If a shape does not fit, or a scale is not positive; and from all reading, naming the rows,
        if they cannot be read, have the wrong shape or number, or are not real or not finite.
    ImportError
        For a Parquet source without pyarrow.

    Notes
    -----
    Memory: the rows asked for, and the last row group or block of the source.
    Compiled programs read rows by `jax.pure_callback`. Which table they read is a value, no part of
    the program: an operator on another table of the same shape and dtype compiles nothing anew;
    another shape or dtype does. An error of reading in a compiled program arrives as a
    `jax.errors.JaxRuntimeError`, whose text ends with the ``ValueError`` and its rows; `check`
    raises that itself. A source must not compute with JAX, which may wait for the program that
    waits for the source.
    """

    def __init__(
        self,
        source: Any,
        *,
        columns: Sequence[str] | None = None,
        dtype: Any = None,
        shift: ArrayLike | None = None,
        scale: ArrayLike | None = None,
    ):
        self._source = _as_source(source, columns)
        n, d = self._source.shape
        if min(n, d) < 1 or n > np.iinfo(np.int32).max:
            msg = f"source must have rows and columns, below 2^31; got shape ({n}, {d}). Split it."
            raise ValueError(msg)
        self.shape: tuple[int, int] = (n, d)
        self.dtype: np.dtype = _checked_dtype(self._source.dtype, dtype)
        self.shift = np.zeros(d) if shift is None else _checked_columns("shift", shift, d)
        self.scale = np.ones(d) if scale is None else _checked_columns("scale", scale, d)
        if np.any(self.scale <= 0):
            msg = f"scale must be positive; got {self.scale}. Pass 1 for a constant column."
            raise ValueError(msg)
        self.key = uuid.uuid4().bytes  # that of no other table, in other processes neither

    def __repr__(self) -> str:
        return f"RowTable(shape={self.shape}, dtype={self.dtype})"

    def __reduce__(self):
        msg = "a RowTable cannot be copied or pickled. Make it again from its source."
        raise TypeError(msg)

    def read(self, start: int, stop: int) -> Float[np.ndarray, "t d"]:
        """Rows start to stop - 1, in an array of their own."""
        start, stop = int(start), int(stop)
        if not 0 <= start <= stop <= self.shape[0]:
            msg = f"rows {start}:{stop} are not all in a table of {self.shape[0]} rows."
            raise IndexError(msg)
        return self._finished(self._source.read(start, stop), np.arange(start, stop))

    def take(self, index: ArrayLike) -> Float[np.ndarray, "t d"]:
        """Rows `index`, shape (t,), in any order; negative numbers count from the end.

        Memory: t rows, and 1024 rows of sources other than NumPy arrays, which are read forwards.
        """
        rows = np.asarray(index)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            msg = f"index must be row numbers, shape (t,); got {describe(rows)}. Pass integers."
            raise TypeError(msg)
        n, rows = self.shape[0], rows.astype(np.int64)
        if np.any((rows < -n) | (rows >= n)):
            msg = f"rows {rows.min()} to {rows.max()} are not all in a table of {n} rows."
            raise IndexError(msg)
        rows = np.where(rows < 0, rows + n, rows)
        return self._finished(_scattered(self._source, rows), rows)

    def blocks(self, height: int | None = None) -> Iterator[tuple[int, Float[np.ndarray, "t d"]]]:
        """All rows in order: first row numbers, with arrays of at most `height` rows."""
        n, d = self.shape
        height = tile_rows(n, d) if height is None else height
        return ((start, self.read(start, min(start + height, n))) for start in range(0, n, height))

    def check(self) -> None:
        """Read all rows once; raise the ``ValueError`` that names the first rows at fault."""
        for _ in self.blocks():
            pass

    def standardised(self, shift: ArrayLike, scale: ArrayLike) -> "RowTable":
        """Another view of the same source: ``(row - shift) / scale`` of the rows of this one."""
        d = self.shape[1]
        shift = self.shift + self.scale * _checked_columns("shift", shift, d)
        scale = self.scale * _checked_columns("scale", scale, d)
        return RowTable(self._source, dtype=self.dtype, shift=shift, scale=scale)

    def moments(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """Mean and standard deviation of the columns, in float64, by one pass.

        The standard deviation (divided by n) of a constant column is 0. Blocks are merged in pairs
        of equal numbers of rows (Chan, Golub & LeVeque 1983), and their rows taken relative to the
        first one: rounding errors grow with log n, and not with the size of the mean.
        """
        first = self.read(0, 1)[0].astype(np.float64)
        parts: list[tuple[int, np.ndarray, np.ndarray]] = []
        for _, block in self.blocks():
            block = block.astype(np.float64) - first
            mean = block.mean(axis=0)
            part = (len(block), mean, np.sum((block - mean) ** 2, axis=0))
            while parts and parts[-1][0] <= part[0]:
                part = _merged(parts.pop(), part)
            parts.append(part)
        while len(parts) > 1:
            parts.append(_merged(parts.pop(), parts.pop()))
        count, mean, squares = parts[0]
        return first + mean, np.sqrt(squares / count)

    def _finished(self, raw: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Numbers of the source as those of the table; `rows` are their row numbers."""
        work = np.result_type(raw.dtype, self.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            block = raw.astype(work, order="C") - self.shift.astype(work)
            block = (block / self.scale.astype(work)).astype(self.dtype, copy=False)
        _check_finite(block, rows)
        return block


class _Array:
    """A source of slices of something like an array."""

    def __init__(self, array: Any):
        # Slices of a JAX array would be computed by JAX.
        self.array = np.asarray(array) if isinstance(array, jax.Array) else array
        self.shape = tuple(int(size) for size in array.shape)
        if len(self.shape) != 2:
            msg = f"source must have shape (n, d); got {self.shape}. Reshape one column to (n, 1)."
            raise ValueError(msg)
        example = array if hasattr(array, "dtype") else np.asarray(array[:1])
        self.dtype = np.dtype(check_real_array("source", example).dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        with _naming(start, stop):
            block = self.array[start:stop]
        return _checked_block(block, start, stop, self.shape[1])


class _Pieces:
    """A source of pieces of known heights, each loaded as a whole; the last one is kept."""

    def __init__(self, edges: list[int], d: int, dtype: Any, load: Callable[[int], np.ndarray]):
        self.edges, self.dtype, self.load = edges, _wide(dtype), load
        self.shape = (edges[-1], d)
        self.kept: dict[int, np.ndarray] = {}
        self.lock = threading.Lock()  # two programs may run at once

    def read(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, self.shape[1]), self.dtype)
        first, number = start, bisect.bisect_right(self.edges, start) - 1
        with self.lock:
            while first < stop:
                low, high = self.edges[number : number + 2]
                end = min(stop, high)
                if first < end:
                    if number not in self.kept:
                        self.kept.clear()  # never two of them
                        new = self.load(number)
                        self.kept[number] = _checked_block(new, low, high, self.shape[1])
                    out[first - start : end - start] = self.kept[number][first - low : end - low]
                first, number = end, number + 1
        return out


class _Passes:
    """Passes over an iterable of blocks. The first one counts and verifies them."""

    def __init__(self, blocks: Iterable[Any]):
        self.blocks = blocks
        self.edges, dtypes, self.d = [0], set(), 0
        for start, block in self._fresh():
            stop = start + len(block)
            self.d = self.d or block.shape[1]
            _check_finite(_checked_block(block, start, stop, self.d), np.arange(start, stop))
            self.edges.append(stop)
            dtypes.add(block.dtype)
        self.dtype = np.result_type(*dtypes, np.bool_)
        self.current, self.next = self._fresh(), 0

    def _fresh(self) -> Iterator[tuple[int, np.ndarray]]:
        """A pass: first row numbers and blocks."""
        start, blocks = 0, iter(self.blocks)
        while True:
            with _naming(start, None):
                raw = next(blocks, self)  # itself for the end: it is no block
                block = np.asanyarray(raw)
            if raw is self:
                return
            if block.ndim != 2:
                _fault(start, None, f"come as shape {block.shape}. A block must have shape (t, d)")
            yield start, block
            start += len(block)
            del raw, block  # before the next one is made

    def load(self, number: int) -> np.ndarray:
        """Block `number`. Those before the last one loaded take a fresh pass."""
        if number < self.next:
            self.current, self.next = self._fresh(), 0
        position, self.next = self.next, len(self.edges)  # an error leads to a fresh pass
        block = np.empty((0, self.d))
        for start, stop in itertools.pairwise(self.edges[position : number + 2]):
            _, block = next(self.current, (start, np.empty((0, self.d))))
            if len(block) != stop - start:
                what = f"came as {stop - start} in the first pass over the blocks, and as"
                _fault(start, stop, f"{what} {len(block)} now. Give the same in every pass")
        if number == len(self.edges) - 2 and next(self.current, None) is not None:
            _fault(self.edges[-1], None, "came only after the first pass over the blocks")
        self.next = number + 1
        return block


def _scattered(source: _Array | _Pieces, rows: np.ndarray) -> np.ndarray:
    if isinstance(source, _Array) and isinstance(source.array, np.ndarray):
        return source.array[rows]
    # Window by window, in order, so that the source is read once.
    out = np.empty((len(rows), source.shape[1]), _wide(source.dtype))
    order = np.argsort(rows, kind="stable")
    edges = np.flatnonzero(np.diff(rows[order] // _WINDOW)) + 1
    for group in np.split(order, edges) if len(rows) else []:
        start, stop = int(rows[group[0]]), int(rows[group[-1]]) + 1
        out[group] = source.read(start, stop)[rows[group] - start]
    return out


def _as_source(source: Any, columns: Sequence[str] | None) -> _Array | _Pieces:
    if isinstance(source, _Array | _Pieces):
        return source
    path = isinstance(source, str | os.PathLike)
    if path or hasattr(source, "read_row_group") or hasattr(source, "get_fragments"):
        return _parquet(os.fspath(source) if path else source, columns)
    if columns is not None:
        msg = f"columns is for Parquet sources; got {describe(source)}. Leave it out."
        raise TypeError(msg)
    if hasattr(source, "shape") and hasattr(source, "__getitem__"):
        return _Array(source)
    if not isinstance(source, Iterable) or isinstance(source, Iterator):
        msg = (
            "source must be an array, a Parquet file or data set, or an object whose iter() starts "
            f"a fresh pass over blocks of rows; got {describe(source)}. An iterator is exhausted "
            "after one pass: pass a list, or an object with an __iter__ that starts afresh."
        )
        raise TypeError(msg)
    passes = _Passes(source)
    return _Pieces(passes.edges, passes.d, passes.dtype, passes.load)


def _parquet(source: Any, columns: Sequence[str] | None) -> _Pieces:
    """The row groups of a file or of a data set of files."""
    try:
        types, datasets = map(importlib.import_module, ("pyarrow.types", "pyarrow.dataset"))
    except ImportError as error:
        msg = "a Parquet source needs pyarrow, an optional library: pip install pyarrow."
        raise ImportError(msg) from error
    if isinstance(source, str):
        source = datasets.dataset(source, format="parquet")
    if hasattr(source, "read_row_group"):
        schema, groups = source.schema_arrow, range(source.num_row_groups)
        counts = [source.metadata.row_group(i).num_rows for i in groups]
        loaders = [functools.partial(source.read_row_group, i) for i in groups]
    else:
        schema, parts, counts = source.schema, [], []
        for part in source.get_fragments():
            groups = part.split_by_row_group() if hasattr(part, "split_by_row_group") else []
            parts += groups or [part]
            # Of a row group, count_rows() would count the whole file.
            counts += [group.row_groups[0].num_rows for group in groups] or [part.count_rows()]
        loaders = [functools.partial(part.to_table, schema=schema) for part in parts]
    names = list(schema.names if columns is None else columns)
    kinds = types.is_floating, types.is_integer, types.is_boolean
    real = [n for n in schema.names if any(kind(schema.field(n).type) for kind in kinds)]
    if not set(names) <= set(real):
        others = sorted({*names} - {*real})
        msg = f"columns must be columns of numbers, {real}; got {others} besides. Name columns."
        raise ValueError(msg)
    dtypes = [schema.field(name).type.to_pandas_dtype() for name in names]
    edges = [0, *itertools.accumulate(counts)]

    def load(number: int) -> np.ndarray:
        with _naming(*edges[number : number + 2]):
            table = loaders[number](columns=names)
            return np.stack([table[name].to_numpy() for name in names], axis=1)

    return _Pieces(edges, len(names), np.result_type(*dtypes, np.bool_), load)


def _wide(dtype: Any) -> np.dtype:
    """A type for rows that are gathered: slices of integers may have a NaN for what is missing."""
    return np.dtype(np.float32 if dtype == np.float32 else np.float64)


def _merged(a: tuple, b: tuple) -> tuple[int, np.ndarray, np.ndarray]:
    """Number, mean and sum of squares of the rows of two parts together."""
    count, difference = a[0] + b[0], b[1] - a[1]
    mean = a[1] + difference * (b[0] / count)
    return count, mean, a[2] + b[2] + difference**2 * (a[0] * b[0] / count)


def _checked_dtype(source: np.dtype, dtype: Any) -> np.dtype:
    widest = jax.dtypes.canonicalize_dtype(np.float64)
    default = np.float32 if source == np.float32 else widest
    wanted = np.dtype(default if dtype is None else dtype)
    if wanted not in (np.float32, widest):
        msg = f"dtype must be float32, or float64 with JAX's x64 mode on; got {wanted}."
        raise TypeError(msg)
    return wanted


def _checked_columns(name: str, value: Any, d: int) -> np.ndarray:
    array = np.asarray(check_real_array(name, value), np.float64)
    if array.shape != (d,) or not np.all(np.isfinite(array)):
        msg = f"{name} must be finite numbers, shape ({d},); got {describe(value)}. Pass one each."
        raise ValueError(msg)
    return array


def _fault(start: int, stop: int | None, what: str, cause: Exception | None = None) -> NoReturn:
    """Raise for rows start to stop - 1, or from start on."""
    rows = f"rows {start} and after" if stop is None else f"rows {start} to {stop - 1}"
    msg = f"{rows} of the table {what}."
    raise ValueError(msg) from cause


@contextlib.contextmanager
def _naming(start: int, stop: int | None) -> Iterator[None]:
    """Give errors of a foreign source their rows."""
    try:
        yield
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".rstrip(".")
        _fault(start, stop, f"could not be read: {cause}", error)


def _checked_block(block: Any, start: int, stop: int, d: int) -> np.ndarray:
    with _naming(start, stop):
        block = np.asarray(check_real_array("a block", block))
    if block.shape != (stop - start, d):
        _fault(start, stop, f"came as shape {block.shape}, and not as ({stop - start}, {d})")
    return block


def _check_finite(block: np.ndarray, rows: np.ndarray) -> None:
    finite = np.isfinite(block)
    if not finite.all():
        i, j = np.argwhere(~finite)[0]
        what = f"hold {finite.size - finite.sum()} numbers that are not finite"
        _fault(rows.min(), rows.max() + 1, f"{what}, the first in row {rows[i]}, column {j}")
