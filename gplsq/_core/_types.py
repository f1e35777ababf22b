"""The axis dictionary and the array aliases used on public edges.

Axes, fixed once for the whole package::

    n  data rows              m  test points, or rows of a general operator
    d  input columns          k  right-hand sides
    r  rank or features       p  hyperparameters
"""

from jaxtyping import Array, Float, PyTree, Shaped
from jaxtyping import ArrayLike as ArrayLike

Scalar = Shaped[Array, ""]

__all__ = ["ArrayLike", "Float", "PyTree", "Scalar"]
