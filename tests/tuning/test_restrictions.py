"""Bounds, fixed values, priors, restarts and groups of the tuner."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.exceptions import ConvergenceWarning

from gplsq import kernels
from gplsq.tuning import (
    AbstractObjective,
    GroupHoldout,
    Level,
    MarginalLikelihood,
    parameters_of,
    tune,
)

KERNEL = 1.0 * kernels.RBF([3.0, 3.0])
LEVELS = (Level(30, 12),)


def _run(data, **settings):
    return tune(KERNEL, *data, **{"levels": LEVELS, **settings})


def test_bounds_hold_at_every_step_and_a_hyperparameter_at_one_is_named(data):
    with pytest.warns(ConvergenceWarning) as caught:
        result = _run(data, bounds={"lengthscale": (2.0, None), "noise_variance": (None, 0.5)})
    (message,) = [str(w.message) for w in caught]
    assert message.startswith("kernel.lengthscale (entries [0]) ended at its lower bound 2:")
    steps = np.array([record["kernel.lengthscale"] for record in result.history])
    assert np.all(steps > 2.0 * (1 - 1e-6))
    assert np.any(steps[:, 0] < 2.01)
    assert all(record["noise_variance"] < 0.5 * (1 + 1e-6) for record in result.history)


def test_bounds_can_differ_between_columns_and_wide_ones_change_nothing(data):
    wide = {"lengthscale": (1e-6, 1e6), "variance": (None, None), "noise_variance": (0, np.inf)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free, bounded = _run(data), _run(data, bounds=wide)
    assert free.loss == bounded.loss
    with pytest.warns(ConvergenceWarning, match="upper bound 1"):
        result = _run(data, bounds={"lengthscale": (None, np.array([9.0, 1.0]))})
    assert result.kernel.kernel.lengthscale[1] <= 1 + 1e-6
    assert result.history[0]["kernel.lengthscale"][0] == pytest.approx(3.0)


def test_fixed_hyperparameters_stay_whatever_the_optimiser_does(data):
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    result = _run(
        data, fixed=["lengthscale", "noise_variance"], noise_variance=0.02, optimizer=optimizer
    )
    np.testing.assert_allclose(result.kernel.kernel.lengthscale, [3.0, 3.0], rtol=1e-6)
    assert result.noise_variance == pytest.approx(0.02)
    assert float(result.kernel.variance) != 1.0


def test_a_noise_that_is_fixed_is_not_raised_after_a_failure(data):
    X, y = data
    with pytest.raises(FloatingPointError):
        _run((X * np.nan, y), fixed=["noise_variance"])


def test_a_prior_pulls_towards_its_mode_and_a_flat_one_does_nothing(data):
    def density(width):
        return lambda v: -0.5 * ((jnp.log(v) - np.log(5.0)) / width) ** 2

    settings = {"objective": MarginalLikelihood(), "levels": (Level(30, 60),)}
    free = _run(data, **settings)
    pulled = _run(data, priors={"lengthscale": density(0.01)}, **settings)
    flat = _run(data, priors={"lengthscale": lambda v: 0.0 * v}, **settings)
    np.testing.assert_allclose(pulled.kernel.kernel.lengthscale, [5.0, 5.0], rtol=0.05)
    assert free.kernel.kernel.lengthscale[0] < 2.0
    assert flat.loss == pytest.approx(free.loss, abs=1e-5)


def test_the_value_of_a_prior_is_its_density_over_the_rows(data):
    settings = {"objective": MarginalLikelihood(), "levels": (Level(30, 1),)}
    free = _run(data, **settings)
    with_prior = _run(data, priors={"noise_variance": lambda v: -2.0 + 0 * v}, **settings)
    difference = with_prior.history[0]["loss"] - free.history[0]["loss"]
    assert difference == pytest.approx(2.0 / 30, rel=1e-4)


def test_restarts_find_at_least_as_good_a_loss_and_are_in_the_history(data):
    one, many = _run(data), _run(data, num_restarts=2)
    assert [record["start"] for record in many.history].count(2) >= 1
    assert {record["start"] for record in many.history} == {0, 1, 2}
    assert many.loss <= one.loss
    exams = [record["exam"] for record in many.history if record["exam"] is not None]
    assert many.loss <= min(exams)


class Spy(AbstractObjective):
    """A hold-out of groups that keeps the rows and labels of every evaluation."""

    seen: list = eqx.field(static=True)
    random = fresh_rows = True

    def __call__(self, kernel, noise_variance, X, y, key, loss, groups=None):
        jax.debug.callback(lambda *tables: self.seen.append(tables), X, groups)
        return GroupHoldout()(kernel, noise_variance, X, y, key, loss, groups)


def test_restarts_leave_what_is_fixed(data):
    result = _run(data, fixed=["noise_variance"], noise_variance=0.03, num_restarts=2)
    noise = [record["noise_variance"] for record in result.history]
    np.testing.assert_allclose(noise, 0.03, rtol=1e-6)


def test_groups_are_held_out_together_at_every_level(data):
    labels, seen = np.repeat(["a", "b", "c", "d", "e", "f"], 5), []
    result = _run(data, objective=Spy(seen), groups=labels, levels=[(20, 4), (30, 4)])
    jax.effects_barrier()
    assert np.isfinite(result.loss)
    assert len(result.history) == 8
    assert {len(X) for X, _ in seen} == {20, 30}
    number = {row.tobytes(): i // 5 for i, row in enumerate(np.asarray(data[0], np.float32))}
    for X, groups in seen:
        assert [number[row.tobytes()] for row in np.asarray(X)] == list(groups)
    # A label of its own for each row is a hold-out of rows.
    assert np.isfinite(_run(data, objective=GroupHoldout(), groups=np.arange(30)).loss)


def test_a_group_that_leaves_nothing_to_predict_it_from_is_refused(data):
    labels = np.repeat([0, 1], [4, 26])
    with pytest.raises(ValueError, match="groups must leave rows to predict each from"):
        _run(data, objective=GroupHoldout(), groups=labels)
    assert np.isfinite(_run(data, objective=GroupHoldout(), groups=np.repeat([0, 1], 15)).loss)


def test_names_are_the_ends_of_dotted_names():
    kernel = 1.0 * kernels.RBF(1.0) + 2.0 * kernels.Matern32(1.0)
    names = [p.name for p in parameters_of(kernel)]
    assert names == [
        *("left.variance", "left.kernel.lengthscale"),
        *("right.variance", "right.kernel.lengthscale"),
    ]
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 1)).astype(np.float32), rng.standard_normal(12)
    fixed = ["variance", "left.kernel.lengthscale"]
    result = tune(kernel, X, y, fixed=fixed, levels=[(12, 3)])
    moved = [
        not np.allclose(new.value, old.value, rtol=1e-6)
        for new, old in zip(parameters_of(result.kernel), parameters_of(kernel), strict=True)
    ]
    assert moved == [False, False, False, True]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bounds": {"width": (1, 2)}}, ValueError, "names 'width'.*There are: variance, kernel"),
        ({"bounds": {"lengthscale": (2, 1)}}, ValueError, "pair .low, high. with low < high"),
        ({"bounds": {"lengthscale": (-1, 1)}}, ValueError, "no negative bounds"),
        ({"bounds": {"lengthscale": 3.0}}, ValueError, "must be a pair"),
        ({"bounds": {"lengthscale": (np.nan, 1.0)}}, ValueError, "must be a pair"),
        ({"bounds": {"lengthscale": (None, np.ones(3))}}, ValueError, "arrays of its shape"),
        ({"bounds": [1, 2]}, TypeError, "bounds must be a dict"),
        ({"fixed": "lengthscale"}, TypeError, "fixed must be a list of names"),
        ({"fixed": ["width"]}, ValueError, "fixed names 'width'"),
        ({"priors": {"lengthscale": 3.0}}, TypeError, "must be a function"),
        ({"priors": {"width": np.log}}, ValueError, "priors names 'width'"),
        ({"num_restarts": -1}, ValueError, "num_restarts must be at least 0"),
        ({"groups": np.arange(5)}, ValueError, "one label for each of the 30 rows"),
        ({"groups": np.zeros(30)}, ValueError, "at least two different labels"),
        ({"objective": GroupHoldout()}, ValueError, "needs the group of every row"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(data, settings, error, message):
    with pytest.raises(error, match=message):
        _run(data, **settings)
