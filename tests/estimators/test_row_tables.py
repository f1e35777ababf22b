"""Fits of tables that are not in memory: the same numbers as in memory, a block at a time."""

import numpy as np
import pytest

from gplsq import GPRegressor
from gplsq.kernels import Matern32
from gplsq.operators import RowTable


def data(rng, rows=3000, dtype=np.float32):
    X = (5 + 3 * rng.uniform(-1, 1, (rows, 3))).astype(dtype)
    y = np.sin(X[:, 0]) + 0.1 * X[:, 1] + 0.1 * rng.standard_normal(rows)
    return X, y.astype(dtype)


class Counting:
    """A source that remembers the most rows that were asked of it at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = array, array.shape, array.dtype, 0

    def __getitem__(self, rows):
        self.largest = max(self.largest, rows.stop - rows.start)
        return self.array[rows]


def untuned(**options):
    return GPRegressor(
        1.5 * Matern32(0.7),
        noise_variance=0.02,
        objective=None,
        solver="inducing",
        inducing=np.random.default_rng(5).standard_normal((60, 3)),
        random_state=0,
        **options,
    )


def test_a_table_gives_the_model_that_an_array_gives(rng, dtype):
    X, y = data(rng, dtype=dtype)
    Z = X[:50] + dtype.type(0.05)
    in_memory = untuned().fit(X, y)
    from_table = untuned().fit(RowTable(X), y)
    assert from_table.n_features_in_ == 3
    np.testing.assert_allclose(from_table._X_scaling.scale, in_memory._X_scaling.scale, rtol=1e-5)
    for got, want in zip(
        from_table.predict(Z, return_std=True), in_memory.predict(Z, return_std=True), strict=True
    ):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=0.03, atol=5e-3)


def test_a_tuned_fit_predicts_and_never_asks_for_many_rows(rng):
    X, y = data(rng, 20_000)
    source = Counting(X)
    model = GPRegressor(inducing=128, levels=[(500, 15)], random_state=0).fit(RowTable(source), y)
    assert source.largest <= 1024
    mean, std = model.predict(X[:200], return_std=True)
    truth = np.sin(X[:200, 0]) + 0.1 * X[:200, 1]
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.05
    assert np.all((std > 0.08) & (std < 0.2))
    assert "inducing points" in model.solver_report_


def test_a_large_memory_map_is_taken_for_a_table(rng, tmp_path):
    X, y = data(rng)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    small = untuned(memory=f"{2 * X.nbytes} B")
    with pytest.raises(ValueError, match="is too little for 3000 rows"):
        small.fit(mapped, y)  # twice the table holds no model of 60 points beside it
    model = untuned(memory="140 KiB").set_params(inducing=8)
    with pytest.raises(ValueError, match="too little"):
        model.fit(mapped, y)
    whole = untuned().fit(mapped, y)  # a small part of the budget: read into memory
    assert not isinstance(whole.posterior_.X, RowTable)
    from gplsq.estimators import _table

    X_used, _ = _table.validate_training(untuned(memory=2 * X.nbytes), mapped, y)
    assert isinstance(X_used, RowTable)


def test_targets_of_another_length_and_exact_solvers_are_refused(rng):
    X, y = data(rng, 100)
    with pytest.raises(ValueError, match="one number for each of the 100 rows"):
        untuned().fit(RowTable(X), y[:-1])
    for solver in ("direct", "lsmr"):
        with pytest.raises(ValueError, match="low-rank models alone"):
            untuned().set_params(solver=solver).fit(RowTable(X), y)


def test_numbers_that_are_not_finite_are_named_by_their_rows(rng):
    X, y = data(rng)
    X[2345, 1] = np.nan
    with pytest.raises(ValueError, match="row 2345, column 1"):
        untuned().fit(RowTable(X), y)


def test_a_constant_column_says_nothing(rng):
    X, y = data(rng)
    X[:, 2] = 7.0
    model = untuned().fit(RowTable(X), y)
    moved = X[:20].copy()
    moved[:, 2] = 9.0
    np.testing.assert_array_equal(model.predict(moved), model.predict(X[:20]))


def test_a_model_of_a_table_is_pickled_without_it(rng):
    import pickle

    X, y = data(rng, 500)
    model = untuned().fit(RowTable(X), y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X[:9]), model.predict(X[:9]))
