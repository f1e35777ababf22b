"""Gradients side by side: they agree where they should, and the table says where they do not."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

from gplsq import LSMR, Direct
from gplsq.kernels import RBF
from gplsq.operators import Kernel
from gplsq.solvers import RandomlyPivotedCholesky, compare_gradients, unrolled_lstsq
from gplsq.solvers._compare import _unrolled
from gplsq.testing import matrix_with_spectrum

M, N = 300, 20


def problem(rng, dtype):
    A = matrix_with_spectrum(rng, M, N, np.geomspace(1, 0.2, N), dtype)
    return {"A": jnp.asarray(A), "damp": jnp.asarray(0.1, dtype)}, jnp.asarray(
        rng.standard_normal(M).astype(dtype)
    )


def loss_of(b, **settings):
    def fn(params, solve):
        x = solve(params["A"], b, damp=params["damp"], **settings).value
        return jnp.sum(jnp.sin(3 * x))

    return fn


@functools.cache
def compared(dtype):
    params, b = problem(np.random.default_rng(3), dtype)
    return compare_gradients(loss_of(b), params, num_steps=(2, 30), repeat=1)


def test_all_ways_agree_on_a_well_conditioned_problem(x64):
    result = compared("float64")
    assert [row.method for row in result.rows] == [
        "central differences",
        "implicit",
        "unrolled 2",
        "unrolled 30",
        "truncated 2",
        "truncated 30",
    ]
    assert result["central differences"].from_differences < 1e-6
    assert result["central differences"].from_implicit is None
    assert result["implicit"].from_differences < 1e-6
    assert result["implicit"].from_implicit == 0
    for method in ("unrolled 30", "truncated 30"):
        assert result[method].from_differences < 1e-6
        assert result[method].from_implicit < 1e-9
        assert result[method].status == "ok"
        np.testing.assert_allclose(result[method].value, result["implicit"].value, rtol=1e-10)


def test_ways_that_are_cut_off_are_off_and_say_so(x64):
    result = compared("float64")
    assert result["truncated 2"].from_implicit > 1e-2
    assert result["truncated 2"].from_differences > 1e-2
    assert result["truncated 2"].adjoint == "missed"
    assert result["truncated 2"].status == "ok"  # of the solution itself
    assert result["unrolled 2"].from_implicit > 1e-2
    assert result["unrolled 2"].status == "max_steps"
    assert result["unrolled 2"].num_steps == 2
    assert result["unrolled 2"].adjoint == "-"
    assert result["implicit"].adjoint == "ok"
    assert result["implicit"].num_steps > 2


def test_memory_grows_with_unrolled_steps_only(x64):
    result = compared("float64")
    few, many = result["unrolled 2"].temp_bytes, result["unrolled 30"].temp_bytes
    assert many - few > 28 * (M + 4 * N) * 8 * 0.9
    assert result["implicit"].temp_bytes < many / 2
    assert result["truncated 2"].temp_bytes == result["truncated 30"].temp_bytes


def test_solves_that_are_cut_off_are_not_called_ok_and_need_the_same_memory():
    dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    params, b = problem(np.random.default_rng(3), dtype)
    fn = loss_of(b, solver=LSMR(max_steps=2))
    cut = compare_gradients(fn, params, num_steps=(), directions=1, repeat=1)["implicit"]
    whole = compared(dtype)["implicit"]
    assert (cut.status, cut.adjoint, cut.num_steps) == ("max_steps", "missed", 2)
    assert (whole.status, whole.adjoint) == ("ok", "ok")
    assert whole.from_differences < 1e-2
    assert whole.num_steps >= 2 * cut.num_steps
    assert abs(whole.temp_bytes - cut.temp_bytes) < 100  # of the constant that is the limit


def test_float32_is_compared_in_float32(x64, rng):
    """Beside numbers of Python, which are float64."""
    params, b = problem(rng, np.float32)
    fn = loss_of(b)
    row = compare_gradients(fn, {**params, "damp": 0.1}, num_steps=(), repeat=1)["implicit"]
    assert row.gradient["A"].dtype == np.float32
    assert row.from_differences < 1e-2


def test_the_table_is_aligned_and_complete():
    result = compared("float64" if jax.config.jax_enable_x64 else "float32")
    lines = str(result).splitlines()
    assert len(lines) == 1 + len(result.rows)
    assert lines[0].split("  ")[0].strip() == "method"
    for line, row in zip(lines[1:], result.rows, strict=True):
        assert line.startswith(row.method)
        assert f"{1e3 * row.run_seconds:.2f}" in line
        assert f"{row.value:.5g}" in line
    assert len({len(line) for line in lines}) == 1
    assert "missed" in str(result)
    with pytest.raises(KeyError, match="unrolled 30"):
        result["unrolled 7"]


def test_sparse_matrices_several_right_hand_sides_and_other_leaves(rng):
    A, b = problem(rng, np.float32)
    S, b = sparse.BCOO.fromdense(A["A"]), jnp.stack([b, 2 * b], 1)

    def fn(params, solve):
        return jnp.sum(solve(params["scale"] * S, b, damp=0.1).value)

    params = {"scale": 0.6, "name": "scale"}
    row = compare_gradients(fn, params, num_steps=(), directions=1, repeat=1)["implicit"]
    assert row.status == "ok"
    assert row.from_differences < 1e-2
    assert row.gradient["name"] is None


def test_unrolled_solves_take_what_lstsq_takes(rng):
    X = jnp.asarray(rng.uniform(size=(15, 1)).astype(np.float32))
    y = jnp.sin(5 * X[:, 0])
    A = jnp.asarray(rng.standard_normal((15, 3)), jnp.float32)
    for arguments in (
        {"A": Kernel(RBF(0.5), X), "damp": 0.3, "preconditioner": RandomlyPivotedCholesky(3)},
        {"A": A, "solver": Direct(), "adjoint_solver": LSMR(), "throw": True},
        {"A": lambda x: 2 * x, "damp": 0.2, "x0": y, "adjoint_x0": y},
    ):
        value = jax.eval_shape(lambda y, a=arguments: _unrolled(3, "steps")(b=y, **a).value, y)
        assert value.shape == (3 if arguments["A"] is A else 15,)
    # An undamped lstsq does not use a start, so neither does the unrolled way.
    got = _unrolled(1, "steps")(A, y, x0=jnp.ones(3, jnp.float32))
    np.testing.assert_array_equal(got.value, unrolled_lstsq(A, y, num_steps=1).value)


def test_solves_of_nan_and_no_solves_at_all_are_not_called_ok(rng):
    params, b = problem(rng, np.float32)

    def row(fn):
        return compare_gradients(fn, params, num_steps=(), directions=1, repeat=1)["implicit"]

    broken = row(lambda p, solve: jnp.sum(solve(p["A"] * jnp.nan, b, damp=p["damp"]).value))
    assert (broken.status, broken.adjoint) == ("non_finite", "missed")
    assert np.isnan(broken.from_implicit)
    none = row(lambda p, solve: jnp.sum(p["A"]))
    assert (none.status, none.adjoint, none.num_steps) == ("-", "-", None)


def test_warnings_of_the_function_itself_pass():
    def shout():
        warnings.warn("look here", UserWarning, stacklevel=2)

    def fn(params, solve):
        jax.debug.callback(shout)
        return jnp.sum(params)

    with pytest.warns(UserWarning, match="look here"):
        compare_gradients(fn, jnp.ones(3), num_steps=(), directions=1, repeat=1)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"fn": "loss"}, TypeError, "fn must be a function"),
        ({"fn": lambda p, solve: p["damp"] * jnp.ones(2)}, TypeError, "real floating-point scalar"),
        ({"params": {"n": 3}}, TypeError, "params must hold floating-point numbers"),
        ({"num_steps": (0,)}, ValueError, "num_steps must be at least 1"),
        ({"directions": 1.5}, TypeError, "directions must be a whole number"),
        ({"repeat": 0}, ValueError, "repeat must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(rng, change, error, match):
    params, b = problem(rng, np.float32)
    arguments = {"fn": loss_of(b), "params": params, **change}
    with pytest.raises(error, match=match):
        compare_gradients(**arguments)
