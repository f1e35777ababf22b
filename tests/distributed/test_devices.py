"""A fit spread over eight devices gives the answers of one, and moves no more than it must."""

import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone

import gplsq
from gplsq import GPRegressor
from gplsq.gp import condition, plan
from gplsq.kernels import RBF
from gplsq.operators import Kernel, ShardedRows
from gplsq.tuning import Holdout, choose_objective
from gplsq.tuning._fingerprint import fingerprint

X64 = os.environ.get("GPLSQ_X64", "1") == "1"
WAYS = ("kept", "tiled", "inducing", "sample first", "features")
FUNCTIONS = 24  # of the low-rank models in programs.py


@pytest.mark.parametrize("way", [*WAYS, "table"])
def test_answers_are_those_of_one_device(on_eight_devices, way):
    differences = dict(on_eight_devices("posteriors")[way])
    assert differences.pop("ok", True)
    assert differences.pop("steps", 0) <= 1
    assert {"mean"} <= set(differences)
    for answer, difference in differences.items():
        assert difference < (1e-9 if X64 else 2e-4), answer


@pytest.mark.parametrize("way", ["kept", "tiled", "inducing", "features", "condition"])
def test_gradients_are_those_of_one_device(on_eight_devices, way):
    differences = on_eight_devices("gradients")[way]
    assert set(differences) == {"lengthscale", "noise", "points"}
    for parameter, difference in differences.items():
        assert difference < (1e-7 if X64 else 2e-3), parameter


def test_held_out_losses_and_tuning_are_those_of_one_device(on_eight_devices):
    outcome = dict(on_eight_devices("tuning"))
    for way in ("lsmr", "inducing"):
        assert outcome.pop(f"{way}, shared")
        assert outcome.pop(f"{way}, gradient") < (1e-7 if X64 else 2e-3), way
    assert outcome.pop("tuned") < (1e-7 if X64 else 2e-3)
    assert not outcome


def test_hold_out_over_a_mesh_is_saved_and_pickled_without_it(tmp_path):
    mesh = jax.make_mesh((1,), ("rows",))
    objective = Holdout(0.1, solver="lsmr", mesh=mesh)
    assert choose_objective("auto", 5000, mesh) == Holdout(mesh=mesh)
    assert fingerprint(objective) == fingerprint(Holdout(0.1, solver="lsmr"))
    X = np.linspace(0, 1, 20)[:, None]
    GPRegressor(objective=objective, levels=[(20, 1)]).fit(X, X[:, 0] ** 2).save(tmp_path / "model")
    assert gplsq.load(tmp_path / "model").objective == Holdout(0.1, solver="lsmr")
    gp = GPRegressor(objective=objective)
    assert pickle.loads(pickle.dumps(gp)).objective == Holdout(0.1, solver="lsmr")
    assert clone(gp).objective == objective  # on this machine it stays
    with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh"):
        Holdout(mesh=8)


@pytest.mark.parametrize("way", ["auto", "inducing"])
def test_an_estimator_predicts_the_same(on_eight_devices, way):
    outcome = on_eight_devices("estimator")[way]
    assert "8 devices" in outcome["report"] or way == "inducing"
    assert outcome["pickled mesh"] is None
    for answer in ("mean", "std", "after a pickle"):
        assert outcome[answer] < (1e-9 if X64 else 5e-4), answer


def test_a_sweep_of_low_rank_rows_adds_up_one_number_for_each_function(on_eight_devices):
    sweep = on_eight_devices("communication")["inducing sweep, 1024 rows"]
    assert sweep == [["all-reduce", FUNCTIONS]]


@pytest.mark.parametrize("rows", [1024, 1003])
def test_no_step_of_a_low_rank_solve_moves_rows(on_eight_devices, rows):
    moved = on_eight_devices("communication")[f"inducing solve, {rows} rows"]
    assert moved
    # A norm may travel with a sum over rows.
    assert max(numbers for _, numbers in moved) <= FUNCTIONS + 4


@pytest.mark.parametrize("rows", [1024, 1003])
def test_a_preconditioner_moves_the_sample_and_one_matrix(on_eight_devices, rows):
    moved = on_eight_devices("communication")[f"preconditioner, {rows} rows"]
    sample = -(-rows // 2) * 2  # every other row, of two columns
    # The first factor is of 4 rows for each function, which are in the sample too.
    assert sum(numbers for _, numbers in moved) <= sample + 4 * FUNCTIONS * 2 + FUNCTIONS**2


@pytest.mark.parametrize("rows", [1024, 1003])
@pytest.mark.parametrize("form", ["dense", "tiled"])
def test_a_product_with_k_gathers_one_number_for_each_row(on_eight_devices, form, rows):
    counted = on_eight_devices("communication")
    filled = -(-rows // 8) * 8
    assert counted[f"{form} product, {rows} rows"] == [["all-gather", filled]]
    solve = counted[f"{form} solve, {rows} rows"]
    assert solve
    assert all(collective == ["all-gather", filled] for collective in solve)


@pytest.mark.parametrize("rows", [1024, 1003])
def test_a_device_keeps_its_share_of_k_only(on_eight_devices, rows):
    assert on_eight_devices("communication")[f"kept shard, {rows} rows"] == [-(-rows // 8), rows]


@pytest.mark.parametrize("mesh", [8, "all", "devices", jax.sharding.get_mesh()])
def test_what_is_no_mesh_is_refused_by_name(rng, mesh):
    X, y = rng.standard_normal((20, 2)), np.ones(20)
    mesh = jax.devices() if mesh == "devices" else mesh
    for fit in (
        lambda: condition(RBF(), X, y, noise_variance=0.1, mesh=mesh),
        lambda: GPRegressor(mesh=mesh).fit(X, y),
        lambda: Kernel(RBF(), X, mesh=mesh),
        lambda: ShardedRows(jnp.sin, X, 2, mesh=mesh),
    ):
        with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh .*make_mesh"):
            fit()


def test_a_mesh_of_one_device_changes_no_answer(rng):
    X, y = rng.standard_normal((40, 2)).astype(np.float32), rng.standard_normal(40)
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("rows",))
    settings = {"noise_variance": 0.1, "solver": "inducing", "inducing": 10, "rtol": 1e-5}
    means = [condition(RBF(), X, y, mesh=m, **settings).mean(X) for m in (None, mesh)]
    np.testing.assert_allclose(*means, atol=1e-4)


def test_a_plan_shares_products_and_memory_among_devices():
    one, many = (plan(50_000, 5, solver="lsmr", num_devices=p) for p in (1, 10))
    ours, theirs = ({way.name: way for way in p.candidates} for p in (one, many))
    assert theirs["kept"].bytes < 0.2 * ours["kept"].bytes
    assert theirs["tiled"].seconds < 0.2 * ours["tiled"].seconds
    assert theirs["direct"] == ours["direct"]
    with pytest.raises(ValueError, match="num_devices"):
        plan(100, 2, num_devices=0)
