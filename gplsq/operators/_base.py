"""What a linear operator is: a map between two inner-product spaces, applied but never formed."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from gplsq._core import column_norm


class AbstractLinearOperator(eqx.Module):
    """A linear map A from a space with an inner product to one with a norm.

    `mv` and `rmv` take a vector (n,) or a block of columns (n, k); `rmv` is the adjoint **in the
    operator's own inner products**, so that `<A v, u> = <v, A* u>`.

    `forward` and `adjoint` are what a Krylov method calls: the product and the norm of its argument
    in one sweep. For a kernel, one product with K gives both.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, columns): the sizes of the vectors that `rmv` and `mv` take."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Floating-point dtype of the operator's numbers."""

    @abc.abstractmethod
    def mv(self, v: Float[Array, "n *k"]) -> Float[Array, "m *k"]:
        """`A v`."""

    @abc.abstractmethod
    def rmv(self, u: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
        """`A* u`, the adjoint in this operator's inner products."""

    @abc.abstractmethod
    def domain_inner(self, v: Float[Array, "n *k"], w: Float[Array, "n *k"]) -> Float[Array, "*k"]:
        """Inner product of the domain, column by column."""

    @abc.abstractmethod
    def forward(self, v: Float[Array, "n k"]) -> tuple[Float[Array, "m k"], Float[Array, " k"]]:
        """`A v` and the domain norms of the columns of v."""

    @abc.abstractmethod
    def adjoint(self, u: Float[Array, "m k"]) -> tuple[Float[Array, "n k"], Float[Array, " k"]]:
        """`A* u` and the codomain norms of the columns of u."""

    def as_matrix(self) -> Float[Array, "m n"]:
        """The dense matrix of `mv`. Cost: one product with n columns, m n numbers of memory."""
        return self.mv(jnp.eye(self.shape[1], dtype=self.dtype))


class AbstractEuclideanOperator(AbstractLinearOperator):
    """An operator between Euclidean spaces. **Subclass this** with shape, dtype, mv and rmv.

    `sweep` is what LSMR calls. An operator whose rows are expensive to make or to read should
    define it so that one pass over the rows serves both products.
    """

    def domain_inner(self, v, w):
        return jnp.sum(v * w, axis=0)

    def forward(self, v):
        return self.mv(v), column_norm(v)

    def adjoint(self, u):
        return self.rmv(u), column_norm(u)

    def sweep(
        self, v: Float[Array, "n k"], shift: Float[Array, "m k"]
    ) -> tuple[Float[Array, "m k"], Float[Array, "n k"]]:
        """`w = A v - shift` and `A* w`: both products of a Golub-Kahan step."""
        w = self.mv(v) - shift
        return w, self.rmv(w)
