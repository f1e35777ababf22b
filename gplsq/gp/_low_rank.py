"""Conditioning on many rows through a basis of few functions: tall damped least squares."""

from numbers import Integral
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import (
    as_points,
    check_choice,
    describe,
    jittered_cholesky,
    map_row_tiles,
    matmul,
    tile_rows,
)
from gplsq.gp._plan import CANDIDATES_PER_POINT, GRAM_ROWS_PER_FUNCTION, Plan
from gplsq.kernels import AbstractKernel
from gplsq.operators import (
    AbstractBasis,
    AbstractEvaluation,
    Dense,
    Evaluation,
    FeatureBasis,
    Features,
    Inducing,
    InducingBasis,
    RowTable,
)
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers import (
    AbstractLeastSquares,
    Solution,
    gram_of_rows,
    inverse_root,
    lstsq,
    pivoted_factor,
    sample_rows,
)

_PIVOT_BLOCK = 100


class LowRankPosterior(eqx.Module):
    """A Gaussian process on a space of few functions, conditioned on data; see `condition`.

    Predictions are of the latent function, without observation noise.

    Attributes
    ----------
    kernel, noise_variance
        The model; `noise_variance` in squared units of the target.
    basis
        The m functions: spanned by inducing points, or random features.
    X, y
        The data, shapes (n, d) (or a `RowTable`) and (n,); empty in a pickle.
    coefficients
        c of `mean(x) = basis.sections(x) . c`; of inducing points `mean(x) = sum_j c_j k(x, z_j)`.
    solution
        The `Solution` of the mean's least-squares problem, in the basis.
    plan
        Which solver was used, and why.
    """

    kernel: AbstractKernel
    basis: AbstractBasis
    X: Float[Array, "n d"] | RowTable
    y: Float[Array, " n"]
    noise_variance: Float[Array, ""]
    coefficients: Float[Array, " m"]
    solution: Solution
    factors: "_Factors"
    solver: AbstractLeastSquares
    plan: str = eqx.field(static=True)

    def mean(self, Z: ArrayLike) -> Float[Array, " t"]:
        """Posterior mean at Z, shape (t, d). Cost: t m sections, in tiles."""
        return _mean(self.basis, self.coefficients, self._points(Z))

    @property
    def Z(self) -> Float[Array, "m d"]:
        """The inducing points.

        Raises
        ------
        AttributeError
            For a model of random features, which has none.
        """
        if not isinstance(self.basis, InducingBasis):
            msg = "a model of random features has no inducing points Z."
            raise AttributeError(msg)
        return self.basis.Z

    def variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, " t"]:
        """Posterior variance of the latent function at Z, shape (t, d); never negative.

        The prior variance that the basis does not explain, plus the posterior variance of
        what it does ("deterministic training conditional", Seeger, Williams & Lawrence 2003). Given
        all rows up to 32 for each function, and given a sample of so many beyond: then it is an
        upper bound of that given all.

        Parameters
        ----------
        Z
            Shape (t, d).
        method
            ``"auto"`` or ``"exact"``, which are the same here.
        """
        return jnp.maximum(self.raw_variance(Z, method), 0)

    def raw_variance(self, Z: ArrayLike, method: str = "auto") -> Float[Array, " t"]:
        """`variance` before negative rounding errors are set to 0, to count them."""
        check_choice("method", method, ("auto", "exact"))
        return _variance(self.kernel, self.basis, self.factors, self._points(Z))

    def covariance(self, Z: ArrayLike) -> Float[Array, "t t"]:
        """Joint posterior covariance of the latent function at Z, shape (t, d); t^2 memory."""
        return _covariance(self.kernel, self.basis, self.factors, self._points(Z))

    def sample(self, key: Array, Z: ArrayLike, num: int = 1) -> Float[Array, "t num"]:
        """Joint draws of the latent function at Z, by the eigenvectors of the covariance."""
        points = self._points(Z)
        values, vectors = jnp.linalg.eigh(self.covariance(points))
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))
        normal = jax.random.normal(key, (points.shape[0], num), points.dtype)
        return self.mean(points)[:, None] + root @ normal

    def leave_one_out(self, rows: ArrayLike) -> tuple[Array, Array]:
        """Residual and latent variance of chosen rows predicted from all the others.

        The residual is `r_i / (1 - h_i)` with h_i the leverage of the row, estimated from the rows
        that the variance is given (exact where these are all).
        """
        index = jnp.asarray(rows)
        points = take_rows(self.X, index)
        leverage = _leverage(self.basis, self.factors, points)
        residual = self.y[index] - self.mean(points)
        return residual / (1 - jnp.minimum(leverage, 0.99)), self.variance(points)

    def without_kept_matrix(self) -> "LowRankPosterior":
        """The same posterior for a pickle: without the data, which predictions do not need."""
        nothing = jnp.zeros((0, self.X.shape[1]), self.X.dtype)
        return eqx.tree_at(lambda p: (p.X, p.y), self, (nothing, self.y[:0]))

    def update(self, X: ArrayLike, y: ArrayLike) -> "LowRankPosterior":
        """The posterior of the same model, with the same functions, given more rows as well.

        Parameters
        ----------
        X, y
            More rows of data, shapes (s, d) and (s,).

        Returns
        -------
        LowRankPosterior
            That of a fit to all rows, to the solver's tolerance. Cost: of such a fit, started from
            the solution there is.

        Raises
        ------
        ValueError
            If shapes do not match, the data is a `RowTable`, or came out of a pickle, without data.
        """
        if isinstance(self.X, RowTable) or self.X.shape[0] == 0:
            msg = (
                "update needs the data of the fit in memory; this posterior has a RowTable, or was "
                "unpickled. Condition on a table of all rows instead."
            )
            raise ValueError(msg)
        points, target = more_rows(self.X, self.y, X, y)
        return _solve_low_rank(
            self.kernel,
            Evaluation(self.basis, points),
            target,
            self.noise_variance,
            self.solver,
            self.plan,
            jax.random.key(0),
            self.solution.value,
        )

    def _points(self, Z: ArrayLike) -> Float[Array, "t d"]:
        d = self.X.shape[1]
        points = jnp.asarray(Z, self.X.dtype)
        if points.ndim != 2 or points.shape[1] != d:
            msg = (
                f"Z must be a table of points, shape (t, {d}), like the data; got "
                f"{describe(points)}."
            )
            raise ValueError(msg)
        return points


