"""Tune on one's own loss: orders of a good that is dear to miss and cheap to have left over.

    python examples/own_loss.py
    python examples/own_loss.py --quick

Question: a shop orders before it knows the demand. A piece too few costs 9, a piece too many 1. Is
it worth to tune on that cost instead of squared error? Some days have bulk orders that no one can
foresee; squared error is ruled by them, the cost is not. Demand is made from a seed. Saves
own_loss.png; the last lines check the result.

Answer: yes, against the mean and the normal quantile of a fit by squared error, which bulk orders
make far too wide. Adding the best constant of past days to that mean comes close.
"""

import argparse

import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from gplsq import GPRegressor
from gplsq.kernels import Matern52

SHORT, OVER = 9.0, 1.0
# The order of least expected cost is this quantile of the demand (Arrow, Harris & Marschak 1951).
QUANTILE = SHORT / (SHORT + OVER)
Z = float(ndtri(QUANTILE))


def cost(demand, order):
    """The mean cost of a day."""
    return jnp.mean(SHORT * jnp.maximum(demand - order, 0) + OVER * jnp.maximum(order - demand, 0))


def newsvendor(y, mean, variance):
    """The cost of ordering the quantile of a normal prediction: all that a loss has to be."""
    return cost(y, mean + Z * jnp.sqrt(variance))


def demand(rng: np.random.Generator, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Temperature and price of a day, and what is asked for; one day in 25 has a bulk order."""
    X = np.column_stack([rng.uniform(0, 30, days), rng.uniform(1, 3, days)])
    usual = 60 + 25 * np.sin(X[:, 0] / 3) + 20 * np.tanh(3 * (2 - X[:, 1]))
    bulk = (rng.random(days) < 0.04) * rng.exponential(120, days)
    return X, usual + bulk + 4 * rng.standard_normal(days)


def fit(loss, X: np.ndarray, y: np.ndarray, steps: int) -> GPRegressor:
    """The same model for both losses, one lengthscale for each column."""
    return GPRegressor(
        1.0 * Matern52([0.5, 0.5]),
        noise_variance=0.1,
        loss=loss,
        levels=[(len(X), steps)],
        random_state=0,
    ).fit(X, y)


def order(gp: GPRegressor, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The quantile before calibration: that is by likelihood, and the loss asked for another."""
    mean, latent = gp.predict(X, return_std=True, include_noise=False)
    own = latent**2 / float(gp.calibration_.latent_scale)
    return mean + Z * np.sqrt(own + np.var(y) * float(gp.noise_variance_))


def draw(data, orders: dict, costs: dict, path: str) -> None:
    """Orders against temperature at one price, and what they cost."""
    import matplotlib.pyplot as plt

    X, y, grid = data
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4), width_ratios=[1.6, 1], layout="constrained"
    )
    near = np.abs(X[:, 1] - grid[0, 1]) < 0.25
    left.plot(X[near, 0], y[near], ".", color="0.5", ms=4, label="demand seen")
    colors = ("#D55E00", "#E69F00", "#CC79A7", "#0072B2")
    for (name, values), color in zip(orders.items(), colors, strict=True):
        left.plot(grid[:, 0], values, color=color, lw=2, label=name)
    left.set(xlabel="temperature", ylabel="pieces", xlim=(0, 30), ylim=(0, 260))
    left.set_title(f"Orders at a price of {grid[0, 1]:.0f}")
    left.legend(frameon=False, loc="upper right", ncols=2)
    right.barh(list(costs), list(costs.values()), color=[*colors, "0.6"], height=0.6)
    for i, value in enumerate(costs.values()):
        right.text(value, i, f" {value:.1f}", va="center")
    right.invert_yaxis()
    right.set(
        xlabel="mean cost of a day", title="Days not seen", xlim=(0, 1.2 * max(costs.values()))
    )
    figure.savefig(path, dpi=120)


def main() -> None:
    """Tune twice, order, count the cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer days and steps")
    options = parser.parse_args()
    days, steps = (250, 60) if options.quick else (500, 150)
    rng = np.random.default_rng(0)
    X, y = demand(rng, days)
    X_new, y_new = demand(rng, 5000)
    squared, own = fit("mse", X, y, steps), fit(newsvendor, X, y, steps)
    # Without a normal distribution: the order that would have been best over the days seen.
    added = np.quantile(y - squared.predict(X), QUANTILE)
    rules = {
        "mse, the mean": lambda rows: squared.predict(rows),
        "mse, its quantile": lambda rows: squared.predict_quantiles(rows, QUANTILE),
        "mse, residuals": lambda rows: squared.predict(rows) + added,
        "own loss": lambda rows: order(own, rows, y),
    }
    costs = {name: float(cost(y_new, rule(X_new))) for name, rule in rules.items()}
    costs["same every day"] = float(cost(y_new, np.quantile(y, QUANTILE)))
    print(f"Mean cost of a day, {len(y_new)} days that were not seen\n")
    for name, value in costs.items():
        print(f"{name:>18s}  {value:6.1f}")
    saved = 1 - costs["own loss"] / costs["mse, its quantile"]
    print(f"\nTuning on the cost itself saves {saved:.1%} against the quantile by mse")
    grid = np.column_stack([np.linspace(0, 30, 200), np.full(200, 2.0)])
    orders = {name: rule(grid) for name, rule in rules.items()}
    draw((X, y, grid), orders, costs, "own_loss.png")
    print("Picture: own_loss.png")
    assert all(costs["own loss"] < value for name, value in costs.items() if name != "own loss")
    assert saved > 0.05


if __name__ == "__main__":
    main()
