"""`lstsq` for PyTorch: tensors in, tensors out, differentiated by the derivative of the solve.

Tensors cross over by DLPack: on the CPU nothing is copied that is contiguous and aligned to 64
bytes, as PyTorch's own allocations are. JAX takes its arrays to be immutable and PyTorch does not,
so every solve is waited for, and what the backward pass needs of the arguments is kept as PyTorch's
saved tensors, whose version counters refuse arguments changed in place.
"""

import contextlib
import dataclasses
from typing import Any, Literal, NamedTuple, overload

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int

from gplsq._core import check_finite_scalar, describe
from gplsq.operators import AbstractLinearOperator
from gplsq.solvers import AbstractLeastSquares, ConvergenceError
from gplsq.solvers import Solution as JaxSolution
from gplsq.solvers import lstsq as solve

try:
    import torch  # pyright: ignore[reportMissingImports]
except ImportError as error:
    _MISSING = 'gplsq.interop.torch needs PyTorch, an optional extra: pip install "gplsq[torch]".'
    raise ImportError(_MISSING) from error

_INACCURATE = (
    "a gradient of lstsq is not accurate: its own solve missed the tolerance. Give the solver more "
    "max_steps, a larger rtol, or a better preconditioner; throw=False only warns."
)


class Solution(NamedTuple):
    """Result of `lstsq` with ``return_solution=True``.

    Attributes
    ----------
    value
        The solution, shape (n,) or (n, k); carries the gradient.
    ok
        True where a column met its tolerance; shape (k,), or () for one right-hand side.
    status
        A `gplsq.solvers.STATUS` code per column.
    report
        The outcome in plain words, with a remedy for what failed.
    """

    value: Float[torch.Tensor, "n *k"]
    ok: Bool[torch.Tensor, "*k"]
    status: Int[torch.Tensor, "*k"]
    report: str


@overload
def lstsq(
    A: torch.Tensor | AbstractLinearOperator,
    b: torch.Tensor,
    *,
    damp: float | torch.Tensor = ...,
    solver: AbstractLeastSquares | None = ...,
    preconditioner: Any = ...,
    throw: bool = ...,
    return_solution: Literal[False] = ...,
) -> torch.Tensor:
    """The solution alone."""


@overload
def lstsq(
    A: torch.Tensor | AbstractLinearOperator,
    b: torch.Tensor,
    *,
    damp: float | torch.Tensor = ...,
    solver: AbstractLeastSquares | None = ...,
    preconditioner: Any = ...,
    throw: bool = ...,
    return_solution: Literal[True],
) -> Solution:
    """The solution, with how well it was solved."""


def lstsq(
    A: Float[torch.Tensor, "m n"] | AbstractLinearOperator,
    b: Float[torch.Tensor, "m *k"],
    *,
    damp: float | Float[torch.Tensor, "*n"] = 0.0,
    solver: AbstractLeastSquares | None = None,
    preconditioner: Any = None,
    throw: bool = True,
    return_solution: bool = False,
) -> torch.Tensor | Solution:
    """`gplsq.lstsq` as a PyTorch function: `argmin_x |A x - b|^2 + damp^2 |x|^2`.

    Parameters
    ----------
    A
        A float32 or float64 tensor of shape (m, n), or a gplsq operator that maps vectors to
        vectors. An operator's arrays are fixed: PyTorch sees no gradient for them.
    b
        Right-hand side: a tensor of shape (m,) or (m, k), of A's dtype and on A's device.
    damp
        A non-negative number, or a tensor of shape () or (n,), as in `gplsq.lstsq`. The Python
        number 0 selects the undamped problem; a tensor of shape () is taken to be positive. Cast to
        b's dtype.
    solver, preconditioner
        As in `gplsq.lstsq`: `gplsq.LSMR()` by default, or `gplsq.Direct()`.
    throw
        Raise if a column misses its tolerance, or if the backward pass does. With `False` ask for
        ``return_solution=True`` and look at `ok`.
    return_solution
        Return a `Solution` (value, ok, status, report) instead of the value alone.

    Returns
    -------
    Tensor or Solution
        The solution, shape (n,) or (n, k), with b's dtype and device.

    Raises
    ------
    ValueError, TypeError
        For arguments of the wrong shape, dtype, type or device.
    gplsq.solvers.ConvergenceError
        If `throw` and a column failed, forward or backward.
    RuntimeError
        When differentiated twice: take second derivatives in JAX.

    Notes
    -----
    Differentiable once in b, damp and, where it is a tensor, A. The solve and its pullback are
    compiled once for each set of shapes, dtypes, settings and arguments that ask for gradients; the
    backward pass costs what it costs in JAX, and reuses the factorisation or preconditioner of the
    forward pass. float64 tensors are solved in float64 whatever JAX's x64 flag is; the flag is not
    touched. Inside `torch.compile` call it as ``torch.compiler.disable(lstsq)``: the compiler
    cannot look into a JAX program.

    Examples
    --------
    >>> import torch
    >>> from gplsq.interop.torch import lstsq
    >>> A = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], requires_grad=True)
    >>> x = lstsq(A, torch.tensor([1.0, 2.0, 3.0]))
    >>> x.sum().backward()
    >>> [round(value, 4) for value in x.tolist()]
    [1.0, 1.0]
    """
    _check_tensor("b", b)
    operator = A if isinstance(A, AbstractLinearOperator) else None
    matrix: Any = A if operator is None else None
    if operator is None:
        _check_tensor("A", matrix)
        if matrix.device != b.device:
            msg = f"A and b must be on one device; got {matrix.device} and {b.device}. Move b."
            raise ValueError(msg)
    arguments = {"A": matrix, "b": b, "damp": _as_damp(damp, b)}
    call = _Call(
        operator,
        {"solver": solver, "preconditioner": preconditioner, "throw": throw},
        tuple(name for name, tensor in arguments.items() if _wants_gradient(tensor)),
    )
    value: Any = _LeastSquares.apply(call, *arguments.values())
    if not return_solution:
        return value
    ok, status = (
        torch.tensor(part.tolist(), device=b.device)
        for part in (call.solution.ok, call.solution.status)
    )
    return Solution(value, ok, status, call.solution.report())


