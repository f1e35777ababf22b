"""Classification: a Gaussian process conditioned on classes by Laplace's approximation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from gplsq._core import (
    STATUS,
    cast,
    check_choice,
    check_real_array,
    describe,
    jit_quickly,
    savable,
    status_message,
)
from gplsq.gp._class_likelihood import (
    averaged_logits,
    class_probabilities,
    indicators,
    residual,
    row_weights,
)
from gplsq.gp._inputs import check_inducing, points_like
from gplsq.gp._laplace_spaces import BasisSpace, KernelSpace, with_column
from gplsq.gp._low_rank import choose_inducing
from gplsq.gp._newton import Mode, find_mode
from gplsq.gp._plan import choose_solver, format_bytes, memory_budget
from gplsq.gp._variance import variance_by_factor, variance_by_neighbours
from gplsq.kernels import AbstractKernel, Weighted
from gplsq.operators import Inducing, InducingBasis, cross_matvec
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers import AbstractLeastSquares, Direct

CLASS_SOLVERS = ("auto", "direct", "lsmr", "inducing")
# A Newton step with a Cholesky factor of 4000 rows takes a second on two cores, and there are six
# to a few dozen of them.
_DIRECT_ROWS = 4000
_INDUCING = 1024
# Solves precondition conjugate steps: they need no more than this.
_RTOL = 1e-2
_NEIGHBOURS = 64
# Share of the memory budget that a kept table of basis functions may take.
_KEEP = 0.25


@savable
class LaplacePosterior(eqx.Module):
    """A Gaussian process conditioned on classes; made by `classify`.

    Attributes
    ----------
    kernel, X, codes
        The model and its data.
    coefficients
        Of kernel sections at the rows, or at the inducing points: shape (n or m, k), with k = 1
        latent function for two classes (the logit of the second), else one for each class.
    values, weights
        Latent values at the mode, (n, k), and row weights there, (n,), times how often rows count.
    status, num_steps, decrement
        Of Newton's method, see `find_mode`.
    plan
        How it was solved, and why.
    """

    kernel: AbstractKernel
    X: Float[Array, "n d"]
    codes: Int[Array, " n"]
    coefficients: Float[Array, "m k"]
    values: Float[Array, "n k"]
    weights: Float[Array, " n"]
    basis: InducingBasis | None
    factor: Float[Array, "m m"] | None
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    decrement: Float[Array, ""]
    num_classes: int = eqx.field(static=True)
    plan: str = eqx.field(static=True)

    @property
    def ok(self) -> bool:
        """Whether Newton's method met its tolerance."""
        return int(self.status) == STATUS.CONVERGED_RESIDUAL

    def report(self) -> str:
        """The outcome in plain words."""
        return (
            f"Laplace approximation of {self.num_classes} classes; {self.plan}; Newton's method "
            f"{status_message(int(self.status))} ({int(self.num_steps)} steps, decrement "
            f"{float(self.decrement):.1e})"
        )

    def mean(self, Z: ArrayLike) -> Float[Array, "t k"]:
        """Latent functions at Z, shape (t, d). Cost: t n (or t m) kernel entries, in tiles."""
        points = points_like(Z, self.X)
        centres = self.X if self.basis is None else self.basis.Z
        return cross_matvec(self.kernel, points, centres, self.coefficients)

    def variance(self, Z: ArrayLike) -> Float[Array, " t"]:
        """Posterior variance of the latent functions at Z, one for all of them; never negative.

        Exact for two classes where the solver was direct (Rasmussen & Williams 2006, algorithm
        3.2). For more classes that of the common row weights. With inducing points the variance
        that they do not explain is added; with LSMR it is the upper bound from the 64 most
        correlated rows.
        """
        data = self.X, self.weights, self.basis, self.factor
        return jnp.maximum(_variance(self.kernel, *data, points_like(Z, self.X)), 0)

    def probabilities(
        self, Z: ArrayLike, temperature: ArrayLike = 1.0, latent_scale: ArrayLike = 1.0
    ) -> Float[Array, "t c"]:
        """Probabilities of the classes at Z, shape (t, d), averaged over the latent functions.

        Parameters
        ----------
        Z
            Shape (t, d).
        temperature, latent_scale
            Logits are divided by the one, variances multiplied by the other; see
            `calibrate_classes`.
        """
        logits = averaged_logits(self.mean(Z), jnp.asarray(latent_scale * self.variance(Z)))
        return class_probabilities(logits / temperature)

    def leave_one_out(self, rows: ArrayLike) -> tuple[Float[Array, "s k"], Float[Array, " s"]]:
        """Mean and variance of the latent values of chosen rows given all the others.

        Parameters
        ----------
        rows
            Row numbers, shape (s,).

        Notes
        -----
        In closed form, see `laplace_leave_one_out`; with inducing points those stay where they are.
        Of a row that counts several times one observation is left out. With LSMR the variance is
        the bound from what is left of the row and the 64 others most correlated with it.
        """
        index = jnp.asarray(rows)
        data = self.X, self.weights, self.basis, self.factor
        targets = indicators(self.codes[index], self.num_classes, self.X.dtype)
        F = self.values[index]
        weights = row_weights(F)
        out = jnp.minimum(self.weights[index] / weights, 1)
        variance = _variance(self.kernel, *data, self.X[index], (index, out * weights))
        variance = jnp.maximum(variance, 0)
        return F - (variance * out)[:, None] * residual(F, targets), variance

    def for_pickle(self) -> "LaplacePosterior":
        """The same: it keeps no kernel matrix."""
        return self


