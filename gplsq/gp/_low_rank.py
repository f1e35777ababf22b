"""Conditioning on many rows through a basis of few functions: tall damped least squares."""

import math
from dataclasses import fields, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float

from gplsq._core import (
    check_choice,
    jit_quickly,
    like_columns,
    map_row_tiles,
    map_rows,
    matmul,
    place,
    savable,
    tile_rows,
    triangular_inverse,
)
from gplsq.gp._damped import solve_damped
from gplsq.gp._inputs import more_rows, points_like, take_rows
from gplsq.gp._paths import SamplePaths, low_rank_paths
from gplsq.gp._plan import CANDIDATES_PER_POINT, GRAM_ROWS_PER_FUNCTION, Plan, updated
from gplsq.gp._posterior import joint_draws
from gplsq.gp._variance import check_covariance_fits
from gplsq.kernels import AbstractKernel, noisy_gram
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
    pivoted_cholesky,
    root_of_rows,
    sample_rows,
)

_PIVOT_BLOCK = 100
# A sample is solved first where all rows are at least so many times as many.
_MUCH_LARGER = 2


def _packed(posterior: "LowRankPosterior") -> dict[str, Any]:
    """The fields of a saved posterior: without devices, and without rows that are elsewhere."""
    if isinstance(posterior.X, RowTable):
        posterior = posterior.for_pickle()
    names = [field.name for field in fields(posterior) if field.name != "mesh"]
    return {name: getattr(posterior, name) for name in names}


@savable(pack=_packed, unpack=lambda values: LowRankPosterior(**values))
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
        The data, shapes (n, d) (or a `RowTable`), and (n,) or (n, p); empty in a pickle.
    coefficients
        c of `mean(x) = basis.sections(x) . c`, a column for each output; of inducing points
        `mean(x) = sum_j c_j k(x, z_j)`.
    solution
        The `Solution` of the mean's least-squares problem, in the basis.
    plan
        Which solver was used, and why.
    mesh
        The devices that share the work.
    """

    kernel: AbstractKernel
    basis: AbstractBasis
    X: Float[Array, "n d"] | RowTable
    y: Float[Array, "n *p"]
    noise_variance: Float[Array, ""]
    coefficients: Float[Array, "m *p"]
    solution: Solution
    factors: "_Factors"
    solver: AbstractLeastSquares
    plan: str = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)

    def mean(self, Z: ArrayLike) -> Float[Array, "t *p"]:
        """Posterior mean at Z, shape (t, d). Cost: t m sections, in tiles."""
        return _mean(self.basis, self.coefficients, points_like(Z, self.X), self.mesh)

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
        all rows up to 16 for each function, and given a sample of so many beyond: then it is an
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
        return _variance(self.kernel, self.basis, self.factors, points_like(Z, self.X), self.mesh)

    def covariance(self, Z: ArrayLike) -> Float[Array, "t t"]:
        """Joint posterior covariance of the latent function at Z, shape (t, d); 5 t^2 numbers."""
        points = points_like(Z, self.X)
        check_covariance_fits(points.shape[0], 3 * self.basis.size, points)
        return _covariance(self.kernel, self.basis, self.factors, points)

    def sample(self, key: Array, Z: ArrayLike, num: int = 1) -> Float[Array, "t *p num"]:
        """Joint draws of the latent function at Z, by the eigenvectors of the covariance."""
        points = points_like(Z, self.X)
        return joint_draws(key, self.mean(points), self.covariance(points), num)

    def sample_paths(self, key: Array, num: int = 1, *, num_features: int = 2048) -> SamplePaths:
        """Functions drawn from the posterior, as `Posterior.sample_paths`; without a solve.

        Cost: m^2 num flops, by the factors of the variance. A model of random features is drawn
        from as it is, whatever `num_features`.
        """
        return low_rank_paths(self, key, num, num_features)

    def leave_one_out(self, rows: ArrayLike) -> tuple[Array, Array]:
        """Residual and latent variance of chosen rows predicted from all the others.

        With h_i the leverage of the row the residual is `r_i / (1 - h_i)`, and the variance
        `noise_variance h_i^2 / (1 - h_i)` more than that given all rows. The leverage is estimated
        from the rows that the variance is given (exact where these are all).
        """
        index = jnp.asarray(rows)
        points = take_rows(self.X, index)
        leverage = jnp.minimum(_leverage(self.basis, self.factors, points), 0.99)
        residual = self.y[index] - self.mean(points)
        more = self.noise_variance * leverage**2 / (1 - leverage)
        return residual / like_columns(1 - leverage, residual), self.variance(points) + more

    def for_pickle(self) -> "LowRankPosterior":
        """The same without devices, and without the data, which predictions do not need."""
        nothing = jnp.zeros((0, self.X.shape[1]), self.X.dtype)
        no_target = jnp.zeros((0, *self.y.shape[1:]), self.X.dtype)
        return replace(self, X=nothing, y=no_target, mesh=None)

    def update(self, X: ArrayLike, y: ArrayLike) -> "LowRankPosterior":
        """The posterior of the same model, with the same functions, given more rows as well.

        Parameters
        ----------
        X, y
            More rows of data, shapes (s, d) and (s,), or (s, p).

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
        return solve_low_rank(
            self.kernel,
            Evaluation(self.basis, place(points, self.mesh, spread=True), mesh=self.mesh),
            place(target, self.mesh, spread=True),
            self.noise_variance,
            self.solver,
            updated(self.plan, points.shape[0]),
            jax.random.key(0),
            self.solution.value,
        )


