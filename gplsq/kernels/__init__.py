"""Floor 1: covariance functions of two points, and their algebra.

A kernel is defined by its value at two points. Everything else (matrices, tiles, derivatives,
hyperparameter tuning) is built on that, so a new kernel is one function.
"""

from gplsq._core import positive as positive
from gplsq.kernels._base import AbstractKernel as AbstractKernel
from gplsq.kernels._base import AbstractPairKernel as AbstractPairKernel
from gplsq.kernels._base import Columns as Columns
from gplsq.kernels._base import Constant as Constant
from gplsq.kernels._base import Product as Product
from gplsq.kernels._base import Scaled as Scaled
from gplsq.kernels._base import Sum as Sum
from gplsq.kernels._coregionalised import Coregionalised as Coregionalised
from gplsq.kernels._derivatives import WithDerivatives as WithDerivatives
from gplsq.kernels._dot_product import Linear as Linear
from gplsq.kernels._dot_product import Polynomial as Polynomial
from gplsq.kernels._gram import noisy_gram as noisy_gram
from gplsq.kernels._gram import noisy_gram_recomputed as noisy_gram_recomputed
from gplsq.kernels._nystrom import Nystrom as Nystrom
from gplsq.kernels._nystrom import inducing_factor as inducing_factor
from gplsq.kernels._random_features import AbstractFeatureMap as AbstractFeatureMap
from gplsq.kernels._random_features import random_features as random_features
from gplsq.kernels._scale_mixtures import mixture_scales as mixture_scales
from gplsq.kernels._stationary import RBF as RBF
from gplsq.kernels._stationary import AbstractRadial as AbstractRadial
from gplsq.kernels._stationary import AbstractStationary as AbstractStationary
from gplsq.kernels._stationary import Matern12 as Matern12
from gplsq.kernels._stationary import Matern32 as Matern32
from gplsq.kernels._stationary import Matern52 as Matern52
from gplsq.kernels._stationary import Periodic as Periodic
from gplsq.kernels._stationary import RationalQuadratic as RationalQuadratic
from gplsq.kernels._walk import KernelPart as KernelPart
from gplsq.kernels._walk import walk as walk
from gplsq.kernels._weighted import Weighted as Weighted
