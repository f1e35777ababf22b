"""Held-out objectives against refits by NumPy, and their gradients against central differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gplsq import kernels
from gplsq.solvers import (
    LSMR,
    conditional,
    conditional_mean,
    leave_one_out,
    leave_out,
    log_likelihood,
)
from gplsq.testing import central_difference, tolerance
from gplsq.tuning import (
    GroupHoldout,
    Holdout,
    KFold,
    LeaveOneOut,
    MarginalLikelihood,
    choose_objective,
    mse,
    nlpd,
)

LOSSES = {"mse": mse, "nlpd": nlpd}
# Lengthscales of the two columns, variance, noise variance.
THETA = np.array([0.8, 1.4, 1.3, 0.15])
KEY = jax.random.key(0)
GROUPS = np.array([0, 1, 2, 0, 1, 2, 3, 3, 3, 0, 1, 2])


@pytest.fixture
def data(rng):
    X = rng.standard_normal((12, 2))
    return X, np.sin(2 * X[:, 0]) + 0.3 * X[:, 1] + 0.2 * rng.standard_normal(12)


def _gram(theta, X, Z):
    squares = (((X[:, None] - Z[None]) / theta[:2]) ** 2).sum(axis=2)
    s = np.sqrt(3 * squares)
    return theta[2] * (1 + s) * np.exp(-s)


def _predict(theta, X, y, Z):
    """Mean and variance (noise included) of a textbook refit."""
    k = _gram(theta, X, Z)
    weights = np.linalg.solve(_gram(theta, X, X) + theta[3] * np.eye(len(X)), k)
    return weights.T @ y, theta[2] - (k * weights).sum(axis=0) + theta[3]


def _score(loss, y, mean, variance):
    if loss == "mse":
        return np.mean((y - mean) ** 2)
    return np.mean(0.5 * np.log(2 * np.pi * variance) + 0.5 * (y - mean) ** 2 / variance)


def _refit_without_each_row(theta, X, y, loss):
    parts = []
    for i in range(len(X)):
        rest = np.arange(len(X)) != i
        parts.append(_predict(theta, X[rest], y[rest], X[i : i + 1]))
    mean, variance = np.concatenate(parts, axis=1)
    return _score(loss, y, mean, variance)


def _refit_without_the_last(held):
    def refit(theta, X, y, loss):
        return _score(loss, y[-held:], *_predict(theta, X[:-held], y[:-held], X[-held:]))

    return refit


def _refit_without_each_fold(num_folds):
    def refit(theta, X, y, loss):
        parts = []
        for fold in np.array_split(np.arange(len(X)), num_folds):
            rest = np.setdiff1d(np.arange(len(X)), fold)
            parts.append(_predict(theta, X[rest], y[rest], X[fold]))
        mean, variance = np.concatenate(parts, axis=1)
        return _score(loss, y, mean, variance)

    return refit


def _refit_without_groups(theta, X, y, loss):
    """Rows in the order that the key gives their groups, and a group on both sides left out."""
    rank = [jax.random.uniform(jax.random.fold_in(KEY, g)) for g in GROUPS]
    order = np.lexsort((GROUPS, rank))
    X, y, groups = X[order], y[order], GROUPS[order]
    fit = np.flatnonzero(groups[:-4] != groups[-4])
    return _score(loss, y[-4:], *_predict(theta, X[fit], y[fit], X[-4:]))


def _density(theta, X, y, loss):
    del loss
    S = _gram(theta, X, X) + theta[3] * np.eye(len(X))
    return -scipy.stats.multivariate_normal.logpdf(y, cov=S) / len(X)


def _objective(objective, loss, X, y, key=KEY):
    X, y = jnp.asarray(X), jnp.asarray(y)
    groups = jnp.asarray(GROUPS)[: len(X)]

    def value(theta):
        kernel = theta[2] * kernels.Matern32(theta[:2])
        return objective(kernel, theta[3], X, y, key, LOSSES[loss], groups)

    return value


OBJECTIVES = {
    "leave-one-out": (LeaveOneOut, _refit_without_each_row),
    "holdout-direct": (
        lambda: Holdout(0.25, fresh=False, solver="direct"),
        _refit_without_the_last(3),
    ),
    "holdout-lsmr": (
        lambda: Holdout(0.25, fresh=False, solver=LSMR(rtol=1e-12)),
        _refit_without_the_last(3),
    ),
    "k-fold": (lambda: KFold(4, fresh=False), _refit_without_each_fold(4)),
    "k-fold of unequal folds": (lambda: KFold(5, fresh=False), _refit_without_each_fold(5)),
    "more folds than rows": (lambda: KFold(50, fresh=False), _refit_without_each_row),
    "groups": (lambda: GroupHoldout(1 / 3), _refit_without_groups),
    "marginal likelihood": (MarginalLikelihood, _density),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("make", "refit"), OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_values_and_gradients_are_those_of_refits(make, refit, loss, data, x64):
    X, y = data
    run = jax.jit(jax.value_and_grad(_objective(make(), loss, X, y)))
    value, gradient = run(jnp.asarray(THETA))
    np.testing.assert_allclose(value, refit(THETA, X, y, loss), rtol=1e-9)
    expected = central_difference(lambda theta: refit(theta, X, y, loss), THETA)
    atol = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=atol / 100)


@pytest.mark.parametrize("loss", LOSSES)
def test_leave_one_out_keeps_float32_and_its_accuracy(loss, data):
    X, y = (part.astype(np.float32) for part in data)
    value = jax.jit(_objective(LeaveOneOut(), loss, X, y))(THETA.astype(np.float32))
    assert value.dtype == np.float32
    expected = _refit_without_each_row(THETA, *data, loss)
    # Condition of K + noise: about n variance / noise, 100.
    np.testing.assert_allclose(value, expected, rtol=tolerance(np.float32, 100))


@pytest.mark.parametrize(
    "objective",
    [
        Holdout(0.25),
        Holdout(0.25, fresh=False),
        LeaveOneOut(),
        KFold(3),
        KFold(3, fresh=False),
        GroupHoldout(),
        MarginalLikelihood(),
    ],
    ids=str,
)
def test_random_objectives_follow_the_key_and_the_others_do_not(objective, data):
    X, y = (part.astype(np.float32) for part in data)
    theta = THETA.astype(np.float32)
    run = jax.jit(lambda key: _objective(objective, "mse", X, y, key)(theta))
    first, other, again = (float(run(jax.random.key(seed))) for seed in (0, 1, 0))
    assert first == again
    assert (first != other) == objective.random


def test_k_fold_uses_every_row_of_a_fresh_order(data, x64):
    X, y = data
    order = np.asarray(jax.random.permutation(KEY, len(X)))
    value = jax.jit(_objective(KFold(4), "mse", X, y))(THETA)
    expected = _refit_without_each_fold(4)(THETA, X[order], y[order], "mse")
    np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_a_stochastic_likelihood_is_unbiased_in_value_and_gradient(rng, x64):
    """Means over 400 keys, against their standard errors."""
    X = rng.standard_normal((25, 2))
    y = np.sin(2 * X[:, 0])
    objective = MarginalLikelihood(direct_rows=0, num_probes=2, num_steps=25)

    @jax.jit
    @jax.vmap
    def run(key):
        return jax.value_and_grad(_objective(objective, "mse", X, y, key))(jnp.asarray(THETA))

    found = run(jax.random.split(KEY, 400))
    exact = jax.value_and_grad(_objective(MarginalLikelihood(), "mse", X, y))(jnp.asarray(THETA))
    for estimates, truth in zip(found, exact, strict=True):
        standard = np.std(estimates, axis=0) / np.sqrt(400)
        assert np.all(np.abs(np.mean(estimates, axis=0) - truth) < 4 * standard + 1e-4)
        assert np.all(standard < 0.1 * np.abs(truth).max())


def test_groups_are_asked_for_where_they_are_missing(data):
    X, y = data
    with pytest.raises(ValueError, match="GroupHoldout needs the group of every row"):
        GroupHoldout()(kernels.RBF(), 0.1, X, y, KEY, mse)


@pytest.mark.parametrize(
    ("folds", "error", "message"),
    [
        (1, ValueError, "at least 2; got 1"),
        (0, ValueError, "at least 2; got 0"),
        (2.5, TypeError, "a whole number; got 2.5"),
        (True, TypeError, "a whole number; got True"),
        ("5", TypeError, "a whole number; got '5'"),
    ],
)
def test_wrong_numbers_of_folds_are_refused(folds, error, message):
    with pytest.raises(error, match=f"num_folds must be {message}"):
        KFold(folds)


@pytest.mark.parametrize("setting", ["direct_rows", "num_probes", "num_steps"])
def test_wrong_settings_of_the_likelihood_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least"):
        MarginalLikelihood(**{setting: -1})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("objective", [Holdout(0.25), GroupHoldout(), LeaveOneOut(), KFold(3)])
def test_gradients_by_a_factor_call_nothing_on_the_host(objective, loss, data):
    """A program that does is compiled anew by every process: no persistent cache keeps it."""
    X, y = (part.astype(np.float32) for part in data)
    run = jax.grad(_objective(objective, loss, X, y))
    assert "callback" not in str(jax.make_jaxpr(run)(THETA.astype(np.float32)))


def test_a_fresh_split_is_a_permutation_of_the_rows(data, x64):
    X, y = data
    order = np.asarray(jax.random.permutation(KEY, len(X)))
    value = jax.jit(_objective(Holdout(0.25, solver="direct"), "mse", X, y))(THETA)
    expected = _refit_without_the_last(3)(THETA, X[order], y[order], "mse")
    np.testing.assert_allclose(value, expected, rtol=1e-9)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, float("nan")])
@pytest.mark.parametrize("objective", [Holdout, GroupHoldout])
def test_fractions_outside_the_unit_interval_are_refused(objective, fraction):
    with pytest.raises(ValueError, match="fraction must"):
        objective(fraction)


def test_unknown_solvers_and_objectives_are_refused():
    with pytest.raises(ValueError, match="solver must be one of 'auto', 'direct', 'lsmr'"):
        Holdout(solver="cg")
    with pytest.raises(TypeError, match='objective must be "auto" or an objective'):
        choose_objective("holdout", 100)


def test_auto_is_leave_one_out_for_small_data_and_holdout_beyond():
    assert isinstance(choose_objective("auto", 2000), LeaveOneOut)
    assert isinstance(choose_objective("auto", 2001), Holdout)
    mine = Holdout(0.5)
    assert choose_objective(mine, 10) is mine


def test_gradients_keep_no_parts_of_the_kernel_matrix(rng):
    """One of five matrices less than where the derivative keeps them."""
    X, y = rng.standard_normal((1100, 2)).astype(np.float32), rng.standard_normal(1100)
    y = y.astype(np.float32)

    def matrices(gram):
        def value(theta):
            residual, variance = leave_one_out(gram(kernels.Matern52(theta[:2]), theta[2], X), y)
            return nlpd(y, y - residual, variance)

        program = jax.jit(jax.grad(value)).lower(jnp.ones(3, np.float32)).compile()
        return program.memory_analysis().temp_size_in_bytes / (4 * 1100**2)

    kept, anew = matrices(kernels.noisy_gram), matrices(kernels.noisy_gram_recomputed)
    assert anew < kept - 0.5


FOLDS = jnp.array([[0, 3], [5, 2]])


def _plain(S, y):
    W = jnp.linalg.inv(S)
    return W @ y / jnp.diagonal(W), 1 / jnp.diagonal(W)


def _plain_folds(S, y):
    parts = []
    for fold in np.asarray(FOLDS):
        rest = np.setdiff1d(np.arange(len(y)), fold)
        k = S[np.ix_(rest, fold)]
        weights = jnp.linalg.solve(S[np.ix_(rest, rest)], k)
        covariance = S[np.ix_(fold, fold)] - k.T @ weights
        parts.append((y[fold] - weights.T @ y[rest], jnp.diagonal(covariance)))
    residuals, variances = zip(*parts, strict=True)
    return jnp.stack(residuals), jnp.stack(variances)


def _plain_density(S, y):
    return jax.scipy.stats.multivariate_normal.logpdf(y, jnp.zeros_like(y), S)


def _split(S, y):
    """Four observed rows of two outputs, two rows to predict."""
    return S[:4, :4], S[4:, :4], jnp.stack([y[:4], y[2:]], axis=1)


def _plain_conditional(S, y):
    fit, k, target = _split(S, y)
    weights = jnp.linalg.inv(fit) @ k.T
    return weights.T @ target, jnp.diagonal(k @ weights)


@pytest.mark.parametrize(
    ("fast", "plain"),
    [
        (leave_one_out, _plain),
        (lambda S, y: leave_out(S, y, FOLDS), _plain_folds),
        (log_likelihood, _plain_density),
        (lambda S, y: conditional(*_split(S, y)), _plain_conditional),
        (lambda S, y: conditional_mean(*_split(S, y)), lambda S, y: _plain_conditional(S, y)[0]),
        (
            lambda S, y: conditional(S[:4, :4], S[4:, :4], y[:4])[0],
            lambda S, y: S[4:, :4] @ jnp.linalg.inv(S[:4, :4]) @ y[:4],
        ),
    ],
    ids=["leave one out", "leave out", "log likelihood", "conditional", "its mean", "one output"],
)
def test_closed_forms_and_their_derivatives_are_those_of_the_plain_formulas(fast, plain, rng, x64):
    half, t_half = rng.standard_normal((2, 6, 6))
    S, t_S = half @ half.T + np.eye(6), t_half + t_half.T
    y, t_y = rng.standard_normal((2, 6))

    def both(fn):
        def run(S, y):
            out, tangents = jax.jvp(fn, (S, y), (jnp.asarray(t_S), jnp.asarray(t_y)))
            cotangents = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size)).reshape(a.shape), out)
            bar_S, bar_y = jax.vjp(fn, S, y)[1](cotangents)
            # S is symmetric: only the symmetric part of its cotangent means something.
            return out, tangents, bar_S + bar_S.T, bar_y

        return jax.jit(run)(jnp.asarray(S), jnp.asarray(y))

    got, expected = jax.tree.leaves(both(fast)), jax.tree.leaves(both(plain))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(b).max())


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_of_closed_forms_are_central_differences(order, rng, x64):
    half = rng.standard_normal((6, 6))
    y = jnp.asarray(rng.standard_normal(6))

    def value(t):
        S = half @ half.T * t[0] + (1 + t[0] * t[1]) * jnp.eye(6)
        mean, explained = conditional(*_split(S, y))
        held_out = (
            jnp.sum(jnp.sin(mean - conditional_mean(*_split(S, y**2)))) + explained @ explained
        )
        folds = jnp.sum(jnp.sin(jnp.stack(leave_out(S, y, FOLDS))))
        return folds + held_out + log_likelihood(S, y)

    function = value if order == 1 else lambda t: jax.grad(value)(t)[0]
    t = np.array([0.7, 0.4])
    gradient = jax.jit(jax.grad(function))(jnp.asarray(t))
    expected = central_difference(lambda t: float(jax.jit(function)(jnp.asarray(t))), t)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


def test_closed_forms_of_an_indefinite_matrix_are_nan():
    S, y = -jnp.eye(6), jnp.ones(6)
    split = -jnp.eye(4), jnp.ones((2, 4)), y[:4]
    answers = leave_one_out(S, y), leave_out(S, y, FOLDS), log_likelihood(S, y)
    for answer in (*answers, conditional(*split), conditional_mean(*split)):
        assert all(np.all(np.isnan(part)) for part in jax.tree.leaves(answer))
