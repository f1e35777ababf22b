"""Gaussian processes in JAX, built on differentiable matrix-free least squares."""
