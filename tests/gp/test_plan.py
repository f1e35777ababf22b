"""The planner: what fits, what is quickest, what it says, and what happens when memory runs out."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import gplsq
from gplsq import LSMR, Direct, GPRegressor
from gplsq.gp import Rates, condition, memory_budget
from gplsq.gp._machine import NOMINAL, _cache_path, machine_rates
from gplsq.gp._plan import format_bytes
from gplsq.kernels import RBF, Matern32
from gplsq.operators import RowTable

GIB = 2.0**30


def plan(n, **options):
    return gplsq.plan(n, 8, **{"memory": 12 * GIB, "rates": NOMINAL, **options})


@pytest.mark.parametrize(
    ("n", "options", "chosen", "rank"),
    [
        (1000, {}, "direct", None),
        (5000, {}, "direct", None),
        (5001, {}, "kept", None),
        (40_000, {}, "kept", None),
        (60_000, {}, "inducing", 4096),
        (1_000_000, {}, "inducing", 4096),
        (10_000, {"memory": "100 MiB"}, "tiled", None),
        (40_000, {"memory": GIB}, "inducing", 2048),
        (1000, {"memory": "100 MiB", "solver": "lsmr"}, "kept", None),
        (4000, {"memory": "60 MiB"}, "tiled", None),
        (60_000, {"form": "tiled"}, "tiled", None),
        (1000, {"form": "tiled"}, "tiled", None),
        (1000, {"form": "dense"}, "direct", None),
        (60_000, {"solver": "lsmr"}, "tiled", None),
        (60_000, {"solver": LSMR()}, "tiled", None),
        (60_000, {"solver": Direct()}, "direct", None),
        (60_000, {"solver": "features"}, "features", 4096),
        (100, {"solver": "inducing", "rank": 500}, "inducing", 100),
        (100, {"solver": "features", "rank": 500}, "features", 500),
        (100_000, {"memory": "100 MiB"}, "inducing", 1024),
        (1_000_000, {"dtype": np.float64, "memory": "190 MiB"}, "inducing", 512),
    ],
)
def test_the_choice(n, options, chosen, rank):
    made = plan(n, **options)
    assert (made.chosen, made.rank) == (chosen, rank)
    assert made.chosen == chosen


def test_a_quicker_machine_fits_more_rows_exactly():
    fast = Rates(*(64 * rate for rate in dataclasses.astuple(NOMINAL)))
    assert plan(200_000, memory=1e12).chosen == "inducing"
    assert plan(200_000, memory=1e12, rates=fast).chosen == "kept"


def test_slow_memory_makes_tiles_the_better_way():
    slow = dataclasses.replace(NOMINAL, bytes=NOMINAL.bytes / 64)
    assert plan(10_000, rates=slow).chosen == "tiled"


def test_cost_grows_as_it_must():
    """Doubling the rows: direct 8 times, exact 4 times, low-rank 2 times the seconds."""
    ratios = {}
    for small, large in zip(
        plan(400_000, memory=1e15).candidates, plan(800_000, memory=1e15).candidates, strict=True
    ):
        ratios[small.name] = large.seconds / small.seconds, large.bytes / small.bytes
    assert 7.5 < ratios["direct"][0] <= 8
    assert 3.5 < ratios["kept"][0] <= 4
    assert 3.9 < ratios["kept"][1] <= 4
    assert 1.2 < ratios["inducing"][0] < 2
    assert 1 < ratios["inducing"][1] < 1.2
    more = {way.name: way.seconds for way in plan(400_000, num_targets=64, memory=1e15).candidates}
    assert more["kept"] > plan(400_000, memory=1e15).candidates[1].seconds


def test_it_prints_every_way_and_the_reason():
    text = str(plan(60_000))
    for word in ("60000 rows, too many for the exact model", "->inducing", "tiled", "(!)"):
        assert word in text
    assert "fewer than 4096 to fit into 100 MiB" in str(plan(100_000, memory="100 MiB"))
    assert "the dense factor does not fit" in plan(4000, memory="60 MiB").reason
    assert str(plan(10, solver=LSMR())).startswith("chosen by the caller")


def test_a_budget_that_nothing_fits_is_refused_and_says_what_would_fit(rng):
    with pytest.raises(ValueError, match=r"memory of 1 MiB is too little for 1000 rows.*takes"):
        plan(1000, memory="1 MiB")
    X = rng.standard_normal((50, 2)).astype(np.float32)
    with pytest.raises(ValueError, match="Give more memory"):
        condition(RBF(), X, X[:, 0], noise_variance=0.1, memory=1000)
    with pytest.raises(ValueError, match="Give more memory"):
        GPRegressor(memory=1000, objective=None).fit(X, X[:, 0])


@pytest.mark.parametrize(
    ("text", "size"),
    [("2 GiB", 2 * GIB), ("1.5GB", 1.5e9), ("100 MiB", 100 * 2.0**20), ("7", 7.0), (5e9, 5e9)],
)
def test_budgets_are_numbers_or_text(text, size):
    assert memory_budget(text) == size


@pytest.mark.parametrize("bad", ["much", "-1 GiB", "2 GiX", "", "1.2.3", -1.0, 0, np.nan])
def test_other_budgets_are_refused(bad):
    with pytest.raises(ValueError, match="memory"):
        memory_budget(bad)


@pytest.mark.parametrize("name", ["n", "d", "num_targets", "rank"])
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (0, ValueError, "at least 1; got 0"),
        (-1, ValueError, "at least 1; got -1"),
        (2.5, TypeError, "a whole number; got 2.5"),
        (True, TypeError, "a whole number; got True"),
        ("many", TypeError, "a whole number; got 'many'"),
    ],
)
def test_sizes_must_be_whole_numbers(name, bad, error, message):
    arguments = {"n": 100, "d": 3, name: bad}
    with pytest.raises(error, match=f"{name} must be {message}"):
        gplsq.plan(**arguments, rates=NOMINAL)


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="solver"):
        plan(10, solver="fast")
    with pytest.raises(ValueError, match="form"):
        plan(10, form="kept")


def test_sizes_are_printed_in_their_unit():
    assert [format_bytes(size) for size in (0, 3, 2048, 1.5 * GIB, np.inf)] == [
        "0 B",
        "3 B",
        "2 KiB",
        "1.5 GiB",
        "unlimited",
    ]


def test_the_machine_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("GPLSQ_CACHE_DIR", str(tmp_path))
    machine_rates.cache_clear()
    try:
        first = machine_rates()
        assert all(rate > 1e6 for rate in dataclasses.astuple(first))
        (path,) = tmp_path.iterdir()
        # What the file says is what the next process believes.
        path.write_text(json.dumps({**dataclasses.asdict(first), "flops": 12345.0}))
        assert machine_rates() == first
        machine_rates.cache_clear()
        assert machine_rates().flops == 12345.0
        # A broken file is measured anew, and replaced.
        path.write_text("{")
        machine_rates.cache_clear()
        assert machine_rates().flops > 1e6
        assert json.loads(path.read_text())["flops"] > 1e6
        monkeypatch.setenv("GPLSQ_CACHE_DIR", "")
        path.unlink()
        machine_rates.cache_clear()
        machine_rates()
        assert not list(tmp_path.iterdir())
    finally:
        machine_rates.cache_clear()


def test_programs_compiled_with_other_flags_have_rates_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GPLSQ_CACHE_DIR", str(tmp_path))
    paths = set()
    for flags in ("", "--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"):
        monkeypatch.setenv("XLA_FLAGS", flags)
        paths.add(_cache_path())
    assert len(paths) == 3


def test_a_small_fit_measures_nothing(rng, monkeypatch):
    def fail():
        raise AssertionError("measured")

    monkeypatch.setattr("gplsq.gp._plan.machine_rates", fail)
    X = rng.standard_normal((50, 2)).astype(np.float32)
    condition(RBF(), X, X[:, 0], noise_variance=0.1)


def test_the_plan_is_followed(rng):
    X = rng.uniform(-1, 1, (2000, 2)).astype(np.float32)
    y = np.sin(3 * X[:, 0])
    # 40 MB hold no factor (48 MB) and no kept matrix; the tiles and vectors of a solve do fit.
    means = []
    for memory, words in (("1 GB", "factorised"), ("40 MB", "in tiles")):
        posterior = condition(
            Matern32(), X, y, noise_variance=0.1, memory=memory, rtol=1e-6, solver="auto"
        )
        assert words in posterior.plan
        means.append(posterior.mean(X[:20]))
    np.testing.assert_allclose(*means, atol=1e-4)


def test_a_fit_that_runs_out_of_memory_is_tried_once_with_less(rng, monkeypatch):
    from gplsq.gp import _condition

    X = rng.uniform(-1, 1, (2000, 2)).astype(np.float32)
    y, real, calls = np.sin(3 * X[:, 0]), _condition._fit, []

    def fit(*arguments):
        calls.append(arguments[4].chosen)
        if len(calls) == 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return real(*arguments)

    monkeypatch.setattr(_condition, "_fit", fit)
    posterior = condition(Matern32(), X, y, noise_variance=0.1, memory="160 MB")
    assert calls == ["direct", "tiled"]
    assert "a first try (direct) ran out of memory" in posterior.plan
    assert np.all(np.isfinite(posterior.mean(X)))

    def always(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(_condition, "_fit", always)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        condition(Matern32(), X, y, noise_variance=0.1, memory="160 MB")
    # Asked for by name, a way is not exchanged for another.
    calls.clear()
    monkeypatch.setattr(_condition, "_fit", fit)
    with pytest.raises(jax.errors.JaxRuntimeError):
        condition(Matern32(), X, y, noise_variance=0.1, solver="direct")
    assert calls == ["direct"]


@pytest.mark.parametrize("given", [{"inducing": 8}, {"num_features": 16}])
def test_what_only_one_model_takes_asks_for_it(rng, given):
    X = rng.uniform(-1, 1, (60, 2)).astype(np.float32)
    y, (name,) = np.sin(X[:, 0]), given
    model = "inducing" if name == "inducing" else "features"
    expected = condition(RBF(), X, y, noise_variance=0.1, **given)
    assert "asked for" in expected.plan
    of_table = condition(RBF(), RowTable(X), y, noise_variance=0.1, **given)
    np.testing.assert_allclose(of_table.mean(X), expected.mean(X), rtol=1e-3, atol=1e-3)
    for settings in ({"solver": "direct"}, {"solver": LSMR()}, {"form": "tiled"}):
        with pytest.raises(ValueError, match=f'{name} asks for solver="{model}"'):
            condition(RBF(), X, y, noise_variance=0.1, **given, **settings)


def test_conditioning_may_be_traced(rng):
    X = rng.uniform(-1, 1, (20, 2)).astype(np.float32)
    y = np.sin(X[:, 0])

    def mean(noise):
        return condition(RBF(), X, y, noise_variance=noise).mean(X)

    np.testing.assert_allclose(jax.jit(mean)(0.1), mean(0.1), rtol=1e-5, atol=1e-6)
