"""Residuals of ready-made constraints and actions of groups, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplsq import constraints as c


def test_quarter_turns_flips_and_shifts_move_pixels_as_numpy_does(rng) -> None:
    image = rng.standard_normal((4, 4, 2)).astype(np.float32)
    for g in range(4):
        turned = jax.jit(c.rotate90)(g, jnp.asarray(image))
        np.testing.assert_array_equal(turned, np.rot90(image, g))
    np.testing.assert_array_equal(c.flip(jnp.array(1), jnp.asarray(image)), image[:, ::-1])
    np.testing.assert_array_equal(c.flip(jnp.array(0), jnp.asarray(image)), image)
    moved = c.translate(jnp.array([1, -2]), jnp.asarray(image))
    np.testing.assert_array_equal(moved, np.roll(image, (1, -2), axis=(0, 1)))


@pytest.mark.parametrize("d", [2, 3, 5])
def test_random_rotations_are_orthogonal_with_the_right_determinants(d) -> None:
    key = jax.random.key(d)
    for reflections in (False, True):
        Q = np.asarray(
            c.random_rotations(key, 40, d, reflections=reflections, dtype=jnp.float32), np.float64
        )
        np.testing.assert_allclose(Q @ np.swapaxes(Q, 1, 2), [np.eye(d)] * 40, atol=1e-5)
        signs = np.sign(np.linalg.det(Q))
        assert set(signs) == ({1.0, -1.0} if reflections else {1.0})
    x = np.arange(3.0 * d).reshape(3, d).astype(np.float32)
    np.testing.assert_allclose(c.rotate(jnp.asarray(Q[0]), x), x @ Q[0].T, atol=1e-4)


def test_random_permutations_permute() -> None:
    g = c.random_permutations(jax.random.key(0), 10, 6)
    np.testing.assert_array_equal(np.sort(g, axis=1), [np.arange(6)] * 10)
    assert len({tuple(row) for row in np.asarray(g)}) > 1
    x = jnp.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(c.permute(g[0], x), np.asarray(x)[np.asarray(g[0])])


def test_residuals_of_a_symmetric_function_are_zero_and_of_others_not(rng) -> None:
    images = jnp.asarray(rng.standard_normal((3, 4, 4)), jnp.float32)
    turns = jnp.array([1, 2, 3])
    summed = c.Invariance(lambda p, x: p * x.sum(), c.rotate90, turns)
    np.testing.assert_allclose(summed.residuals(2.0, images), np.zeros((3, 3)), atol=1e-5)
    first = c.Invariance(lambda p, x: p * x[0, 0], c.rotate90, turns).residuals(2.0, images)
    expected = [[2 * (np.rot90(x, g)[0, 0] - x[0, 0]) for x in np.asarray(images)] for g in turns]
    np.testing.assert_allclose(first, expected, atol=1e-6)
    same = c.Equivariance(lambda p, x: jnp.tanh(p * x), c.rotate90, c.rotate90, turns)
    np.testing.assert_allclose(same.residuals(2.0, images), np.zeros((3, 3, 4, 4)), atol=1e-6)


def test_conservative_residuals_are_the_antisymmetric_part(rng) -> None:
    J = rng.standard_normal((3, 3)).astype(np.float32)
    points = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32)
    exact = c.Conservative(lambda p, x: p @ x).residuals(jnp.asarray(J), points)
    apart = (J - J.T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(exact, [apart, apart], atol=1e-6)
    probed = c.Conservative(lambda p, x: p @ x, probes=4000)
    found = probed.residuals(jnp.asarray(J), (points, jax.random.key(0)))
    assert found.shape == (2, 4000)
    assert float(jnp.mean(found**2)) == pytest.approx(np.sum((J - J.T) ** 2), rel=0.1)
    gradient = c.Conservative(jax.grad(lambda p, x: jnp.sum(jnp.tanh(p @ x) ** 2), 1))
    np.testing.assert_allclose(gradient.residuals(jnp.asarray(J), points), 0, atol=1e-5)


@pytest.mark.parametrize("measure", ["output", "jacobian"])
def test_robustness_is_the_excess_of_the_change(measure, rng) -> None:
    W = rng.standard_normal((2, 3)).astype(np.float32)
    x, e = rng.standard_normal((2, 5, 3)).astype(np.float32)
    residuals = c.Robustness(lambda p, x: p @ x, 0.5, measure).residuals(jnp.asarray(W), (x, e))
    change = np.linalg.norm(e @ W.T, axis=1)
    np.testing.assert_allclose(residuals, (change**2 - 0.25) / 1.0, rtol=1e-4, atol=1e-5)
    assert np.all((np.asarray(residuals) > 0) == (change > 0.5))


def test_orthogonality_residuals_have_the_norm_of_the_matrix(rng) -> None:
    for shape in ((5, 3), (3, 5), (2, 4, 3)):
        W = rng.standard_normal(shape).astype(np.float32)
        stack = W if W.ndim == 3 else W[None]
        tall = [w if w.shape[0] >= w.shape[1] else w.T for w in stack]
        expected = np.sqrt(sum(np.sum((w.T @ w - np.eye(3)) ** 2) for w in tall))
        (found,) = c.Orthogonality().residuals(jnp.asarray(W))
        assert float(jnp.linalg.norm(found.ravel())) == pytest.approx(expected, rel=1e-5)
