"""What hyperparameters are tuned on: a number that gradients flow through."""

import abc
from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float, Shaped

from gplsq.kernels import AbstractKernel


class AbstractObjective(eqx.Module):
    """A loss of a Gaussian process, as a function of its hyperparameters."""

    @abc.abstractmethod
    def __call__(
        self,
        kernel: AbstractKernel,
        noise_variance: Float[Array, ""],
        X: Float[Array, "n d"],
        y: Float[Array, "n *p"],
        key: Array,
        loss: Callable,
        groups: Shaped[Array, " n"] | None = None,
    ) -> Float[Array, ""]:
        """The loss, differentiable in kernel and noise.

        Parameters
        ----------
        kernel, noise_variance
            The model.
        X, y
            The rows of a level, in the order of the table; y of shape (n,), or (n, p) for p
            outputs that share kernel, noise and rows: the loss is then the mean over outputs.
        key
            Draws the split, if there is one. Where the objective is not `random` it is the same
            at all steps of a level of all rows.
        loss
            Of (y, mean, variance), on rows that the prediction did not see; each of shape (s,).
            `gplsq.tuning.score` takes it to several outputs.
        groups
            A whole number for each row: those of equal number are held out together.
        """

    @property
    @abc.abstractmethod
    def random(self) -> bool:
        """Whether the value shall be averaged over keys, because a split depends on them."""

    @property
    @abc.abstractmethod
    def fresh_rows(self) -> bool:
        """Whether a level on a subset of the rows draws a new subset at every step."""
