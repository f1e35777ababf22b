"""A kernel of one's own, from one function of two points: particles that cannot be told apart.

    python examples/custom_kernel.py
    python examples/custom_kernel.py --quick

Question: what is it worth to tell the model that an energy of three equal particles in the plane
does not change when they are renamed? The kernel averages an RBF over the six ways to name them.
Its peer is the plain RBF, and the plain RBF that sees every row six times would cost 216 times as
much. Data from a seed. Saves custom_kernel.png; the last lines check the result.

Answer: with 100 rows it is as good as the plain RBF with 400.
"""

import argparse
from itertools import permutations

import jax.numpy as jnp
import numpy as np

import gplsq
from gplsq.kernels import RBF, AbstractPairKernel, positive

NAMES = np.array(list(permutations(range(3))))  # the six ways to name three particles


class Unnamed(AbstractPairKernel):
    """The mean of an RBF over all ways to name the particles of one of both points.

    Whichever point it is, the mean is the same, for distances do not change when both are renamed.
    So this is symmetric, and a covariance: that of an RBF process averaged over names.
    """

    lengthscale: object = positive(default=1.0)

    def pair(self, x, z):
        renamed = z.reshape(3, 2)[NAMES].reshape(6, 6)
        q = jnp.sum((x - renamed) ** 2, axis=1) / self.lengthscale**2
        return jnp.mean(jnp.exp(-q / 2))


def energy(X: np.ndarray) -> np.ndarray:
    """Three particles in a bowl that repel each other, softly."""
    points = X.reshape(-1, 3, 2)
    bowl = 0.5 * np.sum(points**2, axis=(1, 2))
    apart = np.sum((points[:, [0, 0, 1]] - points[:, [1, 2, 2]]) ** 2, axis=2)
    return bowl + np.sum(4 * np.exp(-apart), axis=1)


def fit(kernel, X: np.ndarray, y: np.ndarray, steps: int) -> gplsq.GPRegressor:
    """The inputs keep their units: scaled one by one, the columns of particles would differ."""
    shift = y.mean()
    settings = {"standardize": False, "levels": [(len(X), steps)], "random_state": 0}
    return gplsq.GPRegressor(
        kernel, noise_variance=0.01, mean=lambda rows: np.full(len(rows), shift), **settings
    ).fit(X, y)


def draw(curves: dict, last: dict, y_test: np.ndarray, path: str) -> None:
    """Errors against rows, and predictions against truth with the most rows."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    colors = ("#D55E00", "#0072B2")
    for (name, curve), color in zip(curves.items(), colors, strict=True):
        axes[0].loglog(*zip(*curve.items(), strict=True), "o-", color=color, label=name)
    rows = list(next(iter(curves.values())))
    axes[0].set_xticks(rows, rows)
    axes[0].minorticks_off()
    errors = [e for curve in curves.values() for e in curve.values()]
    ticks = [e for e in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6) if min(errors) / 2 < e < 2 * max(errors)]
    axes[0].set_yticks(ticks, ticks)
    axes[0].set(xlabel="rows seen", ylabel="RMSE on new rows", title="Learning curves")
    axes[0].legend(frameon=False)
    ends = [y_test.min(), y_test.max()]
    for axis, (name, mean), color in zip(axes[1:], last.items(), colors, strict=True):
        axis.plot(ends, ends, color="0.6", lw=1)
        axis.plot(y_test[:400], mean[:400], ".", color=color, ms=4)
        axis.set(xlabel="energy", ylabel="prediction", title=f"{name}, {rows[-1]} rows")
        axis.set(xlim=(ends[0] - 0.5, ends[1] + 0.5), ylim=(ends[0] - 0.5, ends[1] + 0.5))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Compare both kernels on the same rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and steps")
    options = parser.parse_args()
    sizes, steps = ([60, 120], 30) if options.quick else ([50, 100, 200, 400], 80)
    rng = np.random.default_rng(0)
    X, X_test = rng.uniform(-1.5, 1.5, (sizes[-1], 6)), rng.uniform(-1.5, 1.5, (1000, 6))
    y, y_test = energy(X) + 0.05 * rng.standard_normal(len(X)), energy(X_test)
    kernels = {"RBF": 4.0 * RBF(1.5), "Unnamed": 4.0 * Unnamed(1.5)}
    curves, last = {name: {} for name in kernels}, {}
    print("RMSE on 1000 new rows; the energy's standard deviation is " + f"{y_test.std():.2f}\n")
    print(f"{'rows':>6}" + "".join(f"{name:>10}" for name in kernels))
    for rows in sizes:
        for name, kernel in kernels.items():
            last[name] = fit(kernel, X[:rows], y[:rows], steps).predict(X_test)
            curves[name][rows] = float(np.sqrt(np.mean((last[name] - y_test) ** 2)))
        print(f"{rows:6}" + "".join(f"{curves[name][rows]:10.3f}" for name in kernels))
    draw(curves, last, y_test, "custom_kernel.png")
    print("\nPicture: custom_kernel.png")
    for rows in sizes:
        assert curves["Unnamed"][rows] < 0.8 * curves["RBF"][rows]


if __name__ == "__main__":
    main()
