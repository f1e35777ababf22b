"""Which objective and loss should tune a model: held-out, leave-one-out, or marginal likelihood?

    python benchmarks/objectives.py
    python benchmarks/objectives.py --cases outliers diabetes --seeds 5 --budget 5

The same kernel, start and optimiser for all, and as many steps as fit into the same seconds of
stepping (compilation aside; at most 300). Cases: a smooth function with noise ("sound"); one row in
twenty off by ten times the noise ("outliers"); a function with steps, given a squared exponential
("wrong kernel"); noise that grows tenfold along an input ("uneven noise"); and scikit-learn's
diabetes table. Targets of a test are without outliers. RMSE in units of the target's standard
deviation; NLPD and the share inside 95 % intervals both before calibration on leave-one-out
residuals ("raw") and after it. Medians over seeds.

Not measured: larger tables, where marginal likelihood and leave-one-out need estimates.
"""

import argparse
from typing import NamedTuple

import jax
import numpy as np
from _harness import environment, nlpd, print_table
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from gplsq import GPRegressor
from gplsq.kernels import RBF, Matern32, Scaled
from gplsq.tuning import Holdout, KFold, LeaveOneOut, MarginalLikelihood

WAYS = {
    "hold-out, mse": (Holdout(), "mse"),
    "hold-out, nlpd": (Holdout(), "nlpd"),
    "5 folds, mse": (KFold(), "mse"),
    "leave-one-out, mse": (LeaveOneOut(), "mse"),
    "leave-one-out, nlpd": (LeaveOneOut(), "nlpd"),
    "leave-one-out, crps": (LeaveOneOut(), "crps"),
    "marginal likelihood": (MarginalLikelihood(), "mse"),
}
CASES = ["sound", "outliers", "wrong kernel", "uneven noise", "diabetes"]
NOISE, TEST_ROWS, MOST_STEPS, TRIAL_STEPS = 0.2, 2000, 300, 10


class Case(NamedTuple):
    """Data, and whether the kernel is a squared exponential instead of Matérn 3/2."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    smooth: bool


def make(name: str, seed: int, rows: int) -> Case:
    """A table with the flaw of its name."""
    rng = np.random.default_rng(seed)
    if name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
        X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=seed)
        return Case(X, y, X_test, y_test, smooth=False)
    X = rng.uniform(-1, 1, (rows + TEST_ROWS, 5))
    truth = np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * np.cos(2 * X[:, 3])
    if name == "wrong kernel":
        truth += np.sign(X[:, 0] + X[:, 1]) + np.abs(X[:, 2])
    noise = np.full(len(X), NOISE)
    if name == "uneven noise":
        noise = 0.06 * 10 ** ((X[:, 0] + 1) / 2)
    y = truth + noise * rng.standard_normal(len(X))
    if name == "outliers":
        odd = rng.permutation(rows)[: rows // 20]
        y[odd] += 10 * NOISE * rng.standard_normal(len(odd))
    return Case(X[:rows], y[:rows], X[rows:], y[rows:], smooth=name == "wrong kernel")


def fit(case: Case, way: str, steps: int) -> GPRegressor:
    """One fit with as many steps on all rows."""
    objective, loss = WAYS[way]
    lengthscales = np.full(case.X.shape[1], 2.0)
    kernel = Scaled(1.0, RBF(lengthscales) if case.smooth else Matern32(lengthscales))
    settings = {"noise_variance": 0.1, "levels": [(len(case.X), steps)], "random_state": 0}
    return GPRegressor(kernel, objective=objective, loss=loss, **settings).fit(case.X, case.y)


def steps_within(case: Case, way: str, budget: float) -> int:
    """How many steps take `budget` seconds, by a short trial."""
    seconds = [line["seconds"] for line in fit(case, way, TRIAL_STEPS).history_]
    each = np.median(np.diff(seconds))
    return int(np.clip(budget / each, TRIAL_STEPS, MOST_STEPS))


def measure(case: Case, way: str, steps: int) -> list[float]:
    """RMSE; NLPD and coverage raw and calibrated; seconds of tuning."""
    model = fit(case, way, steps)
    mean, std = model.predict(case.X_test, return_std=True)
    unit = np.std(case.y)
    Z = model._X_scaling.apply(case.X_test, np.dtype("float64"))
    with jax.enable_x64(True):
        raw = np.asarray(model.posterior_.variance(Z)) + float(model.noise_variance_)
    error = (case.y_test - mean) / unit
    numbers = [float(np.sqrt(np.mean(error**2)))]
    for variance in (raw, (std / unit) ** 2):
        inside = np.mean(np.abs(error) <= 1.96 * np.sqrt(variance))
        numbers += [nlpd(error, variance), float(inside)]
    return [*numbers, model.history_[-1]["seconds"]]


def main() -> None:
    """Every case and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of stepping")
    options = parser.parse_args()
    print(environment())
    head = ["tuned by", "steps", "RMSE", "NLPD raw", "in 95 % raw", "NLPD", "in 95 %", "seconds"]
    for name in options.cases:
        cases = [make(name, seed, options.rows) for seed in range(options.seeds)]
        lines = []
        for way in options.ways:
            steps = steps_within(cases[0], way, options.budget)
            results = np.array([measure(case, way, steps) for case in cases])
            rmse, raw, inside_raw, calibrated, inside, seconds = np.median(results, axis=0)
            lines.append(
                [
                    way,
                    str(steps),
                    f"{rmse:.4f}",
                    f"{raw:.3f}",
                    f"{100 * inside_raw:.1f} %",
                    f"{calibrated:.3f}",
                    f"{100 * inside:.1f} %",
                    f"{seconds:.1f}",
                ]
            )
        print(f"\n{name}: {cases[0].X.shape[0]} x {cases[0].X.shape[1]}, {len(cases)} seeds")
        print_table(head, lines)


if __name__ == "__main__":
    main()
