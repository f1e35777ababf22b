"""Posteriors of several outputs, and around a mean: what they refuse, and what they compile."""

import logging

import jax
import numpy as np
import pytest

from gplsq.gp import condition_around_mean, condition_outputs
from gplsq.kernels import RBF, Coregionalised, Weighted

N, P = 12, 2
KERNEL = 1.0 * RBF(0.8)
PAIRS = Coregionalised(KERNEL, P)


@pytest.fixture
def data(rng):
    """X, y of two outputs, and where the second is observed."""
    X = rng.standard_normal((N, 2)).astype(np.float32)
    y = np.stack([np.sin(X[:, 0]), X[:, 1]], axis=1)
    return X, y, np.stack([np.ones(N, bool), np.arange(N) < 8], axis=1)


def separate(data):
    X, y, observed = data
    return condition_outputs(KERNEL, X, y, observed=observed, noise_variance=0.1)


def correlated(data, **settings):
    X, y, observed = data
    settings |= {"observed": observed, "correlated": True, "noise_variance": 0.1}
    return condition_outputs(PAIRS, X, y, **settings)


def around(data):
    X, y, _ = data
    return condition_around_mean(KERNEL, X, y, mean="linear", noise_variance=0.1)


@pytest.mark.parametrize("what", ["observed", "correlated"])
def test_what_says_something_of_several_outputs_is_refused_for_one(data, what):
    X, y, observed = data
    settings = {"observed": observed[:, 0]} if what == "observed" else {"correlated": True}
    with pytest.raises(ValueError, match=r"several outputs, y of shape \(n, p\); got .* \(12,\)"):
        condition_outputs(KERNEL, X, y[:, 0], noise_variance=0.1, **settings)


@pytest.mark.parametrize("make", [separate, correlated])
def test_tables_that_do_not_match_are_refused(data, make):
    X, y, observed = data
    for rows in (X[:-1], np.concatenate([X, X])):
        with pytest.raises(ValueError, match=r"X must have shape \(n, d\) and y shape"):
            make((rows, y, observed))


@pytest.mark.parametrize("make", [separate, correlated, around])
def test_an_update_of_another_shape_is_refused(data, make):
    X, y, _ = data
    posterior = make(data)
    bad = [(X[:3], y[:3, 0]), (X[:3], y[:2]), (X[:2], y[:3]), (X[:3, :1], y[:3])]
    bad += [(X[:3], y[:3, :1]), (X[:3], np.ones((3, 3)))]
    for rows, targets in bad:
        with pytest.raises(ValueError, match=r"X must have shape \(s, 2\) and y shape \(s, 2\)"):
            posterior.update(rows, targets)
    with pytest.raises(ValueError, match="X must be a table of points"):
        posterior.update(X[0], y[:1])


@pytest.mark.parametrize(
    ("make", "value"), [(separate, np.nan), (separate, np.inf), (correlated, -np.inf)]
)
def test_an_update_with_numbers_that_are_none_is_refused(data, make, value):
    X, y, _ = data
    y = y[:3].copy()
    y[1, 0] = value
    with pytest.raises(ValueError, match=rf"targets in y must be finite.*got {value}"):
        make(data).update(X[:3], y)


def test_an_update_of_correlated_outputs_leaves_out_what_is_missing(data, dtype):
    X, y, observed = (part.astype(dtype) if part.dtype != bool else part for part in data)
    whole = correlated((X, y, observed))
    part = correlated((X[:6], y[:6], observed[:6]))
    grown = part.update(X[6:], np.where(observed, y, np.nan)[6:])
    assert grown.pairs.y.shape == whole.pairs.y.shape == (20,)
    np.testing.assert_allclose(grown.mean(X), whole.mean(X), atol=1e-4)
    nothing = part.update(X[6:], np.full((6, P), np.nan))
    np.testing.assert_array_equal(nothing.mean(X), part.mean(X))


def programs(caplog, run):
    """How many programs are compiled."""
    jax.clear_caches()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        caplog.clear()
        run()
        return sum("Finished XLA compilation" in text for text in caplog.messages)


@pytest.mark.parametrize("make", [separate, correlated, around])
def test_a_posterior_is_a_few_programs(data, make, caplog):
    """Each operation outside of a program is compiled on its own, for each shape."""
    X, _, _ = data
    made = []
    assert 0 < programs(caplog, lambda: made.append(make(data))) <= 16
    key, (posterior,) = jax.random.key(0), made
    for most, run in (
        (4, lambda: posterior.mean(X)),
        (4, lambda: posterior.variance(X)),
        (5, lambda: posterior.covariance(X)),
        (8, lambda: posterior.sample(key, X, 2)),
        (20, lambda: posterior.update(X[:2], np.ones((2, P)))),
    ):
        assert 0 < programs(caplog, run) <= most


@pytest.mark.parametrize("mean", ["zero", "constant"])
def test_the_number_of_an_output_stands_before_a_weight(data, mean):
    """A weight of one changes nothing."""
    X, y, _ = data
    settings = {"correlated": True, "noise_variance": 0.1, "mean": mean}
    plain = condition_outputs(PAIRS, X, y, **settings)
    rows = np.column_stack([X, np.ones(N, np.float32)])
    weighted = condition_outputs(Weighted(PAIRS), rows, y, weighted=True, **settings)
    np.testing.assert_allclose(weighted.mean(rows), plain.mean(X), rtol=1e-4, atol=1e-5)
