"""Products with K until a prediction error: function-space LSMR against conjugate gradients.

    python benchmarks/solver_curves.py --set pol --rows 3000

Same kernel, same preconditioner (randomly pivoted Cholesky), same start, same dtype. The error is
that of the predictions at test rows, relative to those of a float64 Cholesky solve, root mean
square. LSMR's count includes its first product. In float32 the lowest error that each method
ever reaches within the budget is printed too: that is where rounding stops it.

Not measured: seconds (a product with K dominates both methods).
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _harness import data_folder, environment, load_uci, print_table

from gplsq.kernels import Matern32
from gplsq.operators import Kernel
from gplsq.solvers import LSMR, RandomlyPivotedCholesky, lstsq
from gplsq.solvers._lsmr_step import initial_state, lsmr_step
from gplsq.solvers._lsmr_stop import best_iterate
from gplsq.solvers._systems import kernel_system


@eqx.filter_jit
def lsmr_errors(operator, damp, y, prepared, predict, truth, steps: int):
    """Prediction error after 1, 2, ... products, by LSMR's own step."""
    system = kernel_system(operator, damp, prepared, y[:, None], None)
    consistent = prepared is not None
    start = initial_state(system.operator, system.rhs, system.damp, consistent=consistent)

    def body(state, _):
        new = lsmr_step(system.operator, system.damp, state)
        x = best_iterate(system, new)[0][:, 0]  # the iterate the solver would return
        return new, jnp.sqrt(jnp.mean((predict @ x - truth) ** 2))

    return jax.lax.scan(body, start, None, length=steps)[1]


@eqx.filter_jit
def cg_errors(operator, damp, y, prepared, predict, truth, steps: int):
    """The same by (preconditioned) conjugate gradients, Hestenes & Stiefel (1952)."""

    def apply_inverse(r):
        return r if prepared is None else prepared.solve(r[:, None])[:, 0]

    z = apply_inverse(y)

    def body(carry, _):
        x, r, p, rz = carry
        Sp = operator.mv(p) + damp**2 * p
        alpha = rz / (p @ Sp)
        x, r = x + alpha * p, r - alpha * Sp
        z = apply_inverse(r)
        rz_new = r @ z
        new = (x, r, z + rz_new / rz * p, rz_new)
        return new, jnp.sqrt(jnp.mean((predict @ x - truth) ** 2))

    return jax.lax.scan(body, (jnp.zeros_like(y), y, z, y @ z), None, length=steps)[1]


def first_below(errors: np.ndarray, level: float, extra: int) -> str:
    """Products until the error is below `level` for the first time."""
    below = np.flatnonzero(errors <= level)
    return str(int(below[0]) + 1 + extra) if below.size else f">{len(errors)}"


def main() -> None:
    """Print products to each error level, for both dtypes and several noises."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="pol")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rank", type=int, default=100)
    parser.add_argument("--data")
    parser.add_argument("--plot", help="also draw the curves into this file")
    options = parser.parse_args()
    curves = {}
    X, y, X_test, _ = load_uci(data_folder(options.data), options.set, 0, "float64")
    keep = np.random.default_rng(0).permutation(len(X))[: options.rows]
    X, y, X_test = X[keep], y[keep], X_test[:500]
    shift, scale = X.mean(0), np.where(X.std(0) > 0, X.std(0), 1)
    X, X_test, y = (X - shift) / scale, (X_test - shift) / scale, (y - y.mean()) / y.std()
    kernel = Matern32(jnp.full(X.shape[1], 3.0))
    rows = []
    for noise in (0.1, 0.01, 0.001):
        with jax.enable_x64(True):
            K = np.asarray(kernel(X)) + noise * np.eye(len(X))
            exact = np.linalg.solve(K, y)
            truth = np.asarray(kernel(X_test, X)) @ exact
        for dtype in ("float64", "float32"):
            with jax.enable_x64(dtype == "float64"):
                points, target = jnp.asarray(X, dtype), jnp.asarray(y, dtype)
                operator = Kernel(kernel, points, "dense")
                damp = jnp.sqrt(jnp.asarray(noise, dtype))
                predict = jnp.asarray(np.asarray(kernel(X_test.astype(dtype), X.astype(dtype))))
                recipe = RandomlyPivotedCholesky(options.rank, 50)
                for name, prepared in (("none", None), ("RPC", recipe.build(operator, damp))):
                    common = (operator, damp, target, prepared, predict, jnp.asarray(truth, dtype))
                    lsmr = np.asarray(lsmr_errors(*common, options.steps))
                    cg = np.asarray(cg_errors(*common, options.steps))
                    curves[noise, dtype, name] = lsmr, cg
                    # What users get: the solver's own stop, with its restarts.
                    solver = LSMR(rtol=3e-7, max_steps=options.steps)
                    settings = {"damp": damp, "solver": solver, "preconditioner": prepared}
                    own = lstsq(operator, target, **settings, throw=False)
                    own_error = np.sqrt(np.mean((np.asarray(predict @ own.value) - truth) ** 2))
                    cells = [f"{noise:g}", dtype, name]
                    for level in (1e-2, 1e-3, 1e-4, 1e-6):
                        a, b = first_below(lsmr, level, 1), first_below(cg, level, 0)
                        cells.append(f"{a} / {b}")
                    cells.append(f"{np.nanmin(lsmr):.1e} / {np.nanmin(cg):.1e}")
                    cells.append(f"{own_error:.1e} ({int(own.stats.num_steps)})")
                    rows.append(cells)
    print(environment())
    print(f"{options.set}, n = {len(X)}, Matérn 3/2 lengthscale 3, preconditioner rank "
          f"{options.rank}; each cell LSMR / CG")  # fmt: skip
    header = ["noise", "dtype", "precond.", "to 1e-2", "to 1e-3", "to 1e-4", "to 1e-6"]
    print_table([*header, "lowest error", "lstsq at rtol 3e-7: error (steps)"], rows)
    if options.plot:
        plot(options.plot, curves)


def plot(path: str, curves: dict) -> None:
    """Error against products, one panel a noise and dtype."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    noises = sorted({key[0] for key in curves}, reverse=True)
    figure, axes = plt.subplots(
        2, len(noises), figsize=(11, 6), sharex=True, sharey="row", layout="constrained"
    )
    for (noise, dtype, name), (lsmr, cg) in curves.items():
        axis = axes[["float64", "float32"].index(dtype), noises.index(noise)]
        style = "-" if name == "none" else "--"
        label = "" if name == "none" else ", preconditioned"
        axis.semilogy(np.arange(len(cg)) + 1, cg, style, color="tab:orange", label=f"CG{label}")
        axis.semilogy(np.arange(len(lsmr)) + 2, lsmr, style, color="tab:blue", label=f"LSMR{label}")
        axis.set_title(f"{dtype}, noise {noise:g}")
        axis.set_xlim(0, 800)
        axis.set_ylim(1e-8 if dtype == "float64" else 1e-5, 3)
    for axis in axes[-1]:
        axis.set_xlabel("products with K")
    for axis in axes[:, 0]:
        axis.set_ylabel("error of predictions")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
