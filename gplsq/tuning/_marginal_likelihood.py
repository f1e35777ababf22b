"""The negative log marginal likelihood, exact or by stochastic Lanczos quadrature."""

import equinox as eqx
import jax.numpy as jnp
from matfree import decomp, funm, stochtrace

from gplsq._core import check_count, savable, stop_gradient
from gplsq.gp import choose_solver
from gplsq.kernels import noisy_gram_recomputed
from gplsq.operators import Kernel as KernelOperator
from gplsq.solvers import log_likelihood, lstsq
from gplsq.tuning._objectives import AbstractObjective


@savable
class MarginalLikelihood(AbstractObjective):
    """Negative log density of the targets under the prior and noise, in nats a row and output.

    What most libraries tune (Rasmussen & Williams 2006, section 5.4.1). It needs no split and uses
    every row, and is the best there is where the model is true; where it is not, held-out losses
    measure what they promise. The `loss` of the tuner is not looked at.

    Parameters
    ----------
    direct_rows
        Up to so many rows the Cholesky factor is made.
    num_probes, num_steps
        Beyond, the log determinant is estimated by stochastic Lanczos quadrature (Ubaru, Chen &
        Saad 2017) with so many random sign vectors and steps, by matfree, and its gradient by
        Hutchinson's estimator with the same vectors (Gardner et al. 2018): unbiased, but for the
        tolerance of the solves. They are the same at all steps of a level of all
        rows.

    Notes
    -----
    Cost: n^3 / 3 flops, four times that with a derivative; n^2 numbers of memory. Beyond
    `direct_rows`: `num_probes (num_steps + 1)` products with K, and the solves of `num_probes + 1`
    right-hand sides.
    """

    direct_rows: int = eqx.field(default=5000, static=True)
    num_probes: int = eqx.field(default=16, static=True)
    num_steps: int = eqx.field(default=40, static=True)

    def __check_init__(self):
        check_count("direct_rows", self.direct_rows)
        check_count("num_probes", self.num_probes, minimum=1)
        check_count("num_steps", self.num_steps, minimum=1)

    def __call__(self, kernel, noise_variance, X, y, key, loss, groups=None):
        del loss, groups
        n = X.shape[0]
        if n <= self.direct_rows:
            return -log_likelihood(noisy_gram_recomputed(kernel, noise_variance, X), y) / n
        return self._estimate(kernel, noise_variance, X, y, key) / n

    def _estimate(self, kernel, noise_variance, X, y, key):
        n = X.shape[0]
        p = 1 if y.ndim == 1 else y.shape[1]
        operator = KernelOperator(kernel, X, "tiled")
        sampler = stochtrace.sampler_signs(y.reshape(n, p)[:, 0], num=self.num_probes)
        probes = sampler(key).T
        plan = choose_solver(n, X.dtype, "lsmr", rtol=1e-3)
        settings = {"damp": jnp.sqrt(noise_variance), "solver": plan.solver, "throw": False}
        settings["preconditioner"] = plan.preconditioner
        block = jnp.concatenate([y.reshape(n, p), probes], axis=1)
        solved = stop_gradient(lstsq(operator, block, **settings).value)
        c, inverse_probes = solved[:, :p], solved[:, p:]
        frozen, noise = stop_gradient((operator, noise_variance))
        tridiagonal = decomp.tridiag_sym(
            min(self.num_steps, n), materialize=True, reortho="full", custom_vjp=False
        )
        quadrature = stochtrace.estimator_monte_carlo(
            funm.monte_carlo_funm_sym_logdet(tridiagonal), sampler
        )
        log_determinant = quadrature(lambda v: frozen.mv(v) + noise * v, key)

        def bilinear(u, v):
            """`u^T (K + noise) v` summed over columns."""
            return jnp.sum(u * operator.mv(v)) + noise_variance * jnp.sum(u * v)

        # Functions whose values are left out, and whose derivatives are those of the two terms:
        # -c^T dS c and the mean over probes z of (S^-1 z)^T dS z.
        fit = -bilinear(c, c) / p
        volume = bilinear(inverse_probes, probes) / self.num_probes
        slopes = fit + volume
        value = (
            jnp.sum(y.reshape(n, p) * c) / p
            + log_determinant
            + n * jnp.log(2 * jnp.pi).astype(y.dtype)
        )
        return (value + slopes - stop_gradient(slopes)) / 2

    @property
    def random(self):
        return False

    @property
    def fresh_rows(self):
        return True
