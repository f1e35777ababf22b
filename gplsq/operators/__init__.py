"""Floor 2: matrix-free linear maps on vectors (n,) and blocks of columns (n, k)."""

from gplsq.operators._algebra import Composed as Composed
from gplsq.operators._algebra import Diagonal as Diagonal
from gplsq.operators._algebra import Identity as Identity
from gplsq.operators._algebra import Scaled as Scaled
from gplsq.operators._algebra import Stacked as Stacked
from gplsq.operators._algebra import Sum as Sum
from gplsq.operators._algebra import Transposed as Transposed
from gplsq.operators._base import AbstractEuclideanOperator as AbstractEuclideanOperator
from gplsq.operators._base import AbstractLinearOperator as AbstractLinearOperator
from gplsq.operators._basis import AbstractBasis as AbstractBasis
from gplsq.operators._basis import AbstractEvaluation as AbstractEvaluation
from gplsq.operators._basis import Evaluation as Evaluation
from gplsq.operators._check import AdjointReport as AdjointReport
from gplsq.operators._check import check_adjoint as check_adjoint
from gplsq.operators._dense import Dense as Dense
from gplsq.operators._features import FeatureBasis as FeatureBasis
from gplsq.operators._features import Features as Features
from gplsq.operators._function import Function as Function
from gplsq.operators._inducing import Inducing as Inducing
from gplsq.operators._inducing import InducingBasis as InducingBasis
from gplsq.operators._kernel import Kernel as Kernel
from gplsq.operators._kernel import cross_product as cross_product
from gplsq.operators._kernel import keep_budget as keep_budget
from gplsq.operators._rows import Rows as Rows
from gplsq.operators._sparse import Sparse as Sparse
from gplsq.operators._table import RowTable as RowTable
