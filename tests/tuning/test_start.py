"""Starting values on tables whose typical distances are known."""

import numpy as np
import pytest

from gplsq import kernels
from gplsq.tuning import default_kernel
from gplsq.tuning._start import start_from_data

# Columns: constant, binary with one in ten, uniform on [0, 1], uniform on [0, 50]. Distances of
# two rows: 0 throughout; median 0 and mean 2 p (1 - p); median 1 - 1 / sqrt(2) of the range.
UNIFORM = 1 - np.sqrt(0.5)
TYPICAL = 3 * np.array([1.0, 0.18, UNIFORM, 50 * UNIFORM])


@pytest.fixture
def table(rng):
    n = 1000
    X = np.stack(
        [np.full(n, 7.0), np.arange(n) % 10 == 0, rng.random(n), 50 * rng.random(n)], axis=1
    )
    return X, 3.0 * rng.standard_normal(n)


def _start(kernel, table):
    return start_from_data(kernel, *table, np.random.default_rng(0))[0]


def _close(lengthscale, expected):
    # Medians and means of 1000 distances are good to about 5%.
    assert np.shape(lengthscale) == np.shape(expected)
    np.testing.assert_allclose(lengthscale, expected, rtol=0.2)


def test_each_column_gets_three_times_its_typical_distance(table):
    _close(_start(kernels.RBF(np.ones(4)), table).lengthscale, TYPICAL)


def test_one_lengthscale_gets_the_mean_over_the_columns(table):
    _close(_start(kernels.Matern52(1.0), table).lengthscale, TYPICAL.mean())


def test_on_takes_the_distances_of_its_columns(table):
    _close(_start(kernels.RBF([1.0, 1.0]).on([3, 1]), table).kernel.lengthscale, TYPICAL[[3, 1]])
    _close(_start(kernels.RBF(1.0).on([2, 3]), table).kernel.lengthscale, TYPICAL[[2, 3]].mean())


def test_on_of_on_takes_the_distances_of_the_columns_seen(table):
    kernel = kernels.RBF(1.0).on(1).on([2, 3])  # sees column 3
    _close(_start(kernel, table).kernel.kernel.lengthscale, TYPICAL[3])


def test_periodic_kernels_stay(table):
    kernel = _start(kernels.Periodic(0.7, 1.9), table)
    assert float(kernel.lengthscale) == pytest.approx(0.7)
    assert float(kernel.period) == pytest.approx(1.9)


def test_sums_and_products_are_searched_and_other_hyperparameters_stay(table):
    kernel = kernels.RBF(1.0).on(2) + kernels.RationalQuadratic(1.0, 0.4).on(3) * kernels.Linear(5)
    started = _start(kernel, table)
    _close(started.left.kernel.lengthscale, TYPICAL[2])
    _close(started.right.left.kernel.lengthscale, TYPICAL[3])
    assert float(started.right.left.kernel.alpha) == pytest.approx(0.4)
    assert float(started.right.right.variance) == 5.0


def test_the_outermost_variance_and_the_noise_follow_the_target(table):
    kernel, noise = start_from_data(0.1 * (0.2 * kernels.RBF()), *table, np.random.default_rng(0))
    variance = np.var(table[1])
    assert float(kernel.variance) == pytest.approx(variance, rel=1e-6)
    assert float(kernel.kernel.variance) == pytest.approx(0.2)
    assert noise == pytest.approx(0.01 * variance)


def test_a_constant_target_starts_from_variance_one(table):
    kernel, noise = start_from_data(
        default_kernel(4), table[0], np.full(1000, 2.0), np.random.default_rng(0)
    )
    assert float(kernel.variance) == 1.0
    assert noise == 0.01


def test_a_lengthscale_of_the_wrong_length_is_left_for_the_kernel_to_refuse(table):
    kernel = _start(kernels.RBF([1.0, 1.0]), table)
    assert kernel.lengthscale.shape == (2,)
    with pytest.raises(ValueError, match="one entry per input column"):
        kernel(table[0].astype(np.float32))


def test_columns_beyond_the_table_get_the_message_of_the_kernel(table):
    with pytest.raises(ValueError, match="needs column 9, but the points have 4 columns"):
        _start(kernels.RBF().on([0, 9]), table)(table[0].astype(np.float32))


def test_weights_count_by_their_size(table):
    X, y = table
    weight = np.linspace(0.5, 2.0, len(X))
    kernel = kernels.Weighted(kernels.RBF())

    def start(weight):
        weighted = np.column_stack([X, weight]), weight * y
        return start_from_data(kernel, *weighted, np.random.default_rng(0))

    (positive, noise), (negative, noise_negative) = start(weight), start(-weight)
    assert noise == noise_negative
    assert np.isfinite(noise)
    assert negative.kernel.lengthscale == positive.kernel.lengthscale
