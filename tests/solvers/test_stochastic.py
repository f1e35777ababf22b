"""Gradients from sampled rows: unbiased, with honest standard errors, at the cost of the sample."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR
from gplsq.solvers import (
    ColumnScaling,
    ConvergenceError,
    sampled_row_gradient,
    stochastic_gradient,
)
from gplsq.testing import count_compilations, tolerance

M, N = 120, 4


def features(params, x):
    """Rows of smooth features of a scalar."""
    return jnp.sin(x[:, None] * params["frequency"] + params["phase"])


def weigh(x):
    """A scalar that treats all entries differently."""
    flat = jnp.ravel(x)
    return jnp.sum(jnp.sin(flat) * (1 + jnp.arange(flat.size, dtype=flat.dtype)))


def problem(rng, dtype=np.float64, columns=None):
    params = {
        "frequency": jnp.asarray(rng.uniform(1, 5, N), dtype),
        "phase": jnp.asarray(rng.uniform(0, 3, N), dtype),
    }
    x = jnp.asarray(rng.uniform(-1, 1, M), dtype)
    b = jnp.asarray(rng.standard_normal(M if columns is None else (M, columns)), dtype)
    return params, x, b


def solution(params, x, b, damp):
    """By dense algebra, which JAX differentiates."""
    A = features(params, x)
    squares = damp**2 * jnp.eye(N, dtype=A.dtype)
    return jnp.linalg.solve(A.T @ A + squares, A.T @ b)


def exact(params, x, b, damp):
    """Value and gradient in params, b and damp."""

    def value(params, b, damp):
        return weigh(solution(params, x, b, damp))

    return jax.jit(jax.value_and_grad(value, (0, 1, 2)))(params, b, jnp.asarray(damp, b.dtype))


def assert_close(got, want, rtol):
    for a, e in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * float(jnp.abs(e).max()))


def gradient_of(params, x, b, loss=weigh, row_fn=features, **settings):
    """`stochastic_gradient`, of ten rows if nothing else is said."""
    settings = {"num_rows": 10, "key": jax.random.key(0), **settings}
    return stochastic_gradient(loss, row_fn, params, x, b, **settings)


def test_all_rows_without_replacement_give_the_exact_gradient(x64, rng):
    params, x, b = problem(rng, columns=2)
    damp = np.linspace(0.1, 0.5, N)
    value, (gradient, b_gradient, damp_gradient) = exact(params, x, b, damp)
    got = gradient_of(params, x, b, damp=damp, num_rows=M, probabilities="uniform")
    np.testing.assert_allclose(got.value, value, rtol=1e-10)
    assert_close(got.gradient, gradient, 1e-8)
    assert_close(got.b_gradient, b_gradient, 1e-8)
    assert_close(got.damp_gradient, damp_gradient, 1e-8)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(got.standard_error))


def cotangents(params, x, b, damp):
    """`left` and `right` of the gradient of `weigh` of the solution."""
    A = features(params, x)
    best = solution(params, x, b, damp)
    w = jnp.linalg.solve(A.T @ A + damp**2 * jnp.eye(N, dtype=A.dtype), jax.grad(weigh)(best))
    return jnp.stack([b - A @ best, -A @ w], 1), jnp.stack([w, best], 1)


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def repeat(params, x, left, right, num_rows, probabilities, times=2000, row_fn=features):
    """Estimates and standard errors of many independent samples, as flat arrays."""

    def once(key):
        settings = {"num_rows": num_rows, "key": key, "probabilities": probabilities}
        got = sampled_row_gradient(row_fn, params, x, left, right, **settings)
        return flat(got.estimate), flat(got.standard_error)

    keys = jax.random.split(jax.random.key(7), times)
    return tuple(np.asarray(a, np.float64) for a in jax.jit(jax.vmap(once))(keys))


def assert_unbiased(estimates, errors, want, rtol):
    """Means of estimates and of squared standard errors, within 4 of their own standard errors."""
    root = np.sqrt(len(estimates))
    away = np.abs(estimates.mean(0) - want)
    assert np.all(away < 4 * estimates.std(0) / root + rtol * np.abs(want))
    excess = errors**2 - (estimates - estimates.mean(0)) ** 2
    assert np.all(np.abs(excess.mean(0)) < 4 * excess.std(0) / root)
    # The test has the power to see a variance that is wrong by a quarter.
    assert np.all(4 * excess.std(0) / root < 0.25 * estimates.var(0))


@pytest.mark.parametrize("probabilities", ["uniform", "importance", "weights"])
def test_estimates_are_unbiased_and_their_standard_errors_are_right(rng, probabilities):
    dtype = np.float32
    params, x, b = problem(rng, dtype)
    left, right = cotangents(params, x, b, 0.3)
    weights = np.linspace(1, 5, M).astype(dtype) if probabilities == "weights" else probabilities
    back = jax.vjp(lambda p: features(p, x), params)[1]
    want = np.asarray(flat(back(left @ right.T)[0]), np.float64)
    deviations = []
    for num_rows in (20, 81):  # 81 rows: 40 groups of 2 rows and a lower one
        estimates, errors = repeat(params, x, left, right, num_rows, weights)
        assert_unbiased(estimates, errors, want, tolerance(dtype))
        deviations.append(np.linalg.norm(estimates.std(0)))
    # 1 / sqrt(s), and without replacement the factor sqrt(1 - s / m) besides
    expected = np.sqrt(81 / 20)
    if probabilities == "uniform":
        expected *= np.sqrt((1 - 20 / M) / (1 - 81 / M))
    assert abs(deviations[0] / deviations[1] / expected - 1) < 0.1


def test_the_whole_gradient_is_unbiased(rng):
    """The solves do not depend on the key, so that two thousand samples cost one solve."""
    dtype, columns = (np.float64, 2) if jax.config.jax_enable_x64 else (np.float32, None)
    params, x, b = problem(rng, dtype, columns)
    _, (gradient, b_gradient, damp_gradient) = exact(params, x, b, 0.3)

    def once(key):
        return gradient_of(params, x, b, damp=0.3, num_rows=30, key=key, throw=False)

    keys = jax.random.split(jax.random.key(11), 2000)
    got = jax.jit(jax.vmap(once))(keys)
    estimates, errors = (
        np.concatenate([np.reshape(leaf, (2000, -1)) for leaf in jax.tree.leaves(tree)], 1)
        for tree in (got.gradient, got.standard_error)
    )
    assert estimates.dtype == dtype
    want = np.asarray(flat(gradient), np.float64)
    assert_unbiased(np.float64(estimates), np.float64(errors), want, 1e-3)
    assert_close(got.b_gradient[0], b_gradient, 1e-3)
    assert_close(got.damp_gradient[0], damp_gradient, 1e-3)


def test_small_and_large_cotangents_keep_their_standard_errors(rng):
    """Squares of 1e-25 and 1e+25 do not exist in float32."""
    params, x, b = problem(rng, np.float32)
    left, right = cotangents(params, x, b, 0.3)
    estimates, errors = repeat(params, x, left, right, 20, "importance", times=3)
    for factor in (1e-25, 1e25):
        scaled = repeat(params, x, factor * left, right, 20, "importance", times=3)
        np.testing.assert_allclose(scaled[0] / factor, estimates, rtol=1e-3)
        np.testing.assert_allclose(scaled[1] / factor, errors, rtol=1e-3)


def test_the_variance_is_that_of_theory_and_good_weights_lower_it(rng):
    """Uneven rows: a few carry most of the gradient."""
    params, x, _ = problem(rng, np.float32)
    left, right = np.exp(2 * rng.standard_normal(M)), np.ones(N, np.float32)
    left = left.astype(np.float32)

    def row_gradient(row, c):
        return flat(jax.grad(lambda p: c * jnp.sum(features(p, row[None])))(params))

    rows = np.asarray(jax.vmap(row_gradient)(x, left), np.float64)
    ideal = np.linalg.norm(rows, axis=1)
    expected = {"uniform": M * (M / 20 - 1) * rows.var(0, ddof=1).sum()}
    for name, weights in (("importance", 0.9 * left + 0.1 * left.mean()), ("ideal", ideal)):
        squares = rows**2 * (weights.sum() / weights)[:, None]
        expected[name] = (squares.sum() - np.sum(rows.sum(0) ** 2)) / 20
    for name, variance in expected.items():
        given = ideal.astype(np.float32) if name == "ideal" else name
        estimates, _ = repeat(params, x, left, right, 20, given)
        assert abs(estimates.var(0).sum() / variance - 1) < 0.15
    assert expected["ideal"] < expected["importance"] < 0.2 * expected["uniform"]


def test_the_backward_pass_makes_as_many_rows_as_were_asked_for(rng):
    params, x, b = problem(rng, np.float32)
    left, right = cotangents(params, x, b, 0.3)
    made = []

    def counted(params, rows):
        jax.debug.callback(lambda: made.append(rows.shape[0]))
        return features(params, rows)

    for num_rows in (2, 33, M):
        made.clear()
        got = sampled_row_gradient(
            counted, params, x, left, right, num_rows=num_rows, key=jax.random.key(1)
        )
        jax.block_until_ready(got)
        jax.effects_barrier()
        assert sum(made) == num_rows


def test_rows_are_drawn_as_often_as_their_probabilities_say(rng):
    """Row i is parameter i, so the estimate counts the draws: mean 1 whatever the weights."""
    m, drawn, times = 5000, 5000, 60
    weights = np.exp(rng.standard_normal(m)).astype(np.float32)
    weights[17] = 0
    params = jnp.ones((m, 1), jnp.float32)
    index = jnp.arange(m)
    left, right = np.ones(m, np.float32), np.ones(1, np.float32)
    settings = {"times": times, "row_fn": lambda params, rows: params[rows]}
    estimates, _ = repeat(params, index, left, right, drawn, weights, **settings)
    share = weights / weights.sum()
    counts = estimates * share * drawn * times
    assert counts[:, 17].max() == 0
    counts, share = counts.mean(0), share * drawn * times
    chi = (counts - share)[share > 0] ** 2 / share[share > 0]
    assert abs(chi.sum() / (m - 2) - 1) < 5 * np.sqrt(2 / m)


def test_dtypes_are_kept_and_other_leaves_are_left_alone(rng, dtype):
    params, x, b = problem(rng, dtype)
    params = {**params, "name": "sine", "order": jnp.arange(3)}

    def call(right):
        return sampled_row_gradient(
            features, params, x, b, right, num_rows=10, key=jax.random.key(0)
        )

    got = call(np.ones(N, dtype))
    assert got.estimate["name"] is None
    assert got.estimate["order"] is None
    for tree in (got.estimate, got.standard_error):
        assert tree["frequency"].dtype == dtype
        assert bool(jnp.all(jnp.isfinite(tree["frequency"])))
    assert bool(jnp.all(got.standard_error["phase"] > 0))
    # A cotangent of zero has a gradient of zero, without error.
    none = call(np.zeros(N, dtype))
    assert not np.any(flat((none.estimate["phase"], none.standard_error["phase"])))


def test_warm_starts_save_steps_and_new_values_do_not_compile(rng):
    params, x, b = problem(rng, np.float32)

    zeros = jnp.zeros(N, jnp.float32)
    first = gradient_of(params, x, b, damp=0.3, x0=zeros, adjoint_x0=zeros)
    with count_compilations() as names:
        moved = jax.tree.map(lambda leaf: 1.00001 * leaf, params)
        starts = {"x0": first.solution.value, "adjoint_x0": first.adjoint.value}
        again = gradient_of(moved, x, b, damp=0.30001, key=jax.random.key(1), **starts)
    assert not [name for name in names if "estimate" in name or "run" in name]
    assert int(again.solution.stats.num_steps) < int(first.solution.stats.num_steps)
    assert int(again.adjoint.stats.num_steps) < int(first.adjoint.stats.num_steps)


def test_numbers_of_python_are_parameters(rng):
    _, x, _ = problem(rng, np.float32)

    def powers(factor, x):
        return jnp.stack([factor * x, x**2], 1)

    left, right = np.ones(M, np.float32), np.ones(2, np.float32)
    got = sampled_row_gradient(
        powers, 0.5, x, left, right, num_rows=M, probabilities="uniform", key=jax.random.key(0)
    )
    np.testing.assert_allclose(got.estimate, jnp.sum(x), rtol=1e-4)


def test_a_matrix_at_hand_and_a_preconditioner_change_nothing(rng):
    params, x, b = problem(rng, np.float32)
    made = []

    def counted(params, rows):
        jax.debug.callback(lambda: made.append(rows.shape[0]))
        return features(params, rows)

    settings = {"A": features(params, x), "preconditioner": ColumnScaling()}
    settings |= {"num_rows": M, "probabilities": "uniform"}
    got = gradient_of(params, x, b, row_fn=counted, damp=0.3, **settings)
    jax.block_until_ready(got)
    jax.effects_barrier()
    assert sum(made) == M
    assert_close(got.gradient, exact(params, x, b, 0.3)[1][0], 1e-3)
    with pytest.raises(ValueError, match="A must be row_fn"):
        gradient_of(params, x, b, A=features(params, x)[1:])


def test_it_works_inside_a_compiled_step_and_raises_there(rng):
    params, x, b = problem(rng, np.float32)

    def step(params, key, solver, adjoint_solver):
        solvers = {"solver": solver, "adjoint_solver": adjoint_solver}
        got = gradient_of(params, x, b, damp=0.01, key=key, **solvers)
        return got.value, got.gradient

    compiled, key = jax.jit(step), jax.random.key(3)
    good, few = LSMR(max_steps=1000), LSMR(max_steps=1)
    value, gradient = compiled(params, key, good, good)
    expected, wanted = step(params, key, good, good)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert_close(gradient, wanted, 1e-3)
    # A failed solve raises, eagerly and compiled.
    with pytest.raises(ConvergenceError):
        step(params, key, few, good)
    with pytest.raises(eqx.EquinoxRuntimeError, match="adjoint solve of stochastic_gradient"):
        step(params, key, good, few)
    with pytest.raises(Exception, match="lstsq missed its tolerance"):
        jax.block_until_ready(compiled(params, key, few, good))
    with pytest.raises(Exception, match="adjoint solve of stochastic_gradient"):
        jax.block_until_ready(compiled(params, key, good, few))


def doubled(params, rows):
    """Two copies of the features: a matrix of half the rank."""
    return jnp.concatenate([features(params, rows)] * 2, 1)


def of_the_sum(x):
    """What is determined: the sum of the unknowns of both copies."""
    return jnp.sum(jnp.sin(x[:N] + x[N:]))


def test_an_undamped_system_needs_a_cotangent_without_a_part_in_the_null_space(rng):
    dtype = np.float64 if jax.config.jax_enable_x64 else np.float32
    params, x, b = problem(rng, dtype)
    settings = {"row_fn": doubled, "damp": dtype(0), "num_rows": M, "probabilities": "uniform"}
    got = gradient_of(params, x, b, of_the_sum, **settings)
    want = jax.grad(lambda p: jnp.sum(jnp.sin(solution(p, x, b, 0.0))))(params)
    assert_close(got.gradient, want, 1e-7 if dtype == np.float64 else 1e-2)
    assert got.damp_gradient is None
    with pytest.raises(eqx.EquinoxRuntimeError, match="null space"):
        gradient_of(params, x, b, weigh, **settings)


def test_damping_by_a_vector_with_zeros_may_leave_a_null_space(rng):
    params, x, b = problem(rng, np.float32)
    damp = np.array([0, 0.5, 0, 0] * 2, np.float32)
    settings = {"row_fn": doubled, "damp": damp, "throw": False}
    assert bool(gradient_of(params, x, b, of_the_sum, **settings).adjoint.ok)
    shown = gradient_of(params, x, b, weigh, **settings)
    assert bool(shown.solution.ok)
    assert not bool(shown.adjoint.ok)


def test_a_sample_that_cannot_be_drawn_is_refused_before_the_solves(rng):
    params, x, b = problem(rng, np.float32)

    def loss(x):
        pytest.fail("the system was solved first")

    with pytest.raises(ValueError, match="num_rows must be at most"):
        gradient_of(params, x, b, loss, num_rows=M + 1)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"num_rows": 0}, ValueError, "num_rows must be at least 2"),
        ({"num_rows": M + 1}, ValueError, "num_rows must be at most the number of rows, 120"),
        ({"num_rows": 3.0}, TypeError, "num_rows must be a whole number"),
        ({"num_groups": 1}, ValueError, "num_groups must be at least 2"),
        ({"probabilities": "best"}, ValueError, "probabilities must be one of"),
        ({"probabilities": np.ones(3)}, ValueError, "one weight for each of the 120 rows"),
        ({"probabilities": -np.ones(M)}, ValueError, "probabilities must be finite, at least 0"),
        ({"left": np.ones(3, np.float32)}, ValueError, "left must have a row for each of the 120"),
        ({"right": np.ones(3, np.float32)}, ValueError, "left, right and row_fn must fit"),
        ({"right": np.ones(N, np.int32)}, TypeError, "must have one dtype"),
        ({"left": "all"}, TypeError, "left must be an array"),
        ({"row_fn": lambda p, x: (x, x)}, TypeError, "row_fn must return one array"),
        ({"params": {"order": 3}}, TypeError, "params must hold floating-point numbers"),
        ({"params": 1j}, TypeError, "all of them real"),
        ({"data": jnp.zeros(())}, ValueError, "data must be arrays with one common leading axis"),
    ],
)
def test_wrong_arguments_are_named(rng, change, error, match):
    params, x, _ = problem(rng, np.float32)
    arguments = {
        "row_fn": features,
        "params": params,
        "data": x,
        "left": np.ones(M, np.float32),
        "right": np.ones(N, np.float32),
        "num_rows": 10,
        "key": jax.random.key(0),
        **change,
    }
    with pytest.raises(error, match=match):
        sampled_row_gradient(**arguments)
