"""What `solver="auto"` does: every way to fit n rows, its predicted cost, and the choice."""

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp

from gplsq._core import check_choice, check_count, check_finite_scalar, default_budget, tile_rows
from gplsq.gp._machine import NOMINAL, Rates, machine_rates
from gplsq.solvers import LSMR, AbstractLeastSquares, Direct, RandomlyPivotedCholesky

# Up to here a Cholesky factor takes about a second on two cores and gives variances for free.
DIRECT_ROWS = 5000
# Columns of the preconditioner: one for so many rows, within limits. On 15,642 rows in float32 200,
# 500 and 1000 columns took 108, 48 and 24 steps, and 3.3, 2.0 and 2.1 seconds with their making.
_ROWS_PER_COLUMN, _FEWEST_COLUMNS, _MOST_COLUMNS = 25, 200, 1000
# And numbers of the preconditioner, of which its making holds three times as many.
_MOST_NUMBERS = 2**25
_MAX_STEPS = 1000
# Steps that predictions of cost count with: exact models took 20 to 60, low-rank ones 8 to 20.
_STEPS, _LOW_RANK_STEPS = 40, 15
# An exact model is taken while its solve is predicted to take no longer than this, in seconds.
_EXACT_SECONDS = 30.0
# Functions of a low-rank model. On 1,000,000 rows of 8 inputs 1024, 2048 and 4096 inducing points
# left errors 10, 6 and 5 % above the noise floor; the whole fit takes two minutes on two cores.
_MANY_FUNCTIONS, _FEWEST_FUNCTIONS = 4096, 128
# Rows of the Gram matrix of a low-rank model for each of its functions, and candidates for each of
# its inducing points, as `gplsq.gp._low_rank` takes them. 32 rows took a third longer at 300,000
# rows, for one step less and a log density that was 0.0014 higher.
GRAM_ROWS_PER_FUNCTION, CANDIDATES_PER_POINT = 16, 5

_UPDATED = "; updated, "
SOLVERS = ("auto", "direct", "lsmr", "inducing", "features")


@dataclass(frozen=True)
class Candidate:
    """One way to fit, with what it is predicted to cost."""

    name: str  # "direct", "kept", "tiled", "inducing" or "features"
    rank: int | None  # of the preconditioner, or functions of a low-rank model
    seconds: float  # of the posterior mean's solve, without tuning and compilation
    bytes: float  # beside the table itself


@dataclass(frozen=True)
class Plan:
    """A solver, its preconditioner, the form of the kernel matrix, and the reasons.

    Prints as a table of all candidates.
    """

    model: str  # "exact", "inducing" or "features"
    solver: AbstractLeastSquares
    preconditioner: Any
    reason: str
    form: str = "auto"  # "dense" or "tiled" of an exact model
    rank: int | None = None  # functions of a low-rank model
    chosen: str = ""
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    memory: float = math.inf

    def __str__(self) -> str:
        lines = [self.reason]
        if self.candidates:
            lines.append(f"{'':2}{'way':10}{'rank':>6}{'seconds':>10}{'memory':>16}")
        for way in self.candidates:
            mark = "->" if way.name == self.chosen else "  "
            size = format_bytes(way.bytes) + (" (!)" if way.bytes > self.memory else "")
            rank = "" if way.rank is None else str(way.rank)
            lines.append(f"{mark}{way.name:10}{rank:>6}{way.seconds:>10.2g}{size:>16}")
        if self.candidates:
            lines.append(
                f"Seconds of one solve, without tuning and compilation; memory beside the table; "
                f"(!) is over the budget of {format_bytes(self.memory)}."
            )
        return "\n".join(lines)


