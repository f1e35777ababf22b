"""Floor 0: types, statuses, checks, numerics and parameters. Knows nothing about kernels or GPs."""

from gplsq._core._checks import check_choice as check_choice
from gplsq._core._checks import check_finite_scalar as check_finite_scalar
from gplsq._core._checks import describe as describe
from gplsq._core._numerics import column_dot as column_dot
from gplsq._core._numerics import column_norm as column_norm
from gplsq._core._numerics import default_rtol as default_rtol
from gplsq._core._numerics import matmul as matmul
from gplsq._core._numerics import safe_divide as safe_divide
from gplsq._core._numerics import safe_sqrt as safe_sqrt
from gplsq._core._numerics import symmetric_givens as symmetric_givens
from gplsq._core._parameters import Parameter as Parameter
from gplsq._core._parameters import cast as cast
from gplsq._core._parameters import constrain as constrain
from gplsq._core._parameters import parameters_of as parameters_of
from gplsq._core._parameters import positive as positive
from gplsq._core._parameters import unconstrain as unconstrain
from gplsq._core._status import STATUS as STATUS
from gplsq._core._status import status_message as status_message
from gplsq._core._status import status_ok as status_ok
from gplsq._core._status import status_remedy as status_remedy
from gplsq._core._tiles import map_row_tiles as map_row_tiles
from gplsq._core._tiles import tile_rows as tile_rows
from gplsq._core._types import ArrayLike as ArrayLike
from gplsq._core._types import Float as Float
from gplsq._core._types import PyTree as PyTree
from gplsq._core._types import Scalar as Scalar
