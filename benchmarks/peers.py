"""How do time and accuracy grow with rows and columns, against scikit-learn, GPyTorch and GPJax?

    python benchmarks/peers.py                       # a seeded function of 8 inputs, with a plot
    python benchmarks/peers.py --set bike            # one published set instead
    python benchmarks/peers.py --rows 1000 10000 --columns 1 8 100 --models gplsq gpytorch

Every fit runs in a process of its own, tunes, fits and predicts 1,000 rows (or the test rows of the
set) with standard deviations: Matérn 3/2, a lengthscale a column, noise. Seconds count from the
start of Python to the last prediction, imports and compilation included. scikit-learn is its
`GaussianProcessRegressor` without restarts. GPyTorch (CPU) and GPJax are their exact GPs with 50
steps of Adam at learning rate 0.1; where those of GPyTorch take longer than --cap seconds, three
steps are timed, the 50 are extrapolated and marked ~, and there are no predictions. Of up to 100
columns the function looks at the first eight. "Steps" are those of the last solve. RMSE
and NLPD in units of the test target's standard deviation. "warm" is gplsq with a filled compilation
cache. GPyTorch needs 10 GB at 16,000 rows, and was killed for memory (24 GiB) at 30,000.

Not measured: GPyTorch with KeOps or inducing points, GPUs.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from _harness import (
    data_folder,
    environment,
    in_own_process,
    load_uci,
    nlpd,
    peak_megabytes,
    print_table,
    progress,
)

MODELS = ("gplsq", "warm", "scikit-learn", "gpytorch", "gpjax")
LARGEST = {
    "gplsq": 1_000_000, "warm": 20_000, "scikit-learn": 3000, "gpytorch": 16_000, "gpjax": 3000,
}  # fmt: skip
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7")
ADAM_STEPS, TIMED_STEPS, TEST_ROWS, NOISE = 50, 3, 1000, 0.1


def synthetic(rows: int, columns: int) -> tuple[np.ndarray, ...]:
    """`X, y, X_test, y_test` of a smooth function with noise; float64 up to 5,000 rows."""
    rng = np.random.default_rng(rows)
    X = rng.uniform(-1, 1, (rows + TEST_ROWS, columns))
    a, b, c, d, e, f, g, h = np.pad(X.T, ((0, max(0, 8 - columns)), (0, 0)))[:8]
    truth = np.sin(3 * a) + np.cos(2 * b * c) + d**2 * e
    y = truth + 0.5 * np.sin(f + g * h) + NOISE * rng.standard_normal(len(X))
    dtype = np.float64 if rows <= 5000 else np.float32
    X, y = X.astype(dtype), y.astype(dtype)
    return X[:rows], y[:rows], X[rows:], y[rows:]


def fit_gplsq(X, y, X_test, cap):
    """Default settings."""
    from gplsq import GPRegressor

    del cap
    model = GPRegressor(random_state=0).fit(X, y)
    steps = int(np.max(model.posterior_.solution.stats.num_steps))
    return *model.predict(X_test, return_std=True), False, steps


def fit_sklearn(X, y, X_test, cap):
    """Marginal likelihood by L-BFGS from one start."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    from sklearn.preprocessing import StandardScaler

    del cap
    kernel = ConstantKernel(1.0) * Matern(np.ones(X.shape[1]), nu=1.5) + WhiteKernel(0.1)
    scaler = StandardScaler().fit(X)
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    model.fit(scaler.transform(X), y)
    return *model.predict(scaler.transform(X_test), return_std=True), False, None


def fit_gpytorch(X, y, X_test, cap):
    """An exact GP in float32 with the defaults of the library; extrapolated beyond `cap`."""
    import gpytorch
    import torch

    class Model(gpytorch.models.ExactGP):
        def __init__(self, x, y, likelihood):
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            base = gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=x.shape[1])
            self.covar_module = gpytorch.kernels.ScaleKernel(base)

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(
                self.mean_module(x), self.covar_module(x)
            )

    began = time.perf_counter()
    scale = np.where(np.ptp(X, axis=0) == 0, 1, X.std(0))
    x, z = (torch.tensor(((a - X.mean(0)) / scale).astype(np.float32)) for a in (X, X_test))
    target = torch.tensor(((y - y.mean()) / y.std()).astype(np.float32))
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    model = Model(x, target, likelihood).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    torch.manual_seed(0)
    for step in range(ADAM_STEPS):
        optimizer.zero_grad()
        loss = -objective(model(x), target)
        loss.backward()
        optimizer.step()
        if step + 1 == TIMED_STEPS:
            each = (time.perf_counter() - began) / TIMED_STEPS
            if each * ADAM_STEPS > cap:
                return None, None, each * (ADAM_STEPS - TIMED_STEPS), None
    model.eval(), likelihood.eval()
    with torch.no_grad(), gpytorch.settings.fast_pred_var():
        predicted = likelihood(model(z))
    mean, std = predicted.mean.numpy(), predicted.stddev.numpy()
    return mean * y.std() + y.mean(), std * y.std(), False, None


