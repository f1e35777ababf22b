"""The parts of a composed kernel that have hyperparameters, and the columns each looks at."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gplsq.kernels._base import AbstractKernel, Columns, Product, Scaled, Sum
from gplsq.kernels._coregionalised import Coregionalised


class KernelPart(NamedTuple):
    """A node of a kernel's tree."""

    path: str  # dotted, as names of hyperparameters begin; empty for the whole kernel
    kernel: AbstractKernel
    columns: tuple[int, ...]  # of the table
    in_product: bool  # so that its scale is not that of the whole


def walk(
    kernel: AbstractKernel, columns: Sequence[int], path: str = "", in_product: bool = False
) -> Iterator[KernelPart]:
    """Every node with hyperparameters of its own, from the outside in.

    Parameters
    ----------
    kernel
        Sums, products, scalings, choices of columns and outputs are looked into.
    columns
        Numbers of the columns that it looks at: ``range(d)`` for a kernel of d inputs.
    path, in_product
        Of the node the walk begins at.

    Yields
    ------
    KernelPart
    """

    def inner(name: str) -> str:
        return f"{path}.{name}" if path else name

    if isinstance(kernel, Columns):
        chosen = [columns[i] for i in kernel.columns]
        yield from walk(kernel.kernel, chosen, inner("kernel"), in_product)
    elif isinstance(kernel, Sum | Product):
        inside = in_product or isinstance(kernel, Product)
        yield from walk(kernel.left, columns, inner("left"), inside)
        yield from walk(kernel.right, columns, inner("right"), inside)
    else:
        yield KernelPart(path, kernel, tuple(columns), in_product)
        if isinstance(kernel, Scaled | Coregionalised):
            # What is scaled carries no unit of its own: the factor has it.
            yield from walk(kernel.kernel, columns, inner("kernel"), True)