def plan(
    n: int,
    d: int,
    *,
    dtype: Any = jnp.float32,
    num_targets: int = 1,
    solver: AbstractLeastSquares | str = "auto",
    memory: float | str | None = None,
    form: str = "auto",
    rank: int | None = None,
    rtol: float | None = None,
    rates: Rates | None = None,
    num_devices: int = 1,
) -> Plan:
    """What a fit of n rows would do with these settings, what it would cost, and why.

    Parameters
    ----------
    n, d
        Rows and columns of the table. The costs that a plan counts do not depend on d.
    dtype
        Of the table: float32 or float64.
    num_targets
        Right-hand sides solved for at once.
    solver
        ``"auto"``, ``"direct"``, ``"lsmr"``, ``"inducing"``, ``"features"``, or a solver, which is
        taken as it is.
    memory
        What a fit may take beside the table: bytes, or text such as ``"2 GiB"``; half of what is
        free on the device now by default.
    form
        How an exact model multiplies by the kernel matrix: ``"auto"``, ``"dense"`` (kept) or
        ``"tiled"``. Anything but ``"auto"`` asks for an exact model, and ``"tiled"`` for LSMR.
    rank
        Functions of a low-rank model: inducing points or features. By default 4096, halved until
        the model fits into `memory`.
    rtol
        Relative residual asked of LSMR. By default 1e-2 in float32; in float64 1e-4, and 1e-3 with
        low-rank models. The error of a prediction is about rtol standard deviations of the target.
    rates
        Speeds of the machine; measured and cached by default (`machine_rates`).
    num_devices
        Devices like this one that share the rows, see `mesh` of `condition`. Memory is that of one.

    Returns
    -------
    Plan
        Print it.

    Raises
    ------
    ValueError
        If nothing fits into `memory`, or an argument is out of range.

    Notes
    -----
    ``"auto"`` takes the dense factorisation up to 5000 rows, unless ``form="tiled"``; beyond, the
    quicker exact way (K kept or made again in tiles) of those that fit, while its solve is
    predicted to take up to 30 seconds; inducing points otherwise; and random features only if
    nothing else fits.

    Examples
    --------
    >>> import gplsq
    >>> print(gplsq.plan(1000, 5).reason)
    direct (dense Cholesky): 1000 rows, up to 5000
    """
    check_count("n", n, minimum=1)
    check_count("d", d, minimum=1)
    check_count("num_targets", num_targets, minimum=1)
    check_count("num_devices", num_devices, minimum=1)
    if rank is not None:
        check_count("rank", rank, minimum=1)
    check_choice("form", form, ("auto", "dense", "tiled"))
    own = isinstance(solver, AbstractLeastSquares)
    if not own:
        check_choice("solver", solver, SOLVERS)
    budget = memory_budget(memory)
    if rates is None:
        # Small tables need no measurement to be planned, only to be told how long they take.
        rates = NOMINAL if own else machine_rates()
    ways = _candidates(n, num_targets, jnp.dtype(dtype), rank, budget, rates, num_devices)
    return _choose(n, dtype, solver, budget, form, rank, rtol, ways)


def choose_plan(n: int, d: int, dtype: Any, solver: Any, **settings: Any) -> Plan:
    """`plan` for a fit: without a measurement where it cannot change the choice."""
    quick = n <= DIRECT_ROWS or solver != "auto" or settings.get("form", "auto") != "auto"
    # Processes that share a fit must plan alike, and would measure different rates.
    quick = quick or settings.get("num_devices", 1) > 1
    rates = NOMINAL if quick else None
    return plan(n, d, dtype=dtype, solver=solver, rates=rates, **settings)


def choose_solver(
    n: int, dtype: Any, solver: AbstractLeastSquares | str = "auto", rtol: float | None = None
) -> Plan:
    """The solver of an exact model of n rows: dense for small n, preconditioned LSMR beyond.

    Parameters
    ----------
    n, dtype, rtol
        As for `plan`.
    solver
        ``"auto"``, ``"direct"``, ``"lsmr"``, or a solver, which is taken as it is.
    """
    if isinstance(solver, AbstractLeastSquares):
        preconditioner = None if isinstance(solver, Direct) else _preconditioner(n)
        return Plan("exact", solver, preconditioner, "chosen by the caller")
    if solver == "direct" or (solver == "auto" and n <= DIRECT_ROWS):
        why = "asked for" if solver == "direct" else f"{n} rows, up to {DIRECT_ROWS}"
        reason = f"direct (dense Cholesky): {why}"
        return Plan("exact", Direct(), None, reason, form="tiled", chosen="direct")
    why = "asked for" if solver == "lsmr" else f"{n} rows, over {DIRECT_ROWS}"
    method = LSMR(rtol=_rtol(rtol, dtype, 1e-4), max_steps=_MAX_STEPS)
    return Plan("exact", method, _preconditioner(n), f"function-space LSMR: {why}")


