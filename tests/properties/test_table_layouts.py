"""GPRegressor on tables in any order of memory, and on the smallest tables there are."""

import numpy as np
import pytest
from cases import cases, check_counts
from hypothesis import given
from hypothesis import strategies as st

from gplsq import GPRegressor
from gplsq.kernels import RBF, Matern32

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, D, M = 14, 2, 5
NOISE = 0.05
WAYS = {
    "direct": {"solver": "direct"},
    "tiled": {"solver": "lsmr", "form": "tiled", "variance": "exact"},
    "inducing": {"solver": "inducing", "inducing": 6},
}


def embedded(array, step):
    """Every so many rows and columns of a larger table, which has no number elsewhere."""
    wide = np.full([abs(step) * size + 1 for size in array.shape], np.nan, array.dtype)
    view = wide[tuple(slice(None, None, step) for _ in array.shape)]
    view = view[tuple(slice(size) for size in array.shape)]
    view[...] = array
    return view


def read_only(array):
    out = array.copy()
    out.flags.writeable = False
    return out


LAYOUTS = {
    "Fortran": lambda a: np.array(a, order="F"),
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "rows backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "everything backwards": lambda a: np.flip(np.ascontiguousarray(np.flip(a))),
    "slice": lambda a: embedded(a, 2),
    "slice backwards": lambda a: embedded(a, -3),
    "part": lambda a: embedded(a, 1),
    "read only": read_only,
}
layouts = st.sampled_from(list(LAYOUTS))
dtypes = st.sampled_from([np.dtype("float32"), np.dtype("float64")])
ways, seeds = st.sampled_from(list(WAYS)), st.integers(0, 2**32 - 1)


def table(seed, rows, columns, dtype):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows + M, columns))
    y = np.sin(X[:rows, 0]) + 0.1 * rng.standard_normal(rows)
    return X[:rows].astype(dtype), y.astype(dtype), X[rows:].astype(dtype)


def fitted(way, X, y, kernel=None):
    settings = {"noise_variance": NOISE, "objective": None, "random_state": 0}
    return GPRegressor(Matern32(1.5) if kernel is None else kernel, **settings, **WAYS[way]).fit(
        X, y
    )


def rounding(dtype):
    """Means of columns are summed up in the order of memory."""
    return 2e3 * float(np.finfo(dtype).eps)


def test_the_layouts_are_what_they_are_called():
    array = np.arange(12.0).reshape(4, 3)
    for name, change in LAYOUTS.items():
        other = change(array)
        np.testing.assert_array_equal(other, array)
        assert not np.shares_memory(other, array)
        assert other.flags.c_contiguous == (name == "read only")
        assert other.flags.f_contiguous == (name in ("Fortran", "transposed"))
        assert (min(other.strides) < 0) == ("backwards" in name)
        assert other.flags.writeable == (name != "read only")


@cases(40)
@given(way=ways, of_X=layouts, of_y=layouts, of_Z=layouts, dtype=dtypes, seed=seeds)
def test_the_order_of_memory_changes_no_more_than_the_rounding(way, of_X, of_y, of_Z, dtype, seed):
    X, y, Z = table(seed, N, D, dtype)
    plain = fitted(way, X, y).predict(Z, return_std=True)
    other = fitted(way, LAYOUTS[of_X](X), LAYOUTS[of_y](y)).predict(
        LAYOUTS[of_Z](Z), return_std=True
    )
    for a, b in zip(other, plain, strict=True):
        assert a.dtype == dtype
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, rtol=0, atol=rounding(dtype))


@cases(10)
@given(layout=layouts, dtype=dtypes, seed=seeds)
def test_targets_of_two_columns_may_have_any_order_of_memory(layout, dtype, seed):
    X, y, Z = table(seed, N, D, dtype)
    both = np.stack([y, y**2], axis=1)
    plain = fitted("direct", X, both).predict(Z)
    assert plain.shape == (M, 2)
    other = fitted("direct", X, LAYOUTS[layout](both)).predict(Z)
    np.testing.assert_allclose(other, plain, rtol=0, atol=rounding(dtype))


# The smallest tables.
relations = st.sampled_from(["free", "same rows", "same targets", "constant column", "far apart"])


def small(seed, rows, columns, relation, dtype):
    X, y, Z = table(seed, rows, columns, np.dtype(float))
    if relation == "same rows":
        X[:] = X[0]
    elif relation == "same targets":
        y[:] = y[0]
    elif relation == "constant column":
        X[:, 0] = 3
    elif relation == "far apart":
        X[0] += 1e6
    return X.astype(dtype), y.astype(dtype), Z.astype(dtype)


def by_hand(gp, X, y, Z):
    """Mean in float64 from the formulas, in the estimator's standardised units."""
    points, at = (
        gp._X_scaling.apply(part, np.dtype(float))[:, None] / float(gp.kernel_.lengthscale)
        for part in (X, Z)
    )

    def matrix(a, b):
        return np.exp(-np.sum((a - b.swapaxes(0, 1)) ** 2, axis=2) / 2)

    target = (y.astype(float) - gp._y_scaling.shift) / gp._y_scaling.scale
    weights = np.linalg.solve(matrix(points, points) + NOISE * np.eye(len(X)), target)
    return matrix(at, points) @ weights * gp._y_scaling.scale + gp._y_scaling.shift


@cases(30)
@given(
    way=st.sampled_from(["direct", "tiled"]),
    shape=st.sampled_from([(2, 1), (2, 6), (N, 1)]),
    relation=relations,
    dtype=dtypes,
    seed=seeds,
)
def test_small_tables_get_the_mean_of_the_formulas(way, shape, relation, dtype, seed):
    X, y, Z = small(seed, *shape, relation, dtype)
    gp = fitted(way, X, y, RBF(1.5))
    mean, std = gp.predict(Z, return_std=True)
    assert mean.shape == std.shape == (M,)
    assert np.all(np.isfinite(std))
    assert np.all(std >= 0)
    # A solve's condition is at most n / noise; its tolerance and the rounding of differences.
    eps = float(np.finfo(dtype).eps)
    allowed = (100 * eps**0.75 * shape[0] / NOISE + 1e-3 * (eps > 1e-10)) * gp._y_scaling.scale
    np.testing.assert_allclose(mean, by_hand(gp, X, y, Z), rtol=0, atol=allowed)


@cases(10)
@given(shape=st.sampled_from([(2, 1), (3, 6)]), relation=relations, seed=seeds)
def test_small_tables_are_enough_for_inducing_points(shape, relation, seed):
    X, y, Z = small(seed, *shape, relation, np.float32)
    mean, std = fitted("inducing", X, y).predict(Z, return_std=True)
    assert np.all(np.isfinite(std))
    assert np.all(std >= 0)
    # Their weights of targets add up to no more than twice the number of rows.
    assert np.all(np.abs(mean - y.mean()) <= 2 * shape[0] * np.ptp(y) + 1e-5)


def test_every_property_was_tried_on_the_cases_planned(tried):
    tried(check_counts(__name__))