def classify(
    kernel: AbstractKernel,
    X: ArrayLike,
    codes: ArrayLike,
    *,
    num_classes: int | None = None,
    counts: ArrayLike | None = None,
    solver: AbstractLeastSquares | str | None = None,
    inducing: ArrayLike | int | None = None,
    form: str = "auto",
    rtol: float | None = None,
    memory: float | str | None = None,
    tolerance: float | None = None,
    max_steps: int = 100,
    key: Array | None = None,
) -> LaplacePosterior:
    """Condition a zero-mean Gaussian process on classes, by Laplace's approximation.

    Parameters
    ----------
    kernel
        Prior covariance of every latent function, in squared logits.
    X
        Shape (n, d). Its dtype is the dtype of all the work.
    codes
        Class of each row, whole numbers from 0; shape (n,).
    num_classes
        At least 2; by default as many as `codes` hold.
    counts
        How often each row was observed, shape (n,): positive (at least 1e-31 in float32), not
        necessarily whole. Once by default. Its log likelihood is multiplied by it.
    solver
        Of the weighted least-squares problem of a Newton step. ``"direct"``: a Cholesky factor.
        ``"lsmr"``: function-space LSMR. ``"inducing"``: functions of inducing points. ``"auto"``
        (or None) is direct up to 4000 rows, inducing points beyond. Or a solver of
        `gplsq.solvers`, for the exact model.
    inducing
        Inducing points, shape (m, d), or how many to choose from X: asks for that model. 1024 by
        default.
    form
        How kernel matrices are multiplied by, see `gplsq.operators.Kernel`.
    rtol
        Relative residual asked of LSMR; 1e-2 by default. It changes the number of Newton steps, not
        the mode.
    memory
        What the fit may take beside the table: bytes, or text such as ``"2 GiB"``; half of what is
        free by default.
    tolerance, max_steps
        Of Newton's method: the root mean square change of a logit in the last step (1e-3 in
        float32, 1e-6 in float64), and steps at most.
    key
        A JAX random key for the choice of inducing points; a fixed one by default.

    Returns
    -------
    LaplacePosterior
        Look at `.ok` and `.report()`.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not match, codes that are no classes, or too little memory.

    Notes
    -----
    The mode maximises `sum_i log p(y_i | f(x_i)) - |f|^2 / 2` with a logistic likelihood for two
    classes and softmax for more (Rasmussen & Williams 2006, chapter 3). Cost: 6 to 8 steps for two
    classes, a few dozen cheaper ones for more.
    """
    solver = "auto" if solver is None else solver
    if not isinstance(solver, AbstractLeastSquares):
        check_choice("solver", solver, CLASS_SOLVERS)
    check_choice("form", form, ("auto", "dense", "tiled"))
    points = jnp.asarray(X)
    if not jnp.issubdtype(points.dtype, jnp.floating):
        points = points.astype(float)
    numbers, count = _check_codes(codes, points, num_classes)
    kernel = cast(kernel, points.dtype)
    often = None if counts is None else _check_counts(counts, points)
    targets = indicators(jnp.asarray(numbers), count, points.dtype)
    number, centres = check_inducing(inducing, points)
    if number is not None and not (isinstance(solver, str) and solver in ("auto", "inducing")):
        msg = (
            f'inducing asks for solver="inducing"; got {describe(solver)}. Leave inducing out, or '
            "the solver."
        )
        raise ValueError(msg)
    n, size = points.shape[0], points.dtype.itemsize
    budget = memory_budget(memory)
    name = solver
    if solver == "auto":
        direct = n <= _DIRECT_ROWS and 4 * n * n * size <= budget and number is None
        name = "direct" if direct else "inducing"
    why = f"{n} rows" if solver == "auto" else "asked for"
    if name == "inducing":
        if centres is None:
            number = _inducing_that_fit(n, number, size, budget)
            key = jax.random.key(0) if key is None else key
            centres = choose_inducing(kernel, points, number, key)
        operator = Inducing(kernel, points, centres)
        basis = operator.basis
        space = BasisSpace(operator, n * basis.size * size <= _KEEP * budget)
        mode = _find(space, targets, often, tolerance, max_steps)
        coefficients, factor = basis.coefficients(mode.coordinates), mode.prepared
        words = f"{basis.size} inducing points: {why}"
    else:
        basis = None
        plan = choose_solver(n, points.dtype, name, _RTOL if rtol is None else rtol)
        space = KernelSpace(KernelOperator(kernel, points, form), plan.solver, plan.preconditioner)
        mode = _find(space, targets, often, tolerance, max_steps)
        coefficients = mode.coordinates
        factor = mode.prepared[1].lower if isinstance(plan.solver, Direct) else None
        words = f"{plan.reason.split(':')[0]}: {why}"
    parts = mode.values, mode.weights, basis, factor
    ended = mode.status, mode.num_steps, mode.decrement
    data = kernel, points, jnp.asarray(numbers)
    return LaplacePosterior(*data, coefficients, *parts, *ended, count, words)


