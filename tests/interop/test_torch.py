"""`gplsq.interop.torch`: values, gradients, shared memory and refusals, against PyTorch itself."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import LSMR, Direct
from gplsq.kernels import RBF
from gplsq.operators import Dense, Function, Kernel
from gplsq.solvers import (
    RandomlyPivotedCholesky,
)
from gplsq.testing import count_compilations, matrix_with_spectrum, tolerance

torch = pytest.importorskip("torch")
bridge = pytest.importorskip("gplsq.interop.torch")
lstsq = bridge.lstsq

# float64 tensors work with x64 on and off, so both dtypes run in both modes.
DTYPES = pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
PRECISE = LSMR(rtol=1e-13)
# Where the solver does not matter: it compiles in a fraction of LSMR's time.
QUICK = Direct()


def numpy_dtype(kind):
    return np.float64 if kind is torch.float64 else np.float32


def problem(rng, shape, columns=(), kind=torch.float64, **options):
    """A well-conditioned matrix and a right-hand side."""
    values = np.geomspace(2, 0.5, min(shape))
    A = torch.tensor(matrix_with_spectrum(rng, *shape, values), dtype=kind, **options)
    return A, torch.tensor(rng.standard_normal((shape[0], *columns)), dtype=kind, **options)


def ridge(A, b, damp):
    """The closed form in PyTorch; `damp` of shape () or (n,)."""
    penalty = torch.diag(damp.expand(A.shape[1]) ** 2)
    return torch.linalg.solve(A.T @ A + penalty, A.T @ b)


def close(ours, theirs, rtol):
    ours, theirs = (tensor.detach().double() for tensor in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=rtol * float(1 + theirs.abs().max()))


@DTYPES
@pytest.mark.parametrize(
    ("shape", "columns"), [((9, 4), ()), ((4, 9), (3,))], ids=["tall, one", "wide, three"]
)
def test_the_value_is_that_of_pytorchs_own_least_squares(rng, shape, columns, kind):
    A, b = problem(rng, shape, columns, kind)
    x = lstsq(A, b)
    assert x.dtype == kind
    assert x.shape == (shape[1], *columns)
    matrix, rhs = A.double(), b.double().reshape(shape[0], -1)
    expected = torch.linalg.lstsq(matrix, rhs, driver="gelsd").solution.reshape(x.shape)
    close(x, expected, tolerance(numpy_dtype(kind), 10))


@DTYPES
@pytest.mark.parametrize(
    ("damp", "moves", "solver"),
    [(0.7, False, QUICK), (0.7, True, None), ([0.2, 0.4, 0.0, 0.8], True, QUICK)],
    ids=["number", "scalar tensor", "vector"],
)
def test_the_damped_value_and_all_gradients_are_those_of_the_closed_form(
    rng, kind, damp, moves, solver
):
    A, b = problem(rng, (9, 4), (2,), kind, requires_grad=True)
    sigma = torch.tensor(damp, dtype=kind, requires_grad=moves)
    weights = torch.tensor(rng.standard_normal((4, 2)), dtype=kind)
    x = lstsq(A, b, damp=sigma if moves else damp, solver=solver)
    given = [A, b, sigma] if moves else [A, b]
    ours = torch.autograd.grad((weights * x).sum(), given)
    doubles = [t.detach().double().requires_grad_() for t in (A, b, sigma)]
    expected = ridge(*doubles)
    theirs = torch.autograd.grad((weights.double() * expected).sum(), doubles)
    close(x, expected, tolerance(numpy_dtype(kind), 10))
    for mine, other in zip(ours, theirs, strict=False):
        assert mine.dtype == kind
        assert mine.shape == other.shape
        close(mine, other, tolerance(numpy_dtype(kind), 30))


@pytest.mark.parametrize(
    ("shape", "columns", "solver"),
    [
        ((9, 4), (), PRECISE),
        ((4, 9), (2,), PRECISE),
        ((9, 4), (2,), QUICK),
        ((4, 9), (), QUICK),
    ],
)
def test_undamped_gradients_pass_gradcheck(rng, shape, columns, solver):
    A, b = problem(rng, shape, columns, requires_grad=True)
    assert torch.autograd.gradcheck(lambda A, b: lstsq(A, b, solver=solver), (A, b))


@pytest.mark.parametrize(
    ("shape", "each", "solver"),
    [((9, 4), False, PRECISE), ((4, 9), True, PRECISE), ((4, 9), False, QUICK)],
)
def test_damped_gradients_pass_gradcheck(rng, shape, each, solver):
    A, b = problem(rng, shape, (2,), requires_grad=True)
    damp = torch.tensor(rng.uniform(0.3, 0.9, shape[1]) if each else 0.6, dtype=torch.float64)
    damp.requires_grad_()
    arguments = (A, b, damp)
    assert torch.autograd.gradcheck(lambda A, b, d: lstsq(A, b, damp=d, solver=solver), arguments)


def test_of_many_solutions_it_returns_the_smallest_and_differentiates_it(rng):
    A = matrix_with_spectrum(rng, 6, 5, [2.0, 1.0, 0.5])
    A, b = torch.tensor(A, requires_grad=True), torch.tensor(rng.standard_normal(6))
    inverse = torch.linalg.pinv(A.detach(), rtol=1e-8)
    jacobian = torch.autograd.functional.jacobian(lambda b: lstsq(A.detach(), b), b)
    close(jacobian, inverse, 1e-9)
    x = lstsq(A, b)
    close(x, inverse @ b, 1e-9)
    # A moves within the matrices of rank three: A (I + t C).
    C = torch.tensor(rng.standard_normal((5, 5)))
    (gradient,) = torch.autograd.grad(x.sum(), A)
    step = 1e-6
    up, down = (
        torch.linalg.pinv(A.detach() @ (torch.eye(5) + t * C), rtol=1e-8) @ b for t in (step, -step)
    )
    close((gradient * (A @ C)).sum(), (up - down).sum() / (2 * step), 1e-7)


@DTYPES
def test_the_x64_flag_is_never_touched(rng, kind):
    before = jax.config.jax_enable_x64
    A, b = problem(rng, (6, 3), (), kind, requires_grad=True)
    lstsq(A, b, solver=QUICK).sum().backward()
    assert A.grad.dtype == b.grad.dtype == kind
    assert jax.config.jax_enable_x64 == before
    assert jnp.ones(1).dtype == (jnp.float64 if before else jnp.float32)


def test_only_what_asks_for_a_gradient_gets_one(rng):
    A, b = problem(rng, (6, 3))
    b.requires_grad_()
    lstsq(A, b, damp=torch.tensor(0.25), solver=QUICK).sum().backward()
    assert A.grad is None
    close(b.grad, ridge(A, torch.eye(6).double(), torch.tensor(0.25)).sum(0), 1e-10)
    with torch.no_grad():
        assert not lstsq(A, b, solver=QUICK).requires_grad
    assert not lstsq(A, b.detach(), solver=QUICK).requires_grad
    with torch.inference_mode():
        close(lstsq(A, b, solver=QUICK), torch.linalg.pinv(A) @ b.detach(), 1e-10)


def test_a_damp_of_another_dtype_is_cast_and_gets_its_gradient_in_its_own(rng):
    A, b = problem(rng, (6, 3))
    damp = torch.tensor(0.4, requires_grad=True)
    lstsq(A, b, damp=damp, solver=QUICK).sum().backward()
    double = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    ridge(A, b, double).sum().backward()
    assert damp.grad.dtype == torch.float32
    close(damp.grad, double.grad, 1e-6)


@DTYPES
def test_an_operator_is_fixed_and_its_right_hand_side_and_damp_get_gradients(rng, kind):
    A, b = problem(rng, (9, 4), (), kind)
    damp = torch.tensor(0.5, dtype=kind, requires_grad=True)
    b.requires_grad_()
    with jax.enable_x64(kind is torch.float64):
        matrix = jnp.asarray(A.numpy())
        operators = [Dense(matrix), Function(lambda v: matrix @ v, jnp.zeros(4, matrix.dtype))]
    doubles = [t.detach().double().requires_grad_() for t in (b, damp)]
    theirs = torch.autograd.grad(ridge(A.double(), *doubles).sum(), doubles)
    for operator in operators:
        ours = torch.autograd.grad(lstsq(operator, b, damp=damp, solver=QUICK).sum(), (b, damp))
        for mine, other in zip(ours, theirs, strict=True):
            close(mine, other, tolerance(numpy_dtype(kind), 30))


def test_a_kernel_operator_takes_its_preconditioner(rng):
    X = rng.uniform(-2, 2, (40, 1))
    b = torch.tensor(np.sin(3 * X[:, 0]), requires_grad=True)
    with jax.enable_x64(True):
        operator = Kernel(RBF(0.5), jnp.asarray(X))
        K = torch.tensor(np.asarray(operator.as_matrix()))
    recipe = RandomlyPivotedCholesky(rank=15, block=5)
    c = lstsq(operator, b, damp=0.3, preconditioner=recipe)
    (gradient,) = torch.autograd.grad(c.square().sum(), b)
    S = K + 0.09 * torch.eye(40).double()
    close(c, torch.linalg.solve(S, b), 1e-7)
    close(gradient, torch.linalg.solve(S, 2 * torch.linalg.solve(S, b)), 1e-6)


def test_a_second_call_with_new_numbers_compiles_nothing(rng):
    def step(damp):
        A, b = problem(rng, (8, 3), (2,), requires_grad=True)
        lstsq(A, b, damp=damp, solver=LSMR(rtol=damp * 1e-3)).square().sum().backward()
        with torch.no_grad():
            lstsq(A, b, damp=damp, solver=Direct())

    with count_compilations() as first:
        step(0.3)
    with count_compilations() as second:
        step(0.4)
    assert any("_pull" in name for name in first)
    assert second == []


def test_several_backward_passes_through_one_solve_agree(rng):
    A, b = problem(rng, (7, 4), (), requires_grad=True)
    total = lstsq(A, b, solver=QUICK).sum()
    (first,) = torch.autograd.grad(total, A, retain_graph=True)
    kept = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(total, A)
    assert torch.equal(second, kept)
    with pytest.raises(RuntimeError, match="a second time"):
        total.backward()


def test_a_second_derivative_is_refused_with_a_remedy(rng):
    A, b = problem(rng, (6, 3), (), requires_grad=True)
    (gradient,) = torch.autograd.grad(
        lstsq(A, b, solver=QUICK).square().sum(), A, create_graph=True
    )
    with pytest.raises(RuntimeError, match=r"once only.*second derivatives in JAX: jax.hessian"):
        gradient.sum().backward()

    def gradient_sum(b):
        return torch.func.grad(lambda c: lstsq(A.detach(), c, solver=QUICK).square().sum())(b).sum()

    with pytest.raises(RuntimeError, match="once only"):
        torch.func.grad(gradient_sum)(b.detach())


def test_functional_transforms_work_or_say_what_to_do(rng):
    A, b = problem(rng, (6, 3))
    gradient = torch.func.grad(lambda A: lstsq(A, b, damp=0.3, solver=QUICK).sum())(A)
    damp = torch.tensor(0.3, dtype=torch.float64)
    expected = torch.func.grad(lambda A: ridge(A, b, damp).sum())(A)
    close(gradient, expected, 1e-10)
    with pytest.raises(RuntimeError, match="columns of b"):
        torch.vmap(lambda c: lstsq(A, c, solver=QUICK))(b.expand(3, 6))


def test_contiguous_tensors_are_shared_and_never_written_to(rng):
    A, b = problem(rng, (64, 8), (), requires_grad=True)
    with jax.enable_x64(True):
        assert bridge._to_jax(A).unsafe_buffer_pointer() == A.data_ptr()
        array = jnp.ones((64, 8), jnp.float64) * 2
        assert bridge._to_torch(array).data_ptr() == array.unsafe_buffer_pointer()
    before = A.detach().clone(), b.detach().clone()
    x = lstsq(A, b, solver=QUICK)
    # The pullback keeps no copy of A, its first argument, but its number.
    assert 0 in [leaf for leaf in x.grad_fn.call.pullback[0] if isinstance(leaf, int)]
    x.sum().backward()
    assert torch.equal(A, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.parametrize("changed", ["A", "b", "damp", "value"])
def test_a_tensor_changed_in_place_is_refused_by_the_backward_pass(rng, changed):
    A, b = problem(rng, (6, 3), (), requires_grad=True)
    damp = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x = lstsq(A, b, damp=damp, solver=QUICK)
    with torch.no_grad():
        {"A": A, "b": b, "damp": damp, "value": x}[changed].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


def test_a_tensor_changed_in_place_changes_no_earlier_result(rng):
    A, b = problem(rng, (6, 3))
    x = lstsq(A, b, solver=QUICK)
    kept = x.clone()
    A.zero_()
    b.fill_(7)
    assert torch.equal(x, kept)


def test_views_of_any_layout_are_read_rightly(rng):
    A, b = problem(rng, (9, 6))
    imaginary = torch.complex(b, -b).conj().imag  # the same numbers as b, by a sign not yet applied
    assert imaginary.is_neg()
    cases = [
        (A.T, b[:6]),
        (A[:, ::2], b),
        (A[1:, 1:], b[1:]),
        (A, imaginary),
        (A, b[:1].expand(9)),
        (A, b[:, None].expand(9, 2)),
    ]
    for matrix, rhs in cases:
        matrix = matrix.detach().requires_grad_()
        x = lstsq(matrix, rhs, damp=0.5, solver=QUICK)
        (ours,) = torch.autograd.grad(x.sum(), matrix)  # an expanded cotangent
        expected = ridge(matrix, rhs, torch.tensor(0.5))
        (theirs,) = torch.autograd.grad(expected.sum(), matrix)
        close(x, expected, 1e-12)
        close(ours, theirs, 1e-12)


class RidgeHead(torch.nn.Module):
    """Learned features and a learned damping, under a regression solved in closed form."""

    def __init__(self, features, solve):
        super().__init__()
        self.weight = torch.nn.Parameter(features)
        self.log_damp = torch.nn.Parameter(torch.zeros((), dtype=features.dtype))
        self.solve = solve

    def forward(self, X, y, Z):
        coefficients = self.solve(torch.tanh(X @ self.weight), y, self.log_damp.exp())
        return torch.tanh(Z @ self.weight) @ coefficients


def test_a_module_trains_through_the_solve_as_through_the_closed_form(rng):
    X = torch.tensor(rng.uniform(-1, 1, (60, 2)))
    y = torch.sin(3 * X[:, 0] + X[:, 1])
    features = torch.tensor(rng.standard_normal((2, 6)))

    def train(solve):
        head = RidgeHead(features.clone(), solve)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        losses = []
        for _ in range(15):
            optimizer.zero_grad()
            loss = (head(X[:40], y[:40], X[40:]) - y[40:]).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    ours = train(lambda A, b, damp: lstsq(A, b, damp=damp, solver=QUICK))
    theirs = train(ridge)
    assert ours[-1] < 0.7 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_the_example_in_the_docstring_runs():
    result = doctest.testmod(bridge)
    assert result.attempted
    assert not result.failed
