"""Roof: problems with known answers, tolerances and counters. For tests and benchmarks only."""

from gplsq.testing._counters import count_compilations as count_compilations
from gplsq.testing._counters import peak_memory_bytes as peak_memory_bytes
from gplsq.testing._derivatives import central_difference as central_difference
from gplsq.testing._problems import SPECTRA as SPECTRA
from gplsq.testing._problems import Zoo as Zoo
from gplsq.testing._problems import gp_draw as gp_draw
from gplsq.testing._problems import least_squares_zoo as least_squares_zoo
from gplsq.testing._problems import matrix_with_spectrum as matrix_with_spectrum
from gplsq.testing._problems import spectrum as spectrum
from gplsq.testing._tolerances import tolerance as tolerance
