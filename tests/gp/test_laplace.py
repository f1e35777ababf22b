"""Laplace's approximation against the textbook's algorithms, and in all its forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled import kernel, table

from gplsq import LSMR, Direct
from gplsq.gp import (
    averaged_logits,
    calibrate_classes,
    class_probabilities,
    classify,
    indicators,
    laplace_leave_one_out,
    laplace_mode,
    laplace_predict,
    temperature_of,
)
from gplsq.kernels import RBF, Scaled


def textbook_binary(K, y, cross, prior):
    """Rasmussen & Williams (2006), algorithms 3.1 and 3.2; y in {-1, 1}."""
    f = np.zeros(len(y))
    for _ in range(100):
        p = 1 / (1 + np.exp(-f))
        W = p * (1 - p)
        root = np.sqrt(W)
        L = np.linalg.cholesky(np.eye(len(y)) + root[:, None] * K * root)
        b = W * f + (y + 1) / 2 - p
        a = b - root * np.linalg.solve(L.T, np.linalg.solve(L, root * (K @ b)))
        f = K @ a
    p = 1 / (1 + np.exp(-f))
    root = np.sqrt(p * (1 - p))
    L = np.linalg.cholesky(np.eye(len(y)) + root[:, None] * K * root)
    v = np.linalg.solve(L, root[:, None] * cross)
    return f, cross.T @ ((y + 1) / 2 - p), prior - np.sum(v**2, axis=0)


def textbook_softmax(K, Y):
    """Newton's method on the whole system of n C unknowns, with backtracking."""
    n, C = Y.shape
    prior = np.linalg.inv(np.kron(np.eye(C), K) + 1e-12 * np.eye(n * C))
    f = np.zeros(n * C)

    def softmax(f):
        F = f.reshape(C, n).T
        e = np.exp(F - F.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def objective(f):
        return f @ prior @ f / 2 - np.sum(Y * np.log(softmax(f)))

    for _ in range(50):
        p = softmax(f)
        pi = np.concatenate([np.diag(p[:, c]) for c in range(C)])
        W = np.diag(p.T.ravel()) - pi @ pi.T
        step = np.linalg.solve(prior + W, (Y - p).T.ravel() - prior @ f)
        t = 1.0
        while objective(f + t * step) > objective(f) + 1e-12:
            t /= 2
            if t < 1e-8:
                break
        f = f + t * step
    return f.reshape(C, n).T


@pytest.mark.usefixtures("x64")
def test_two_classes_are_those_of_the_textbook(rng) -> None:
    X, codes = table(rng, 60, 2)
    Z = rng.normal(size=(7, 2))
    k = kernel()
    K, cross = np.asarray(k(X, X)), np.asarray(k(X, Z))
    f, mean, variance = textbook_binary(K, 2.0 * codes - 1, cross, np.full(7, 4.0))
    posterior = classify(k, X, codes, tolerance=1e-10)
    assert posterior.ok
    np.testing.assert_allclose(posterior.values[:, 0], f, atol=1e-7)
    np.testing.assert_allclose(posterior.mean(Z)[:, 0], mean, atol=1e-7)
    np.testing.assert_allclose(posterior.variance(Z), variance, atol=1e-6)
    out = laplace_predict(K, cross, np.full(7, 4.0), indicators(codes, 2, float), 1e-10)
    np.testing.assert_allclose(out[0][:, 0], mean, atol=1e-7)
    np.testing.assert_allclose(out[1], variance, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variance", [1.0, 50.0])
def test_the_mode_of_several_classes_is_that_of_softmax(rng, variance) -> None:
    X, codes = table(rng, 40, 4)
    k = kernel(variance)
    Y = indicators(jnp.asarray(codes), 4, float)
    expected = textbook_softmax(np.asarray(k(X, X)), np.asarray(Y))
    posterior = classify(k, X, codes, tolerance=1e-9)
    assert posterior.ok
    np.testing.assert_allclose(posterior.values, expected, atol=1e-5)
    np.testing.assert_allclose(laplace_mode(k(X, X), Y, 1e-9), expected, atol=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_all_solvers_find_the_same_functions(rng, dtype, num_classes) -> None:
    X, codes = table(rng, 150, num_classes, dtype)
    Z = rng.normal(size=(9, 2)).astype(dtype)
    given = {"solver": Direct(), "tolerance": 1e-4}
    oracle = classify(kernel(), X, codes, **given)
    loose = 2e-2 if dtype == np.float32 else 2e-3
    ways = [
        {"solver": "direct", "form": "tiled"},
        {"solver": "lsmr"},
        {"solver": LSMR(rtol=1e-3)},
        {"solver": "inducing", "inducing": X},
        {"solver": "inducing", "inducing": X, "memory": 1.5e6 if dtype == np.float32 else 3e6},
    ]
    for way in ways:
        posterior = classify(kernel(), X, codes, tolerance=1e-4, **way)
        assert posterior.values.dtype == dtype, way
        np.testing.assert_allclose(posterior.mean(Z), oracle.mean(Z), atol=loose, err_msg=str(way))
        # LSMR's is an upper bound.
        gap = np.asarray(posterior.variance(Z) - oracle.variance(Z))
        assert np.all(gap > -2 * loose), way
        assert np.all(gap < (0.5 if "lsmr" in str(way).lower() else 2 * loose)), way


@pytest.mark.parametrize("num_classes", [2, 3])
def test_fewer_inducing_points_come_close(rng, num_classes) -> None:
    X, codes = table(rng, 300, num_classes)
    k = Scaled(jnp.asarray(4.0), RBF(jnp.asarray(1.5)))
    oracle = classify(k, X, codes, solver="direct").probabilities(X)
    few = classify(k, X, codes, inducing=60)
    assert few.basis is not None
    assert few.basis.size <= 60
    np.testing.assert_allclose(few.probabilities(X), oracle, atol=2e-2)


@pytest.mark.usefixtures("x64")
def test_leave_one_out_is_close_to_leaving_rows_out(rng) -> None:
    X, codes = table(rng, 50, 2)
    k = kernel()
    posterior = classify(k, X, codes)
    mean, variance = posterior.leave_one_out(np.arange(50))
    dense = laplace_leave_one_out(k(X, X), indicators(jnp.asarray(codes), 2, float))
    np.testing.assert_allclose(mean, dense[0], atol=1e-5)
    np.testing.assert_allclose(variance, dense[1], atol=1e-5)
    for i in range(0, 50, 10):
        rest = np.delete(np.arange(50), i)
        left = classify(k, X[rest], codes[rest])
        np.testing.assert_allclose(mean[i], left.mean(X[i : i + 1])[0], atol=0.15)
        np.testing.assert_allclose(variance[i], left.variance(X[i : i + 1])[0], atol=0.15)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("solver", ["direct", "lsmr", "inducing"])
def test_whole_counts_are_repeated_rows(rng, solver, num_classes, x64) -> None:
    X, codes = table(rng, 30, num_classes)
    counts = rng.integers(1, 4, 30)
    index = np.repeat(np.arange(30), counts)
    assert len(index) <= 64  # with LSMR the bound from so many rows is exact
    settings = {"solver": solver, "num_classes": num_classes, "tolerance": 1e-9}
    if solver == "inducing":
        settings["inducing"] = X[:12]
    once = classify(kernel(), X, codes, counts=counts, **settings)
    repeated = classify(kernel(), X[index], codes[index], **settings)
    assert once.ok
    Z = rng.normal(size=(9, 2))
    np.testing.assert_allclose(once.mean(Z), repeated.mean(Z), atol=1e-6)
    plain = classify(kernel(), X, codes, **settings)
    assert np.abs(once.mean(Z) - plain.mean(Z)).max() > 0.1
    np.testing.assert_allclose(once.variance(Z), repeated.variance(Z), atol=1e-6)
    # One of the repeated rows is left out.
    first = np.searchsorted(index, np.arange(30))
    for ours, theirs in zip(
        once.leave_one_out(np.arange(30)), repeated.leave_one_out(first), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_bound_leaves_out_one_observation_of_a_row_among_many(rng, x64) -> None:
    """Beyond 64 rows the bound is close to the closed form, and never below it."""
    X, codes = table(rng, 150, 2)
    settings = {"counts": np.full(150, 5.0), "tolerance": 1e-9}
    direct, lsmr = (
        classify(kernel(), X, codes, solver=solver, **settings).leave_one_out(np.arange(150))
        for solver in ("direct", "lsmr")
    )
    np.testing.assert_allclose(lsmr[1], direct[1], rtol=0.1)
    assert np.all(lsmr[1] > direct[1] * (1 - 1e-6))
    np.testing.assert_allclose(lsmr[0], direct[0], atol=0.1)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_counts_multiply_the_log_likelihood_and_small_ones_are_left_out_whole(
    rng, num_classes, x64
) -> None:
    X, codes = table(rng, 40, num_classes)
    counts = np.where(np.arange(40) == 5, 1e-9, rng.uniform(0.1, 3, 40))
    posterior = classify(kernel(), X, codes, counts=counts, tolerance=1e-10)
    F = np.asarray(posterior.values)
    if num_classes == 2:
        p, Y = 1 / (1 + np.exp(-F)), codes[:, None]
    else:
        p, Y = np.exp(F) / np.exp(F).sum(1, keepdims=True), np.eye(3)[codes]
    K = np.asarray(kernel()(X))
    np.testing.assert_allclose(F, K @ (counts[:, None] * (Y - p)), atol=1e-7)
    # A row that hardly counts is predicted from the others as it is from all.
    mean, variance = posterior.leave_one_out(np.array([5]))
    np.testing.assert_allclose(mean, F[5:6], atol=1e-6)
    np.testing.assert_allclose(variance, posterior.variance(X[5:6]), atol=1e-6)


@pytest.mark.parametrize("counts", [np.zeros(20), np.ones(19), np.full(20, np.nan)])
def test_counts_that_are_none_are_refused(rng, counts) -> None:
    X, codes = table(rng, 20, 2)
    with pytest.raises(ValueError, match="counts must be one positive number for each of the 20"):
        classify(kernel(), X, codes, counts=counts)


@pytest.mark.parametrize("count", [1e-46, 1e-40, 1e-37, 1e39])
def test_counts_beyond_what_the_dtype_holds_are_refused(rng, count) -> None:
    X, codes = table(rng, 20, 2)
    with pytest.raises(ValueError, match="finite and at least 1e-31 in float32"):
        classify(kernel(), X.astype(np.float32), codes, counts=np.full(20, count))


@pytest.mark.parametrize("solver", ["direct", "lsmr", "inducing"])
def test_counts_next_to_nothing_give_next_to_nothing(rng, solver, dtype) -> None:
    X, codes = table(rng, 20, 2, dtype)
    counts = np.full(20, 1.01 * np.finfo(dtype).tiny / np.finfo(dtype).eps)
    posterior = classify(kernel(), X, codes, counts=counts, solver=solver)
    assert posterior.ok
    np.testing.assert_allclose(posterior.mean(X), 0, atol=1e-30)
    mean, variance = posterior.leave_one_out(np.arange(3))
    np.testing.assert_allclose(mean, 0, atol=1e-30)
    np.testing.assert_allclose(variance, kernel().diagonal(X[:3]), rtol=1e-5)


def test_the_best_temperature_has_the_least_log_loss(rng) -> None:
    logits = jnp.asarray(rng.normal(size=(400, 3)) * 6, jnp.float32)
    true = np.asarray(jax.nn.softmax(logits / 3))
    codes = np.array([rng.choice(3, p=p / p.sum()) for p in true.astype(float)])
    Y = indicators(jnp.asarray(codes), 3, jnp.float32)
    assert float(temperature_of(logits, Y)) == pytest.approx(3.0, rel=0.2)
    found = calibrate_classes(np.asarray(logits), np.zeros(400), codes)
    assert found.temperature == pytest.approx(3.0, rel=0.2)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_best_temperature_is_found_to_rounding(rng, num_classes, x64) -> None:
    """Also where the search has converged many steps before its last."""
    for _ in range(20):
        _, codes = table(rng, 30, num_classes)
        Y = indicators(jnp.asarray(codes), num_classes, float)
        logits = jnp.asarray(3 * rng.normal(size=Y.shape) + 4 * np.asarray(Y))
        order = rng.permutation(30)
        t, again = temperature_of(logits, Y), temperature_of(logits[order], Y[order])
        np.testing.assert_allclose(t, again, rtol=1e-9)


def test_separable_classes_keep_a_finite_temperature() -> None:
    logits = jnp.array([[-1.0], [1.0]] * 10)
    codes = np.array([0, 1] * 10)
    Y = indicators(jnp.asarray(codes), 2, logits.dtype)
    assert 0.05 <= float(temperature_of(logits, Y)) < 1
    assert 0.05 <= calibrate_classes(np.asarray(logits), np.zeros(20), codes).temperature < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"codes": np.zeros(5, int)}, "at least 2 classes"),
        ({"codes": np.array([0, 1, 2, 0, 5]), "num_classes": 3}, "from 0 to num_classes"),
        ({"codes": np.array([0, 1, 1])}, "one class for each row"),
        ({"solver": "features"}, "solver must be"),
        ({"memory": 10.0, "solver": "inducing"}, "memory of 10 B is too little"),
    ],
)
def test_bad_arguments_are_named(arguments, words) -> None:
    given = {"codes": np.array([0, 1, 1, 0, 1])} | arguments
    with pytest.raises(ValueError, match=words):
        classify(kernel(), np.arange(10.0).reshape(5, 2), **given)
    with pytest.raises(TypeError, match="whole numbers"):
        classify(kernel(), np.ones((2, 1)), np.array([0.0, 1.0]))