def _check_codes(codes: Any, points: Array, num_classes: int | None) -> tuple[np.ndarray, int]:
    given = np.asarray(codes)
    if points.ndim != 2 or given.shape != points.shape[:1] or given.size == 0:
        msg = (
            f"X must have shape (n, d) and codes shape (n,); got {points.shape} and "
            f"{given.shape}. Pass one class for each row."
        )
        raise ValueError(msg)
    if given.dtype.kind not in "iu":
        msg = f"codes must be whole numbers from 0; got {describe(given)}. See numpy.unique."
        raise TypeError(msg)
    count = int(given.max()) + 1 if num_classes is None else num_classes
    if count < 2 or given.min() < 0 or given.max() >= count:
        msg = (
            f"codes must be numbers of at least 2 classes, from 0 to num_classes - 1; got "
            f"{given.min()} to {given.max()} with num_classes={num_classes}."
        )
        raise ValueError(msg)
    return given.astype(np.int32), count


def _check_counts(counts: Any, points: Array) -> Array:
    check_real_array("counts", counts)
    with np.errstate(over="ignore"):
        given = np.asarray(counts).astype(points.dtype)
    # Times the smallest weight of a row, about the root of eps, a normal number.
    limits = np.finfo(given.dtype)
    least = float(limits.tiny / limits.eps)
    if given.shape != points.shape[:1] or not np.all((given >= least) & np.isfinite(given)):
        msg = (
            f"counts must be one positive number for each of the {points.shape[0]} rows, finite "
            f"and at least {least:.0e} in {given.dtype}; got {describe(counts)}. They are the "
            "sample_weight of a classifier. Leave out rows that do not count."
        )
        raise ValueError(msg)
    return jnp.asarray(given)


def _inducing_that_fit(n: int, asked: int | None, size: int, budget: float) -> int:
    """How many inducing points: those asked for, or as many of 1024 as fit."""
    number = min(n, _INDUCING if asked is None else asked)

    def need(m: int) -> float:
        # Factors, and candidates of the choice of points.
        return size * (6.0 * m * m + 2.0 * m * min(n, 5 * m))

    while need(number) > budget and number > 32 and asked is None:
        number //= 2
    if need(number) > budget:
        msg = (
            f"memory of {format_bytes(budget)} is too little for {number} inducing points, which "
            f"take {format_bytes(need(number))}. Give more memory, or fewer inducing points."
        )
        raise ValueError(msg)
    return number


@jit_quickly
def _find(space, targets, counts, tolerance, max_steps) -> Mode:
    settings = {"counts": counts, "tolerance": tolerance, "max_steps": max_steps}
    mode = find_mode(space, targets, **settings)
    if isinstance(space, BasisSpace):
        return mode
    # The weighted operator holds a kernel matrix, which is not needed any more.
    return mode._replace(prepared=(None, mode.prepared[1]))


@eqx.filter_jit
def _variance(kernel, X, weights, basis, factor, points, left_out=None) -> Array:
    """Latent variance at points; of data rows without what is left out: numbers and weights."""
    if basis is not None:
        features = basis.features(points)
        left = jax.scipy.linalg.solve_triangular(factor, features.T, lower=True)
        known = jnp.sum(left**2, axis=0)
        known = known if left_out is None else _without(known, left_out[1])
        unexplained = kernel.diagonal(points) - jnp.sum(features**2, axis=1)
        return known + jnp.maximum(unexplained, 0)
    weighted = Weighted(kernel), with_column(X, jnp.sqrt(weights))
    one = jnp.ones((), X.dtype)
    observed = with_column(points, jnp.broadcast_to(one, points.shape[:1]))
    if factor is not None:
        variance = variance_by_factor(*weighted, factor, observed)
        return variance if left_out is None else _without(variance, left_out[1])
    if left_out is None:
        return variance_by_neighbours(*weighted, one, observed, _NEIGHBOURS)
    rows, lost = left_out
    rest = with_column(points, jnp.sqrt(jnp.maximum(weights[rows] - lost, 0)))
    return variance_by_neighbours(*weighted, one, observed, _NEIGHBOURS + 1, rows, rest)


def _without(variance: Array, weights: Array) -> Array:
    """The variance of a row without an observation of it of precision `weights`."""
    eps = float(jnp.finfo(variance.dtype).eps)
    return variance / jnp.maximum(1 - weights * variance, eps)
