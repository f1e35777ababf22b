"""Newton's method for the mode of a Laplace approximation, in a space of functions."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gplsq._core import STATUS
from gplsq.gp._class_likelihood import curvature, residual, row_weights

# The factorisation is made anew when weights have changed by this share since the last one.
_CHANGE = 0.2
# Steps without progress of the decrement after which rounding errors are taken to dominate.
_PATIENCE = 10
_LINE_STEPS = 20


class AbstractSpace(eqx.Module):
    """A space of functions with coordinates u, shape (p, k), and values at n rows, (n, k)."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """p, the number of coordinates."""

    @abc.abstractmethod
    def values(self, u: Float[Array, "p k"]) -> Float[Array, "n k"]:
        """The functions at the rows of data."""

    @abc.abstractmethod
    def gradient(self, u: Float[Array, "p k"], g: Float[Array, "n k"]) -> Float[Array, "p k"]:
        """Coordinates of the gradient of `|f|^2 / 2 - log likelihood`; g is its `residual`."""

    @abc.abstractmethod
    def inner(
        self, u: Float[Array, "p k"], v: Float[Array, "p k"], v_values: Float[Array, "n k"]
    ) -> Float[Array, ""]:
        """The inner product of two functions, the values of one given."""

    @abc.abstractmethod
    def prepare(self, weights: Float[Array, " n"]) -> Any:
        """What `solve` needs for these row weights: a factorisation or a preconditioner."""

    @abc.abstractmethod
    def solve(
        self, prepared: Any, weights: Float[Array, " n"], r: Float[Array, "p k"]
    ) -> Float[Array, "p k"]:
        """`(1 + E* diag(w) E)^-1 r`: a damped least-squares problem with weighted rows."""


class Mode(NamedTuple):
    """Where Newton's method ended."""

    coordinates: Float[Array, "p k"]
    values: Float[Array, "n k"]
    weights: Float[Array, " n"]  # at the mode
    prepared: Any  # for these weights
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    decrement: Float[Array, ""]  # root mean square change of a latent value, weighted


class _State(NamedTuple):
    u: Array
    F: Array
    r: Array  # gradient at the last step,
    rho: Array  # its square in the preconditioned norm,
    d: Array  # and the direction that was taken
    Fd: Array
    weights: Array
    prepared: Any
    step: Array
    decrement: Array
    best: Array
    stale: Array
    status: Array
    done: Array


def find_mode(
    space: AbstractSpace,
    Y: Float[Array, "n k"],
    *,
    counts: Float[Array, " n"] | None = None,
    tolerance: float | None = None,
    max_steps: int = 100,
) -> Mode:
    """Minimise `|f|^2 / 2 - sum_i c_i log p(y_i | f(x_i))` over a space of functions.

    Parameters
    ----------
    space
        The functions.
    Y
        Indicators of classes, shape (n, k).
    counts
        How often each row was observed, c; once by default.
    tolerance
        On the Newton decrement divided by sqrt(sum(c)), which is the root mean square change of a
        latent value (a logit) that the next step would make, weighted. 1e-3 in float32, 1e-6 in
        float64.
    max_steps
        Steps at most.

    Notes
    -----
    For one latent function a step is Newton's: the solution of a least-squares problem with rows
    weighted by `p (1 - p)` (Rasmussen & Williams 2006, section 3.4; there as algorithm 3.1). For
    several, a common weight for each row, which bounds the curvature, makes it one problem with k
    right-hand sides instead of one of k times the size; what that leaves out is made up for by
    conjugate directions (Polak & Ribiere 1969), of which the weighted problem is the
    preconditioner. All steps end at the minimum along their line, which costs no product: the
    objective, convex, falls at every step. Cost of a step: three products with the kernel, one
    solve, and a factorisation where weights have changed by over a fifth.
    """
    eps = float(jnp.finfo(Y.dtype).eps)
    if tolerance is None:
        tolerance = 1e-3 if eps > 1e-10 else 1e-6
    n = Y.shape[0]
    zero = jnp.zeros((space.size, Y.shape[1]), Y.dtype)
    F = jnp.zeros_like(Y)
    often = jnp.ones((n, 1), Y.dtype) if counts is None else counts[:, None]
    one = jnp.ones((), Y.dtype)
    nothing = jnp.zeros((), jnp.int32)
    # Weights of 0 have changed at once: the factorisation of the first step is made in the loop,
    # and so is the last, that there is only one of it to compile.
    weights = jnp.zeros(n, Y.dtype)
    blank = eqx.filter_eval_shape(space.prepare, weights)
    prepared = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank)
    numbers = nothing, jnp.inf * one, jnp.inf * one, nothing, nothing
    start = _State(zero, F, zero, one, zero, F, weights, prepared, *numbers, jnp.zeros((), bool))

    def advance(state: _State) -> _State:
        now = row_weights(state.F) * often[:, 0]
        moved = jnp.sum(jnp.abs(now - state.weights)) > _CHANGE * jnp.sum(state.weights)
        weights, prepared = jax.lax.cond(
            moved | (state.status != STATUS.RUNNING),
            lambda: (now, space.prepare(now)),
            lambda: (state.weights, state.prepared),
        )
        stepped = _step(space, Y, often, state, weights, prepared, tolerance, max_steps)
        ended = state._replace(weights=weights, prepared=prepared, done=jnp.ones((), bool))
        running = state.status == STATUS.RUNNING
        return jax.tree.map(lambda a, b: jnp.where(running, a, b), stepped, ended)

    end = jax.lax.while_loop(lambda state: ~state.done, advance, start)
    return Mode(end.u, end.F, end.weights, end.prepared, end.status, end.step, end.decrement)