def test_a_method_that_ran_out_of_steps_says_so(rng) -> None:
    X, codes = table(rng, 40, 3)
    posterior = classify(kernel(), X, codes, max_steps=1)
    assert not posterior.ok
    assert "out of steps" in posterior.report()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_calibration_counts_rows_as_often_as_they_were_observed(rng, num_classes) -> None:
    latent = 1 if num_classes == 2 else num_classes
    mean, variance = 2 * rng.standard_normal((40, latent)), rng.uniform(0.1, 2, 40)
    codes, counts = rng.integers(0, num_classes, 40), rng.integers(1, 6, 40)
    index = np.repeat(np.arange(40), counts)
    ours = calibrate_classes(mean, variance, codes, counts)
    theirs = calibrate_classes(mean[index], variance[index], codes[index])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert not np.allclose(ours, calibrate_classes(mean, variance, codes), rtol=1e-3)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_averaged_logits_are_near_the_average_over_draws(rng, num_classes) -> None:
    latent = 1 if num_classes == 2 else num_classes
    mean, variance = 1.5 * rng.standard_normal((6, latent)), np.full(6, 2.0)
    draws = mean + np.sqrt(2.0) * rng.standard_normal((20_000, 6, latent))

    def probabilities(logits):
        return np.asarray(class_probabilities(jnp.asarray(logits.reshape(-1, latent))))

    exact = probabilities(draws).reshape(-1, 6, num_classes).mean(axis=0)
    ours = probabilities(averaged_logits(jnp.asarray(mean), jnp.asarray(variance)))
    plain = probabilities(mean)
    assert np.abs(ours - exact).max() < 0.04
    assert np.abs(ours - exact).max() < 0.4 * np.abs(plain - exact).max()
