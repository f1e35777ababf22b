"""Ways to differentiate through a solve, side by side: what each costs and how far it is off."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from gplsq._core import STATUS, check_count, describe
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers._adjoint import DerivativeWarning
from gplsq.solvers._inputs import as_damp, as_operator
from gplsq.solvers._lsmr import LSMR
from gplsq.solvers._solution import Solution
from gplsq.solvers._solve import lstsq
from gplsq.solvers._unrolled import unrolled_lstsq


class GradientRow(NamedTuple):
    """One way to differentiate, and what came of it."""

    method: str
    num_steps: int | None  # most steps of any solve of the value; None where there was no solve
    status: str  # of these solves: "ok", the names of the statuses that are not, or "-"
    # Of derivatives' own solves: "ok", "missed" (the tolerance), "-" if there are none.
    adjoint: str
    value: float
    # Relative differences, in Euclidean norms: of the derivatives along the random directions to
    # central differences of the implicit value (for these themselves, to what they were before
    # extrapolation), and of the whole gradient to the implicit one.
    from_differences: float
    from_implicit: float | None
    compile_seconds: float
    run_seconds: float  # value and gradient, the fastest of the repetitions
    temp_bytes: int | None  # XLA's count of temporary memory; None where the backend has none
    gradient: PyTree | None


@dataclasses.dataclass(frozen=True)
class GradientComparison:
    """Result of `compare_gradients`; printing it shows the table.

    Attributes
    ----------
    rows
        A `GradientRow` per method: central differences, implicit, unrolled and truncated.
    """

    rows: tuple[GradientRow, ...]

    def __getitem__(self, method: str) -> GradientRow:
        for row in self.rows:
            if row.method == method:
                return row
        msg = f"method must be one of {[row.method for row in self.rows]}; got {method!r}."
        raise KeyError(msg)

    def table(self) -> str:
        """The rows as aligned plain text."""
        head = ["method", "steps", "solves", "adjoint", "value", "vs diff.", "vs implicit"]
        head += ["compile s", "run ms", "temp KiB"]
        lines = [head]
        for row in self.rows:
            memory = "-" if row.temp_bytes is None else f"{row.temp_bytes / 1024:.1f}"
            lines.append(
                [
                    row.method,
                    "-" if row.num_steps is None else str(row.num_steps),
                    row.status,
                    row.adjoint,
                    f"{row.value:.5g}",
                    f"{row.from_differences:.1e}",
                    "-" if row.from_implicit is None else f"{row.from_implicit:.1e}",
                    f"{row.compile_seconds:.2f}",
                    f"{1e3 * row.run_seconds:.2f}",
                    memory,
                ]
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        words = {0, 2, 3}  # aligned to the left
        return "\n".join(
            "  ".join(
                text.ljust(width) if i in words else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def __str__(self) -> str:
        return self.table()


def compare_gradients(
    fn: Callable[[PyTree, Callable[..., Solution]], Array],
    params: PyTree,
    *,
    num_steps: Sequence[int] = (10, 50),
    directions: int = 3,
    key: PRNGKeyArray | None = None,
    repeat: int = 3,
    checkpoint: str = "steps",
) -> GradientComparison:
    """Differentiate `fn` in several ways and measure them.

    Parameters
    ----------
    fn
        `fn(params, solve)` returns a scalar. It calls `solve` as it would call `lstsq`, any number
        of times; what `solve` does decides how `fn` is differentiated.
    params
        Any pytree. Its floating-point numbers and arrays are what is differentiated.
    num_steps
        Step numbers of the truncated ways. Each gives a row ``"unrolled k"``, where k steps of
        LSMR are differentiated through (`unrolled_lstsq`), and a row ``"truncated k"``, where the
        solution is that of `lstsq` and its adjoint solve is cut off after k steps
        (``adjoint_solver=LSMR(max_steps=k)``).
    directions
        Random directions along which central differences are taken.
    key
        A JAX random key for them; a fixed one by default.
    repeat
        Timed runs of each program; the fastest counts.
    checkpoint
        As for `unrolled_lstsq`.

    Returns
    -------
    GradientComparison
        Print it for a table; `rows` holds the numbers and the gradients.

    Raises
    ------
    TypeError
        If `fn` is not callable, its result is not a real scalar, or `params` holds no
        floating-point numbers.
    ValueError, TypeError
        If a count is not a positive integer.

    Notes
    -----
    `solve` takes what `lstsq` takes. It never raises for a missed tolerance: the table says so. The
    unrolled ways use `damp`, `x0` (where `lstsq` would) and `preconditioner`, the last not for
    kernel operators; they ignore solvers.

    An unrolled way has a value of its own: its gradient is right for that value, and ``vs diff.``
    and ``vs implicit`` say how far it is from the gradient of the solution. A truncated way has the
    value of the implicit one, and a gradient that belongs to no function.

    Central differences are those of the implicit value, with steps of ``eps^(1/3)`` and twice that,
    in units of the length of each array of the parameters, extrapolated. They run in the precision
    of the parameters, and show no more than the tolerance of the solves divided by the step. Their
    own ``vs diff.`` is what the extrapolation changed. Programs run on the default device; their
    timings are of this machine, and memory is what XLA plans for temporaries.

    Cost: ``1 + 2 len(num_steps)`` programs of the gradient are compiled, and ``2 +
    len(num_steps)`` of the value.
    """
    if not callable(fn):
        msg = f"fn must be a function of (params, solve); got {describe(fn)}. Pass a callable."
        raise TypeError(msg)
    counts = [check_count("num_steps", count, minimum=1) for count in num_steps]
    directions = check_count("directions", directions, minimum=1)
    repeat = check_count("repeat", repeat, minimum=1)
    moving, fixed = eqx.partition(params, eqx.is_inexact_array_like)
    moving = jax.tree.map(jnp.asarray, moving)
    if not jax.tree.leaves(moving):
        msg = f"params must hold floating-point numbers; got {describe(params)}. Cast integers."
        raise TypeError(msg)

    def program(solve: Callable[..., Solution]) -> Callable[[PyTree], Array]:
        return lambda p: fn(eqx.combine(p, fixed), solve)

    result = jax.eval_shape(program(_implicit), moving)
    if getattr(result, "shape", None) != () or not jnp.issubdtype(result.dtype, jnp.floating):
        msg = f"fn must return a real floating-point scalar; got {describe(result)}."
        raise TypeError(msg)
    ways: dict[str, Callable[..., Solution]] = {"implicit": _implicit}
    for count in counts:
        ways[f"unrolled {count}"] = _unrolled(count, checkpoint)
    for count in counts:
        ways[f"truncated {count}"] = _truncated(count)
    rays = _random_directions(jax.random.key(0) if key is None else key, moving, directions)
    dtypes = [result.dtype, *(leaf.dtype for leaf in jax.tree.leaves(moving))]
    precision = max(float(jnp.finfo(dtype).eps) for dtype in dtypes)
    reference = _by_differences(program(_implicit), moving, rays, repeat, precision)
    slopes = np.asarray(reference.gradient)
    rows = [reference._replace(gradient=None)]
    for method, solve in ways.items():
        row = _measured(method, program(solve), moving, repeat)
        if method.startswith("truncated"):  # in the adjoint solve: the value is the implicit one
            steps, status = rows[1].num_steps, rows[1].status
        else:
            steps, status = _outcomes(program, solve, moving)
        no_adjoint = steps is None or method.startswith("unrolled")
        exact = rows[1].gradient if len(rows) > 1 else row.gradient
        along = np.array([_dot(row.gradient, ray) for ray in rays])
        apart = jax.tree.map(jnp.subtract, row.gradient, exact)
        rows.append(
            row._replace(
                num_steps=steps,
                status=status,
                adjoint="-" if no_adjoint else row.adjoint,
                from_differences=_relative(along - slopes, slopes),
                from_implicit=_ratio(_dot(apart, apart) ** 0.5, _dot(exact, exact) ** 0.5),
            )
        )
    return GradientComparison(tuple(rows))


def _implicit(A: Any, b: Any, **settings: Any) -> Solution:
    return lstsq(A, b, **{**settings, "throw": False})


def _truncated(count: int) -> Callable[..., Solution]:
    def solve(A: Any, b: Any, **settings: Any) -> Solution:
        return _implicit(A, b, **{**settings, "adjoint_solver": LSMR(max_steps=count)})

    return solve


def _unrolled(count: int, checkpoint: str) -> Callable[..., Solution]:
    ignored = ("solver", "adjoint_solver", "adjoint_x0", "throw")

    def solve(A: Any, b: Any, **settings: Any) -> Solution:
        used = {name: value for name, value in settings.items() if name not in ignored}
        operator = as_operator(A, used.get("like"), used.get("x0"))
        if isinstance(operator, KernelOperator):
            used.pop("preconditioner", None)
        elif as_damp(used.get("damp", 0.0), operator) is None:
            used.pop("x0", None)
        return unrolled_lstsq(operator, b, num_steps=count, checkpoint=checkpoint, **used)

    return solve


def _measured(
    method: str, fn: Callable[[PyTree], Array], params: PyTree, repeat: int
) -> GradientRow:
    """Compile and run value and gradient."""
    compiled, seconds, memory = _compile(jax.value_and_grad(fn), params)
    (value, gradient), warned = _run(lambda: compiled(params))
    return GradientRow(
        method=method,
        num_steps=None,
        status="-",
        adjoint="missed" if warned else "ok",
        value=float(value),
        from_differences=float("nan"),
        from_implicit=None,
        compile_seconds=seconds,
        run_seconds=_fastest(lambda: compiled(params), repeat),
        temp_bytes=memory,
        gradient=gradient,
    )


def _outcomes(
    program: Callable[[Callable[..., Solution]], Callable[[PyTree], Array]],
    solve: Callable[..., Solution],
    params: PyTree,
) -> tuple[int | None, str]:
    """Most steps and statuses of the solves of the value, by a program of its own."""
    codes: list[int] = []
    steps: list[int] = []

    def note(status: Any, num_steps: Any) -> None:
        codes.extend(np.ravel(status).tolist())
        steps.extend(np.ravel(num_steps).tolist())

    def recorded(A: Any, b: Any, **settings: Any) -> Solution:
        solution = solve(A, b, **settings)
        jax.debug.callback(note, solution.status, solution.stats.num_steps)
        return solution

    _run(lambda: jax.jit(program(recorded))(params))
    good = (STATUS.CONVERGED_RESIDUAL, STATUS.CONVERGED_NORMAL, STATUS.EXACT)
    bad = sorted({STATUS(code).name.lower() for code in codes if code not in good})
    return (max(steps), ", ".join(bad) or "ok") if codes else (None, "-")


def _by_differences(
    fn: Callable[[PyTree], Array],
    params: PyTree,
    rays: list[PyTree],
    repeat: int,
    precision: float,
) -> GradientRow:
    """Central differences along the rays; `gradient` holds the slopes."""
    compiled, seconds, memory = _compile(fn, params)
    step = precision ** (1 / 3)

    def slope(ray: PyTree, h: float) -> float:
        up = compiled(jax.tree.map(lambda p, d: p + h * d, params, ray))
        down = compiled(jax.tree.map(lambda p, d: p - h * d, params, ray))
        return (float(up) - float(down)) / (2 * h)

    def slopes(h: float) -> np.ndarray:
        return np.array([slope(ray, h) for ray in rays])

    (near, wide, value), _ = _run(lambda: (slopes(step), slopes(2 * step), compiled(params)))
    extrapolated = near + (near - wide) / 3  # without the error of second order (Richardson 1911)
    return GradientRow(
        method="central differences",
        num_steps=None,
        status="-",
        adjoint="-",
        value=float(value),
        from_differences=_relative(near - extrapolated, extrapolated),
        from_implicit=None,
        compile_seconds=seconds,
        run_seconds=_fastest(lambda: slopes(step), repeat),
        temp_bytes=memory,
        gradient=extrapolated,
    )


def _compile(fn: Callable, params: PyTree) -> tuple[Callable, float, int | None]:
    """The compiled program, seconds of tracing and compiling, and its temporary memory."""
    start = time.perf_counter()
    compiled = jax.jit(fn).lower(params).compile()
    seconds = time.perf_counter() - start
    analysis = compiled.memory_analysis()
    return compiled, seconds, None if analysis is None else int(analysis.temp_size_in_bytes)


def _run(call: Callable[[], Any]) -> tuple[Any, bool]:
    """The finished result, and whether a derivative warned. Other warnings pass."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DerivativeWarning)
        out = jax.block_until_ready(call())
        jax.effects_barrier()
    for warning in caught:
        if not issubclass(warning.category, DerivativeWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return out, any(issubclass(warning.category, DerivativeWarning) for warning in caught)


def _fastest(call: Callable[[], Any], repeat: int) -> float:
    def once() -> float:
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    return min(_run(lambda: [once() for _ in range(repeat)])[0])


def _random_directions(key: PRNGKeyArray, params: PyTree, count: int) -> list[PyTree]:
    """Directions that change every leaf by its own length, or by 1 where it is zero."""
    leaves, structure = jax.tree.flatten(params)

    def draw_leaf(key: PRNGKeyArray, leaf: Array) -> Array:
        part = jax.random.normal(key, leaf.shape, leaf.dtype)
        length = jnp.linalg.norm(leaf)
        return part * (jnp.where(length == 0, 1, length) / jnp.linalg.norm(part))

    def draw(key: PRNGKeyArray) -> PyTree:
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(structure, list(map(draw_leaf, keys, leaves)))

    return [draw(k) for k in jax.random.split(key, count)]


def _dot(a: PyTree, b: PyTree) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(sum(np.vdot(np.asarray(x, float), np.asarray(y, float)) for x, y in pairs))


def _relative(difference: np.ndarray, reference: np.ndarray) -> float:
    return _ratio(float(np.linalg.norm(difference)), float(np.linalg.norm(reference)))


def _ratio(a: float, b: float) -> float:
    if b == 0 and not np.isnan(a):
        return 0.0 if a == 0 else float("inf")
    return a / b if b != 0 else a
