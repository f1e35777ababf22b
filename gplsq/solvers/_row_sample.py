"""A sum over the rows of a generated matrix, estimated from a sample of them.

`sum_i da_i . c_i`, with a_i row i of `A = row_fn(params, data)` and c_i its cotangent, is what
every gradient of least squares in the parameters of A comes down to. The mean of `da_i . c_i / p_i`
over rows drawn with probabilities p_i is an unbiased estimate of it, and its scatter over groups of
draws gives the standard error.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree, Scalar

from gplsq._core import (
    check_choice,
    check_count,
    column_norm,
    describe,
    is_traced,
    matmul,
    safe_divide,
    safe_sqrt,
    stop_gradient,
    tile_rows,
    usable_divisor,
)

# Share of the draws that is uniform, so that no row is drawn far less often than uniformly:
# defensive importance sampling (Hesterberg 1995; Owen & Zhou 2000).
_UNIFORM_SHARE = 0.1


class RowGradient(eqx.Module):
    """An estimate of a sum over rows.

    Attributes
    ----------
    estimate
        Shaped like the floating-point numbers of the parameters (`None` elsewhere).
    standard_error
        The estimated standard deviation of every entry of `estimate`.
    """

    estimate: PyTree
    standard_error: PyTree


def sampled_row_gradient(
    row_fn: Callable[[PyTree, PyTree], Array],
    params: PyTree,
    data: PyTree[ArrayLike],
    left: Float[ArrayLike, "m *j"],
    right: Float[ArrayLike, "n *j"],
    *,
    num_rows: int,
    key: PRNGKeyArray,
    probabilities: str | Float[ArrayLike, " m"] = "importance",
    num_groups: int = 32,
) -> RowGradient:
    """Estimate the gradient of `sum(left * (A @ right))` in `params`, `A = row_fn(params, data)`.

    Every gradient of least squares is of this form, with `left` and `right` held constant. For
    x = argmin |A x - b|^2 and the minimum itself (variable projection, Golub & Pereyra 1973) it is
    ``left = -2 r, right = x``; for a loss of x it is ``left = [r, -A w], right = [w, x]``, see
    `stochastic_gradient`.

    Parameters
    ----------
    row_fn
        Maps `params` and t rows of `data` to t rows of A, shape (t, n); row i of the result may
        depend on row i of the data only. Define it once: a new function object compiles anew.
    params
        Any pytree; the gradient is in its real floating-point arrays and numbers.
    data
        An array or a pytree of arrays with a leading axis of length m.
    left, right
        Shapes (m,) and (n,), or (m, j) and (n, j) for a sum of j terms; the dtype of A.
    num_rows
        Rows drawn, from 2 to m.
    key
        A JAX random key.
    probabilities
        ``"uniform"``: without replacement, all rows alike; exact if `num_rows` = m.
        ``"importance"``: with replacement, in proportion to the length of the cotangent of a row,
        `|sum_j left_ij right_j|`, a tenth of the draws being uniform. Best where all rows depend on
        `params` about as much.
        An array of m non-negative weights: with replacement, in proportion to them. The ideal
        weight of a row is the norm of its own gradient; a row of weight 0 is left out of the sum.
    num_groups
        The sample is used in at least this many groups (`num_rows` if that is fewer), one reverse
        sweep each. The standard error is estimated from the differences between the groups: its
        square is unbiased, and it is uncertain by a share of about ``1 / sqrt(2 num_groups)``, and
        by more where a few rows carry most of the sum.

    Returns
    -------
    RowGradient

    Raises
    ------
    ValueError, TypeError
        For arguments of the wrong shape, dtype or type.

    Notes
    -----
    Cost: `num_rows` rows of A, each made and differentiated once; m numbers for the draw. Memory:
    the reverse sweep of one group, and the parameters three times.

    The standard error falls as ``1 / sqrt(num_rows)``; drawn without replacement there is the
    factor ``sqrt(1 - num_rows / m)`` besides, so that ``"uniform"`` wins where most rows are drawn.
    """
    params = checked_params(params)
    arrays, length = _checked_data(data)
    left, right = _as_columns("left", left, length), _as_columns("right", right, None)
    block = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), arrays
    )
    row = eqx.filter_eval_shape(row_fn, params, block)
    if not isinstance(row, jax.ShapeDtypeStruct):
        msg = f"row_fn must return one array of shape (t, n) for t rows; got {describe(row)}."
        raise TypeError(msg)
    if row.shape != (1, right.shape[0]) or left.shape[1] != right.shape[1]:
        msg = (
            "left, right and row_fn must fit: left (m, j), right (n, j), and (t, n) for t rows of "
            f"data; got left {left.shape}, right {right.shape}, and {row.shape} for one row."
        )
        raise ValueError(msg)
    if not row.dtype == left.dtype == right.dtype:
        msg = (
            "left, right and the result of row_fn must have one dtype; got "
            f"{left.dtype}, {right.dtype} and {row.dtype}. Cast them."
        )
        raise TypeError(msg)
    drawn, groups, weights = checked_draw(num_rows, num_groups, probabilities, length, row.dtype)
    estimate, error = _estimate(row_fn, params, arrays, left, right, weights, key, drawn, groups)
    return RowGradient(estimate, error)


@eqx.filter_jit
def _estimate(row_fn, params, data, left, right, weights, key, drawn, groups):
    params, data, left, right, weights = stop_gradient((params, data, left, right, weights))
    left, right, unit = _balanced(left, right)
    m = left.shape[0]
    moving, fixed = eqx.partition(params, eqx.is_inexact_array)
    if isinstance(weights, str) and weights == "uniform":
        index = jax.random.permutation(key, m)[:drawn]
        factors = jnp.full(drawn, m, left.dtype)
        shrink = 1 - drawn / m  # the correction for drawing without replacement (Cochran 1977, 2.6)
    else:
        chances = _importance(left, right) if isinstance(weights, str) else weights
        chances = chances / jnp.max(chances)  # so that their sum does not overflow
        chances = chances / jnp.sum(chances)
        index = _draw(key, chances, drawn)
        factors = safe_divide(jnp.ones(drawn, left.dtype), chances[index])
        shrink = 1.0

    def group_sum(index, factors):
        rows = jax.tree.map(lambda leaf: leaf[index], data)
        back = jax.vjp(lambda p: row_fn(eqx.combine(p, fixed), rows), moving)[1]
        return back(matmul(left[index] * factors[:, None], right.T))[0]

    def add(carry, inputs):
        """Mean and scatter of group means, weighted by their sizes (Chan, Golub & LeVeque 1983)."""
        count, mean, scatter = carry
        size = inputs[0].shape[0]
        total = count + size
        change = jax.tree.map(lambda s, old: s / size - old, group_sum(*inputs), mean)
        mean = jax.tree.map(lambda old, d: old + d * (size / total).astype(d.dtype), mean, change)
        weight = size * count / total
        scatter = jax.tree.map(lambda old, d: old + d * d * weight.astype(d.dtype), scatter, change)
        return (total, mean, scatter), None

    # Groups of equal height, and a lower one for what is left over.
    height = min(max(drawn // groups, 1), tile_rows(drawn, right.shape[0]))
    whole = drawn // height * height
    zeros = jax.tree.map(jnp.zeros_like, moving)
    carry = (jnp.zeros((), left.dtype), zeros, zeros)
    parts = index[:whole].reshape(-1, height), factors[:whole].reshape(-1, height)
    carry = jax.lax.scan(add, carry, parts)[0]
    if whole < drawn:
        carry = add(carry, (index[whole:], factors[whole:]))[0]
    _, mean, scatter = carry
    between = max(-(-drawn // height) - 1, 1)
    error = jax.tree.map(lambda s: jnp.sqrt(s * (shrink / (between * drawn))), scatter)
    return stop_gradient(jax.tree.map(lambda a: a * unit.astype(a.dtype), (mean, error)))


def _balanced(
    left: Float[Array, "m j"], right: Float[Array, "n j"]
) -> tuple[Float[Array, "m j"], Float[Array, "n j"], Scalar]:
    """`left`, `right` of unit columns, and a factor, so that squares fit into float32."""
    lengths = column_norm(right)
    left, right = left * lengths, safe_divide(right, lengths)
    unit = jnp.max(jnp.abs(left))
    unit = usable_divisor(unit)
    return left / unit, right, unit


def _importance(left: Float[Array, "m j"], right: Float[Array, "n j"]) -> Float[Array, " m"]:
    """Lengths of the rows of `left @ right.T`, in part levelled to their mean."""
    squared = jnp.sum(left * matmul(left, matmul(right.T, right)), axis=1)
    length = safe_sqrt(squared)
    mean = jnp.mean(length)
    levelled = (1 - _UNIFORM_SHARE) * length + _UNIFORM_SHARE * mean
    return jnp.where(mean > 0, levelled, 1)


def _draw(key: PRNGKeyArray, chances: Float[Array, " m"], count: int) -> Array:
    """Indices drawn with replacement by inverting a distribution function of two levels.

    One running sum over a million float32 numbers, compared with float32 random numbers, would not
    resolve single rows; blocks, and then rows within a block, are a thousand each.
    """
    m = chances.shape[0]
    height = int(np.ceil(np.sqrt(m)))
    blocks = -(-m // height)
    table = jnp.pad(chances, (0, blocks * height - m)).reshape(blocks, height)
    inner = jnp.cumsum(table, axis=1)
    outer = jnp.cumsum(inner[:, -1])
    first, second = jax.random.uniform(key, (2, count), chances.dtype)
    # The first entry above the random number. A chance of 0 adds nothing, so it is the first by
    # rounding of the running sum only; then its factor is 0.
    which = jnp.minimum(jnp.searchsorted(outer, first * outer[-1], side="right"), blocks - 1)

    def position(pair):
        row, u = pair
        return jnp.searchsorted(inner[row], u * inner[row, -1], side="right")

    within = jax.lax.map(position, (which, second), batch_size=256)
    return jnp.minimum(which * height + jnp.minimum(within, height - 1), m - 1)


def checked_params(params: PyTree) -> PyTree:
    """Parameters with their floating-point numbers as arrays, of which there must be some."""
    moving, fixed = eqx.partition(params, _is_number)
    leaves = jax.tree.leaves(moving)
    if not leaves or any(jnp.iscomplexobj(leaf) for leaf in leaves):
        got = ", ".join(describe(leaf) for leaf in leaves or jax.tree.leaves(params))
        msg = (
            f"params must hold floating-point numbers, all of them real; got {got or 'no leaves'}. "
            "Cast integers; give real and imaginary parts apart."
        )
        raise TypeError(msg)
    return eqx.combine(jax.tree.map(jnp.asarray, moving), fixed)


def _checked_data(data: Any) -> tuple[PyTree, int]:
    """Arrays, and the length of the leading axis they share."""
    arrays = jax.tree.map(jnp.asarray, data)
    shapes = [leaf.shape for leaf in jax.tree.leaves(arrays)]
    if not shapes or not all(shape and shape[0] == shapes[0][0] > 0 for shape in shapes):
        msg = (
            "data must be arrays with one common leading axis, of length m > 0; got shapes "
            f"{shapes}. Put what all rows share into params."
        )
        raise ValueError(msg)
    return arrays, shapes[0][0]


def _as_columns(name: str, value: Any, length: int | None) -> Array:
    rows = "n" if length is None else length
    if not eqx.is_array_like(value) or jnp.ndim(value) not in (1, 2):
        msg = f"{name} must be an array of shape ({rows},) or ({rows}, j); got {describe(value)}."
        raise TypeError(msg)
    if length is not None and jnp.shape(value)[0] != length:
        msg = (
            f"{name} must have a row for each of the {length} rows of data; got {describe(value)}."
        )
        raise ValueError(msg)
    array = jnp.asarray(value)
    return array[:, None] if array.ndim == 1 else array


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, float | complex) or eqx.is_inexact_array(leaf)


def checked_draw(
    num_rows: Any, num_groups: Any, probabilities: Any, length: int, dtype: Any
) -> tuple[int, int, str | Array]:
    """Numbers of rows and groups, and the way of drawing."""
    drawn = check_count("num_rows", num_rows, minimum=2 if length > 1 else 1)
    if drawn > length:
        msg = f"num_rows must be at most the number of rows, {length}; got {drawn}. Pass {length}."
        raise ValueError(msg)
    groups = check_count("num_groups", num_groups, minimum=2)
    return drawn, groups, _checked_weights(probabilities, length, dtype)


def _checked_weights(probabilities: Any, length: int, dtype: Any) -> str | Array:
    if isinstance(probabilities, str):
        return check_choice("probabilities", probabilities, ("importance", "uniform"))
    if not eqx.is_array_like(probabilities) or jnp.shape(probabilities) != (length,):
        msg = (
            'probabilities must be "importance", "uniform" or an array of one weight for each of '
            f"the {length} rows; got {describe(probabilities)}."
        )
        raise ValueError(msg)
    if not is_traced(probabilities):
        numbers = np.asarray(probabilities)
        if not (np.all(np.isfinite(numbers)) and np.all(numbers >= 0) and np.any(numbers > 0)):
            msg = (
                "probabilities must be finite, at least 0, and not all 0; got values from "
                f"{numbers.min()} to {numbers.max()}. Check the weights."
            )
            raise ValueError(msg)
    return jnp.asarray(probabilities, dtype)
