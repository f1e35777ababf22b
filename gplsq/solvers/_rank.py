"""The numerical rank of an operator that is never formed."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gplsq._core import check_count
from gplsq.solvers._base import AbstractLeastSquares
from gplsq.solvers._inputs import as_operator
from gplsq.solvers._lsmr import LSMR
from gplsq.solvers._solve import lstsq


class RankEstimate(eqx.Module):
    """What `estimate_rank` returns."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]  # over the probes
    ok: Array  # every solve met its tolerance


def estimate_rank(
    A: Any,
    *,
    probes: int = 8,
    key: PRNGKeyArray | None = None,
    solver: AbstractLeastSquares | None = None,
    like: Any = None,
) -> RankEstimate:
    """Numerical rank by Hutchinson's estimator of a trace: `rank A = tr(A^+ A) = E <s, A^+ A s>`.

    Parameters
    ----------
    A, like
        As in `lstsq`.
    probes
        Random sign vectors s, at least 2, solved for together.
    key
        A JAX random key; a fixed one by default.
    solver
        `LSMR()` by default. Singular values that its tolerance cannot tell from zero count as zero.

    Returns
    -------
    RankEstimate
        Exact, with standard error 0, where A has full column rank.

    Raises
    ------
    TypeError, ValueError
        For `probes` that are no whole number from 2 on, and as `lstsq`.

    Notes
    -----
    Cost: one solve of `probes` right-hand sides. The variance is at most twice the nullity over
    `probes` (Hutchinson 1990, applied to the complement I - A^+ A, which has the same variance).
    """
    check_count("probes", probes, minimum=2)
    operator = as_operator(A, like, None)
    key = jax.random.key(0) if key is None else key
    signs = jax.random.rademacher(key, (operator.shape[1], probes), operator.dtype)
    solution = lstsq(
        operator, operator.mv(signs), solver=LSMR() if solver is None else solver, throw=False
    )
    leaves = [leaf.reshape(-1, probes) for leaf in jax.tree.leaves(solution.value)]
    ranks = jnp.sum(signs * jnp.concatenate(leaves), axis=0)
    error = jnp.std(ranks, ddof=1) / jnp.sqrt(jnp.asarray(probes, ranks.dtype))
    return RankEstimate(jnp.mean(ranks), error, jnp.all(solution.ok))
