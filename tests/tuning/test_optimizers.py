"""Optimisers of the tuner: how near the default one comes to a minimum, and line searches."""

import jax
import numpy as np
import optax
import pytest

from gplsq import GPRegressor, constraints, kernels
from gplsq.tuning import Holdout, LeaveOneOut, MarginalLikelihood, tune

KERNEL = 1.0 * kernels.RBF([3.0, 3.0, 3.0])
ROWS = 80


@pytest.fixture
def data(rng):
    X = rng.uniform(-2, 2, (ROWS, 3)).astype(np.float32)
    y = np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.standard_normal(ROWS)
    return X, y.astype(np.float32)


def ends(data, objective, steps=60, **settings):
    """The losses by L-BFGS and by the default optimiser."""
    settings = {"objective": objective, **settings}
    return [
        tune(KERNEL, *data, levels=[(ROWS, n)], optimizer=optimizer, **settings)
        for n, optimizer in ((steps, optax.lbfgs()), (100, None))
    ]


@pytest.mark.parametrize("objective", [MarginalLikelihood(), LeaveOneOut()], ids=["ml", "loo"])
def test_lbfgs_finds_a_minimum_and_the_default_ends_near_it(data, objective):
    """From lengthscales four times too long, where the first gradient is of another size."""
    searched, default = ends(data, objective)
    moved = tune(searched.kernel, *data, objective=objective, levels=[(ROWS, 60)],
                 noise_variance=searched.noise_variance)  # fmt: skip
    scale = abs(searched.loss)
    assert moved.loss > searched.loss - 0.01 * scale
    assert searched.loss <= default.loss + 1e-4 * scale
    far = 0.05 if isinstance(objective, MarginalLikelihood) else 0.1 * scale
    assert default.loss < searched.loss + far
    assert len(searched.history) < len(default.history)


def test_a_line_search_keeps_bounds_and_what_is_fixed(data):
    settings = {"bounds": {"lengthscale": (None, 1.0)}, "fixed": ["noise_variance"]}
    with pytest.warns(match="upper bound"):
        searched, _ = ends(data, MarginalLikelihood(), 10, noise_variance=0.02, **settings)
    assert searched.noise_variance == pytest.approx(0.02)
    assert np.max(searched.kernel.kernel.lengthscale) <= 1.0 + 1e-6
    assert searched.loss < searched.history[0]["loss"]


def test_a_line_search_keeps_constraints(data):
    limit = constraints.Constraint(lambda k: k.kernel.lengthscale[0] - k.kernel.lengthscale[1])
    searched, _ = ends(data, MarginalLikelihood(), 10, constraints=limit)
    first, second, _ = np.asarray(searched.kernel.kernel.lengthscale)
    assert first == pytest.approx(second, abs=1e-3)
    assert searched.loss < searched.history[0]["loss"]


def test_random_objectives_and_several_levels_take_a_line_search(data):
    levels = [(40, 4), (ROWS, 4)]
    result = tune(KERNEL, *data, objective=Holdout(0.25), optimizer=optax.lbfgs(), levels=levels)
    assert np.isfinite(result.loss)
    assert len(result.history) == 8


def test_estimators_take_a_line_search_and_go_on_from_a_checkpoint(data, tmp_path):
    settings = {"optimizer": optax.lbfgs(), "levels": [(ROWS, 6)], "random_state": 0}
    plain = GPRegressor(**settings).fit(*data)
    kept = GPRegressor(checkpoint=tmp_path / "run", **settings).fit(*data)
    again = GPRegressor(checkpoint=tmp_path / "run", **settings).fit(*data)
    for other in (kept, again):
        jax.tree.map(np.testing.assert_array_equal, plain.kernel_, other.kernel_)


def test_a_line_search_over_several_programs_is_refused(data):
    X, y = data
    observed = np.arange(ROWS)[:, None] < np.array([ROWS, 50])
    y = np.where(observed, y[:, None], np.nan)
    settings = {"objective": MarginalLikelihood(), "levels": [(ROWS, 3)], "observed": observed}
    with pytest.raises(ValueError, match=r"optimizer searches along a line.*optax\.adam"):
        tune(KERNEL, X, y, optimizer=optax.lbfgs(), **settings)
    assert np.isfinite(tune(KERNEL, X, y, **settings).loss)
