"""What every kernel keeps: one list, and each entry inherits all tests."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gplsq import kernels
from gplsq._core import cast, constrain, parameters_of, unconstrain
from gplsq.testing import central_difference, tolerance


class CauchyProduct(kernels.AbstractPairKernel):
    """A user's kernel: one positive hyperparameter, one free one."""

    width: object = kernels.positive(default=0.8)
    slope: object = eqx.field(converter=jnp.asarray, default=-0.4)

    def pair(self, x, z):
        smooth = jnp.prod(1 / (1 + ((x - z) / self.width) ** 2))
        return smooth * (1 + self.slope * x[0]) * (1 + self.slope * z[0])


class OrdersFromNumbers(kernels.AbstractKernel):
    """`WithDerivatives` for random points: their last number becomes 0, 1 or 2."""

    kernel: kernels.AbstractKernel

    def _orders(self, X):
        orders = jax.lax.stop_gradient(jnp.floor(jnp.abs(4 * X[..., -1:])) % 3)
        return jnp.concatenate([X[..., :-1], orders], axis=-1)

    def pair(self, x, z):
        return self.kernel.pair(self._orders(x), self._orders(z))

    def cross(self, X, Z):
        return self.kernel.cross(self._orders(X), self._orders(Z))

    def diagonal(self, X):
        return self.kernel.diagonal(self._orders(X))


# A new kernel is one line here. All look at points of three columns.
KERNELS = {
    "constant": kernels.Constant(1.7),
    "linear": kernels.Linear([0.6, 1.2, 0.3]),
    "polynomial": kernels.Polynomial(3, 0.5, 0.8),
    "rbf": kernels.RBF(0.9),
    "matern12": kernels.Matern12(1.1),
    "matern32": kernels.Matern32([0.7, 1.1, 2.0]),
    "matern52": kernels.Matern52(0.8),
    "rational-quadratic": kernels.RationalQuadratic(0.9, 0.6),
    "periodic": kernels.Periodic([0.9, 1.3, 2.0], [1.7, 2.1, 3.0]),
    "scaled": 2.5 * kernels.RBF(0.9),
    "sum": kernels.RBF(0.9) + 0.4 + kernels.Linear(0.7),
    "product": kernels.Matern52(1.4) * kernels.Polynomial(2, 0.4, 1.1),
    "columns": kernels.RBF([0.7, 1.3]).on([2, 0]),
    "nystrom": kernels.Nystrom(kernels.RBF(0.9), np.eye(3, dtype=np.float32)),
    "weighted": kernels.Weighted(kernels.Matern52([0.7, 1.3])),
    "coregionalised": kernels.Coregionalised(
        kernels.Matern52([0.7, 1.3]),
        3,
        mixing=[[0.9, 0.1], [-0.6, 0.4], [0.3, 0.8]],
        kappa=[0.3, 0.5, 0.2],
    ),
    "with derivatives": OrdersFromNumbers(
        kernels.WithDerivatives(1.3 * kernels.RBF([0.7, 1.3]) + kernels.Linear(0.4))
    ),
    "nested": 1.5 * (kernels.Matern12(0.8).on(1) * kernels.Periodic().on(0) + kernels.Linear()),
    "user": CauchyProduct(),
}

each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())

_pair = eqx.filter_jit(lambda kernel, x, z: cast(kernel, x.dtype).pair(x, z))


@eqx.filter_jit
def _matrices(kernel, X, Z):
    """Everything the tests look at, compiled once for each kernel and dtype."""
    diagonal = cast(kernel, X.dtype).diagonal(X)
    return kernel(X, Z), kernel(Z, X), kernel(X), diagonal


@pytest.fixture
def tables(rng, dtype):
    """Points away from the origin; the first two rows of X come again in Z, one twice in X."""
    X = (rng.standard_normal((5, 3)) + 0.5).astype(dtype)
    Z = np.concatenate([X[:2], (rng.standard_normal((3, 3)) + 0.5).astype(dtype)])
    X[-1] = X[0]
    return X, Z


def _assert_equal_matrices(got, expected, X, Z):
    """Equal up to rounding, with more room at equal points.

    Squared distances by expansion are off by about eps |x|^2 there, and a kernel with a kink at
    distance zero (Matérn 1/2) sees the square root of that.
    """
    error = np.abs(np.asarray(got) - np.asarray(expected)) / np.abs(expected).max()
    same = (X[:, None] == Z[None]).all(axis=2)
    assert error[~same].max() <= tolerance(X.dtype, condition=10)
    assert error[same].max() <= 10 * np.sqrt(np.finfo(X.dtype).eps)


@each_kernel
def test_cross_is_the_double_loop_of_pair(kernel, tables):
    X, Z = tables
    expected = np.array([[_pair(kernel, x, z) for z in Z] for x in X])
    _assert_equal_matrices(_matrices(kernel, X, Z)[0], expected, X, Z)


@each_kernel
def test_diagonal_is_pair_of_a_point_with_itself(kernel, tables):
    X, Z = tables
    expected = [_pair(kernel, x, x) for x in X]
    np.testing.assert_allclose(
        _matrices(kernel, X, Z)[3], expected, rtol=tolerance(X.dtype), atol=0
    )


