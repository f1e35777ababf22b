"""Rows of different precision, as a kernel on one more column."""

from gplsq._core import savable
from gplsq.kernels._base import AbstractKernel


@savable
class Weighted(AbstractKernel):
    """`w_x w_z k(x, z)` for points whose last column is a weight w.

    A row observed with noise variance `s / w^2` and target y is, multiplied by w, a row of noise
    variance s and target `w y` of a process with this covariance. So every solver, objective and
    low-rank model for equal noise serves for unequal noise; points to predict have weight 1.

    Parameters
    ----------
    kernel
        Of the other columns.
    """

    kernel: AbstractKernel

    def pair(self, x, z):
        return x[-1] * z[-1] * self.kernel.pair(x[:-1], z[:-1])

    def cross(self, X, Z):
        return X[:, -1:] * self.kernel.cross(X[:, :-1], Z[:, :-1]) * Z[:, -1]

    def diagonal(self, X):
        return X[:, -1] ** 2 * self.kernel.diagonal(X[:, :-1])