class _Factors(NamedTuple):
    """Triangular factors of m x m matrices."""

    root: Float[Array, "m m"]  # of G + shift I, G the Gram matrix of the rows used for variances
    shift: Float[Array, ""]  # the noise variance, raised to what rounding errors allow
    inverse: Float[Array, "m m"]  # R^-1, R^T R = (n / s) G + noise variance


def condition_low_rank(
    kernel: AbstractKernel,
    X: Float[Array, "n d"] | RowTable,
    y: Float[Array, " n"],
    noise: Float[Array, ""],
    plan: Plan,
    Z: Float[Array, "m d"] | None,
    key: Array,
) -> LowRankPosterior:
    """The posterior on the span of `Z`, of rows of X chosen for it, or of random features."""
    assert plan.rank is not None
    if plan.model == "features":
        operator: AbstractEvaluation = Features(kernel, X, plan.rank, key=key)
        what = "features"
    else:
        Z = choose_inducing(kernel, X, plan.rank, key) if Z is None else Z
        operator = Inducing(kernel, X, Z)
        what = "inducing points"
    words = f"{plan.reason}; {operator.shape[1]} {what}"
    return _solve_low_rank(kernel, operator, y, noise, plan.solver, words, key, None)


def _solve_low_rank(kernel, operator, y, noise, solver, words, key, x0) -> LowRankPosterior:
    n, m = operator.shape
    rows = sample_rows(jax.random.fold_in(key, 1), n, min(n, GRAM_ROWS_PER_FUNCTION * m))
    factors = _factorise(operator, rows, noise)
    solution = lstsq(
        operator,
        y,
        damp=jnp.sqrt(noise),
        solver=solver,
        x0=x0,
        preconditioner=Dense(factors.inverse),
        throw=False,
    )
    return LowRankPosterior(
        kernel,
        operator.basis,
        operator.X,
        y,
        noise,
        operator.basis.coefficients(solution.value),
        solution,
        factors,
        solver,
        words,
    )


def take_rows(X: Float[Array, "n d"] | RowTable, index: Array) -> Float[Array, "t d"]:
    """Chosen rows, in memory."""
    return jnp.asarray(X.take(np.asarray(index))) if isinstance(X, RowTable) else X[index]


def more_rows(
    X: Float[Array, "n d"], y: Float[Array, " n"], more_X: ArrayLike, more_y: ArrayLike
) -> tuple[Float[Array, "t d"], Float[Array, " t"]]:
    """The data with more of it below, verified."""
    points = as_points("X", more_X).astype(X.dtype)
    target = jnp.asarray(more_y, X.dtype)
    if points.shape[1] != X.shape[1] or target.shape != points.shape[:1]:
        msg = (
            f"X must have shape (s, {X.shape[1]}) and y shape (s,); got {points.shape} and "
            f"{target.shape}. Pass rows like those of the fit."
        )
        raise ValueError(msg)
    return jnp.concatenate([X, points]), jnp.concatenate([y, target])


