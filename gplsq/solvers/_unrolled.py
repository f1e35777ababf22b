"""Truncated least squares: a fixed number of LSMR steps, differentiated step by step.

`lstsq` differentiates the solution, which knows nothing of the iteration. Here the derivative is
that of the iterate itself, by reverse mode through a loop of fixed length: right after few steps,
when the iterate is not the solution, and the only way to train what the iterate depends on (step
lengths, a start, a preconditioner).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from gplsq._core import (
    STATUS,
    check_choice,
    check_count,
    column_norm,
    describe,
    stop_gradient,
    usable_divisor,
)
from gplsq.operators import AbstractLinearOperator, Diagonal, Stacked
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._inputs import as_columns, as_damp, as_operator, as_start
from gplsq.solvers._lsmr import LSMR
from gplsq.solvers._lsmr_step import LSMRState, initial_state, lsmr_step
from gplsq.solvers._lsmr_stop import (
    condition_estimate,
    norm_estimate,
    tolerances,
    verify_linear,
    verify_rectangular,
)
from gplsq.solvers._solution import Solution, Stats, solution_from
from gplsq.solvers._systems import System, damped_operator, kernel_system, rectangular_system


def unrolled_lstsq(
    A: Any,
    b: PyTree[ArrayLike],
    *,
    num_steps: int,
    damp: ArrayLike = 0.0,
    x0: PyTree[ArrayLike] | None = None,
    coefficients: Float[ArrayLike, "num_steps *two"] | None = None,
    preconditioner: Any = None,
    checkpoint: str = "steps",
    like: PyTree | None = None,
) -> Solution:
    """`num_steps` steps of LSMR on `min |A x - b|^2 + damp^2 |x|^2`, differentiated through.

    Parameters
    ----------
    A, b, damp, like
        As for `lstsq`.
    num_steps
        Number of iterations, fixed: a new number compiles anew.
    x0
        Where the iteration starts, shaped like the solution; zero by default. It is part of the
        answer, unlike in `lstsq`: the iterate depends on it and is differentiated in it. Undamped,
        the limit is the solution nearest to `x0`.
    coefficients
        Factors of the update of the iterate, in the dtype of A: shape (num_steps,), factors of the
        step length; or (num_steps, 2), where column 1 is the share of the search direction before
        in the one to come (step 0 has none before it). All ones is LSMR. With other factors the
        solve is a learned one (Gregor & LeCun 2010; Chen, Liu, Wang & Yin 2018): it may be better
        after few steps on the systems it was trained on, and need not converge.
    preconditioner
        An operator that applies R^-1 of a right preconditioner, ``x = R^-1 z``, or a recipe of
        `gplsq.solvers` for one; the iterate is differentiated in it too. Not for kernel operators.
    checkpoint
        What reverse mode keeps: ``"steps"`` the state of every step (m + 4 n numbers a column) and
        recomputes the step; ``"segments"`` only some ``2 sqrt(num_steps)`` states, for one more
        forward run (Griewank 1992); ``"none"`` every intermediate number, recomputing nothing.

    Returns
    -------
    Solution
        `value` is the iterate. `ok` and `status` are judged from its recomputed residuals by the
        default tolerance of `lstsq`: a truncated solve mostly ends with ``MAX_STEPS``, and is never
        called converged because the recurrences say so. Nothing raises.

    Raises
    ------
    TypeError
        If `num_steps` is not an integer, or an argument is of the wrong type.
    ValueError
        If `num_steps` is below 1, or an argument has the wrong shape or dtype.

    Notes
    -----
    Differentiable in everything inside A, b, damp, x0, coefficients and preconditioner, forward and
    reverse. Reverse mode costs two to three times the solve and, unlike that of `lstsq`, memory
    that grows with `num_steps`.

    A step that would raise the condition estimate above 1 / eps is not taken: the Krylov space is
    exhausted there, and going on would only amplify rounding errors. `stats.num_steps` counts the
    steps taken. Where the space is exhausted exactly, before it spans all directions, the iterate
    is the solution but its derivative is that in these directions only (Gilbert 1992: derivatives
    of iterates converge later than the iterates).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from gplsq.solvers import unrolled_lstsq
    >>> A = jnp.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> solution = unrolled_lstsq(A, jnp.array([1.0, 2.0, 3.0]), num_steps=2)
    >>> [round(float(x), 4) for x in solution.value]
    [1.0, 1.0]
    """
    operator = as_operator(A, like, x0)
    rhs, single, restore = as_columns(operator, b)
    sigma = as_damp(damp, operator)
    start = as_start("x0", operator, x0, rhs.shape[1])
    steps = check_count("num_steps", num_steps, minimum=1)
    factors = _checked_coefficients(coefficients, steps, operator.dtype)
    check_choice("checkpoint", checkpoint, ("steps", "segments", "none"))
    if preconditioner is not None and isinstance(operator, KernelOperator):
        msg = (
            "preconditioner must be None for a kernel operator in an unrolled solve; got "
            f"{describe(preconditioner)}. Use lstsq, which takes one."
        )
        raise TypeError(msg)
    value, status, stats = _run(
        operator, sigma, rhs, start, preconditioner, factors, steps, checkpoint
    )
    return solution_from(value, status, stats, single, restore)


def _checked_coefficients(coefficients: Any, steps: int, dtype: Any) -> Array | None:
    """Factors as (num_steps, 2), or `None` for plain LSMR."""
    if coefficients is None:
        return None
    expected = f"({steps},) or ({steps}, 2), in the dtype of A, {jnp.dtype(dtype)}"
    if not eqx.is_array_like(coefficients):
        msg = f"coefficients must be an array of shape {expected}; got {describe(coefficients)}."
        raise TypeError(msg)
    factors = jnp.asarray(coefficients)
    if factors.shape not in ((steps,), (steps, 2)) or factors.dtype != dtype:
        msg = (
            f"coefficients must be an array of shape {expected}; got {describe(factors)}. Start "
            "from jnp.ones."
        )
        raise ValueError(msg)
    return jnp.stack([factors, jnp.ones_like(factors)], 1) if factors.ndim == 1 else factors


@eqx.filter_jit
def _run(operator, damp, b, x0, preconditioner, factors, num_steps, checkpoint):
    system = _system(operator, damp, b, x0, preconditioner)
    # The iterate is homogeneous in the right-hand side, so this scaling has no derivative.
    scale = jnp.max(jnp.abs(stop_gradient(system.rhs)), axis=0, initial=0.0)
    scale = usable_divisor(scale)
    state, steps = _iterate(system, system.rhs / scale, factors, num_steps, checkpoint)
    x = system.recover(state.iterate.value / state.pair.unit * scale)
    # Nothing that judges the iterate is differentiated, so the system is built once more from
    # constants. XLA makes one of the two.
    fixed = _system(*stop_gradient((operator, damp, b, x0, preconditioner)))
    status, stats = _judge(fixed, scale, stop_gradient(state), steps)
    if b.shape[0] != fixed.rhs.shape[0]:
        left = column_norm(b - operator.mv(x))
        stats = eqx.tree_at(lambda s: s.residual_norm, stats, stop_gradient(left))
    return x, status, stats


def _system(operator, damp, b, x0, preconditioner) -> System:
    """The problem that LSMR runs on. A start is always used: the iterate depends on it."""
    if isinstance(operator, KernelOperator):
        return kernel_system(operator, damp, None, b, x0)
    if damp is not None and damp.ndim == 1:
        operator, damp = Stacked((operator, Diagonal(damp))), None
        b = jnp.concatenate([b, jnp.zeros((operator.shape[1], b.shape[1]), b.dtype)])
    prepared = LSMR().prepare(operator, damp, preconditioner)
    if x0 is None:
        return rectangular_system(operator, damp, prepared, b, None)
    if damp is not None:
        operator = damped_operator(operator, damp)
        b = jnp.concatenate([b, jnp.zeros((operator.shape[1], b.shape[1]), b.dtype)])
    system = rectangular_system(operator, None, prepared, b - operator.mv(x0), None)
    correction = system.recover
    return system._replace(recover=lambda z: x0 + correction(z), reference=column_norm(b))


def _iterate(
    system: System, b: Array, factors: Array | None, num_steps: int, checkpoint: str
) -> tuple[LSMRState, Array]:
    """The state after `num_steps` steps, and how many of them each column took."""
    operator, damp = system.operator, system.damp
    start = _without_diagnostics(initial_state(operator, b, damp))

    def body(carry, factor):
        old, steps = carry
        new = _without_diagnostics(_scaled_step(operator, damp, old, factor))
        # A pivot below rounding, or a step that went wrong.
        eps = jnp.finfo(b.dtype).eps
        taken = jnp.isfinite(new.zeta_bar) & (new.min_rho_bar >= eps * new.max_rho_bar)
        state = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)
        return (state, steps + taken), None

    carry = (start, jnp.zeros(b.shape[1:], jnp.int32))
    if checkpoint == "none":
        return jax.lax.scan(body, carry, factors, length=num_steps)[0]
    step = jax.checkpoint(body, prevent_cse=False)
    if checkpoint == "steps":
        return jax.lax.scan(step, carry, factors, length=num_steps)[0]
    height = max(1, round(num_steps**0.5))
    whole = num_steps // height * height

    def segment(carry, part):
        return jax.lax.scan(step, carry, part, length=height)

    parts = None if factors is None else factors[:whole].reshape(-1, height, 2)
    rest = None if factors is None else factors[whole:]
    kept = jax.checkpoint(segment, prevent_cse=False)
    carry = jax.lax.scan(kept, carry, parts, length=whole // height)[0]
    return jax.lax.scan(step, carry, rest, length=num_steps - whole)[0]


def _scaled_step(operator: AbstractLinearOperator, damp: Array, old: LSMRState, factor: Any):
    """One step of LSMR, with the update of x scaled."""
    if factor is None:
        return lsmr_step(operator, damp, old)
    # From zero the step shows the update alone, without the rounding of a difference.
    bare = eqx.tree_at(
        lambda s: (s.iterate.value, s.iterate.h_bar),
        old,
        (jnp.zeros_like(old.iterate.value), factor[1] * old.iterate.h_bar),
    )
    new = lsmr_step(operator, damp, bare)
    value = old.iterate.value + factor[0] * new.iterate.value
    return eqx.tree_at(lambda s: s.iterate.value, new, value)


def _without_diagnostics(state: LSMRState) -> LSMRState:
    """Cut off what only estimates norms: the root of a vanished residual has no derivative."""

    def diagnostics(s: LSMRState):
        residual = (s.beta_dd, s.beta_d, s.rho_d_old, s.tau_tilde_old, s.theta_tilde)
        return (*residual, s.zeta, s.squared_d, s.residual, s.norm_A, s.max_rho_bar, s.min_rho_bar)

    state = eqx.tree_at(lambda s: s.misfit, state, None, is_leaf=lambda leaf: leaf is None)
    return eqx.tree_at(diagnostics, state, replace_fn=jax.lax.stop_gradient)


def _judge(system: System, scale: Array, state: LSMRState, steps: Array) -> tuple[Array, Stats]:
    """Status and numbers of the iterate, from its recomputed residuals."""
    b, linear = system.rhs / scale, system.linear
    tols = tolerances(LSMR(), b.dtype, scale)
    status = jnp.full(steps.shape, STATUS.MAX_STEPS, jnp.int32)
    norm_b = column_norm(b)
    if linear is None:
        if system.reference is not None:
            norm_b = jnp.maximum(norm_b, system.reference / scale)
        verified = verify_rectangular(system, tols, b, norm_b, state.iterate.value, state, status)
    else:
        linear = linear._replace(reference=linear.reference / scale)
        system = system._replace(linear=linear)
        verified = verify_linear(system, tols, b, state.iterate.value, status)
        norm_b = linear.reference
    status, _, residual, normal, measure = verified
    unit = state.pair.unit
    status = jnp.where(jnp.all(b == 0, axis=0), STATUS.EXACT, status)
    finite = jnp.isfinite(measure) & jnp.all(jnp.isfinite(b), axis=0)
    status = jnp.where(finite, status, STATUS.NON_FINITE).astype(jnp.int32)
    stats = Stats(
        num_steps=steps,
        residual_norm=residual * scale,
        normal_residual_norm=normal * unit * scale,
        rhs_norm=norm_b * scale,
        norm_estimate=norm_estimate(state) * unit,
        condition_estimate=condition_estimate(state),
        rank_estimate=jnp.full_like(steps, -1),
        error_measure=measure,
        tolerance=jnp.broadcast_to(tols.rtol, measure.shape),
    )
    return status, stats
