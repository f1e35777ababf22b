"""What a least-squares solver is."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from gplsq.operators import AbstractLinearOperator
from gplsq.solvers._solution import Stats


class AbstractLeastSquares(eqx.Module):
    """Solves `(A* A + damp^2) x = A* f - g`, column by column.

    `prepare` does once what depends on the operator only (factorisation, preconditioner), so that
    the solve, its tangent and its adjoint share it. On a kernel's function space the system is
    `(K + damp^2) c = f`, and g is not used.
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
        g: Float[Array, "n k"] | None,
        x0: Float[Array, "n k"] | None,
    ) -> tuple[Float[Array, "n k"], Array, Stats]:
        """Solve; returns the value, the status per column and the stats.

        `damp` is `None` for an undamped system, whose minimum-norm solution is returned.
        """
