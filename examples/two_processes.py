"""One fit over two processes, and the same fit by one: do they agree?

    python examples/two_processes.py
    python examples/two_processes.py --quick

Question: if each of two processes holds half of the rows, are predictions those of a single process
that holds all? The script starts itself twice; the two meet on the loopback interface. On a cluster
they would be started by SLURM, Ray or Kubernetes (docs/concepts/distributed.md), and everything
after `initialize` is the same. Saves two_processes.png; the last lines check the result.

Answer: yes, to the tolerance of the solves, after as many steps.
"""

import argparse
import pathlib
import socket
import subprocess
import sys
import tempfile

import jax
import matplotlib as mpl
import numpy as np

import gplsq

mpl.use("Agg")
import matplotlib.pyplot as plt

COLUMNS, FUNCTIONS, PROCESSES = 3, 200, 2
NOISE_VARIANCE = 0.04
# Both fits stop at this relative residual: predictions agree to a few times as much.
RTOL, ALLOWED = 1e-4, 1e-3
# Predictions are made along a diagonal of the table.
LINE = np.linspace(-1.5, 1.5, 400, dtype=np.float32)[:, None] * np.ones(COLUMNS, np.float32)


def rows_of(rows: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the table, in float32; on a cluster a process would read its own files."""
    X = np.random.default_rng(0).uniform(-2, 2, (rows, COLUMNS)).astype(np.float32)[start:stop]
    noise = np.random.default_rng(1).standard_normal(rows)[start:stop]
    return X, (truth(X) + np.sqrt(NOISE_VARIANCE) * noise).astype(np.float32)


def truth(X: np.ndarray) -> np.ndarray:
    """The function behind the noise."""
    return np.sin(2 * X[:, 0]) * np.cos(X[:, 1]) + 0.3 * X[:, 2]


def fit(X, y, mesh):
    """The posterior on the span of 200 inducing points, which every process has."""
    Z = np.random.default_rng(2).uniform(-2, 2, (FUNCTIONS, COLUMNS)).astype(np.float32)
    settings = {"noise_variance": NOISE_VARIANCE, "rtol": RTOL, "mesh": mesh}
    return gplsq.gp.condition(gplsq.kernels.Matern52(1.0), X, y, inducing=Z, **settings)


def work(process: int, port: int, rows: int, result: str) -> None:
    """What each of the processes does; the first writes what came of it."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=PROCESSES, process_id=process)
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    # A process can address its own rows only; together they are one array.
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    share = rows // PROCESSES
    mine = rows_of(rows, process * share, (process + 1) * share)
    X, y = (jax.make_array_from_process_local_data(here, part) for part in mine)
    held = sum(shard.data.shape[0] for shard in X.addressable_shards)
    print(f"process {process} holds {held} of {rows} rows", flush=True)
    assert held == share

    spread, alone = fit(X, y, mesh), fit(*rows_of(rows, 0, rows), None)
    # Predictions are whole in every process.
    means = [np.asarray(posterior.mean(LINE)) for posterior in (spread, alone)]
    stds = [np.sqrt(np.asarray(posterior.variance(LINE))) for posterior in (spread, alone)]
    steps = [int(posterior.solution.stats.num_steps) for posterior in (spread, alone)]
    if process == 0:
        np.savez(result, means=means, stds=stds, steps=steps)


def run(rows: int) -> dict[str, np.ndarray]:
    """Start the processes, and read what the first of them wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        result = f"{folder}/result.npz"
        command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--port", str(port)]
        command += ["--rows", str(rows), "--result", result]
        started = [subprocess.Popen([*command, "--process", str(i)]) for i in range(PROCESSES)]
        assert [process.wait() for process in started] == [0] * PROCESSES
        with np.load(result) as file:
            return dict(file)


def plot(found: dict[str, np.ndarray], path: str) -> None:
    """Predictions along the diagonal, and how far those of the two fits are apart."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    x, (mean, std) = LINE[:, 0], (found["means"], found["stds"])
    left.fill_between(x, *(mean[0] + s * 1.96 * std[0] for s in (-1, 1)), alpha=0.3, linewidth=0)
    left.plot(x, mean[0], label="two processes, 95 %")
    left.plot(x, mean[1], "--", label="one process")
    left.plot(x, truth(LINE), ":", color="#777777", label="truth")
    left.set(xlabel="along the diagonal", ylabel="prediction")
    left.legend(frameon=False)
    right.plot(x, np.abs(mean[0] - mean[1]), label="means")
    right.plot(x, np.abs(std[0] - std[1]), label="standard deviations")
    right.axhline(ALLOWED, color="#777777", linestyle=":", label="allowed")
    right.set(yscale="log", xlabel="along the diagonal", ylabel="difference of the two fits")
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Fit both ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    parser.add_argument("--rows", type=int, help="set by the script itself, as those below")
    parser.add_argument("--process", type=int)
    parser.add_argument("--port", type=int)
    parser.add_argument("--result")
    options = parser.parse_args()
    if options.process is not None:
        work(options.process, options.port, options.rows, options.result)
        return
    found = run(4_000 if options.quick else 20_000)
    difference = max(np.max(np.abs(a - b)) for a, b in (found["means"], found["stds"]))
    print(f"steps: {found['steps'][0]} by two processes, {found['steps'][1]} by one")
    print(f"Answer: predictions differ by {difference:.1e} at most.")
    plot(found, "two_processes.png")

    assert difference < ALLOWED
    assert np.sqrt(np.mean((found["means"][0] - truth(LINE)) ** 2)) < 0.1


if __name__ == "__main__":
    main()
