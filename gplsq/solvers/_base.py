"""What a least-squares solver is."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from gplsq.operators import AbstractLinearOperator
from gplsq.solvers._solution import Stats


class AbstractLeastSquares(eqx.Module):
    """Solves `min |A x - f|^2 + damp^2 |x|^2` and its adjoint, column by column.

    `prepare` does once what depends on the operator only (factorisation, preconditioner), so that
    the solve, its tangent and its adjoint share it. `damp` is `None` for an undamped system, whose
    minimum-norm solution is returned. On a kernel's function space the system is
    `(K + damp^2) c = f`.
    """

    @abc.abstractmethod
    def prepare(
        self, operator: AbstractLinearOperator, damp: Array | None, preconditioner: Any
    ) -> Any:
        """Work shared by all right-hand sides; a pytree."""

    @abc.abstractmethod
    def run(
        self,
        prepared: Any,
        operator: AbstractLinearOperator,
        damp: Array | None,
        f: Float[Array, "m k"],
        x0: Float[Array, "n k"] | None,
        *,
        with_dual: bool = False,
    ) -> tuple[Float[Array, "n k"], Float[Array, "m k"] | None, Array, Stats]:
        """Solve; returns the value, its dual, the status per column and the stats.

        The dual is `q = A^+* x`, the vector of minimum norm with `A* q = x`. It is made for
        undamped Euclidean systems if `with_dual`, and is `None` otherwise.
        """

    @abc.abstractmethod
    def run_adjoint(
        self,
        prepared: Any,
        operator: AbstractLinearOperator,
        damp: Array | None,
        g: Float[Array, "n k"],
        w0: Float[Array, "n k"] | None,
    ) -> tuple[Float[Array, "m k"], Float[Array, "n k"], Array, Stats]:
        """`p = A w` and `w = (A* A + damp^2)^+ g`, the status per column and the stats.

        `w0` is a guess of w, which undamped systems do not use. Not for kernel systems, which are
        their own adjoint.
        """
