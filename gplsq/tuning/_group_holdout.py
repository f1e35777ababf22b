"""Hold-out loss of whole groups of rows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gplsq._core import like_columns, savable, with_diagonal
from gplsq.kernels import noisy_gram_recomputed
from gplsq.tuning._checks import check_fraction, held_rows
from gplsq.tuning._holdout import score_by_factor
from gplsq.tuning._objectives import AbstractObjective


@savable
class GroupHoldout(AbstractObjective):
    """Random groups of rows (patients, sites, batches) predicted from the other groups.

    For models that will be used on groups which are not in the table: rows of a group that predict
    each other would make lengthscales too short and intervals too narrow.

    Parameters
    ----------
    fraction
        Share of the rows held out, in (0, 1). Of the group at its border so many rows are scored
        as make up the share; the others are neither scored nor used. `tune` refuses a table in
        which one group leaves no rows to predict it from.

    Raises
    ------
    ValueError
        When it is evaluated without groups: pass ``groups=`` to `fit` or `tune`.

    Notes
    -----
    Groups are drawn anew at every evaluation, by the key. Cost: a Cholesky factor of the rows that
    are not held out, n^3 / 3 flops, and two products with as many columns as rows are held out for
    losses that look at the variance.
    """

    fraction: float = eqx.field(default=0.2, static=True)

    def __check_init__(self):
        check_fraction(self.fraction)

    def __call__(self, kernel, noise_variance, X, y, key, loss, groups=None):
        if groups is None:
            msg = "GroupHoldout needs the group of every row. Pass groups= to fit (or to tune)."
            raise ValueError(msg)
        n = X.shape[0]
        held = held_rows(n, self.fraction)
        rank = jax.vmap(lambda g: jax.random.uniform(jax.random.fold_in(key, g)))(groups)
        order = jnp.lexsort((groups, rank))
        X, y, groups = X[order], y[order], groups[order]
        used = groups[:-held] != groups[-held]
        S = noisy_gram_recomputed(kernel, noise_variance, X[:-held])
        # A row that is not used is of variance one, and independent of all others.
        S = jnp.where(used[:, None] & used[None, :], S, 0)
        S = with_diagonal(S, jnp.where(used, jnp.diagonal(S), 1))
        k = jnp.where(used, kernel.cross(X[-held:], X[:-held]), 0)
        target = jnp.where(like_columns(used, y), y[:-held], 0)
        prior = kernel.diagonal(X[-held:])
        return score_by_factor(loss, S, k, target, y[-held:], prior, noise_variance)

    def check_groups(self, labels: np.ndarray) -> None:
        """Refuse a table in which one group may leave no rows to predict it from."""
        n, largest = len(labels), int(np.max(np.bincount(labels)))
        if largest > n - held_rows(n, self.fraction):
            msg = (
                f"groups must leave rows to predict each from; the largest has {largest} of {n}, "
                f"and a share of {self.fraction:g} is held out. Split that group, or pass "
                "GroupHoldout with a smaller fraction."
            )
            raise ValueError(msg)

    @property
    def random(self):
        return True

    @property
    def fresh_rows(self):
        return True
