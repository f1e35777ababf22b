"""Hyperparameters tuned under equations and inequalities of their own."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning

from gplsq import GPClassifier, GPRegressor, constraints, kernels
from gplsq.constraints import Box, Constraint, Inequality, Linear, Sparsity
from gplsq.tuning import Level, MarginalLikelihood, mse, tune

KERNEL = 1.0 * kernels.RBF([3.0, 3.0])
LEVELS = (Level(30, 80),)
LIKELIHOOD = MarginalLikelihood()
STEADY = optax.adam(optax.cosine_decay_schedule(0.05, 200), b1=0.5)
ADAM = optax.adam(optax.cosine_decay_schedule(0.1, 80))


def _run(data, constraint, kernel=KERNEL, **settings):
    base = {"levels": LEVELS, "objective": LIKELIHOOD, "optimizer": ADAM}
    return tune(kernel, *data, constraints=constraint, **{**base, **settings})


def _negative_log_likelihood(logs, X, y):
    """Of (variance, two lengthscales, noise), each as its logarithm; in float64, over n."""
    variance, *scales, noise = np.exp(logs)
    Z = np.asarray(X, np.float64) / scales
    squares = np.sum((Z[:, None] - Z[None]) ** 2, axis=2)
    L = np.linalg.cholesky(variance * np.exp(-0.5 * squares) + noise * np.eye(len(y)))
    a = np.linalg.solve(L, y)
    return (0.5 * a @ a + np.log(np.diag(L)).sum() + 0.5 * len(y) * np.log(2 * np.pi)) / len(y)


def test_a_bound_on_the_total_variance_is_met_where_it_costs(data) -> None:
    X, y = data
    free = scipy.optimize.minimize(_negative_log_likelihood, np.log([1, 1, 3, 0.1]), args=(X, y))
    bound = 0.5 * float(np.exp(free.x[0]) + np.exp(free.x[3]))
    best = scipy.optimize.minimize(
        _negative_log_likelihood,
        free.x + np.log([0.4, 1, 1, 0.4]),
        args=(X, y),
        constraints={"type": "ineq", "fun": lambda v: bound - np.exp(v[0]) - np.exp(v[3])},
        method="SLSQP",
    )
    assert best.success
    total = Inequality(lambda kernel, noise: kernel.variance + noise - bound)
    near = {"kernel": 1.0 * kernels.RBF([1.0, 2.0]), "noise_variance": 0.05}
    held = _run(data, total, levels=[(30, 200)], optimizer=STEADY, **near)
    assert float(held.kernel.variance) + held.noise_variance == pytest.approx(bound, abs=1e-4)
    assert best.fun > free.fun + 5e-3  # what the bound costs
    assert held.loss == pytest.approx(best.fun, abs=2e-3)
    # The start violates it; it is moved before the first step, and every step keeps it.
    steps = [record["variance"] + record["noise_variance"] for record in held.history]
    assert max(steps) <= bound + 2e-4


def test_a_bound_that_costs_nothing_changes_nothing(data) -> None:
    free = _run(data, None)
    held = _run(data, Inequality(lambda kernel: kernel.variance - 1e6))
    np.testing.assert_allclose(held.kernel.variance, free.kernel.variance, rtol=2e-2)
    assert held.loss == pytest.approx(free.loss, abs=1e-3)


def test_lengthscales_keep_the_order_that_is_asked_for(data) -> None:
    free = _run(data, None)
    first, second = np.asarray(free.kernel.kernel.lengthscale)
    assert first < second  # as the data were drawn
    turned = Inequality(lambda kernel: -jnp.diff(kernel.kernel.lengthscale[::-1]))
    held = _run(data, turned)
    first, second = np.asarray(held.kernel.kernel.lengthscale)
    assert second <= first + 1e-4
    assert second == pytest.approx(first, rel=1e-2)  # the nearest allowed to the free optimum
    assert held.loss > free.loss


def test_the_mean_meets_a_boundary_condition_at_points(data) -> None:
    X, y = data
    ends = jnp.asarray([[-2.0, -2.0], [2.0, 2.0]], X.dtype)

    def mean_at_ends(kernel, noise):
        K = kernel(X, X) + noise * jnp.eye(len(X), dtype=X.dtype)
        return kernel(ends, X) @ jnp.linalg.solve(K, jnp.asarray(y, X.dtype))

    free = _run(data, None)
    before = np.asarray(mean_at_ends(free.kernel, jnp.float32(free.noise_variance)))
    wanted = 0.7 * before
    held = _run(data, Constraint(lambda kernel, noise: mean_at_ends(kernel, noise) - wanted))
    after = np.asarray(mean_at_ends(held.kernel, jnp.float32(held.noise_variance)))
    assert np.sqrt(np.mean((after - wanted) ** 2)) <= 1e-4
    assert np.abs(before - wanted).max() > 0.05
    assert np.isfinite(held.loss)


def test_the_mean_is_monotone_at_points_where_the_data_are_not(rng) -> None:
    X = jnp.asarray(np.linspace(-1, 1, 30)[:, None], jnp.float32)
    x = np.asarray(X[:, 0], np.float64)
    y = jnp.asarray(x + 0.3 * np.sin(6 * x) + 0.05 * rng.standard_normal(30), jnp.float32)
    grid = jnp.asarray(np.linspace(-1, 1, 21)[:, None], jnp.float32)

    def slopes(kernel, noise):
        K = kernel(X, X) + noise * jnp.eye(30, dtype=jnp.float32)
        return 20 * jnp.diff(kernel(grid, X) @ jnp.linalg.solve(K, y)) / 2

    def slopes_of(result):
        return np.asarray(slopes(result.kernel, jnp.float32(result.noise_variance)))

    start = {"kernel": 1.0 * kernels.RBF(2.0), "noise_variance": 0.3}
    free = _run((X, y), None, **start)
    assert slopes_of(free).min() < -0.2
    held = _run((X, y), Inequality(lambda kernel, noise: -slopes(kernel, noise)), **start)
    assert slopes_of(held).min() >= -1e-3
    assert slopes_of(held).max() > 0.5  # not by a mean that is constant
    assert held.loss > free.loss


def test_several_constraints_with_bounds_restarts_and_a_noisy_objective(data) -> None:
    both = Linear([1.0, 1.0], 3.0, lambda kernel: kernel.kernel.lengthscale) + Inequality(
        lambda kernel: kernel.variance - 0.8
    )
    with pytest.warns(ConvergenceWarning, match="ended at its lower bound 1.2"):
        result = _run(
            data,
            both,
            objective="auto",
            bounds={"lengthscale": (1.2, None), "noise_variance": (1e-3, None)},
            levels=[(20, 10), (30, 10)],
            num_restarts=2,
            optimizer=optax.adamw(0.1, weight_decay=0.1),
        )
    scales = np.asarray(result.kernel.kernel.lengthscale)
    assert scales.sum() == pytest.approx(3.0, abs=2e-4)
    assert scales.min() >= 1.2 * (1 - 1e-6)
    assert float(result.kernel.variance) <= 0.8 + 1e-4
    assert result.noise_variance >= 1e-3 * (1 - 1e-6)


def test_what_is_fixed_is_no_way_to_meet_a_constraint(data) -> None:
    ratio = Constraint(lambda kernel, noise: kernel.variance - 20 * noise)
    result = _run(data, ratio, fixed=["noise_variance"], noise_variance=0.02)
    assert result.noise_variance == pytest.approx(0.02, rel=1e-6)
    assert float(result.kernel.variance) == pytest.approx(0.4, abs=1e-4)


@pytest.mark.parametrize(
    ("constraint", "settings", "error", "message"),
    [
        (lambda kernel: kernel.variance, {}, TypeError, r"Wrap a .* as gplsq\.constraints"),
        (Box(0.1), {}, ValueError, "Pass bounds="),
        (Sparsity(0.5), {}, ValueError, "equations and inequalities"),
        (Constraint(lambda kernel: kernel.variance**2 + 1), {}, ValueError, "have a solution near"),
        (
            Constraint(lambda kernel, noise: noise - 5.0),
            {"fixed": ["noise_variance"]},
            ValueError,
            "free what is fixed or bounded",
        ),
        (
            Inequality(lambda kernel: 2.0 - kernel.variance),
            {"bounds": {"variance": (None, 1.0)}},
            ValueError,
            "free what is fixed or bounded",
        ),
        (Constraint(lambda kernel: kernel.variance / 0), {}, ValueError, "have a solution near"),
        (Constraint(lambda kernel: kernel.width), {}, AttributeError, "width"),
        (
            Constraint(lambda kernel: 1.0 * kernel.variance),
            {"optimizer": constraints.constrained(optax.adam(0.1), Linear(np.ones(4)))},
            ValueError,
            "projection of its own",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(data, constraint, settings, error, message) -> None:
    with pytest.raises(error, match=message):
        _run(data, constraint, **settings)


def test_a_regressor_takes_constraints_with_weights_and_without(data) -> None:
    X, y = data
    ordered = Inequality(lambda kernel: -jnp.diff(kernel.kernel.lengthscale[::-1]))
    for weight in (None, np.arange(1.0, 31.0)):
        model = GPRegressor(KERNEL, constraints=ordered, levels=[(30, 15)], random_state=0)
        model.fit(X, y, sample_weight=weight)
        first, second = np.asarray(model.kernel_.kernel.lengthscale)
        assert second <= first + 1e-4
    with pytest.raises(TypeError, match="constraints must be a constraint"):
        GPRegressor(KERNEL, constraints="ordered").fit(X, y)


def test_a_classifier_takes_constraints(data) -> None:
    X, y = data
    small = Inequality(lambda kernel: kernel.variance - 0.5)
    model = GPClassifier(KERNEL, constraints=small, levels=[(30, 10)], random_state=0)
    model.fit(X, y > 0)
    assert float(model.kernel_.variance) <= 0.5 + 1e-4


def test_another_run_under_the_same_constraint_compiles_no_step(data) -> None:
    traced = []

    def loss(y, mean, variance):
        traced.append(len(y))
        return mse(y, mean, variance)

    X, y = data
    limit = Constraint(lambda kernel: kernel.variance - 2.0)
    settings = {"levels": [(30, 3)], "constraints": limit, "loss": loss, "optimizer": ADAM}
    # Bounds and data of other numbers are arguments of what was compiled.
    for scale in (1.0, 2.0):
        held = tune(KERNEL, X, scale * y, bounds={"lengthscale": (0.1, 9 * scale)}, **settings)
        assert float(held.kernel.variance) == pytest.approx(2.0, abs=1e-4)
        if scale == 1.0:
            before = len(traced)
    assert len(traced) == before > 0