@dataclasses.dataclass
class _Call:
    """What one call hands to its two passes, and the forward pass to the backward one."""

    operator: AbstractLinearOperator | None
    settings: dict[str, Any]
    wanted: tuple[str, ...]  # which of A, b and damp need a gradient
    solution: Any = None
    pullback: Any = None  # leaves and structure, see `_solve_with_pullback`

    def arrays(self, A: Any, b: torch.Tensor, damp: torch.Tensor | None) -> dict[str, Any]:
        """The arguments as JAX sees them."""
        return {
            "A": _to_jax(A) if self.operator is None else self.operator,
            "b": _to_jax(b),
            "damp": 0.0 if damp is None else _to_jax(damp),
        }


class _Node(torch.autograd.Function):
    """A node of PyTorch's graph that says what it cannot do."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> Any:
        del info, in_dims, args
        msg = (
            "gplsq.interop.torch.lstsq cannot be mapped by torch.vmap. Pass several right-hand "
            "sides as the columns of b, or map in JAX: jax.vmap of gplsq.lstsq."
        )
        raise RuntimeError(msg)


class _LeastSquares(_Node):
    """The solve as a node of PyTorch's graph."""

    @staticmethod
    def forward(call: _Call, A: Any, b: torch.Tensor, damp: Any) -> torch.Tensor:
        with _precision(A, b):
            arrays = call.arrays(A, b, damp)
            if call.wanted:
                call.solution, call.pullback = _try_with_pullback(arrays, call)
            else:
                call.solution = _one_array(solve(**arrays, **call.settings))
            return _to_torch(call.solution.value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        call, *tensors = inputs
        ctx.call = call
        # The output too: it may share memory with what the pullback keeps of it.
        ctx.save_for_backward(*tensors, output)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple:  # type: ignore[override]
        *tensors, _ = ctx.saved_tensors
        gradients: Any = _Pullback.apply(ctx.call, cotangent, *tensors)
        by_name = dict(zip(ctx.call.wanted, gradients, strict=True))
        return None, *(by_name.get(name) for name in ("A", "b", "damp"))


class _Pullback(_Node):
    """The gradient as a node of its own, so that differentiating it can be refused by name."""

    @staticmethod
    def forward(call: _Call, cotangent: torch.Tensor, A: Any, b: Any, damp: Any) -> tuple:
        with _precision(A, b):
            gradients = _try_pull(call, call.arrays(A, b, damp), _to_jax(cotangent))
            return tuple(_to_torch(gradients[name]) for name in call.wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple:  # type: ignore[override]
        del ctx, cotangents
        msg = (
            "gplsq.interop.torch.lstsq can be differentiated once only; got a second derivative "
            "(create_graph=True, or nested torch.func transforms). Take second derivatives in "
            "JAX: jax.hessian or jax.grad of jax.grad, of a function that calls gplsq.lstsq."
        )
        raise RuntimeError(msg)


@eqx.filter_jit
def _solve_with_pullback(arrays, settings, wanted):
    """The solution, and the pullback of its value to the wanted arguments.

    A compiled function copies arguments that it returns. The pullback keeps A, so its leaves that
    are arguments are returned as their number, and filled in again by `_pull`.
    """

    def value_of(moving):
        solution = _one_array(solve(**{**arrays, **moving}, **settings))
        return solution.value, solution

    moving = {name: arrays[name] for name in wanted}
    _, pullback, solution = jax.vjp(value_of, moving, has_aux=True)
    number = {id(array): i for i, array in enumerate(_arrays_in(arrays))}
    leaves, structure = jax.tree.flatten(pullback)
    return solution, ([number.get(id(leaf), leaf) for leaf in leaves], structure)


@eqx.filter_jit
def _pull(pullback, arrays, cotangent):
    leaves, structure = pullback
    given = _arrays_in(arrays)
    filled = [given[leaf] if isinstance(leaf, int) else leaf for leaf in leaves]
    return jax.tree.unflatten(structure, filled)(cotangent)[0]


def _arrays_in(tree: Any) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]


def _try_with_pullback(arrays: dict[str, Any], call: _Call) -> Any:
    try:
        return jax.block_until_ready(_solve_with_pullback(arrays, call.settings, call.wanted))
    except eqx.EquinoxRuntimeError as error:
        failure = error
    # What fails inside a compiled function has no report: solve once more outside, for the report.
    solve(**arrays, **call.settings)
    # The solve itself is fine: it was one that its derivative needs, and is done beforehand.
    raise ConvergenceError(_INACCURATE) from failure


def _try_pull(call: _Call, arrays: dict[str, Any], cotangent: Array) -> dict[str, Array]:
    try:
        return jax.block_until_ready(_pull(call.pullback, arrays, cotangent))
    except eqx.EquinoxRuntimeError as error:
        raise ConvergenceError(_INACCURATE) from error


def _one_array(solution: JaxSolution) -> JaxSolution:
    if not eqx.is_array(solution.value):
        msg = (
            "A must map vectors to vectors here; got an operator whose solution is a pytree, "
            f"{jax.tree.structure(solution.value)}. Ravel the argument of its function."
        )
        raise TypeError(msg)
    return solution


def _check_tensor(name: str, tensor: Any) -> None:
    if not isinstance(tensor, torch.Tensor):
        kinds = "a torch tensor or a gplsq operator" if name == "A" else "a torch tensor"
        msg = f"{name} must be {kinds}; got {describe(tensor)}. Pass torch.as_tensor({name})."
        raise TypeError(msg)
    if tensor.dtype not in (torch.float32, torch.float64):
        msg = f"{name} must be float32 or float64; got {describe(tensor)}. Cast it."
        raise TypeError(msg)
    if tensor.layout is not torch.strided:
        msg = (
            f"{name} must be a dense tensor; got layout {tensor.layout}. Call {name}.to_dense(), "
            "or write the product as gplsq.operators.Function."
        )
        raise TypeError(msg)
    if tensor.device.type == "cuda":
        try:
            jax.devices("gpu")
        except RuntimeError:
            msg = (
                f"{name} is on {tensor.device}, but JAX sees no GPU. Install JAX for this GPU "
                f'(pip install "jax[cuda12]"), or pass {name}.cpu().'
            )
            raise ValueError(msg) from None
    elif tensor.device.type != "cpu":
        msg = f"{name} must be on a cpu or cuda device; got {tensor.device}. Pass {name}.cpu()."
        raise ValueError(msg)


def _as_damp(damp: Any, b: torch.Tensor) -> torch.Tensor | None:
    """`None` for the number 0, otherwise a tensor like b, checked while its numbers are there."""
    if not isinstance(damp, torch.Tensor):
        number = check_finite_scalar("damp", damp, minimum=0.0)
        return None if number == 0 else torch.tensor(number, dtype=b.dtype, device=b.device)
    if damp.is_complex() or damp.ndim > 1 or damp.numel() == 0:
        msg = (
            f"damp must be real, of shape () or (n,); got {describe(damp)}. Pass one number, or "
            "one for each unknown."
        )
        raise ValueError(msg)
    for extreme in (damp.detach().min(), damp.detach().max()):
        check_finite_scalar("damp", extreme.item(), minimum=0.0)
    return damp.to(b)


def _wants_gradient(tensor: torch.Tensor | None) -> bool:
    return torch.is_grad_enabled() and tensor is not None and tensor.requires_grad


def _precision(*tensors: Any) -> contextlib.AbstractContextManager:
    """Room for float64 where a tensor needs it; the caller's own setting otherwise."""
    double = any(getattr(tensor, "dtype", None) == torch.float64 for tensor in tensors)
    return jax.enable_x64(True) if double else contextlib.nullcontext()


def _to_jax(tensor: torch.Tensor) -> Array:
    return jax.dlpack.from_dlpack(tensor.detach().resolve_neg().contiguous())


def _to_torch(array: Array) -> torch.Tensor:
    return torch.from_dlpack(jax.block_until_ready(array))