def fit_gpjax(X, y, X_test, cap):
    """The exact model, in float64."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import gpjax as gpx
    import jax.numpy as jnp
    import optax

    del cap
    scale = np.where(np.ptp(X, axis=0) == 0, 1, X.std(0))
    x, z = (jnp.asarray((a - X.mean(0)) / scale, jnp.float64) for a in (X, X_test))
    target = jnp.asarray((y - y.mean()) / y.std(), jnp.float64)
    data = gpx.Dataset(X=x, y=target[:, None])
    kernel = gpx.kernels.Matern32(lengthscale=jnp.ones(X.shape[1]))
    prior = gpx.gps.Prior(mean_function=gpx.mean_functions.Zero(), kernel=kernel)
    trained, _ = gpx.fit(
        model=prior * gpx.likelihoods.Gaussian(obs_stddev=jnp.asarray(0.3)),
        objective=lambda m, d: -gpx.objectives.conjugate_mll(m, d),
        train_data=data,
        optim=optax.adam(0.1),
        num_iters=ADAM_STEPS,
        verbose=False,
    )
    predicted = trained.likelihood(trained.condition(data)(z))
    mean, variance = np.asarray(predicted.mean), np.asarray(predicted.variance)
    return mean * y.std() + y.mean(), np.sqrt(variance) * y.std(), False, None


FITS = {
    "gplsq": fit_gplsq,
    "warm": fit_gplsq,
    "scikit-learn": fit_sklearn,
    "gpytorch": fit_gpytorch,
    "gpjax": fit_gpjax,
}


def run_one(path: str, name: str, cap: float) -> None:
    """One fit in this process; prints a record."""
    X, y, X_test, y_test = (array for _, array in sorted(np.load(path).items()))
    mean, std, missing, steps = FITS[name](X, y, X_test, cap)
    record = {
        "steps": steps,
        "megabytes": peak_megabytes(),
        "missing": float(missing),
    }
    if mean is not None:
        error, unit = y_test - mean, y_test.std()
        record["rmse"] = float(np.sqrt(np.mean(error**2)) / unit)
        record["nlpd"] = nlpd(error / unit, (std / unit) ** 2)
    print(json.dumps(record))


def timed(data: tuple[np.ndarray, ...], name: str, cap: float, cache: str) -> dict:
    """A fit in a cold process, twice if the compilation cache shall be warm."""
    variables = dict(os.environ)
    if name == "warm":
        variables |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/data.npz"
        np.savez(path, **{f"part{i}": array for i, array in enumerate(data)})
        command = ["-W", "ignore", __file__, "--one", path, name, str(cap)]
        for _ in range(2 if name == "warm" else 1):
            record = in_own_process(*command, env=variables)
    return record | {"seconds": record["seconds"] + record["missing"]}


def draw(records: list[dict], path: Path) -> None:
    """Seconds against rows, with the exponent of the last decade of each model."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for name, colour in zip(MODELS, COLOURS, strict=True):
        mine = [record for record in records if record["model"] == name]
        if not mine:
            continue
        n, s = (np.array([record[key] for record in mine], float) for key in ("rows", "seconds"))
        late = n >= n.max() / 12
        exponent = np.polyfit(np.log(n[late]), np.log(s[late]), 1)[0] if late.sum() > 1 else np.nan
        label = f"{name}: n^{exponent:.2f} at the end"
        axes.loglog(n, s, "o-", color=colour, markersize=4, label=label)
    axes.set(xlabel="rows", ylabel="seconds, cold process", title="Tune, fit and predict, 2 cores")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    progress(f"saved {path}")


def main() -> None:
    """Every size and model, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
    parser.add_argument("--rows", nargs="+", type=int, default=sizes)
    parser.add_argument("--columns", nargs="+", type=int, default=[8])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--set", help="a UCI set instead of synthetic data")
    parser.add_argument("--data", help="the folder with uci/")
    parser.add_argument("--cap", type=float, default=120.0, help="seconds for GPyTorch")
    parser.add_argument("--plot", type=Path, help="where the picture goes")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options.one[0], options.one[1], float(options.one[2]))
        return
    records = []
    with tempfile.TemporaryDirectory() as cache:
        cases = itertools.product(options.rows, options.columns)
        for rows, columns in [(0, 0)] if options.set else cases:
            if options.set:
                data = load_uci(data_folder(options.data), options.set, 0, "float32")
            else:
                data = synthetic(rows, columns)
            for name in options.models:
                if len(data[0]) > LARGEST[name]:
                    continue
                record = {"model": name, "rows": len(data[0]), "columns": data[0].shape[1]}
                records.append(record | timed(data, name, options.cap, cache))
                progress(records[-1])
    print(environment())
    table = [
        [
            record["model"],
            f"{record['rows']:,}",
            str(record["columns"]),
            f"{'~' if record['missing'] else ''}{record['seconds']:.1f}",
            f"{record['rmse']:.4f}" if "rmse" in record else "",
            f"{record['nlpd']:.3f}" if "nlpd" in record else "",
            str(record["steps"] or ""),
            str(record["megabytes"]),
        ]
        for record in records
    ]
    print_table(["model", "rows", "columns", "seconds", "RMSE", "NLPD", "steps", "MB"], table)
    if options.plot:
        draw(records, options.plot)


if __name__ == "__main__":
    main()
