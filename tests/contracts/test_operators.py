"""What every linear operator keeps: one list, and each entry inherits all tests."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from gplsq import kernels, operators
from gplsq.testing import tolerance

A = np.random.default_rng(1).standard_normal((4, 3))
B = np.random.default_rng(2).standard_normal((4, 3))
C = np.random.default_rng(3).standard_normal((3, 4))
POINTS = np.random.default_rng(4).standard_normal((7, 2))
KERNEL = kernels.RBF(0.8) + kernels.Linear(0.3)


def _dense(matrix, dtype):
    return operators.Dense(matrix.astype(dtype))


def _matrix_function(dtype):
    matrix = A.astype(dtype)
    return operators.Function(lambda v: matrix @ v, np.zeros(3, dtype))


def _pytree_function(dtype):
    """From a dictionary (a, b) to a dictionary (low, top)."""

    def fn(tree):
        return {"top": tree["a"] + tree["b"].sum(axis=0), "low": 2 * tree["b"][0]}

    return operators.Function(fn, {"a": np.zeros(2, dtype), "b": np.zeros((2, 2), dtype)})


JACOBIAN_MATRIX = A * np.cos(A @ np.array([0.3, -0.2, 0.5]))[:, None]


def _jacobian(dtype):
    matrix = A.astype(dtype)
    return operators.Jacobian(lambda x: jnp.sin(matrix @ x), np.array([0.3, -0.2, 0.5], dtype))


PYTREE_MATRIX = np.array(
    [
        [0, 0, 2, 0, 0, 0],  # low
        [0, 0, 0, 2, 0, 0],
        [1, 0, 1, 0, 1, 0],  # top
        [0, 1, 0, 1, 0, 1],
    ]
)


def _gram():
    squares = ((POINTS[:, None] - POINTS[None]) ** 2).sum(axis=2)
    return np.exp(-squares / (2 * 0.8**2)) + 0.3 * POINTS @ POINTS.T


def _inducing(dtype):
    """With the jitter that `Inducing` promises for points that need no more."""
    K = _gram()
    among = K[:4, :4]
    jitter = (4 * np.finfo(dtype).eps) ** 0.6 * np.mean(np.diag(among))
    return K[:, :4] @ np.linalg.inv(np.linalg.cholesky(among + jitter * np.eye(4))).T


def _kernel(form):
    return lambda dtype: operators.Kernel(KERNEL, POINTS.astype(dtype), form)


def _mesh():
    return jax.sharding.Mesh(jax.devices()[:1], ("rows",))


def _double(x):
    return 2 * x


# A new operator is one line here: how to make it, and its matrix in float64, where it depends on
# the dtype as a function of it.
OPERATORS = {
    "dense": (lambda dtype: _dense(A, dtype), A),
    "function": (_matrix_function, A),
    "function-pytree": (_pytree_function, PYTREE_MATRIX),
    "jacobian": (_jacobian, JACOBIAN_MATRIX),
    "kernel-dense": (_kernel("dense"), _gram()),
    "kernel-tiled": (_kernel("tiled"), _gram()),
    "scaled": (lambda dtype: operators.Scaled(jnp.asarray(-1.5), _dense(A, dtype)), -1.5 * A),
    "sum": (lambda dtype: operators.Sum(_dense(A, dtype), _matrix_function(dtype)), 2 * A),
    "composed": (lambda dtype: operators.Composed(_dense(C, dtype), _dense(A, dtype)), C @ A),
    "stacked": (
        lambda dtype: operators.Stacked((_dense(A, dtype), _dense(C[:, :3], dtype))),
        np.concatenate([A, C[:, :3]]),
    ),
    "identity": (lambda dtype: operators.Identity(3, dtype), np.eye(3)),
    "sparse": (lambda dtype: operators.Sparse(scipy.sparse.csr_array(A.astype(dtype))), A),
    "rows": (lambda dtype: operators.Rows(lambda x: 2 * x, (C / 2).astype(dtype), block=2), C),
    "sharded-rows": (
        lambda dtype: operators.ShardedRows(
            _double, (C / 2).astype(dtype), C.shape[1], mesh=_mesh()
        ),
        C,
    ),
    "sharded-damping": (
        lambda dtype: operators.ShardedDamping(_dense(A, dtype), jnp.asarray(0.5, dtype), _mesh()),
        np.concatenate([A, 0.5 * np.eye(A.shape[1])]),
    ),
    "kernel-on-a-mesh": (
        lambda dtype: operators.Kernel(KERNEL, POINTS.astype(dtype), "dense", mesh=_mesh()),
        _gram(),
    ),
    "inducing": (
        lambda dtype: operators.Inducing(KERNEL, POINTS.astype(dtype), POINTS[:4], block=3),
        _inducing,
    ),
    "features": (
        lambda dtype: operators.Features(kernels.Linear(0.3) + 0.5, POINTS.astype(dtype), 3),
        np.concatenate([np.sqrt(0.3) * POINTS, np.full((7, 1), np.sqrt(0.5))], axis=1),
    ),
    "transposed": (lambda dtype: operators.Transposed(_dense(A, dtype)), A.T),
}


@functools.lru_cache
def _made(name, dtype):
    """Each operator once, so that every test finds `_run` compiled for it."""
    return OPERATORS[name][0](dtype)


@eqx.filter_jit
def _run(operator, v, V, u, U):
    """All that an operator does, to vectors (v, u) and to blocks of columns (V, U)."""
    batched = jax.vmap(operator.mv)(V.T), jax.vmap(operator.rmv)(U.T)
    return {
        "matrix": operator.as_matrix(),
        "mv": (operator.mv(v), operator.mv(V)),
        "rmv": (operator.rmv(u), operator.rmv(U)),
        "inner": (
            operator.domain_inner(v, operator.rmv(u)),
            operator.domain_inner(V, operator.rmv(U)),
        ),
        "square": operator.domain_inner(V, V),
        "forward": operator.forward(V),
        "adjoint": operator.adjoint(U),
        "vmap": batched,
    }


@pytest.fixture(autouse=True)
def low_tiles(monkeypatch):
    """Tiles of three rows: seven points take several, the last one lower."""
    monkeypatch.setattr("gplsq.operators._kernel.tile_rows", lambda rows, columns: 3)


@pytest.fixture(params=OPERATORS)
def case(request, low_tiles, rng, dtype):
    """An operator, its matrix, the arguments of `_run` and what came out of it."""
    operator, matrix = _made(request.param, dtype), OPERATORS[request.param][1]
    matrix = matrix(dtype) if callable(matrix) else matrix
    rows, columns = matrix.shape
    shapes = ((columns,), (columns, 2), (rows,), (rows, 2))
    arguments = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    arguments[1][:, 1] = 0  # the norm of nothing is 0, not NaN
    return operator, matrix, arguments, _run(operator, *arguments)


def _close(got, expected, dtype):
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(dtype, condition=30))


def test_mv_is_the_product_with_the_matrix(case, dtype):
    operator, matrix, (v, V, _, _), out = case
    assert tuple(operator.shape) == matrix.shape
    _close(out["matrix"], matrix, dtype)
    for product, vector in zip(out["mv"], (v, V), strict=True):
        _close(product, matrix @ vector, dtype)
        _close(product, np.asarray(out["matrix"]) @ vector, dtype)


def test_adjoint_identity_holds_in_the_inner_products_of_the_operator(case, dtype):
    _, matrix, (v, V, u, U), out = case
    for inner, vector, dual in zip(out["inner"], (v, V), (u, U), strict=True):
        _close(inner, ((matrix @ vector) * dual).sum(axis=0), dtype)


def test_forward_returns_the_product_and_the_norm_in_the_domain(case, dtype):
    _, matrix, (_, V, _, _), out = case
    product, norm = out["forward"]
    _close(product, matrix @ V, dtype)
    _close(norm, np.sqrt(out["square"]), dtype)
    assert norm[0] > 0.1
    assert norm[1] == 0


def test_adjoint_returns_the_product_and_the_euclidean_norm(case, dtype):
    _, _, (_, _, _, U), out = case
    product, norm = out["adjoint"]
    _close(product, out["rmv"][1], dtype)
    _close(norm, np.linalg.norm(U, axis=0), dtype)


def test_products_are_linear(case, rng, dtype):
    operator, _, arguments, out = case
    others = [rng.standard_normal(a.shape).astype(dtype) for a in arguments]
    second = _run(operator, *others)
    sums = [3 * a - b for a, b in zip(arguments, others, strict=True)]
    together = _run(operator, *sums)
    for name in ("mv", "rmv"):
        for a, b, c in zip(out[name], second[name], together[name], strict=True):
            _close(c, 3 * np.asarray(a) - np.asarray(b), dtype)


def test_dtype_is_kept(case, dtype):
    operator, _, _, out = case
    assert operator.dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {dtype}


def test_vmap_over_vectors_is_the_block_product(case, dtype):
    out = case[-1]
    for batched, block in zip(out["vmap"], (out["mv"][1], out["rmv"][1]), strict=True):
        _close(batched.T, block, dtype)


def test_products_are_the_same_without_jit(case, dtype):
    operator, _, (v, _, u, _), out = case
    _close(operator.mv(v), out["mv"][0], dtype)
    _close(operator.rmv(u), out["rmv"][0], dtype)


@pytest.mark.parametrize("shape", [(3,), (), (2, 2, 2)])
def test_dense_refuses_what_is_not_a_matrix(shape):
    with pytest.raises(ValueError, match=r"A must be a matrix, shape \(m, n\)"):
        operators.Dense(np.zeros(shape))


def test_dense_refuses_complex_numbers_and_takes_integers():
    with pytest.raises(TypeError, match="A must be real"):
        operators.Dense(np.zeros((2, 2), np.complex64))
    assert jnp.issubdtype(operators.Dense(np.eye(2, dtype=int)).dtype, jnp.floating)


def test_function_refuses_mixed_and_integer_dtypes():
    with pytest.raises(TypeError, match="one real floating-point dtype"):
        operators.Function(lambda v: v, np.zeros(3, np.int32))
    with pytest.raises(TypeError, match="one real floating-point dtype"):
        operators.Function(lambda v: v.astype(np.float16), np.zeros(3, np.float32))


def test_function_refuses_leaves_that_are_not_arrays():
    with pytest.raises(TypeError, match="`like` must hold arrays only"):
        operators.Function(lambda v: v, {"a": "text"})


def test_function_takes_shapes_without_arrays_and_gives_the_structure_back():
    like = {"a": jax.ShapeDtypeStruct((2,), np.float32), "b": np.zeros((1, 2), np.float32)}
    operator = operators.Function(lambda tree: tree["a"] + tree["b"][0], like)
    tree = operator.unravel(jnp.arange(4, dtype=np.float32))
    np.testing.assert_array_equal(tree["a"], [0, 1])
    np.testing.assert_array_equal(tree["b"], [[2, 3]])
    block = operator.unravel(jnp.arange(12, dtype=np.float32).reshape(4, 3))
    assert block["b"].shape == (1, 2, 3)
    np.testing.assert_array_equal(block["a"], [[0, 1, 2], [3, 4, 5]])


def _refusals():
    dense = operators.Dense(np.ones((3, 2), np.float32))
    kernel = operators.Kernel(KERNEL, POINTS.astype(np.float32), "tiled")
    return [
        lambda part: operators.Scaled(jnp.asarray(2.0), part),
        lambda part: operators.Sum(dense, part),
        lambda part: operators.Composed(part, dense),
        lambda part: operators.Stacked((dense, part)),
        lambda part: operators.Transposed(part),
    ], kernel


@pytest.mark.parametrize("number", range(5))
def test_combinations_refuse_arrays_and_function_spaces(number):
    combine, kernel = _refusals()
    with pytest.raises(TypeError, match=r"takes operators; got .* Wrap arrays in Dense"):
        combine[number](np.ones((3, 2), np.float32))
    with pytest.raises(TypeError, match="domain is a function space"):
        combine[number](kernel)


def test_combinations_refuse_sizes_that_do_not_match():
    tall, wide = operators.Dense(np.ones((3, 2))), operators.Dense(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"Sum takes operators of one shape"):
        operators.Sum(tall, wide)
    with pytest.raises(ValueError, match=r"Composed needs matching sizes"):
        operators.Composed(tall, tall)
    with pytest.raises(ValueError, match=r"Stacked takes operators with one number of columns"):
        operators.Stacked((tall, wide))


def test_kernel_operator_refuses_bad_arguments():
    with pytest.raises(TypeError, match="kernel must be a gplsq kernel"):
        operators.Kernel("rbf", POINTS)
    with pytest.raises(ValueError, match=r"X must be a table of points"):
        operators.Kernel(KERNEL, POINTS[0].astype(np.float32))
    with pytest.raises(ValueError, match="form must be one of 'auto', 'dense', 'tiled'"):
        operators.Kernel(KERNEL, POINTS.astype(np.float32), "sparse")