def check_inducing(
    inducing: Any, X: Float[Array, "n d"] | RowTable
) -> tuple[int | None, Float[Array, "m d"] | None]:
    """How many inducing points were asked for, and the points themselves where they were given."""
    if inducing is None:
        return None, None
    if isinstance(inducing, Integral) and not isinstance(inducing, bool):
        if inducing < 1:
            msg = f"inducing must be at least 1; got {inducing}. Pass how many points to choose."
            raise ValueError(msg)
        return int(inducing), None
    if not eqx.is_array_like(inducing):
        msg = (
            "inducing must be a number of points, or the points, shape (m, d); got "
            f"{describe(inducing)}. Pass one of these."
        )
        raise TypeError(msg)
    points = as_points("inducing", inducing).astype(X.dtype)
    if points.shape[1] != X.shape[1] or points.shape[0] == 0:
        msg = (
            f"inducing must be points of the space of the data, shape (m, {X.shape[1]}); got shape "
            f"{points.shape}. Match its columns to X."
        )
        raise ValueError(msg)
    return points.shape[0], points


def choose_inducing(
    kernel: AbstractKernel, X: Float[Array, "n d"] | RowTable, num: int, key: Array
) -> Float[Array, "m d"]:
    """`num` different rows of X by randomly pivoted Cholesky on a sample of ten times as many.

    Fewer where the sample is explained to rounding by fewer. Chen, Epperly, Tropp & Webber (2022).
    Cost: 10 num^2 kernel entries and 20 num^3 flops.
    """
    n = X.shape[0]
    candidates = take_rows(X, sample_rows(key, n, min(n, CANDIDATES_PER_POINT * num)))
    num = min(num, candidates.shape[0])
    pivots, used = _pivots(kernel, candidates, num, jax.random.fold_in(key, 2))
    return candidates[pivots[: int(used)]]


@eqx.filter_jit
def _pivots(kernel: AbstractKernel, candidates: Array, num: int, key: Array) -> Any:
    operator = KernelOperator(kernel, candidates, "tiled")
    return pivoted_factor(operator, num, min(num, _PIVOT_BLOCK), key)[1:]


@eqx.filter_jit
def _factorise(operator: AbstractEvaluation, rows: Array, noise: Array) -> _Factors:
    n = operator.shape[0]
    gram = gram_of_rows(operator, rows)
    index = jnp.arange(gram.shape[0])
    rounding = 4 * float(jnp.finfo(gram.dtype).eps) * jnp.trace(gram)
    # A larger noise makes the variance larger, so that it stays an upper bound.
    root, jitter = jittered_cholesky(gram.at[index, index].add(noise), rounding)
    inverse = inverse_root(gram * (n / rows.shape[0]), jnp.sqrt(noise))
    return _Factors(root, noise + jitter, inverse)


@eqx.filter_jit
def _mean(basis, coefficients, points) -> Array:
    rows = tile_rows(points.shape[0], basis.size)
    return map_row_tiles(lambda x, _: matmul(basis.sections(x), coefficients), points, rows)


def _explained(basis, factors, points) -> tuple[Array, Array]:
    """Features of points, and what the posterior leaves of them."""
    features = basis.features(points)
    left = jax.scipy.linalg.solve_triangular(factors.root, features.T, lower=True)
    return features, jnp.sqrt(factors.shift) * left


@eqx.filter_jit
def _variance(kernel, basis, factors, points) -> Array:
    def of_tile(tile):
        features, left = _explained(basis, factors, tile)
        known = jnp.sum(left**2, axis=0)
        if isinstance(basis, FeatureBasis):
            return known
        return kernel.diagonal(tile) - jnp.sum(features**2, axis=1) + known

    return jax.lax.map(lambda x: of_tile(x[None])[0], points, batch_size=1024)


@eqx.filter_jit
def _covariance(kernel, basis, factors, points) -> Array:
    features, left = _explained(basis, factors, points)
    full = matmul(left.T, left)
    if not isinstance(basis, FeatureBasis):
        # What the basis does not explain. Random features explain their own kernel.
        index = jnp.arange(points.shape[0])
        prior = kernel.cross(points, points).at[index, index].set(kernel.diagonal(points))
        full = full + prior - matmul(features, features.T)
    return (full + full.T) / 2


@eqx.filter_jit
def _leverage(basis, factors, points) -> Array:
    return jnp.sum(matmul(basis.features(points), factors.inverse) ** 2, axis=1)