def _step(space, Y, often, state: _State, weights, prepared, tolerance, max_steps) -> _State:
    """To the minimum along the next conjugate direction."""
    r = space.gradient(state.u, often * residual(state.F, Y))
    s = space.solve(prepared, weights, r)
    Fs = space.values(s)
    rho = space.inner(r, s, Fs)
    beta = jnp.maximum(rho - space.inner(state.r, s, Fs), 0) / state.rho
    beta = jnp.where(state.step == 0, 0, beta)
    d, Fd = beta * state.d - s, beta * state.Fd - Fs
    # A direction that does not descend, by rounding, gives way to the step of the weighted problem.
    downhill = space.inner(r, d, Fd) < 0
    d, Fd = jnp.where(downhill, d, -s), jnp.where(downhill, Fd, -Fs)
    u_d, d_d = space.inner(state.u, d, Fd), space.inner(d, d, Fd)
    t = line_search(state.F, Fd, Y, u_d, d_d, often)
    decrement = jnp.sqrt(jnp.maximum(rho, 0) / jnp.sum(often))
    stale = jnp.where(decrement < 0.9 * state.best, 0, state.stale + 1)
    status = jnp.where(stale > _PATIENCE, STATUS.STAGNATED, STATUS.RUNNING)
    status = jnp.where(state.step + 1 >= max_steps, STATUS.MAX_STEPS, status)
    status = jnp.where(decrement <= tolerance, STATUS.CONVERGED_RESIDUAL, status)
    sound = jnp.isfinite(rho) & jnp.isfinite(t)
    status = jnp.where(sound, status, STATUS.NON_FINITE).astype(jnp.int32)
    u, F = state.u + t * d, state.F + t * Fd
    best = jnp.minimum(state.best, decrement)
    memory = r, jnp.where(rho > 0, rho, 1), d, Fd, weights, prepared
    return _State(u, F, *memory, state.step + 1, decrement, best, stale, status, state.done)


def line_search(
    F: Array, Fd: Array, Y: Array, u_d: Array, d_d: Array, often: Array
) -> Float[Array, ""]:
    """The step t > 0 that minimises `|u + t d|^2 / 2 - log likelihood(F + t Fd)`.

    `often` says how often each row counts, shape (n, 1).

    Newton's method on a convex function of one number, between bounds that close in: products of
    arrays of the size of F alone.
    """

    def slopes(t: Array) -> tuple[Array, Array]:
        G = F + t * Fd
        first = u_d + t * d_d - jnp.sum(often * residual(G, Y) * Fd)
        return first, d_d + jnp.sum(often * Fd * curvature(G, Fd))

    def improve(_: Any, carry: tuple) -> tuple:
        low, high, t = carry
        first, second = slopes(t)
        low, high = jnp.where(first < 0, t, low), jnp.where(first < 0, high, t)
        new = t - first / jnp.where(second > 0, second, 1)
        middle = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * low)
        # Bounds included: at the minimum a step of 0 ends on one, and must not be bisected away.
        inside = (new >= low) & (new <= high) & (new < 4 * jnp.maximum(low, 1))
        return low, high, jnp.where(inside, new, middle)

    one = jnp.ones((), F.dtype)
    return jax.lax.fori_loop(0, _LINE_STEPS, improve, (0 * one, jnp.inf * one, one))[2]


def temperature_of(logits: Float[Array, "n k"], Y: Float[Array, "n k"]) -> Float[Array, ""]:
    """The number by which logits are best divided for their log loss, between 0.05 and 20.

    Guo et al. (2017). A twentieth of a row of evidence for 0 keeps it finite where all are right.
    """
    scale = jnp.mean(logits**2)
    zero = jnp.zeros((), logits.dtype)
    once = jnp.ones((logits.shape[0], 1), logits.dtype)
    t = line_search(jnp.zeros_like(logits), logits, Y, zero, 0.05 * scale, once)
    return 1 / jnp.clip(t, 0.05, 20)
