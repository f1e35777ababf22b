"""Row tiles: how high they are, and that their results are those of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplsq._core import map_row_tiles, tile_rows


@given(st.integers(1, 2_000_000), st.integers(1, 2_000_000))
def test_tiles_are_nearly_equal_and_neither_too_large_nor_too_low(rows, columns):
    height = tile_rows(rows, columns)
    assert 1 <= height <= min(rows, 1024)
    tiles = -(-rows // height)
    assert tiles == 1 or height % 8 == 0
    # At most eight rows a tile are filled up.
    assert tiles * height < rows + 8 * tiles
    assert height <= 32 or height * columns <= 5_000_000


@pytest.mark.parametrize(("rows", "tiles"), [(1024, 1), (1100, 2), (2000, 4), (5000, 21)])
def test_a_square_matrix_takes_as_much_work_as_it_has_entries(rows, tiles):
    height = tile_rows(rows, rows)
    assert -(-rows // height) == tiles
    assert tiles * height < 1.02 * rows


@pytest.mark.parametrize("rows", [1, 3, 7, 20])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_results_of_tiles_are_those_of_all_rows(rng, rows, checkpoint):
    X = jnp.asarray(rng.standard_normal((20, 3)))

    def tiled(X):
        return map_row_tiles(lambda x, i: x.sum(1) ** 2 + i, X, rows, checkpoint=checkpoint)

    np.testing.assert_allclose(tiled(X), X.sum(1) ** 2 + jnp.arange(20), rtol=1e-6)
    slope = jax.grad(lambda X: tiled(X).sum())(X)
    np.testing.assert_allclose(slope, jnp.broadcast_to(2 * X.sum(1)[:, None], X.shape), rtol=1e-5)
