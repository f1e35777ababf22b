"""Sources of tables for tests."""

import pytest

N, D, BLOCK = 103, 3, 16  # the last block is lower


class Recording:
    """Something like an array that knows only slices, and remembers which were read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.slices = array, array.shape, array.dtype, []

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.slices.append((rows.start, rows.stop))
        return self.array[rows]

    @property
    def heights(self):
        return [stop - start for start, stop in self.slices]


class Passes:
    """Blocks that differ from pass to pass: pass i gives `passes[i]`, and later ones the last."""

    def __init__(self, *passes):
        self.passes, self.count = passes, 0

    def __iter__(self):
        self.count += 1
        return iter(self.passes[min(self.count, len(self.passes)) - 1])


def parquet_path(X, folder):
    arrow = pytest.importorskip("pyarrow")
    files = pytest.importorskip("pyarrow.parquet")
    path = folder / "table.parquet"
    columns = {f"x{j}": X[:, j] for j in range(X.shape[1])}
    files.write_table(arrow.table({"name": ["a"] * len(X), **columns}), path, row_group_size=30)
    return path