@savable(name="gplsq.gp.Factors")
class _Factors(NamedTuple):
    """Triangular factors of m x m matrices."""

    root: Float[Array, "m m"]  # of G + shift I, G the Gram matrix of the rows used for variances
    shift: Float[Array, ""]  # the noise variance, raised to what rounding errors allow
    inverse: Float[Array, "m m"]  # R^-1, R^T R = (n / s) G + noise variance


def condition_low_rank(
    kernel: AbstractKernel,
    X: Float[Array, "n d"] | RowTable,
    y: Float[Array, "n *p"],
    noise: Float[Array, ""],
    plan: Plan,
    Z: Float[Array, "m d"] | None,
    key: Array,
    mesh: Mesh | None,
) -> LowRankPosterior:
    """The posterior on the span of `Z`, of rows of X chosen for it, or of random features."""
    assert plan.rank is not None
    if not isinstance(X, RowTable):
        X = place(X, mesh, spread=True)
    y = place(y, mesh, spread=True)
    if plan.model == "features":
        operator: AbstractEvaluation = Features(kernel, X, plan.rank, key=key, mesh=mesh)
        what = "features"
    else:
        Z = choose_inducing(kernel, X, plan.rank, key) if Z is None else Z
        operator = Inducing(kernel, X, place(Z, mesh), mesh=mesh)
        what = "inducing points"
    words = f"{plan.reason}; {operator.shape[1]} {what}"
    return solve_low_rank(kernel, operator, y, noise, plan.solver, words, key, None)


def solve_low_rank(kernel, operator, y, noise, solver, words, key, x0) -> LowRankPosterior:
    """The posterior on the span of an operator's basis; `x0` is a first guess in the basis."""
    n, m = operator.shape
    rows = sample_rows(jax.random.fold_in(key, 1), n, min(n, GRAM_ROWS_PER_FUNCTION * m))
    factors = _factorise(operator, rows, noise)
    settings = solver, Dense(factors.inverse)
    if x0 is None and n >= _MUCH_LARGER * rows.shape[0]:
        x0 = _of_sample(operator, y, noise, rows, *settings)
    solution = solve_damped(operator, y, jnp.sqrt(noise), *settings, x0)
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
        operator.mesh,
    )


