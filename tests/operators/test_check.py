"""`check_adjoint`: good operators pass, and each fault is refused by its name."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from gplsq import kernels, operators
from gplsq.operators import AdjointReport, check_adjoint

A = np.random.default_rng(1).standard_normal((9, 6))
C = np.random.default_rng(3).standard_normal((6, 9))
POINTS = np.random.default_rng(4).standard_normal((7, 2))
KERNEL = kernels.RBF(0.8) + kernels.Linear(0.3)


def _dense(matrix, dtype):
    return operators.Dense(matrix.astype(dtype))


def _pytree(dtype):
    def fn(tree):
        return {"top": tree["a"] + tree["b"].sum(axis=0), "low": 2 * tree["b"][0]}

    return operators.Function(fn, {"a": np.zeros(2, dtype), "b": np.zeros((2, 2), dtype)})


GOOD = {
    "dense": lambda dtype: _dense(A, dtype),
    "function": lambda dtype: operators.Function(
        lambda v: jnp.asarray(A.astype(dtype)) @ v, np.zeros(6, dtype)
    ),
    "function-pytree": _pytree,
    "kernel-dense": lambda dtype: operators.Kernel(KERNEL, POINTS.astype(dtype), "dense"),
    "kernel-tiled": lambda dtype: operators.Kernel(KERNEL, POINTS.astype(dtype), "tiled"),
    "scaled": lambda dtype: operators.Scaled(jnp.asarray(-1.5), _dense(A, dtype)),
    "sum": lambda dtype: operators.Sum(_dense(A, dtype), _dense(2 * A, dtype)),
    "composed": lambda dtype: operators.Composed(_dense(C, dtype), _dense(A, dtype)),
    "stacked": lambda dtype: operators.Stacked((_dense(A, dtype), _dense(C[:, :6], dtype))),
    "identity": lambda dtype: operators.Identity(3, dtype),
    "diagonal": lambda dtype: operators.Diagonal(jnp.asarray(A[0].astype(dtype))),
    "sparse": lambda dtype: operators.Sparse(scipy.sparse.csr_array(A.astype(dtype))),
    "rows": lambda dtype: operators.Rows(lambda x: 2 * x, C.astype(dtype), block=2),
    "transposed": lambda dtype: operators.Transposed(_dense(A, dtype)),
    "zero": lambda dtype: _dense(0 * A, dtype),
    "one number": lambda dtype: _dense(A[:1, :1], dtype),
    "huge": lambda dtype: _dense(1e30 * A, dtype),
    "tiny": lambda dtype: _dense(1e-30 * A, dtype),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_good_operator_passes_with_rounding_errors_only(name, dtype):
    report = check_adjoint(GOOD[name](dtype))
    assert isinstance(report, AdjointReport)
    eps = float(np.finfo(dtype).eps)
    assert report.tolerance == pytest.approx(max(eps**0.75, 10 * eps * 3), rel=0.1)
    assert 0 <= max(report[:3]) <= 20 * eps


class Bad(operators.AbstractEuclideanOperator):
    """A matrix with products to be replaced by faulty ones."""

    matrix: jax.Array
    forward_product: Any = eqx.field(static=True)
    adjoint_product: Any = eqx.field(static=True)

    @property
    def shape(self):
        return self.matrix.shape

    @property
    def dtype(self):
        return self.matrix.dtype

    def mv(self, v):
        return self.forward_product(self.matrix, v)

    def rmv(self, u):
        return self.adjoint_product(self.matrix, u)


def _mv(M, v):
    return M @ v


def _rmv(M, u):
    return M.T @ u


def _bad(mv=_mv, rmv=_rmv, matrix=A):
    return Bad(jnp.asarray(matrix.astype(np.float32)), mv, rmv)


ADJOINT = r"rmv must be the adjoint of mv.*relative discrepancy of (?!nan)\S+, more than the"


@pytest.mark.parametrize(
    ("rmv", "size"),
    [
        (lambda M, u: -(M.T @ u), (0.05, 2.1)),  # a sign
        (lambda M, u: 2 * (M.T @ u), (0.02, 1.1)),  # a factor
        (lambda M, u: jnp.diag(1.0 + jnp.arange(6)).astype(u.dtype) @ M.T @ u, (0.02, 2)),
        (lambda M, u: M[:6].T @ u[:6], (0.02, 1)),  # rows left out
        (lambda M, u: jnp.diag(1 + 0.001 * jnp.eye(6)[0]).astype(u.dtype) @ M.T @ u, (1e-5, 1e-3)),
        (lambda M, u: 0 * (M.T @ u), (0.05, 1)),
        (lambda M, u: 1e-30 * (M.T @ u), (0.05, 1)),
    ],
)
def test_a_wrong_adjoint_is_refused_with_its_size(rmv, size):
    with pytest.raises(ValueError, match=ADJOINT) as caught:
        check_adjoint(_bad(rmv=rmv))
    measured = float(str(caught.value).split("discrepancy of ")[1].split(",")[0])
    assert size[0] < measured < size[1]


def test_a_transposed_scaling_is_refused():
    """`A = M D` has the adjoint `D M^T`; the wrong one scales on the other side."""
    M, D = C[:, :6], np.linspace(1, 2, 6)
    good = _bad(lambda M, v: M @ (_like(v, D) * v), lambda M, u: _like(u, D) * (M.T @ u), M)
    check_adjoint(good)
    bad = _bad(lambda M, v: M @ (_like(v, D) * v), lambda M, u: M.T @ (_like(u, D) * u), M)
    with pytest.raises(ValueError, match=ADJOINT):
        check_adjoint(bad)


def _like(v, D):
    scaling = jnp.asarray(D.astype(v.dtype))
    return scaling if v.ndim == 1 else scaling[:, None]


@pytest.mark.parametrize(
    "mv",
    [
        lambda M, v: M @ v + 1,
        lambda M, v: M @ v**2,
        lambda M, v: M @ jnp.abs(v),
        lambda M, v: M @ jnp.sin(v),
        lambda M, v: M @ jnp.where(v > 0, v, 2 * v),
        lambda M, v: jnp.ones_like(M @ v),
    ],
)
def test_a_product_that_is_not_linear_is_refused_before_its_adjoint(mv):
    with pytest.raises(ValueError, match="Bad: mv must be linear; got a relative discrepancy"):
        check_adjoint(_bad(mv=mv))
    with pytest.raises(ValueError, match="Bad: rmv must be linear; got a relative discrepancy"):
        check_adjoint(_bad(rmv=lambda M, u: mv(M.T, u)))


def test_an_affine_operator_is_refused():
    with pytest.raises(ValueError, match="Bad: mv must be linear"):
        check_adjoint(_bad(mv=lambda M, v: M @ v + 1))


def test_an_affine_function_of_traced_arrays_is_refused():
    """Its transposition drops the constant without a word, and no number can be looked at."""

    def operator(offset):
        return operators.Function(lambda v: v + offset, np.zeros(4, np.float32))

    made = eqx.filter_jit(operator)(jnp.ones(4, jnp.float32))
    with pytest.raises(ValueError, match="Function: mv must be linear"):
        check_adjoint(made)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_products_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match=r"Bad.mv must be finite on finite vectors; got NaN or"):
        check_adjoint(_bad(mv=lambda M, v: bad * (M @ v)))
    with pytest.raises(ValueError, match=r"Bad.rmv must be finite on finite vectors; got NaN or"):
        check_adjoint(_bad(rmv=lambda M, u: bad * (M.T @ u)))


def test_wrong_shapes_and_dtypes_are_refused_with_what_came():
    with pytest.raises(ValueError, match=r"mv must map shape \(6, 12\) to \(9, 12\).*got .*6, 12"):
        check_adjoint(_bad(mv=lambda M, v: v))
    with pytest.raises(ValueError, match=r"rmv must map shape \(9, 12\) to \(6, 12\).*\(12, 6\)"):
        check_adjoint(_bad(rmv=lambda M, u: (M.T @ u).T))
    with pytest.raises(ValueError, match=r"in dtype float\d\d; got .* of dtype float16"):
        check_adjoint(_bad(mv=lambda M, v: (M @ v).astype(jnp.float16)))
    with pytest.raises(ValueError, match=r"mv must map shape \(6, 12\).*got None"):
        check_adjoint(_bad(mv=lambda M, v: None))


def test_a_block_that_differs_from_its_columns_is_refused():
    def mv(M, v):
        return M @ v if v.ndim == 1 else 2 * (M @ v)

    with pytest.raises(ValueError, match="mv of a block must be that of its columns"):
        check_adjoint(_bad(mv=mv, rmv=lambda M, u: 2 * (M.T @ u)))


class BadSweep(operators.AbstractEuclideanOperator):
    """An identity whose `sweep` forgets the shift."""

    number: jax.Array

    @property
    def shape(self):
        return (5, 5)

    @property
    def dtype(self):
        return self.number.dtype

    def mv(self, v):
        return self.number * v

    def rmv(self, u):
        return self.number * u

    def sweep(self, v, shift):
        return self.mv(v), self.rmv(self.mv(v))


def test_a_faulty_sweep_is_refused():
    with pytest.raises(ValueError, match=r"sweep must return w = mv\(v\) - shift"):
        check_adjoint(BadSweep(jnp.asarray(2, np.float32)))


class Space(operators.AbstractLinearOperator):
    """The identity from a space with the metric `domain` to one with the metric `codomain`."""

    domain: jax.Array
    inverse: jax.Array  # of `domain`
    codomain: jax.Array
    wrong: str = eqx.field(static=True, default="")

    @property
    def shape(self):
        return self.domain.shape

    @property
    def dtype(self):
        return self.domain.dtype

    def mv(self, v):
        return v

    def rmv(self, u):
        if self.wrong == "rmv":
            return u
        return self.inverse @ (self.codomain @ u)

    def domain_inner(self, v, w):
        if self.wrong == "domain_inner":
            return jnp.sum(v * (jnp.triu(self.domain) @ w), axis=0)
        return jnp.sum(v * (self.domain @ w), axis=0)

    def forward(self, v):
        if self.wrong == "forward":
            return self.mv(v), jnp.linalg.norm(v, axis=0)
        return self.mv(v), jnp.sqrt(self.domain_inner(v, v))

    def adjoint(self, u):
        out = u if self.wrong == "adjoint" else self.rmv(u)
        return out, jnp.sqrt(jnp.sum(u * (self.codomain @ u), axis=0))


def test_inner_products_are_those_of_the_operator(dtype):
    def metric(seed):
        root = np.random.default_rng(seed).standard_normal((5, 5))
        return root @ root.T + 5 * np.eye(5)

    matrices = metric(1), np.linalg.inv(metric(1)), metric(2)
    spaces = [jnp.asarray(matrix.astype(dtype)) for matrix in matrices]
    assert check_adjoint(Space(*spaces)).adjoint < 100 * np.finfo(dtype).eps
    for wrong, claim in [
        ("rmv", "rmv must be the adjoint of mv"),
        ("domain_inner", "domain_inner must be symmetric"),
        ("forward", "forward must return the norm of the domain"),
        ("adjoint", "adjoint must return rmv"),
    ]:
        with pytest.raises(ValueError, match=f"Space: {claim}"):
            check_adjoint(Space(*spaces, wrong))


def test_key_probes_and_tolerance_are_the_users():
    operator = _dense(A, np.float32)
    one = check_adjoint(operator, jax.random.key(1), probes=1)
    other = check_adjoint(operator, jax.random.key(2), probes=16, rtol=0.1)
    assert one[:3] != other[:3]
    assert other.tolerance == 0.1
    nearly = _bad(rmv=lambda M, u: 1.001 * (M.T @ u))
    check_adjoint(nearly, rtol=0.01)
    with pytest.raises(ValueError, match="adjoint of mv"):
        check_adjoint(nearly)


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"operator must be an operator; got .* Wrap arrays in D"):
        check_adjoint(A)
    for probes in (0, -1, 2.0, True, "many"):
        with pytest.raises((TypeError, ValueError), match=r"probes must be (a whole|at least 1)"):
            check_adjoint(_dense(A, np.float32), probes=probes)
    with pytest.raises(ValueError, match="rtol must be at least 0"):
        check_adjoint(_dense(A, np.float32), rtol=-1.0)
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda M: check_adjoint(operators.Dense(M)).adjoint)(A.astype(np.float32))
