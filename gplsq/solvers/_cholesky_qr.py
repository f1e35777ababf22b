"""The R factor of A itself: two to five steps, where many of them are saved."""

from typing import Any

from jaxtyping import Array

from gplsq.operators import Dense
from gplsq.solvers._precondition import AbstractPreconditioner
from gplsq.solvers._sketch import inverse_factor, matrix_of


class CholeskyQR(AbstractPreconditioner):
    """Right preconditioner of a matrix A from the Cholesky factor of `A^T A + damp^2`.

    `A R^-1` has orthonormal columns up to rounding, and LSMR needs two to five steps; what rounding
    did to R changes neither the answer nor its accuracy, which is LSMR's. Pays where steps are
    costly: with many right-hand sides, or small tolerances. With few right-hand sides and loose
    tolerances `Sketch` is quicker, and at a condition number of 10 no preconditioner may be.
    Yamamoto, Nakatsukasa, Yanagisawa & Fukaya (2015) for the factor; Epperly, Meier & Nakatsukasa
    (2024) for its use as a preconditioner.

    Raises
    ------
    TypeError
        If `build` gets an operator other than `gplsq.operators.Dense`.
    ValueError
        If A has fewer rows than columns.

    Notes
    -----
    Cost: ``2 m n^2`` flops, one pass over A, ``4 n^3 / 3`` for R and its inverse, which is kept:
    n^2 numbers, and 4 n^2 flops a step and right-hand side.

    Where Cholesky would lose accuracy R is by Householder QR of A, and where R is singular to
    rounding by a singular value decomposition, as in `Sketch`.

    Examples
    --------
    >>> import jax
    >>> from gplsq import lstsq
    >>> from gplsq.solvers import CholeskyQR
    >>> A = jax.random.normal(jax.random.key(0), (600, 20)) * 10.0 ** -jax.numpy.arange(0, 4, 0.2)
    >>> solution = lstsq(A, A @ jax.numpy.ones(20), preconditioner=CholeskyQR())
    >>> bool(solution.ok), bool(solution.stats.num_steps <= 5)
    (True, True)
    """

    def build(self, operator: Any, damp: Array | None) -> Dense:
        A = matrix_of("CholeskyQR", operator)
        m, n = A.shape
        if m < n:
            msg = (
                f"CholeskyQR needs at least as many rows as columns; got shape {(m, n)}. Solve "
                "without a preconditioner, or with Direct()."
            )
            raise ValueError(msg)
        return Dense(inverse_factor(A, damp))
