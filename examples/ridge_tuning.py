"""Is one penalty for each feature better than one for all, if both are tuned on the same rows?

    python examples/ridge_tuning.py
    python examples/ridge_tuning.py --quick

Ridge regression on 60 correlated features of which few matter. `lstsq` takes one damping for each
unknown and is differentiable in it, so 60 penalties are tuned by the gradient of the loss on rows
left out (five folds). So many fit those rows closer than the noise is wide, and are still better on
new ones. scikit-learn's RidgeCV tunes its one penalty on the same rows. Saves
ridge_tuning.png; the last lines check the result.

Answer: yes; of the squared error that the noise does not explain it leaves two thirds (RMSE 0.562
instead of 0.591, the noise being 0.5).
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

from gplsq import LSMR, lstsq

ROWS, FEATURES, NOISE = 200, 60, 0.5
SOLVER = LSMR(rtol=1e-4)  # the loss of left-out rows needs no more digits
WEIGHTS = np.where(np.arange(FEATURES) < 24, 1.5 * 0.8 ** np.arange(FEATURES), 0.0)


def table(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring features are correlated (0.4); the first matter most, the last 36 not at all."""
    rng = np.random.default_rng(seed)
    places = np.arange(FEATURES)
    covariance = 0.4 ** np.abs(places[:, None] - places)
    X = rng.multivariate_normal(np.zeros(FEATURES), covariance, rows)
    y = X @ WEIGHTS + NOISE * rng.standard_normal(rows)
    return X.astype("f4"), y.astype("f4")


def left_out_loss(log_damp, X, y, folds):
    """Mean squared error on each fold of the ridge that is solved on the others."""

    def of_fold(train, test):
        ridge = lstsq(X[train], y[train], damp=jnp.exp(log_damp), solver=SOLVER).value
        return jnp.mean((X[test] @ ridge - y[test]) ** 2)

    return jax.vmap(of_fold)(*folds).mean()


@functools.partial(jax.jit, static_argnames="steps")
def tune(log_damp, X, y, folds, steps):
    """Adam on the logarithms of the penalties, in one compiled scan."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, steps))

    def step(carry, _):
        log_damp, state = carry
        loss, gradient = jax.value_and_grad(left_out_loss)(log_damp, X, y, folds)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(log_damp, updates), state), loss

    (log_damp, _), losses = jax.lax.scan(step, (log_damp, optimizer.init(log_damp)), length=steps)
    return log_damp, losses


def compare(seed: int, steps: int) -> dict:
    """Errors of both on 5,000 new rows, and what was tuned."""
    X, y = table(seed, ROWS)
    X_test, y_test = table(1000 + seed, 5000)
    split = KFold(5, shuffle=True, random_state=seed)
    folds = [jnp.asarray(part) for part in zip(*split.split(X), strict=True)]
    peer = RidgeCV(np.geomspace(1e-3, 1e4, 60), fit_intercept=False, cv=split).fit(X, y)
    # The start is the one penalty that RidgeCV found; a penalty is the square of a damping.
    start = jnp.full(FEATURES, 0.5 * np.log(peer.alpha_), jnp.float32)
    log_damp, losses = tune(start, X, y, folds, steps)
    ridge = np.asarray(lstsq(X, y, damp=jnp.exp(log_damp)).value)
    return {
        "one penalty": float(np.sqrt(np.mean((X_test @ peer.coef_ - y_test) ** 2))),
        "one a feature": float(np.sqrt(np.mean((X_test @ ridge - y_test) ** 2))),
        "penalties": np.exp(2 * np.asarray(log_damp)),
        "alpha": float(peer.alpha_),
        "losses": np.asarray(losses),
    }


def draw(runs: list[dict], path: str) -> None:
    """The tuner's progress, the penalties of one run, and the errors of all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    axes[0].plot(np.sqrt(runs[0]["losses"]), color="#0072B2")
    axes[0].axhline(NOISE, color="grey", lw=1, ls=":", label="noise")
    axes[0].set(xlabel="step", ylabel="RMSE on rows left out", title="Tuning 60 penalties")
    axes[0].legend()
    used = WEIGHTS != 0
    number = np.arange(FEATURES)
    for chosen, color, name in ((used, "#0072B2", "matters"), (~used, "#D55E00", "does not")):
        axes[1].semilogy(
            number[chosen], runs[0]["penalties"][chosen], "o", ms=4, color=color, label=name
        )
    axes[1].axhline(runs[0]["alpha"], color="black", lw=1, label="RidgeCV's one")
    axes[1].set(xlabel="feature", ylabel="penalty", title="What was tuned", ylim=(0.05, 3e6))
    axes[1].legend(fontsize="small", loc="upper left")
    pairs = np.array([[run["one penalty"], run["one a feature"]] for run in runs])
    axes[2].plot(*pairs.T, "o", color="#0072B2")
    ends = [pairs.min() - 0.01, pairs.max() + 0.01]
    axes[2].plot(ends, ends, color="black", lw=1)
    axes[2].set(xlabel="RidgeCV", ylabel="one penalty a feature", title="RMSE on new rows")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    options = parser.parse_args()
    runs = [compare(seed, 100) for seed in range(2 if options.quick else options.seeds)]
    print(f"RMSE on 5,000 new rows (noise {NOISE}), {len(runs)} tables of {ROWS} rows\n")
    print(f"{'':>24s}    mean   worst")
    for name in ("one penalty", "one a feature"):
        errors = [run[name] for run in runs]
        print(f"{name:>24s}  {np.mean(errors):6.4f}  {np.max(errors):6.4f}")
    draw(runs, "ridge_tuning.png")
    print("\nPicture: ridge_tuning.png")
    one, each = (np.mean([run[n] for run in runs]) for n in ("one penalty", "one a feature"))
    assert NOISE * 0.95 < each < one
