"""Constraints on nets of equinox and flax: under filter_jit, nnx.jit, split state and optimiser."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gplsq.constraints import Constraint, Orthogonality, Sparsity, constrained

X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
Y = np.sin(X[:, :2])
STEPS = 150


def _far_from_orthogonal(W):
    W = np.asarray(W, np.float64)
    square = W @ W.T if W.shape[0] < W.shape[1] else W.T @ W
    return np.abs(square - np.eye(len(square))).max()


def test_an_equinox_net_under_filter_jit() -> None:
    net = eqx.nn.MLP(6, 2, 16, 2, key=jax.random.key(0))
    constraint = Orthogonality(lambda net: net.layers[1].weight)
    optimizer = constrained(optax.adamw(3e-3), constraint, restoration_steps=2, tolerance=1e-6)

    def loss(net):
        return jnp.mean((jax.vmap(net)(X) - Y) ** 2)

    @eqx.filter_jit
    def step(net, state):
        value, gradient = eqx.filter_value_and_grad(loss)(net)
        updates, state = optimizer.update(gradient, state, eqx.filter(net, eqx.is_inexact_array))
        return eqx.apply_updates(net, updates), state, value

    state = optimizer.init(eqx.filter(net, eqx.is_inexact_array))
    first = float(loss(net))
    for _ in range(STEPS):
        net, state, value = step(net, state)
    assert _far_from_orthogonal(net.layers[1].weight) < 1e-5
    assert float(value) < 0.3 * first


@pytest.fixture
def flax_net():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(6, 16, rngs=rngs)
            self.second = nnx.Linear(16, 16, rngs=rngs)
            self.last = nnx.Linear(16, 2, rngs=rngs)

        def __call__(self, x):
            return self.last(jnp.tanh(self.second(jnp.tanh(self.first(x)))))

    return nnx, Net(nnx.Rngs(0))


def _flax_loss(net):
    return jnp.mean((net(X) - Y) ** 2)


def test_the_split_state_of_a_flax_net(flax_net) -> None:
    nnx, net = flax_net
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    constraint = Orthogonality(lambda params: params["second"]["kernel"][...])
    optimizer = constrained(optax.adam(3e-3), constraint, restoration_steps=2, tolerance=1e-6)

    def loss(params):
        return _flax_loss(nnx.merge(graph, params, rest))

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    start = params, optimizer.init(params)
    (params, state), values = jax.jit(lambda c: jax.lax.scan(step, c, length=STEPS))(start)
    assert _far_from_orthogonal(params["second"]["kernel"][...]) < 1e-5
    assert float(values[-1]) < 0.3 * float(values[0])
    assert float(state.report.violation_after) < 1e-5


def test_the_optimizer_of_flax_hands_on_a_batch(flax_net) -> None:
    nnx, net = flax_net
    graph = nnx.split(net, nnx.Param)[0]

    def even(params, batch):
        """f(x) = f(-x), of the first output."""

        def f(x):
            return nnx.merge(graph, params)(x)[:, 0]

        return f(batch) - f(-batch)

    invariant = constrained(optax.adam(3e-3), Constraint(even))
    optimizer = nnx.Optimizer(net, invariant, wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer, batch):
        value, gradient = nnx.value_and_grad(_flax_loss)(net)
        optimizer.update(net, gradient, constraint_batch=batch)
        return value

    def uneven():
        return float(jnp.sqrt(jnp.mean((net(X)[:, 0] - net(-X)[:, 0]) ** 2)))

    first, before = uneven(), _flax_loss(net)
    for i in range(STEPS):
        step(net, optimizer, jnp.asarray(X[(i * 8) % 64 :][:8]))
    assert uneven() < 0.2 * first  # of points that the last batch does not hold
    # The second output is free to learn its odd target; the first one is even and cannot.
    assert float(_flax_loss(net)) < 0.75 * float(before)
    assert float(jnp.mean((net(X)[:, 1] - Y[:, 1]) ** 2)) < 0.25 * float(np.mean(Y[:, 1] ** 2))


def test_sparsity_of_a_flax_net_counts_each_tensor(flax_net) -> None:
    nnx, net = flax_net
    graph, params = nnx.split(net, nnx.Param)
    optimizer = constrained(optax.adam(3e-3), Sparsity(0.75))

    @jax.jit
    def step(params, state):
        gradient = jax.grad(lambda p: _flax_loss(nnx.merge(graph, p)))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(20):
        params, state = step(params, state)
    for layer in ("first", "second", "last"):
        kernel = np.asarray(params[layer]["kernel"][...])
        assert np.mean(kernel == 0) >= 0.75
    assert np.all(np.asarray(params["first"]["bias"][...]) != 0)
