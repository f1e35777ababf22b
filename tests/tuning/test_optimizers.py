"""Optimisers of the tuner: how near the default one comes to a minimum, and line searches."""

import numpy as np
import optax
import pytest

from gplsq import constraints, kernels
from gplsq.tuning import Holdout, LeaveOneOut, MarginalLikelihood, tune

KERNEL = 1.0 * kernels.RBF([3.0, 3.0, 3.0])
ROWS = 80


@pytest.fixture
def data(rng):
    X = rng.uniform(-2, 2, (ROWS, 3)).astype(np.float32)
    y = np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.standard_normal(ROWS)
    return X, y.astype(np.float32)


def searched(data, objective, steps=60, **settings):
    """Tuned by L-BFGS on all rows."""
    settings = {"objective": objective, "optimizer": optax.lbfgs(), **settings}
    return tune(KERNEL, *data, levels=[(ROWS, steps)], **settings)


@pytest.mark.parametrize(
    ("objective", "near"), [(MarginalLikelihood(), 0.05), (LeaveOneOut(), 0.002)], ids=["ml", "loo"]
)
def test_lbfgs_finds_a_minimum_and_the_default_ends_near_it(data, objective, near):
    """From lengthscales four times too long, where the first gradient is of another size."""
    best = searched(data, objective)
    settings = {"objective": objective, "noise_variance": best.noise_variance}
    further = tune(best.kernel, *data, levels=[(ROWS, 60)], **settings)
    scale = abs(best.loss)
    assert further.loss > best.loss - 0.01 * scale
    default = tune(KERNEL, *data, levels=[(ROWS, 100)], objective=objective)
    assert best.loss - 1e-4 * scale <= default.loss < best.loss + near
    assert len(best.history) < len(default.history)


def test_a_line_search_keeps_bounds_and_what_is_fixed(data):
    settings = {"bounds": {"lengthscale": (None, 1.0)}, "fixed": ["noise_variance"]}
    with pytest.warns(match="upper bound"):
        result = searched(data, MarginalLikelihood(), 10, noise_variance=0.02, **settings)
    assert result.noise_variance == pytest.approx(0.02)
    assert np.max(result.kernel.kernel.lengthscale) <= 1.0 + 1e-6
    assert result.loss < result.history[0]["loss"]


def test_a_line_search_keeps_constraints(data):
    limit = constraints.Constraint(lambda k: k.kernel.lengthscale[0] - k.kernel.lengthscale[1])
    result = searched(data, MarginalLikelihood(), 10, constraints=limit)
    first, second, _ = np.asarray(result.kernel.kernel.lengthscale)
    assert first == pytest.approx(second, abs=1e-3)
    assert result.loss < result.history[0]["loss"]


def test_random_objectives_and_several_levels_take_a_line_search(data):
    levels = [(40, 4), (ROWS, 4)]
    result = tune(KERNEL, *data, objective=Holdout(0.25), optimizer=optax.lbfgs(), levels=levels)
    assert np.isfinite(result.loss)
    assert len(result.history) == 8


def test_a_line_search_over_several_programs_is_refused(data):
    X, y = data
    observed = np.arange(ROWS)[:, None] < np.array([ROWS, 50])
    y = np.where(observed, y[:, None], np.nan)
    settings = {"objective": MarginalLikelihood(), "levels": [(ROWS, 3)], "observed": observed}
    with pytest.raises(ValueError, match=r"optimizer searches along a line.*optax\.adam"):
        tune(KERNEL, X, y, optimizer=optax.lbfgs(), **settings)
    assert np.isfinite(tune(KERNEL, X, y, **settings).loss)