@each_kernel
def test_swapping_the_tables_transposes_the_matrix(kernel, tables):
    X, Z = tables
    K, swapped, _, _ = _matrices(kernel, X, Z)
    _assert_equal_matrices(swapped.T, K, X, Z)


@each_kernel
def test_slab_by_slab_the_noisy_matrix_and_its_derivatives_are_the_same(
    kernel, rng, dtype, monkeypatch
):
    X = (rng.standard_normal((19, 3)) + 0.5).astype(dtype)
    G = rng.standard_normal((19, 19)).astype(X.dtype)
    params, rest = eqx.partition(cast(kernel, X.dtype), eqx.is_inexact_array)

    def results(gram):
        def matrix(arguments):
            params, noise, X = arguments
            return gram(eqx.combine(params, rest), noise, X)

        arguments = params, jnp.asarray(0.3, X.dtype), jnp.asarray(X)
        return jax.jit(lambda a: (jax.vjp(matrix, a)[1](jnp.asarray(G)), matrix(a)))(arguments)

    whole = results(kernels.noisy_gram)
    monkeypatch.setattr("gplsq.kernels._gram._SLABS_FROM", 0)
    for got, expected in zip(
        *map(jax.tree.leaves, (results(kernels.noisy_gram_recomputed), whole)), strict=True
    ):
        np.testing.assert_allclose(
            got, expected, rtol=0, atol=tolerance(X.dtype, 100) * np.abs(expected).max()
        )


@each_kernel
def test_the_matrix_of_one_table_is_positive_semidefinite(kernel, tables):
    X, Z = tables
    K = np.asarray(_matrices(kernel, X, Z)[2], float)
    np.testing.assert_allclose(K, K.T, rtol=0, atol=tolerance(X.dtype, 10) * K.max())
    # A repeated row makes it singular, where rounding at equal points decides; see above.
    values = np.linalg.eigvalsh(K)
    assert values.min() >= -10 * np.sqrt(np.finfo(X.dtype).eps) * values.max()
    assert values.min() <= 10 * np.sqrt(np.finfo(X.dtype).eps) * values.max()


@each_kernel
def test_results_keep_the_dtype_of_the_points(kernel, tables):
    X, Z = tables
    assert all(result.dtype == X.dtype for result in _matrices(kernel, X, Z))
    assert _pair(kernel, X[0], Z[0]).dtype == X.dtype


@each_kernel
def test_gradients_are_central_differences_also_at_equal_points(kernel, rng, x64):
    X = rng.standard_normal((3, 3)) + 0.5
    Z = np.concatenate([X[:2], rng.standard_normal((1, 3))])
    weights = rng.standard_normal((3, 3))
    numbers, frame = eqx.partition(cast(kernel, X.dtype), eqx.is_inexact_array)
    start, unravel = ravel_pytree((numbers, jnp.asarray(X)))

    def by_cross(flat):
        numbers, X = unravel(flat)
        k = eqx.combine(numbers, frame)
        matrices = k.cross(X, Z) + 0.7 * k.cross(X, X)
        return jnp.sum(weights * matrices) + jnp.sum(weights[0] * k.diagonal(X))

    def by_pairs(flat):
        numbers, X = unravel(flat)
        k = eqx.combine(numbers, frame)
        table = jax.vmap(jax.vmap(k.pair, (None, 0)), (0, None))
        matrices = table(X, Z) + 0.7 * table(X, X)
        return jnp.sum(weights * matrices) + jnp.sum(weights[0] * jax.vmap(k.pair)(X, X))

    gradient = np.asarray(jax.jit(jax.grad(by_cross))(start))
    expected = central_difference(jax.jit(by_pairs), np.asarray(start))
    # Central differences of step 1e-5 are good to about 1e-9 of the gradient's size.
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


@each_kernel
def test_parameters_survive_the_real_line_and_stay_positive(kernel, dtype):
    kernel = cast(kernel, dtype)
    back = constrain(unconstrain(kernel))
    assert jax.tree.structure(back) == jax.tree.structure(kernel)
    for before, after in zip(parameters_of(kernel), parameters_of(back), strict=True):
        assert after.name == before.name
        assert after.value.dtype == dtype
        np.testing.assert_allclose(after.value, before.value, rtol=tolerance(dtype))
    far = jax.tree.map(lambda leaf: leaf - 20, unconstrain(kernel))
    moved = parameters_of(constrain(far))
    assert any(parameter.positive for parameter in moved)
    assert all(np.all(parameter.value > 0) for parameter in moved if parameter.positive)


def test_free_parameters_are_tuned_as_they_are():
    kernel = KERNELS["user"]
    flags = {parameter.name: parameter.positive for parameter in parameters_of(kernel)}
    assert flags == {"width": True, "slope": False}
    assert float(unconstrain(kernel).slope) == float(kernel.slope)


def test_the_list_holds_every_kernel_of_the_package():
    public = {
        value
        for value in vars(kernels).values()
        if isinstance(value, type) and issubclass(value, kernels.AbstractKernel)
    }
    concrete = {cls for cls in public if not cls.__name__.startswith("Abstract")}
    seen = set()

    def visit(kernel):
        seen.add(type(kernel))
        for value in vars(kernel).values():
            if isinstance(value, kernels.AbstractKernel):
                visit(value)

    for kernel in KERNELS.values():
        visit(kernel)
    assert concrete <= seen
