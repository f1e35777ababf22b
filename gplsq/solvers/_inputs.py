"""What users pass to `lstsq`, turned into operator, columns, damping and start."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import JAXSparse
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from gplsq._core import check_finite_scalar, check_real_array, describe, is_traced
from gplsq.operators import AbstractLinearOperator, Dense, Function, Sparse
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._direct import CholeskyFactor, SingularFactors
from gplsq.solvers._precondition import AbstractPreconditioner, LowRankPlusDiagonal

PREPARED = CholeskyFactor | SingularFactors | LowRankPlusDiagonal


def as_operator(A: Any, like: Any, x0: Any) -> AbstractLinearOperator:
    """A matrix, sparse matrix, operator of this package or of lineax, or linear function."""
    if isinstance(A, AbstractLinearOperator):
        return _not_empty(A)
    if isinstance(A, JAXSparse) or hasattr(A, "tocoo"):
        return _not_empty(Sparse(A))
    if hasattr(A, "in_structure") and hasattr(A, "mv"):  # a lineax operator
        if hasattr(A, "matrix"):
            return _not_empty(Dense(A.matrix))
        return _not_empty(Function(A.mv, A.in_structure()))
    if callable(A):
        example = x0 if like is None else like
        if example is None:
            msg = (
                "A is a function, and its argument is not known: pass `like`, an example of it "
                "(only shapes and dtypes matter), or wrap A as gplsq.operators.Function(fn, like)."
            )
            raise TypeError(msg)
        return _not_empty(Function(A, example))
    if isinstance(A, list | tuple):
        A = _nested(A)
    if not eqx.is_array_like(A):
        msg = (
            f"A must be a real matrix, a sparse matrix, an operator or a linear function; got "
            f"{describe(A)}. Pass one of these."
        )
        raise TypeError(msg)
    return _not_empty(Dense(A))


def _nested(rows: Any) -> np.ndarray:
    """A matrix given as a list of rows."""
    try:
        return np.asarray(rows)
    except ValueError as error:
        msg = "A must be a matrix; got a list of rows of different lengths. Pad or drop rows."
        raise ValueError(msg) from error


def _not_empty(operator: AbstractLinearOperator) -> AbstractLinearOperator:
    if min(operator.shape) == 0:
        msg = (
            f"A must have at least one row and one column; got shape {tuple(operator.shape)}. "
            "Leave empty systems out."
        )
        raise ValueError(msg)
    if operator.dtype not in (jnp.float32, jnp.float64):
        msg = (
            f"A must be float32 or float64; got {operator.dtype}, too coarse for a Krylov method "
            "or a factorisation. Cast A and b to float32."
        )
        raise TypeError(msg)
    return operator


def as_columns(operator: AbstractLinearOperator, b: Any) -> tuple[Array, bool, Callable]:
    """The right-hand side as (m, k), whether it was single, and how to shape the solution."""
    if isinstance(operator, Function):
        structure = jax.tree.structure(b)
        if structure == operator.codomain[1] and not (
            eqx.is_array_like(b) and jnp.ndim(b) == 2 and len(operator.codomain[0][0].shape) == 1
        ):
            shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(b)]
            expected = [leaf.shape for leaf in operator.codomain[0]]
            if shapes != expected:
                msg = f"b must have the shapes of fn's result, {expected}; got {shapes}."
                raise ValueError(msg)
            flat = ravel_pytree(jax.tree.map(jnp.asarray, b))[0]
            return _checked("b", operator, flat)[:, None], True, operator.unravel
        restore = operator.unravel
    else:
        restore = _same
    if not eqx.is_array_like(b):
        msg = (
            f"b must be an array of shape (m,) or (m, k); got {describe(b)}. Make it an array, for "
            "example by jnp.asarray."
        )
        raise TypeError(msg)
    array = jnp.asarray(check_real_array("b", b))
    if array.ndim == 2 and array.shape[1] == 0:
        msg = "b must have at least one column; got none. Leave empty problems out."
        raise ValueError(msg)
    if array.ndim not in (1, 2) or array.shape[0] != operator.shape[0]:
        msg = (
            f"b must have shape ({operator.shape[0]},) or ({operator.shape[0]}, k), one row for "
            f"each row of A; got shape {array.shape}."
        )
        raise ValueError(msg)
    array = _checked("b", operator, array)
    return (array[:, None], True, restore) if array.ndim == 1 else (array, False, restore)


def _same(x):
    return x


def _checked(name: str, operator: AbstractLinearOperator, array: Array) -> Array:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        msg = f"{name} must be real; got {describe(array)}. Stack real and imaginary parts."
        raise TypeError(msg)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(operator.dtype)
    if array.dtype != operator.dtype:
        msg = (
            f"{name} and A must have one dtype; got {array.dtype} and {operator.dtype}. Cast one "
            "of them: the precision of the solve is yours to choose."
        )
        raise TypeError(msg)
    return array


def as_damp(damp: Any, operator: AbstractLinearOperator) -> Array | None:
    """`None` for the undamped problem, else a scalar or one number per unknown."""
    if damp is None:
        return None
    if isinstance(damp, int | float | np.number | np.ndarray) and np.ndim(damp) == 0:
        number = check_finite_scalar("damp", damp, minimum=0.0)
        return None if number == 0 else _cast_damp(number, operator)
    if isinstance(operator, Function) and not eqx.is_array_like(damp):
        damp = _raveled("damp", damp, operator)
    if eqx.is_array_like(damp):
        check_real_array("damp", damp)
        if jnp.asarray(damp).dtype == bool:
            msg = f"damp must be numbers; got {describe(damp)}. Pass floats."
            raise TypeError(msg)
    size = operator.shape[1]
    if not eqx.is_array_like(damp) or jnp.shape(damp) not in ((), (size,)):
        msg = (
            f"damp must be a non-negative scalar, or an array of shape ({size},) with one number "
            f"for each unknown; got {describe(damp)}. Pass one of these."
        )
        raise ValueError(msg)
    if jnp.ndim(damp) == 1 and isinstance(operator, KernelOperator):
        msg = (
            f"damp must be a scalar for a kernel operator, whose unknown is a function; got "
            f"{describe(damp)}. Pass the noise standard deviation."
        )
        raise ValueError(msg)
    if not is_traced(damp):
        numbers = np.asarray(damp)
        if not (np.all(np.isfinite(numbers)) and np.all(numbers >= 0)):
            worst = numbers[~(np.isfinite(numbers) & (numbers >= 0))].flat[0]
            msg = f"damp must be finite and at least 0; got {worst}. Check the values."
            raise ValueError(msg)
        if numbers.ndim == 0 and numbers == 0:
            return None
        return _cast_damp(numbers, operator)
    return jnp.asarray(damp, operator.dtype)


def _cast_damp(numbers: Any, operator: AbstractLinearOperator) -> Array:
    """Damping in the dtype of the operator."""
    largest = float(np.max(numbers))
    if largest > float(jnp.finfo(operator.dtype).max):
        msg = (
            f"damp must be finite in the dtype of A, {operator.dtype}; got {largest}. Rescale the "
            "problem, or pass float64 data."
        )
        raise ValueError(msg)
    return jnp.asarray(numbers, operator.dtype)


def as_start(name: str, operator: AbstractLinearOperator, x0: Any, columns: int) -> Array | None:
    """A guess of the solution as (n, k)."""
    if x0 is None:
        return None
    if isinstance(operator, Function) and not (
        eqx.is_array_like(x0) and jnp.shape(x0)[:1] == operator.shape[1:]
    ):
        x0 = _raveled(name, x0, operator)
    if not eqx.is_array_like(x0):
        msg = f"{name} must be an array shaped like the solution; got {describe(x0)}. Pass one."
        raise TypeError(msg)
    check_real_array(name, x0)
    start = jnp.asarray(x0, operator.dtype)
    start = start[:, None] if start.ndim == 1 else start
    if start.shape != (operator.shape[1], columns):
        msg = (
            f"{name} must be shaped like the solution, ({operator.shape[1]},) or "
            f"({operator.shape[1]}, {columns}); got shape {jnp.shape(x0)}."
        )
        raise ValueError(msg)
    return start


def as_cotangent(operator: AbstractLinearOperator, g: Any) -> tuple[Array, bool, Callable]:
    """A cotangent of the solution as (n, k), whether it was single, and how to shape its like."""
    restore = operator.unravel if isinstance(operator, Function) else _same
    size = operator.shape[1]
    if isinstance(operator, Function) and not (
        eqx.is_array_like(g) and jnp.shape(g)[:1] == (size,) and jnp.ndim(g) <= 2
    ):
        return _checked("g", operator, _raveled("g", g, operator))[:, None], True, restore
    if not eqx.is_array_like(g) or jnp.shape(g)[:1] != (size,) or jnp.ndim(g) > 2:
        msg = f"g must be shaped like the solution, ({size},) or ({size}, k); got {describe(g)}."
        raise ValueError(msg)
    g = _checked("g", operator, jnp.asarray(g))
    return (g[:, None], True, restore) if g.ndim == 1 else (g, False, restore)


def _raveled(name: str, tree: Any, operator: Function) -> Array:
    """A pytree in the domain of the operator as one vector."""
    leaves, structure = jax.tree.flatten(tree)
    shapes = [jnp.shape(leaf) for leaf in leaves]
    expected = [leaf.shape for leaf in operator.domain[0]]
    if structure != operator.domain[1] or shapes != expected:
        msg = (
            f"{name} must have the structure of fn's argument, arrays of shapes {expected}; got "
            f"{structure} with shapes {shapes}. Match it to `like`."
        )
        raise ValueError(msg)
    return ravel_pytree(tree)[0]


def check_preconditioner(preconditioner: Any, operator: AbstractLinearOperator) -> None:
    """Refuse what is no recipe, no operator on the unknowns, and no factor made before."""
    if preconditioner is None or isinstance(preconditioner, AbstractPreconditioner | PREPARED):
        return
    n = operator.shape[1]
    if not isinstance(preconditioner, AbstractLinearOperator):
        msg = (
            "preconditioner must be a recipe such as Sketch() or RandomlyPivotedCholesky(), or an "
            f"operator of shape ({n}, {n}); got {describe(preconditioner)}. Wrap a matrix as "
            "gplsq.operators.Dense."
        )
        raise TypeError(msg)
    if tuple(preconditioner.shape) != (n, n):
        msg = (
            f"preconditioner must have shape ({n}, {n}), one row and column for each unknown; got "
            f"shape {tuple(preconditioner.shape)}. Pass R^-1 for x = R^-1 z."
        )
        raise ValueError(msg)
