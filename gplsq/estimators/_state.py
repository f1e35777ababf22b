"""The state of a fitted model: all of a fit or nothing of it, and NumPy arrays for pickles."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gplsq.estimators._outcome import working_dtype
from gplsq.tuning import Holdout

_NAMES = ("posterior_", "kernel_", "_paths")


@contextlib.contextmanager
def whole_fit(model: Any) -> Iterator[None]:
    """Time a fit. One that failed leaves the estimator as it was, never half of two fits."""
    before, began = dict(vars(model)), time.perf_counter()
    try:
        yield
    except BaseException:
        vars(model).clear()
        vars(model).update(before)
        raise
    model.fit_seconds_ = time.perf_counter() - began


def to_numpy(state: dict[str, Any]) -> dict[str, Any]:
    """JAX would rebuild float64 arrays under the reader's x64 flag: NumPy keeps them.

    A kept kernel matrix (n^2 numbers) is left behind; products then go through tiles. So are the
    devices of a mesh, which the reader may not have.
    """
    if "mesh" in state:
        state["mesh"] = None
    if isinstance(state.get("objective"), Holdout):
        state["objective"] = replace(state["objective"], mesh=None)
    if "posterior_" in state:
        posterior = state["posterior_"]
        with jax.enable_x64(working_dtype(posterior) == np.float64):
            state["posterior_"] = posterior.for_pickle()
    if "_paths" in state:
        state["_paths"] = replace(state["_paths"], mesh=None)
    for name in _NAMES:
        if name in state:
            state[name] = jax.tree.map(
                lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, state[name]
            )
    return state


def to_jax(state: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `to_numpy`, in the dtypes of the fit whatever JAX's x64 flag is."""
    with jax.enable_x64(True):
        restored = {
            name: jax.tree.map(
                lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf,
                state[name],
            )
            for name in _NAMES
            if name in state
        }
    return {**state, **restored}
