"""Leave-one-out loss: in closed form, or estimated from some of the rows."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import (
    check_count,
    column_norm,
    like_columns,
    matmul,
    savable,
    stop_gradient,
)
from gplsq.gp import choose_solver
from gplsq.kernels import AbstractKernel, noisy_gram_recomputed
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers import leave_one_out, lstsq
from gplsq.tuning._losses import score
from gplsq.tuning._objectives import AbstractObjective

# Of its right-hand side; what is left enters squared.
_MOST_LEFT = 0.1


@savable
class LeaveOneOut(AbstractObjective):
    """Every row predicted from all the others.

    Held-out loss without a split (Rasmussen & Williams 2006, section 5.4.2).

    Parameters
    ----------
    direct_rows
        Up to so many rows in closed form, for all of them.
    num_rows
        Beyond, the loss is that of so many rows, drawn without replacement, each predicted from
        all the others; they stay the same at all steps of a level of all rows. `estimate` gives the
        standard error too.

    Notes
    -----
    Cost: about 5 n^3 flops a gradient, n^2 numbers of memory. Beyond `direct_rows` one solve of
    `num_rows + 1` right-hand sides and two products with as many columns, O(n) memory a column: the
    solutions are those of the adjoint problems as well. Derivatives are of first order there.
    """

    direct_rows: int = eqx.field(default=5000, static=True)
    num_rows: int = eqx.field(default=128, static=True)

    def __check_init__(self):
        check_count("direct_rows", self.direct_rows)
        check_count("num_rows", self.num_rows, minimum=2)

    def __call__(self, kernel, noise_variance, X, y, key, loss, groups=None):
        del groups
        if X.shape[0] <= self.direct_rows:
            residual, variance = leave_one_out(noisy_gram_recomputed(kernel, noise_variance, X), y)
        else:
            y, residual, variance = self._of_some(kernel, noise_variance, X, y, key)
        return score(loss, y, y - residual, variance)

    def estimate(
        self,
        kernel: AbstractKernel,
        noise_variance: Float[Array, ""],
        X: Float[Array, "n d"],
        y: Float[Array, "n *p"],
        key: Array,
        loss: Callable,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The loss, and its standard error as an estimate of that of all n rows.

        By the jackknife, of which the rows are the units (Efron & Stein 1981): for a mean over
        rows it is the standard deviation over the root of `num_rows`; with the correction for a
        finite population. Of the closed form it is zero.
        """
        X, y = jnp.asarray(X), jnp.asarray(y)
        n = X.shape[0]
        if n <= self.direct_rows:
            value = self(kernel, noise_variance, X, y, key, loss)
            return value, jnp.zeros_like(value)
        y, residual, variance = self._of_some(kernel, noise_variance, X, y, key)
        s = y.shape[0]

        def without(row: Array) -> Array:
            rest = jnp.delete(jnp.arange(s), row, assume_unique_indices=True)
            return score(loss, y[rest], (y - residual)[rest], variance[rest])

        left = jax.vmap(without)(jnp.arange(s))
        spread = (1 - s / n) * (s - 1) / s * jnp.sum((left - jnp.mean(left)) ** 2)
        return score(loss, y, y - residual, variance), jnp.sqrt(spread)

    def _of_some(self, kernel, noise_variance, X, y, key):
        """Targets of some rows, their residuals and their variances.

        With `S c = y` and `S w_i = e_i` solved to a tolerance, residuals are those of the
        corrected numbers `c_i + w_i^T (y - S c)` and `w_ii + w_i^T (e_i - S w_i)`: their errors are
        of second order in those of the solves, and the derivatives of S in them are all there are.
        NaN where a solve left more than a tenth of its right-hand side.
        """
        n = X.shape[0]
        s = min(self.num_rows, n)
        rows = jax.random.choice(key, n, (s,), replace=False)
        operator = KernelOperator(kernel, X, "tiled")
        plan = choose_solver(n, X.dtype, "lsmr", rtol=1e-3)
        columns = y.reshape(n, -1)
        p = columns.shape[1]
        units = jnp.zeros((n, s), X.dtype).at[rows, jnp.arange(s)].set(1)
        block = jnp.concatenate([columns, units], axis=1)
        solution = lstsq(
            stop_gradient(operator),
            stop_gradient(block),
            damp=jnp.sqrt(stop_gradient(noise_variance)),
            solver=plan.solver,
            preconditioner=plan.preconditioner,
            throw=False,
        )
        solved = stop_gradient(solution.value)
        c, W = solved[:, :p], solved[:, p:]
        left = block - operator.mv(solved) - noise_variance * solved
        failed = column_norm(left) > _MOST_LEFT * column_norm(block)
        left = jnp.where(failed, jnp.nan, left)
        c = c[rows] + matmul(W.T, left[:, :p])
        D = W[rows, jnp.arange(s)] + jnp.sum(W * left[:, p:], axis=0)
        c = c.reshape((s, *y.shape[1:]))
        return y[rows], c / like_columns(D, c), 1 / D

    @property
    def random(self):
        return False

    @property
    def fresh_rows(self):
        return True