def updated(reason: str, rows: int) -> str:
    """The words of a plan once more rows have come to those that it was made for."""
    return f"{reason.split(_UPDATED)[0]}{_UPDATED}{rows} rows in all"


def memory_budget(memory: float | str | None) -> float:
    """Bytes from bytes, text such as ``"2 GiB"``, or None for half of what is free."""
    if memory is None:
        return default_budget()
    if isinstance(memory, str):
        found = re.fullmatch(
            r"\s*([0-9.]+(?:e[0-9]+)?)\s*([KMGT]?)(i?)B?\s*", memory, re.IGNORECASE
        )
        try:
            number = float(found[1]) if found else math.nan
        except ValueError:
            number = math.nan
        if not (found and number > 0):
            msg = (
                f'memory must be bytes or text such as "2 GiB"; got {memory!r}. Pass one of these.'
            )
            raise ValueError(msg)
        step = 1024 if found[3] else 1000
        return number * step ** " KMGT".index(found[2].upper() or " ")
    return check_finite_scalar("memory", memory, minimum=0.0, strict=True)


def format_bytes(size: float) -> str:
    """`1.5 GiB` and the like."""
    if not math.isfinite(size):
        return "unlimited"
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    # From 1,000 on in the next unit: three digits would not do.
    power = 0 if size < 1 else min(int(math.log2(size * 1.024) // 10), len(units) - 1)
    return f"{size / 1024**power:.3g} {units[power]}"


def _choose(n, dtype, solver, budget, form, rank, rtol, ways) -> Plan:
    by_name = {way.name: way for way in ways}
    if isinstance(solver, AbstractLeastSquares):
        chosen = choose_solver(n, dtype, solver)
        name = "direct" if isinstance(solver, Direct) else _exact_form(form, by_name, budget)
        return _planned(chosen, name, ways, budget)
    fits = {way.name for way in ways if way.bytes <= budget}
    if solver == "auto":
        name = _auto(n, form, by_name, fits, budget)
    elif solver == "lsmr":
        name = _exact_form(form, by_name, budget)
    else:
        name = solver
    if name not in fits and (solver == "auto" or name in ("inducing", "features")):
        least = min(ways, key=lambda way: way.bytes)
        msg = (
            f"memory of {format_bytes(budget)} is too little for {n} rows: the smallest way "
            f"({least.name}{'' if least.rank is None else f', rank {least.rank}'}) takes "
            f"{format_bytes(least.bytes)}. Give more memory, or fit fewer rows."
        )
        raise ValueError(msg)
    if name in ("direct", "kept", "tiled"):
        exact = "direct" if name == "direct" else "lsmr"
        # The reason of "auto" names the size; of anything else, the wish.
        given = "auto" if solver == "auto" and (name == "direct") == (n <= DIRECT_ROWS) else exact
        chosen = choose_solver(n, dtype, given, rtol)
        if solver == "auto" and given != "auto":
            why = "the dense factor does not fit into memory"
            why = "in tiles, as asked for" if form == "tiled" else why
            chosen = _because(chosen, f"{n} rows, {why}")
        return _planned(chosen, name, ways, budget)
    why = "asked for"
    if solver == "auto":
        why = f"{n} rows, too many for the exact model"
    method = LSMR(rtol=_rtol(rtol, dtype, 1e-3), max_steps=_MAX_STEPS)
    words = "inducing points" if name == "inducing" else "random features"
    count = by_name[name].rank
    assert count is not None
    if rank is None and count < default_rank(n):
        why = f"{why}; fewer than {default_rank(n)} to fit into {format_bytes(budget)}"
    reason = f"{words}, LSMR on generated rows: {why}"
    return Plan(name, method, None, reason, "tiled", count, name, tuple(ways), budget)


def _because(chosen: Plan, why: str) -> Plan:
    return replace(chosen, reason=f"{chosen.reason.split(':')[0]}: {why}")


def _planned(chosen: Plan, name: str, ways: list[Candidate], budget: float) -> Plan:
    form = "dense" if name == "kept" else "tiled"
    return replace(chosen, form=form, chosen=name, candidates=tuple(ways), memory=budget)


def _auto(n: int, form: str, by_name: dict, fits: set, budget: float) -> str:
    if n <= DIRECT_ROWS and "direct" in fits and form != "tiled":
        return "direct"
    exact = _exact_form(form, by_name, budget)
    if form != "auto":
        return exact
    if exact in fits and (n <= DIRECT_ROWS or by_name[exact].seconds <= _EXACT_SECONDS):
        return exact
    return "features" if "inducing" not in fits and "features" in fits else "inducing"


def _exact_form(form: str, by_name: dict, budget: float) -> str:
    if form != "auto":
        return "kept" if form == "dense" else "tiled"
    kept, tiled = by_name["kept"], by_name["tiled"]
    return "kept" if kept.bytes <= budget and kept.seconds <= tiled.seconds else "tiled"


def default_rank(n: int) -> int:
    """Functions of a low-rank model for n rows."""
    return min(n, _MANY_FUNCTIONS)


def _candidates(n, k, dtype, rank, budget, rates, p) -> list[Candidate]:
    b = dtype.itemsize
    slower = b / 4  # rates are of float32
    r = _columns(n)
    tiles = 6 * tile_rows(n, n) * n * b
    entries = slower * n * n / rates.entries
    column_flops = 2.0 * n * n * max(k - 1, 0) * slower / rates.flops
    vectors = b * n * (12 * k + 3 * r)
    setup = slower * (n * r / rates.entries + 6 * n * r * r / rates.flops)
    # Products and K are shared by the p devices; preconditioner and factor are made by each.
    kept = (entries + _STEPS * (n * n * b / rates.bytes + column_flops)) / p + setup
    tiled = _STEPS * (entries + column_flops) / p + setup
    factor = slower * n**3 / 3 / rates.factor_flops
    ways = [
        Candidate("direct", None, entries + factor, 3.0 * n * n * b),
        Candidate("kept", r, kept, n * n * b / p + vectors + tiles),
        Candidate("tiled", r, tiled, vectors + tiles),
    ]
    for name in ("inducing", "features"):
        count = min(n, rank) if rank is not None and name == "inducing" else rank
        count = default_rank(n) if count is None else count
        way = _low_rank(name, n, k, b, count, rates, p)
        while rank is None and way.bytes > budget and count >= 2 * _FEWEST_FUNCTIONS:
            count //= 2
            way = _low_rank(name, n, k, b, count, rates, p)
        ways.append(way)
    return ways


def _low_rank(name, n: int, k: int, b: int, m: int, rates: Rates, p: int) -> Candidate:
    slower = b / 4
    rows = min(n, GRAM_ROWS_PER_FUNCTION * m)
    chosen = min(n, CANDIDATES_PER_POINT * m) if name == "inducing" else 0
    sweep = n * m * (1 / rates.entries + 2 * max(k - 1, 0) / rates.flops)
    flops = 2.0 * rows * m * m + 3.0 * m**3 + 2.0 * chosen * m * m
    seconds = slower * ((_LOW_RANK_STEPS / p + rows / n) * sweep + flops / rates.flops)
    vectors = n * (6 * k + 3) / p
    size = b * (6.0 * m * m + 2.0 * chosen * m + vectors + 6 * tile_rows(n, m) * m)
    return Candidate(name, m, seconds, size)


def _rtol(rtol: float | None, dtype: Any, wide: float) -> float:
    if rtol is not None:
        return rtol
    return 1e-2 if jnp.finfo(dtype).bits <= 32 else wide


def _preconditioner(n: int) -> RandomlyPivotedCholesky:
    return RandomlyPivotedCholesky(rank=_columns(n), block=min(n, 100))


def _columns(n: int) -> int:
    most = min(_MOST_COLUMNS, n // _ROWS_PER_COLUMN, _MOST_NUMBERS // n)
    return min(n, max(_FEWEST_COLUMNS, most))
