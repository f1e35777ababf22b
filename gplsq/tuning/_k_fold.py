"""K-fold loss, in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gplsq._core import check_count, savable
from gplsq.kernels import noisy_gram_recomputed
from gplsq.solvers import leave_out
from gplsq.tuning._losses import score
from gplsq.tuning._objectives import AbstractObjective


@savable
class KFold(AbstractObjective):
    """Every row predicted from the other folds, all of them by one inverse.

    Between `LeaveOneOut` and `Holdout`: every row is predicted, each with a good part of its
    neighbours missing, so that rows which repeat do not predict each other exactly.

    Parameters
    ----------
    num_folds
        At least 2. A level of fewer rows than folds leaves out one at a time.
    fresh
        Draw the folds anew at every evaluation (with the key), or cut the rows in their order into
        folds of neighbours.

    Notes
    -----
    Cost: about 6 n^3 flops a gradient and n^2 numbers of memory, as for `LeaveOneOut`; see
    `gplsq.solvers.leave_out`.
    """

    num_folds: int = eqx.field(default=5, static=True)
    fresh: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        check_count("num_folds", self.num_folds, minimum=2)

    def __call__(self, kernel, noise_variance, X, y, key, loss, groups=None):
        del groups
        n = X.shape[0]
        if self.fresh:
            order = jax.random.permutation(key, n)
            X, y = X[order], y[order]
        k = min(self.num_folds, n)
        height = -(-n // k)
        S, filling = noisy_gram_recomputed(kernel, noise_variance, X), k * height - n
        if filling:  # by rows of variance one, independent of all others
            S = jax.scipy.linalg.block_diag(S, jnp.eye(filling, dtype=X.dtype))
        folds = np.full((k, height), -1)
        for rows, part in zip(folds, np.array_split(np.arange(n), k), strict=True):
            rows[: len(part)] = part
        real = folds >= 0
        folds[~real] = np.arange(n, n + filling)
        residual, variance = leave_out(
            S, jnp.pad(y, [(0, filling), *[(0, 0)] * (y.ndim - 1)]), jnp.asarray(folds)
        )
        where = np.nonzero(real.ravel())[0]
        residual = residual.reshape(-1, *y.shape[1:])[where]
        return score(loss, y, y - residual, variance.ravel()[where])

    @property
    def random(self):
        return self.fresh

    @property
    def fresh_rows(self):
        return self.fresh
