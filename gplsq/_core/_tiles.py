"""Work over row tiles: the loop that keeps n x n arrays from ever existing."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Entries of a tile: small enough that it and the few temporaries of its derivative stay in a
# processor's last-level cache (5 MiB in float32), large enough to keep both cores busy.
_TILE_ENTRIES = 1_200_000
_MIN_ROWS, _MAX_ROWS = 32, 1024
# Products with shorter tiles are slower by more than what a tile of up to so many entries costs.
_GOOD_ROWS, _MOST_ENTRIES = 128, 5_000_000


def tile_rows(num_rows: int, num_columns: int, entries: int = _TILE_ENTRIES) -> int:
    """Rows of a tile so that it holds about `entries` numbers; a multiple of 8 where possible.

    Tiles are nearly equal: of 1,100 rows two of 552, where two of 1,024 would do twice the work.
    """
    columns = max(num_columns, 1)
    most = max(entries // columns, min(_GOOD_ROWS, _MOST_ENTRIES // columns), _MIN_ROWS)
    tiles = max(1, -(-num_rows // (min(most, _MAX_ROWS) // 8 * 8)))
    return min(num_rows, -(-num_rows // (8 * tiles)) * 8)


def map_row_tiles(
    fn: Callable[[Array, Array], Array], X: Array, rows: int, *, checkpoint: bool = True
) -> Array:
    """Concatenate `fn(X[tile], index[tile])` over tiles of `rows` rows, one tile at a time.

    Parameters
    ----------
    fn
        Maps a tile of rows, shape (t, ...), and the row numbers, shape (t,), to an array of
        leading length t. Must treat rows independently.
    X
        Shape (n, ...).
    rows
        Tile height; the last tile may be lower.
    checkpoint
        Recompute a tile in reverse mode instead of keeping it, so that the memory of a derivative
        does not grow with n squared.

    Returns
    -------
    Array
        Shape (n, ...).
    """
    n = X.shape[0]
    body = jax.checkpoint(fn) if checkpoint else fn
    if n <= rows:
        return body(X, jnp.arange(n, dtype=jnp.int32))
    # The last tile is filled up with copies of the last row: one trace serves every tile.
    tiles = -(-n // rows)
    index = jnp.minimum(jnp.arange(tiles * rows, dtype=jnp.int32), n - 1)
    out = jax.lax.map(lambda i: body(X[i], i), index.reshape(tiles, rows))
    return out.reshape((tiles * rows, *out.shape[2:]))[:n]
