"""What the page on extending shows is short, and passes the contract suites of its kind."""

import importlib.util
import pathlib
import re
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq.kernels import RBF
from gplsq.tuning import mse

ROOT = pathlib.Path(__file__).parents[2]
BLOCKS = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), flags=re.DOTALL
)


def suite(name: str) -> ModuleType:
    """A contract suite, apart from the one that pytest runs."""
    path = ROOT / "tests" / "contracts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page() -> dict:
    """The names of the page; its own tests run with all pages, in test_docs.py."""
    namespace: dict = {}
    for block in BLOCKS:
        if "class " in block:
            quiet = re.sub(r"^test_\w+\(\)$", "", block, flags=re.MULTILINE)
            exec(compile(quiet, "docs/extending.md", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("block", [b for b in BLOCKS if "def test_" in b], ids=lambda b: b[:40])
def test_a_kind_with_its_test_is_one_file_of_less_than_thirty_lines(block: str) -> None:
    assert len(block.splitlines()) < 30
    exec(compile(block, "docs/extending.md", "exec"), {})


def test_the_kernel_passes_the_suite(page, rng, dtype) -> None:
    tests, kernel = suite("test_kernels"), page["CityBlock"](0.7)
    X = (rng.standard_normal((5, 3)) + 0.5).astype(dtype)
    Z = np.concatenate([X[:2], (rng.standard_normal((3, 3)) + 0.5).astype(dtype)])
    X[-1] = X[0]
    tests.test_cross_is_the_double_loop_of_pair(kernel, (X, Z))
    tests.test_diagonal_is_pair_of_a_point_with_itself(kernel, (X, Z))
    tests.test_swapping_the_tables_transposes_the_matrix(kernel, (X, Z))
    tests.test_the_matrix_of_one_table_is_positive_semidefinite(kernel, (X, Z))
    tests.test_results_keep_the_dtype_of_the_points(kernel, (X, Z))
    tests.test_parameters_survive_the_real_line_and_stay_positive(kernel, dtype)


def test_the_operator_passes_the_suite(page, rng, dtype) -> None:
    tests = suite("test_operators")
    operator = page["MovingSum"](jnp.asarray(0.5, dtype), 4)
    matrix = 0.5 * (np.eye(3, 4) + np.eye(3, 4, 1))
    shapes = (4,), (4, 2), (3,), (3, 2)
    arguments = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    arguments[1][:, 1] = 0
    case = operator, matrix, arguments, tests._run(operator, *arguments)
    tests.test_mv_is_the_product_with_the_matrix(case, dtype)
    tests.test_adjoint_identity_holds_in_the_inner_products_of_the_operator(case, dtype)
    tests.test_forward_returns_the_product_and_the_norm_in_the_domain(case, dtype)
    tests.test_adjoint_returns_the_product_and_the_euclidean_norm(case, dtype)
    tests.test_products_are_linear(case, rng, dtype)
    tests.test_dtype_is_kept(case, dtype)
    tests.test_vmap_over_vectors_is_the_block_product(case, dtype)


def test_the_constraint_passes_the_suite(page) -> None:
    tests = suite("test_constraints")
    tests.CONSTRAINTS["of the page"] = (lambda: page["RowSums"](lambda p: p["W"]), None)
    tests.test_training_keeps_it_beside_a_loss("of the page")
    tests.test_parameters_can_be_moved_onto_it("of the page")
    for method in ("penalty", "augmented_lagrangian"):
        tests.test_the_other_methods_bring_it_down_too("of the page", method)


def test_the_objective_is_differentiable(page, rng) -> None:
    X = jnp.asarray(rng.uniform(-2, 2, (20, 1)))
    y = jnp.sin(2 * X[:, 0])

    def loss(lengthscale):
        noise, key = jnp.asarray(0.1, X.dtype), jax.random.key(0)
        return page["OddFromEven"]()(RBF(lengthscale), noise, X, y, key, mse)

    step = 1e-2
    slope = jax.grad(loss)(jnp.asarray(0.8))
    differences = (loss(jnp.asarray(0.8 + step)) - loss(jnp.asarray(0.8 - step))) / (2 * step)
    np.testing.assert_allclose(slope, differences, rtol=0.05)
