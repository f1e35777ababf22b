"""Untuned models of inducing points and of random features: what must not change predictions.

The exact solvers have the same properties in `test_estimator_properties.py`; those of columns and
sums of targets are tried on them here.
"""

import numpy as np
import pytest
from cases import cases, check_counts
from hypothesis import given
from hypothesis import strategies as st

from gplsq import GPRegressor
from gplsq.kernels import Matern32

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, D, M = 14, 2, 6
INDUCING = 5
LOW_RANK = ("inducing", "features")
EXACT = ("direct", "tiled")
numbers = st.floats(-0.5, 0.5).map(lambda power: np.float32(10.0**power))
low_rank = st.fixed_dictionaries(
    {
        "way": st.sampled_from(LOW_RANK),
        "lengthscale": st.tuples(numbers, numbers),
        "noise": st.floats(-2, 0).map(lambda power: 10.0**power),
        "dtype": st.sampled_from([np.dtype("float32"), np.dtype("float64")]),
    }
)
every_way = low_rank.flatmap(
    lambda model: st.sampled_from([*EXACT, "inducing"]).map(lambda way: {**model, "way": way})
)
seeds = st.integers(0, 2**32 - 1)


def table(seed, dtype):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N + M, D))
    y = np.sin(X[:N, 0]) + 0.1 * rng.standard_normal(N)
    return X[:N].astype(dtype), y.astype(dtype), X[N:].astype(dtype)


def fitted(model, X, y, points=None, lengthscale=None, **settings):
    way = {
        "inducing": {"solver": "inducing", "inducing": points},
        "features": {"solver": "features", "num_features": 8},
        "direct": {"solver": "direct"},
        "tiled": {"solver": "lsmr", "form": "tiled", "variance": "exact"},
    }[model["way"]]
    if model["way"] != "direct":
        way["rtol"] = 1e-5 if model["dtype"] == np.float32 else 1e-11
    scales = np.array(model["lengthscale"] if lengthscale is None else lengthscale)
    settings = {"objective": None, "random_state": 0, **settings}
    return GPRegressor(Matern32(scales), noise_variance=model["noise"], **way, **settings).fit(X, y)


def close(a, b, model, scale=1.0):
    """Up to the rounding of a solve whose condition number is about n / noise."""
    allowed = 1e2 * float(np.finfo(model["dtype"]).eps) * (1 + 5 * N / model["noise"])
    np.testing.assert_allclose(a, b, rtol=0, atol=allowed * scale)


@cases(8)
@given(model=low_rank, seed=seeds)
def test_a_second_fit_gives_the_same_bits(model, seed):
    X, y, Z = table(seed, model["dtype"])
    first, second = (
        fitted(model, X, y, X[:INDUCING]).predict(Z, return_std=True) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        assert a.dtype == model["dtype"]
        assert np.all(np.isfinite(a))
        np.testing.assert_array_equal(a, b)


@cases(12)
@given(model=low_rank, seed=seeds)
def test_rows_in_another_order_give_the_same_predictions(model, seed):
    X, y, Z = table(seed, model["dtype"])
    order = np.random.default_rng(seed).permutation(N)
    gp = fitted(model, X, y, X[:INDUCING])
    moved = fitted(model, X[order], y[order], X[:INDUCING][::-1])
    for a, b in zip(*(g.predict(Z, return_std=True) for g in (gp, moved)), strict=True):
        close(a, b, model)


@cases(12)
@given(model=low_rank, seed=seeds, power=st.integers(-60, 60), shift=st.sampled_from([0.0, 3.0]))
def test_the_units_of_the_target_are_those_of_the_predictions(model, seed, power, shift):
    X, y, Z = table(seed, model["dtype"])
    factor, off = y.dtype.type(2.0**power), y.dtype.type(shift)
    mean, std = fitted(model, X, y, X[:INDUCING]).predict(Z, return_std=True)
    scaled = fitted(model, X, (y + off) * factor, X[:INDUCING])
    its_mean, its_std = scaled.predict(Z, return_std=True)
    close(its_mean / factor - off, mean, model, 10)
    close(its_std / factor, std, model, 10)


@cases(8)
@given(model=low_rank, seed=seeds)
def test_predictions_in_chunks_are_those_of_the_whole(model, seed):
    X, y, Z = table(seed, model["dtype"])
    gp = fitted(model, X, y, X[:INDUCING])
    whole = gp.predict(Z, return_std=True)
    parts = [gp.predict(part, return_std=True) for part in (Z[: M // 2], Z[M // 2 :])]
    for k in range(2):
        close(np.concatenate([part[k] for part in parts]), whole[k], model)


@cases(12)
@given(model=every_way, seed=seeds)
def test_columns_exchanged_with_their_lengthscales_change_nothing(model, seed):
    X, y, Z = table(seed, model["dtype"])
    gp = fitted(model, X, y, X[:INDUCING])
    scales = model["lengthscale"][::-1]
    other = fitted(model, X[:, ::-1], y, X[:INDUCING, ::-1], lengthscale=scales)
    mean, std = gp.predict(Z, return_std=True)
    close(other.predict(Z[:, ::-1]), mean, model)
    # Not by symmetry of the table: one exchange alone is another model.
    assert np.all(np.isfinite(std))
    if abs(np.log(scales[0] / scales[1])) > 1:
        assert np.abs(gp.predict(Z[:, ::-1]) - mean).max() > 1e-4


@cases(12)
@given(model=every_way, seed=seeds, powers=st.tuples(st.integers(-40, 40), st.integers(-40, 40)))
def test_the_units_of_columns_do_not_matter(model, seed, powers):
    X, y, Z = table(seed, model["dtype"])
    units = 2.0 ** np.array(powers).astype(model["dtype"])
    gp = fitted(model, X, y, X[:INDUCING])
    other = fitted(model, X * units, y, X[:INDUCING] * units)
    for a, b in zip(other.predict(Z * units, True), gp.predict(Z, True), strict=True):
        close(a, b, model)


@cases(12)
@given(model=every_way, seed=seeds, factors=st.tuples(numbers, numbers))
def test_the_mean_of_a_sum_of_targets_is_the_sum_of_their_means(model, seed, factors):
    X, y, Z = table(seed, model["dtype"])
    other = np.random.default_rng(seed + 1).standard_normal(N).astype(model["dtype"])
    a, b = factors
    settings = {"points": X[:INDUCING], "standardize": False}
    first, second, both = (
        fitted(model, X, target, **settings).predict(Z) for target in (y, other, a * y + b * other)
    )
    close(both, a * first + b * second, model, 10)
    assert np.abs(both).max() > 0


def test_every_property_was_tried_on_the_cases_planned(tried):
    tried(check_counts(__name__))
