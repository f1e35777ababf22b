"""Forecast a monthly series two years ahead: trend, season and noise, with intervals.

    python examples/time_series.py
    python examples/time_series.py --quick

Question: does a Gaussian process with a kernel that says "smooth trend plus a season that changes
slowly" beat last year's values, and do its 95 % intervals hold? Series are made from a seed: twelve
years to learn from, two to forecast. Saves time_series.png; the last lines check the result.

Answer: yes, and almost: 85 to 90 % are inside. Twelve years say little about how the trend bends,
and intervals take the hyperparameters for known.
"""

import argparse

import numpy as np

from gplsq import GPRegressor
from gplsq.kernels import RBF, Periodic
from gplsq.tuning import MarginalLikelihood

SEEN, AHEAD = 144, 24  # months
NOISE = 0.4


def series(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Years since the start, and values: a line with a random bend, a growing season, noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(SEEN + AHEAD) / 12
    lags = t[:, None] - t
    smooth = rng.multivariate_normal(np.zeros(len(t)), 0.6**2 * np.exp(-(lags**2) / (2 * 3**2)))
    trend = 0.8 * t + smooth
    phase = rng.uniform()
    season = np.sin(2 * np.pi * (t + phase)) + 0.4 * np.sin(4 * np.pi * (t + 2 * phase))
    return t, 20 + trend + (1.5 + 0.06 * t) * season + NOISE * rng.standard_normal(len(t))


def fit(t: np.ndarray, y: np.ndarray, steps: int) -> GPRegressor:
    """A trend and a season, around a line; the noise is a hyperparameter of its own.

    Years and values keep their units, so that the period can be held at one year. The kernel is
    believed to be true, and the rows are all of the past: marginal likelihood needs no split.
    """
    trend = 1.0 * RBF(3.0)
    season = 2.0 * (Periodic(lengthscale=1.0, period=1.0) * RBF(20.0))
    return GPRegressor(
        trend + season,
        noise_variance=0.1,
        mean="linear",
        objective=MarginalLikelihood(),
        fixed=["period"],
        standardize=False,
        levels=[(len(t), steps)],
        random_state=0,
    ).fit(t[:, None], y)


def study(seed: int, steps: int) -> dict:
    """Errors and coverage of one series, and what the picture needs."""
    t, y = series(seed)
    gp = fit(t[:SEEN], y[:SEEN], steps)
    mean, std = gp.predict(t[:, None], return_std=True)
    future = y[SEEN:]
    naive = np.tile(y[SEEN - 12 : SEEN], AHEAD // 12)
    # The mean rise of a year, added to last year's values: the better of the two simple ways.
    rise = np.mean(y[12:SEEN] - y[: SEEN - 12])
    drifting = naive + rise * np.repeat(np.arange(1, AHEAD // 12 + 1), 12)
    return {
        "errors": {
            "gp": future - mean[SEEN:],
            "last year": future - naive,
            "last year + rise": future - drifting,
        },
        "inside": float(np.mean(np.abs(future - mean[SEEN:]) < 1.96 * std[SEEN:])),
        "drawn": (t, y, mean, std, drifting),
        "model": gp,
    }


def draw(runs: list[dict], path: str) -> None:
    """One series with its forecast, and how errors grow."""
    import matplotlib.pyplot as plt

    t, y, mean, std, drifting = runs[0]["drawn"]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4), width_ratios=[2.2, 1], layout="constrained"
    )
    left.axvspan(t[SEEN], t[-1], color="0.95", linewidth=0)
    left.fill_between(
        t[SEEN:],
        (mean - 1.96 * std)[SEEN:],
        (mean + 1.96 * std)[SEEN:],
        color="#0072B2",
        alpha=0.25,
        linewidth=0,
        label="95 % interval",
    )
    left.plot(t[SEEN:], drifting, color="#D55E00", lw=1, ls="--", label="last year + rise")
    left.plot(t[SEEN:], mean[SEEN:], color="#0072B2", lw=1.5, label="forecast")
    left.plot(t[:SEEN], y[:SEEN], ".", color="black", ms=4, label="seen")
    left.plot(t[SEEN:], y[SEEN:], "o", color="black", mfc="white", ms=4, label="not seen")
    left.set(xlabel="year", ylabel="value", xlim=(t[0], t[-1]), title="A forecast of two years")
    left.legend(frameon=False, loc="upper left", ncols=2)

    # How the error grows with the distance, over all series.
    quarters = np.arange(AHEAD // 3)
    for name, color in (("last year + rise", "#D55E00"), ("gp", "#0072B2")):
        squares = np.mean([run["errors"][name] ** 2 for run in runs], axis=0)
        label = "Gaussian process" if name == "gp" else name
        curve = np.sqrt(squares.reshape(-1, 3).mean(axis=1))
        right.plot((quarters + 0.5) / 4, curve, "o-", ms=4, color=color, label=label)
    right.axhline(NOISE, color="0.5", lw=1, ls=":", label="noise")
    right.set(
        xlabel="years ahead", ylabel="RMSE", title=f"Error, {len(runs)} series", ylim=(0, None)
    )
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=10, help="how many series")
    parser.add_argument("--quick", action="store_true", help="two series, fewer steps")
    options = parser.parse_args()
    num, steps = (2, 60) if options.quick else (options.series, 100)
    runs = [study(seed, steps) for seed in range(num)]
    print(runs[0]["model"].summary())
    print(f"\nRMSE of {AHEAD} months that were not seen, {num} series\n")
    error = {}
    for name in ("gp", "last year", "last year + rise"):
        error[name] = float(np.sqrt(np.mean([run["errors"][name] ** 2 for run in runs])))
        print(f"{name:>18s}  {error[name]:.3f}")
    inside = float(np.mean([run["inside"] for run in runs]))
    print(f"\nInside 95 % intervals: {inside:.1%}. The noise alone has RMSE {NOISE}.")
    draw(runs, "time_series.png")
    print("Picture: time_series.png")
    assert error["gp"] < 0.95 * error["last year + rise"]
    assert error["gp"] < 0.7 * error["last year"]
    assert inside > 0.8