def _of_sample(operator, y, noise, rows, solver, preconditioner) -> Float[Array, "m *p"]:
    """The solution for a sample of the rows, in which all of them begin.

    It costs few passes over all rows, and rounding errors of those that are left are relative to
    the residual, no longer to y.
    """
    n, s, mesh = operator.shape[0], rows.shape[0], operator.mesh
    points = place(take_rows(operator.X, rows), mesh, spread=True)
    target = place(y[rows], mesh, spread=True)
    sample = Evaluation(operator.basis, points, mesh=mesh)
    return solve_damped(sample, target, jnp.sqrt(noise * (s / n)), solver, preconditioner).value


def choose_inducing(
    kernel: AbstractKernel, X: Float[Array, "n d"] | RowTable, num: int, key: Array
) -> Float[Array, "m d"]:
    """`num` different rows of X by randomly pivoted Cholesky on a sample of five times as many.

    Fewer where the sample is explained to rounding by fewer. Chen, Epperly, Tropp & Webber (2022).
    Cost: 5 num^2 kernel entries and 10 num^3 flops.
    """
    n = X.shape[0]
    candidates = take_rows(X, sample_rows(key, n, min(n, CANDIDATES_PER_POINT * num)))
    num = min(num, candidates.shape[0])
    pivots, used = _pivots(kernel, candidates, num, jax.random.fold_in(key, 2))
    return candidates[pivots[: int(used)]]


@jit_quickly
def _pivots(kernel: AbstractKernel, candidates: Array, num: int, key: Array) -> Any:
    operator = KernelOperator(kernel, candidates, "tiled")
    return pivoted_cholesky(operator, num, min(num, _PIVOT_BLOCK), key)[1:]


@jit_quickly
def _factorise(operator: AbstractEvaluation, rows: Array, noise: Array) -> _Factors:
    n, m = operator.shape
    damp = jnp.sqrt(noise)
    R = root_of_rows(operator, rows, damp)
    # Of the rows alone, not scaled up to all of them: so that the variance is an upper bound.
    share = rows.shape[0] / n
    damping = jnp.sqrt(noise * (1 - share)) * jnp.eye(m, dtype=R.dtype)
    root = jnp.linalg.qr(jnp.concatenate([math.sqrt(share) * R, damping]), mode="r").T
    return _Factors(root, noise, triangular_inverse(R))


@jit_quickly
def _mean(basis, coefficients, points, mesh) -> Array:
    def values(part, basis, coefficients):
        rows = tile_rows(part.shape[0], basis.size)
        return map_row_tiles(lambda x, _: matmul(basis.sections(x), coefficients), part, rows)

    return map_rows(values, mesh, points, basis, coefficients)


def _explained(basis, factors, points) -> tuple[Array, Array]:
    """Features of points, and what the posterior leaves of them."""
    features = basis.features(points)
    left = jax.scipy.linalg.solve_triangular(factors.root, features.T, lower=True)
    return features, jnp.sqrt(factors.shift) * left


@jit_quickly
def _variance(kernel, basis, factors, points, mesh) -> Array:
    def of_tile(tile, kernel, basis, factors):
        features, left = _explained(basis, factors, tile)
        known = jnp.sum(left**2, axis=0)
        if isinstance(basis, FeatureBasis):
            return known
        return kernel.diagonal(tile) - jnp.sum(features**2, axis=1) + known

    def values(part, *model):
        return jax.lax.map(lambda x: of_tile(x[None], *model)[0], part, batch_size=1024)

    return map_rows(values, mesh, points, kernel, basis, factors)


@jit_quickly
def _covariance(kernel, basis, factors, points) -> Array:
    features, left = _explained(basis, factors, points)
    full = matmul(left.T, left)
    if not isinstance(basis, FeatureBasis):
        # What the basis does not explain. Random features explain their own kernel.
        full = full + noisy_gram(kernel, 0, points) - matmul(features, features.T)
    return (full + full.T) / 2


@jit_quickly
def _leverage(basis, factors, points) -> Array:
    return jnp.sum(matmul(basis.features(points), factors.inverse) ** 2, axis=1)
