"""A dear measurement with few values learns from two cheap ones: correlated outputs.

    python examples/several_outputs.py
    python examples/several_outputs.py --quick

Question: where most targets of one output are missing, how much do the other outputs tell about
them? Zinc, cadmium and lead in the soil of a field (made from a seed) share their causes; zinc is
measured in one place of six. Compares one process for all with independent ones. Saves
several_outputs.png; the last lines check the result.

Answer: nearly all there is to know; the error falls to a fifth.
"""

import argparse

import numpy as np

from gplsq import GPRegressor
from gplsq.kernels import RBF

METALS = ("zinc", "cadmium", "lead")
NOISE = 0.1


def field(seed: int):
    """Two smooth causes over the plane, and the metals as mixtures of them: a function of rows."""
    rng = np.random.default_rng(seed)
    waves, phases = rng.normal(size=(2, 40, 2)) * 2.2, rng.uniform(0, 2 * np.pi, (2, 40))
    mixing = np.array([[1.0, 0.5], [0.95, 0.1], [0.3, 0.9]])

    def metals(X: np.ndarray) -> np.ndarray:
        angles = np.einsum("nd,kwd->nkw", X, waves) + phases
        return np.sqrt(2 / 40) * np.cos(angles).sum(axis=2) @ mixing.T

    return metals, rng


def study(seed: int, rows: int, steps: int) -> dict:
    """RMSE of zinc where it was not measured, by both models, and what the picture needs."""
    metals, rng = field(seed)
    X = rng.uniform(-2, 2, (rows, 2))
    truth = metals(X)
    y = truth + NOISE * rng.standard_normal(truth.shape)
    missing = np.arange(rows) >= rows // 6
    y[missing, 0] = np.nan
    found = {"X": X, "missing": missing, "metals": metals, "truth": truth[missing, 0]}
    for name in ("independent", "correlated"):
        gp = GPRegressor(
            1.0 * RBF([0.5, 0.5]),
            outputs=name,
            missing="drop",
            loss="nlpd",
            levels=[(3 * rows, steps)],
            random_state=0,
        ).fit(X, y)
        mean, std = gp.predict(X[missing], return_std=True)
        residual = mean[:, 0] - found["truth"]
        found[name] = {
            "model": gp,
            "mean": mean[:, 0],
            "rmse": float(np.sqrt(np.mean(residual**2))),
            "std": float(np.mean(std[:, 0])),
            "inside": float(np.mean(np.abs(residual) < 1.96 * std[:, 0])),
        }
    return found


def draw(found: dict, path: str) -> None:
    """Maps of zinc, and both models where it was not measured."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(14, 3.9), layout="constrained")
    line = np.linspace(-2, 2, 50)
    grid = np.stack(np.meshgrid(line, line), axis=-1)
    flat, X = grid.reshape(-1, 2), found["X"]
    maps = {"zinc: truth": found["metals"](flat)[:, 0]}
    for name in ("independent", "correlated"):
        maps[f"zinc: {name}"] = found[name]["model"].predict(flat)[:, 0]
    limit = np.abs(maps["zinc: truth"]).max()
    for axis, (name, values) in zip(axes, maps.items(), strict=False):
        image = axis.pcolormesh(
            line, line, values.reshape(50, 50), cmap="PuOr", vmin=-limit, vmax=limit
        )
        axis.set(title=name, aspect="equal", xticks=[], yticks=[])
        axis.plot(*X[found["missing"]].T, ".", color="0.3", ms=2.5, label="the other two alone")
        axis.plot(
            *X[~found["missing"]].T, "o", color="white", mec="black", ms=5, label="zinc measured"
        )
    figure.colorbar(image, ax=axes[:3], shrink=0.8)
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False, ncols=2)
    ends = [found["truth"].min(), found["truth"].max()]
    axes[3].plot(ends, ends, color="0.6", lw=1)
    for name, color in (("independent", "#D55E00"), ("correlated", "#0072B2")):
        label = f"{name}: RMSE {found[name]['rmse']:.2f}"
        axes[3].plot(found["truth"], found[name]["mean"], ".", color=color, label=label)
    axes[3].set(xlabel="true zinc", ylabel="predicted zinc", title="Where zinc is missing")
    axes[3].legend(frameon=False, loc="upper left", handletextpad=0.1)
    low, high = axes[3].get_ylim()
    axes[3].set_ylim(low, high + 0.25 * (high - low))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Compare over several fields."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=4, help="how many fields are made")
    parser.add_argument("--quick", action="store_true", help="one field, fewer rows and steps")
    options = parser.parse_args()
    num, rows, steps = (1, 90, 40) if options.quick else (options.fields, 150, 100)
    runs = [study(seed, rows, steps) for seed in range(num)]
    print(f"Zinc where it was not measured ({rows - rows // 6} of {rows} rows), {num} field(s)\n")
    print(f"{'outputs':>12}  {'RMSE':>6}  {'std':>6}  in 95 %")
    for name in ("independent", "correlated"):
        of = {key: np.mean([run[name][key] for run in runs]) for key in ("rmse", "std", "inside")}
        print(f"{name:>12}  {of['rmse']:6.3f}  {of['std']:6.3f}  {of['inside']:6.1%}")
    kernel = runs[0]["correlated"]["model"].kernel_
    mixing, kappa = np.asarray(kernel.mixing), np.asarray(kernel.kappa)
    covariance = mixing @ mixing.T + np.diag(kappa)
    scale = np.sqrt(np.diag(covariance))
    print("\nCorrelations that were learnt:")
    for name, row in zip(METALS, covariance / np.outer(scale, scale), strict=True):
        print(f"{name:>12}  " + "  ".join(f"{value:5.2f}" for value in row))
    draw(runs[0], "several_outputs.png")
    print("\nPicture: several_outputs.png")
    for run in runs:
        assert run["correlated"]["rmse"] < 0.8 * run["independent"]["rmse"]


if __name__ == "__main__":
    main()
