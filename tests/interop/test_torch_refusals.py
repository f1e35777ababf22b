"""`gplsq.interop.torch`: solves that miss their tolerance, and arguments that are refused."""

import jax
import numpy as np
import pytest

from gplsq import LSMR
from gplsq.operators import Function
from gplsq.solvers import (
    STATUS,
    ConvergenceError,
    DerivativeWarning,
)
from gplsq.testing import matrix_with_spectrum

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("gplsq.interop.torch")
lstsq = bridge.lstsq


def hard(rng, **options):
    A = matrix_with_spectrum(rng, 40, 30, np.geomspace(1, 1e-3, 30))
    return torch.tensor(A, **options), torch.tensor(rng.standard_normal(40))


@pytest.mark.parametrize("gradient", [False, True])
def test_a_missed_tolerance_raises_with_its_report(rng, gradient):
    A, b = hard(rng, requires_grad=gradient)
    with pytest.raises(ConvergenceError, match=r"out of steps.*Remedy: raise max_steps"):
        lstsq(A, b, damp=1e-3, solver=LSMR(max_steps=2))


@pytest.mark.parametrize("gradient", [False, True])
def test_without_throw_the_solution_says_which_column_failed(rng, gradient):
    A, b = hard(rng, requires_grad=gradient)
    b = torch.stack([b, torch.zeros_like(b)], 1)
    options = {"damp": 1e-3, "solver": LSMR(max_steps=2), "throw": False, "return_solution": True}
    solution = lstsq(A, b, **options)
    assert solution.value.requires_grad == gradient
    assert solution.ok.tolist() == [False, True]
    assert solution.status.tolist()[0] == STATUS.MAX_STEPS
    assert "Remedy" in solution.report
    single = lstsq(A, b[:, 1], **options)
    assert single.ok.shape == single.status.shape == ()
    assert bool(single.ok)


def easy_value_of_a_hard_gradient():
    A = torch.diag(torch.logspace(0, -3, 30, dtype=torch.float64))
    b = torch.zeros(30, dtype=torch.float64)
    b[0] = 1
    return A, b


@pytest.mark.parametrize("of", ["A", "b"])
def test_a_gradient_whose_own_solve_fails_raises_or_warns(of):
    A, b = easy_value_of_a_hard_gradient()
    (A if of == "A" else b).requires_grad_()
    options = {"damp": 1e-4, "solver": LSMR(max_steps=3)}
    x = lstsq(A, b, **options)
    with pytest.raises(ConvergenceError, match=r"gradient of lstsq is not accurate.*max_steps"):
        x.sum().backward()
    x = lstsq(A, b, throw=False, **options)

    def backward_and_wait():
        x.sum().backward()
        jax.effects_barrier()

    with pytest.warns(DerivativeWarning, match="not accurate"):
        backward_and_wait()


EYE, ONES = torch.eye(3), torch.ones(3)


@pytest.mark.parametrize(
    ("A", "b", "options", "error", "match"),
    [
        (np.eye(3), ONES, {}, TypeError, "A must be a torch tensor or a gplsq operator; got ndarr"),
        (None, ONES, {}, TypeError, "A must be a torch tensor or a gplsq operator; got None"),
        (EYE, [1.0], {}, TypeError, r"b must be a torch tensor; got \[1.0\]"),
        (EYE.int(), ONES, {}, TypeError, "A must be float32 or float64; got Tensor of dtype"),
        (EYE, ONES.half(), {}, TypeError, "b must be float32 or float64"),
        (EYE * 1j, ONES, {}, TypeError, "A must be float32 or float64"),
        (EYE, ONES.double(), {}, TypeError, "one dtype"),
        (EYE.to_sparse(), ONES, {}, TypeError, "A must be a dense tensor.*to_dense"),
        (EYE, torch.ones(4), {}, ValueError, r"b must have shape \(3,\)"),
        (ONES, ONES, {}, ValueError, "A must be a matrix"),
        (EYE.to("meta"), ONES.to("meta"), {}, ValueError, "on a cpu or cuda device; got meta"),
        (EYE, ONES, {"solver": "lsmr"}, TypeError, "solver must be"),
        (EYE, ONES, {"damp": -1.0}, ValueError, "damp must be at least 0"),
        (EYE, ONES, {"damp": torch.tensor(-1.0)}, ValueError, "damp must be at least 0"),
        (EYE, ONES, {"damp": torch.tensor([1.0, -1, 1])}, ValueError, "damp must be at least 0"),
        (EYE, ONES, {"damp": torch.tensor(torch.nan)}, ValueError, "damp must be finite"),
        (EYE, ONES, {"damp": torch.ones(2)}, ValueError, "damp must be"),
        (EYE, ONES, {"damp": EYE}, ValueError, r"damp must be real, of shape \(\) or \(n,\)"),
        (EYE, ONES, {"damp": "1"}, TypeError, "damp must be a real number"),
    ],
)
@pytest.mark.parametrize("gradient", [False, True])
def test_wrong_arguments_are_refused(A, b, options, error, match, gradient):
    if gradient and isinstance(b, torch.Tensor) and b.is_floating_point():
        b = b.clone().requires_grad_()
    with pytest.raises(error, match=match):
        lstsq(A, b, **options)


def test_an_operator_whose_solution_is_a_pytree_is_refused():
    operator = Function(lambda tree: 2 * tree["a"], {"a": np.ones(3, np.float32)})
    for b in (torch.ones(3), torch.ones(3, requires_grad=True)):
        with pytest.raises(TypeError, match="A must map vectors to vectors"):
            lstsq(operator, b)


def test_a_tensor_on_a_gpu_that_jax_does_not_see_is_refused():
    if jax.default_backend() == "gpu":
        pytest.skip("JAX sees a GPU")
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    with fake.FakeTensorMode():
        A, b = torch.empty(3, 2, device="cuda"), torch.empty(3, device="cuda")
        with pytest.raises(ValueError, match=r"b is on cuda:0, but JAX sees no GPU.*b.cpu\(\)"):
            lstsq(A, b)
        with pytest.raises(ValueError, match="A is on cuda:0, but JAX sees no GPU"):
            lstsq(A, torch.empty(3))
