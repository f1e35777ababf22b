"""GPRegressor works in the dtype of the table and leaves global flags alone."""

import jax
import numpy as np
import pytest
from single import both_dtypes, given, short

from gplsq.kernels import RBF


def global_flags():
    names = ("enable_x64", "numpy_dtype_promotion", "numpy_rank_promotion", "debug_nans")
    flags = {name: getattr(jax.config, f"jax_{name}") for name in names}
    precision = jax.config.jax_default_matmul_precision
    return flags | {"precision": precision, "numpy": np.geterr(), "all": dict(jax.config.values)}


@both_dtypes
def test_all_results_have_the_dtype_of_the_fit(table, precision):
    X, y, Z = table
    gp = short().fit(X.astype(precision), y.astype(precision))
    for points in (Z.astype("float32"), Z.astype("float64")):
        mean, std = gp.predict(points, return_std=True)
        covariance = gp.predict(points, return_cov=True)[1]
        for result in (gp.predict(points), mean, std, covariance, gp.sample_y(points, 2)):
            assert type(result) is np.ndarray
            assert result.dtype == precision


@both_dtypes
@pytest.mark.parametrize("solver", ["direct", "lsmr"])
def test_the_posterior_is_worked_out_in_the_dtype_of_the_table(table, precision, solver):
    X, y, _ = table
    gp = given(solver=solver).fit(X.astype(precision), y.astype(precision))
    posterior = gp.posterior_
    leaves = jax.tree.leaves((posterior.X, posterior.kernel, posterior.solution.value))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(precision)}


def test_the_table_and_not_the_target_decides_the_dtype(table):
    X, y, Z = table
    assert given().fit(X.astype("float32"), y).predict(Z).dtype == np.float32
    assert given().fit(X, y.astype("float32")).predict(Z).dtype == np.float64
    assert given().fit((10 * X).astype(int), y).predict(Z).dtype == np.float64


def test_float32_and_float64_agree_to_the_accuracy_of_float32(table):
    X, y, Z = table
    mean, std = given().fit(X, y).predict(Z, return_std=True)
    single = given().fit(X.astype("float32"), y.astype("float32"))
    mean32, std32 = single.predict(Z.astype("float32"), return_std=True)
    np.testing.assert_allclose(mean32, mean, atol=1e-4)
    np.testing.assert_allclose(std32, std, rtol=1e-3)
    assert np.abs(mean32 - mean).max() > 1e-10


def test_an_offset_of_the_target_does_not_blur_a_float32_fit(table):
    X, y, Z = table
    plain = given().fit(X.astype("float32"), y)
    offset = given().fit(X.astype("float32"), y + 1e6)
    np.testing.assert_allclose(
        offset.predict(Z, return_std=True)[1], plain.predict(Z, return_std=True)[1], rtol=1e-3
    )


@both_dtypes
def test_fit_and_predict_leave_global_flags_alone(table, precision):
    X, y, Z = table
    before = global_flags()
    gp = short().fit(X.astype(precision), y.astype(precision))
    assert global_flags() == before
    gp.predict(Z, return_std=True)
    gp.predict(Z, return_cov=True)
    gp.sample_y(Z)
    assert global_flags() == before


@both_dtypes
def test_a_fit_that_raises_leaves_global_flags_alone(table, precision):
    X, y, _ = table
    before = global_flags()
    with pytest.raises(ValueError, match="lengthscale"):
        short(kernel=RBF(np.ones(3, np.float32))).fit(X.astype(precision), y)
    assert global_flags() == before


@both_dtypes
@pytest.mark.parametrize("enclosing", [True, False])
def test_an_enclosing_x64_context_changes_nothing(table, precision, enclosing):
    X, y, Z = table
    X, Z = X.astype(precision), Z.astype(precision)
    outside_fit = short().fit(X, y)
    outside = outside_fit.predict(Z, return_std=True)
    with jax.enable_x64(enclosing):
        inside_fit = short().fit(X, y)
        inside = inside_fit.predict(Z, return_std=True)
        crossed = outside_fit.predict(Z, return_std=True)
        assert jax.config.jax_enable_x64 is enclosing
    for results in (inside, crossed, inside_fit.predict(Z, return_std=True)):
        np.testing.assert_array_equal(results[0], outside[0])
        np.testing.assert_array_equal(results[1], outside[1])
