"""Leave-one-out loss, in closed form."""

from gplsq._core import savable
from gplsq.kernels import noisy_gram
from gplsq.solvers import leave_one_out
from gplsq.tuning._losses import score
from gplsq.tuning._objectives import AbstractObjective


@savable
class LeaveOneOut(AbstractObjective):
    """Every row predicted from all the others, in closed form.

    Held-out loss without a split. Rasmussen & Williams (2006), section 5.4.2; cost about 5 n^3
    flops a gradient, n^2 numbers of memory.
    """

    def __call__(self, kernel, noise_variance, X, y, key, loss, groups=None):
        del key, groups
        residual, variance = leave_one_out(noisy_gram(kernel, noise_variance, X), y)
        return score(loss, y, y - residual, variance)

    @property
    def random(self):
        return False

    @property
    def fresh_rows(self):
        return True
