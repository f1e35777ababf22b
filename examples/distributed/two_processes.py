"""One fit over two processes, and the same fit by one: do they agree?

    python examples/distributed/two_processes.py

Starts itself twice. The two processes meet on the loopback interface, and each holds half of the
rows; on a cluster they would be started by SLURM, Ray or Kubernetes (docs/concepts/distributed.md),
and everything after `initialize` is the same. Exits with an error if the fits differ.
"""

import argparse
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np

import gplsq

ROWS, COLUMNS, FUNCTIONS, PROCESSES = 20_000, 3, 200, 2
NOISE_VARIANCE = 0.04
# Both fits stop at this relative residual: predictions agree to a few times as much.
RTOL, ALLOWED = 1e-4, 1e-3


def rows_of(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the table, in float32; on a cluster a process would read its own files."""
    X = np.random.default_rng(0).uniform(-2, 2, (ROWS, COLUMNS)).astype(np.float32)[start:stop]
    noise = np.random.default_rng(1).standard_normal(ROWS)[start:stop]
    y = np.sin(2 * X[:, 0]) * np.cos(X[:, 1]) + 0.3 * X[:, 2] + np.sqrt(NOISE_VARIANCE) * noise
    return X, y.astype(np.float32)


def fit(X, y, mesh):
    """The posterior on the span of 200 inducing points, which every process has."""
    Z = np.random.default_rng(2).uniform(-2, 2, (FUNCTIONS, COLUMNS)).astype(np.float32)
    return gplsq.gp.condition(
        gplsq.kernels.Matern52(1.0),
        X,
        y,
        noise_variance=NOISE_VARIANCE,
        solver="inducing",
        inducing=Z,
        rtol=RTOL,
        mesh=mesh,
    )


def work(process: int, port: int) -> None:
    """What each of the processes does."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=PROCESSES, process_id=process)
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    # A process can address its own rows only; together they are one array.
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    share = ROWS // PROCESSES
    mine = rows_of(process * share, (process + 1) * share)
    X, y = (jax.make_array_from_process_local_data(here, part) for part in mine)

    spread = fit(X, y, mesh)
    alone = fit(*rows_of(0, ROWS), None)

    at = np.random.default_rng(3).uniform(-2, 2, (1000, COLUMNS)).astype(np.float32)
    answers = []
    for name, posterior in (("two processes", spread), ("one process", alone)):
        # Predictions are whole in every process.
        answer = np.asarray(posterior.mean(at)), np.sqrt(np.asarray(posterior.variance(at)))
        answers.append(answer)
        if process == 0:
            steps = int(posterior.solution.stats.num_steps)
            print(f"{name:14} mean[:3] {answer[0][:3]}  std[:3] {answer[1][:3]}  {steps} steps")
    differences = [float(np.max(np.abs(a - b))) for a, b in zip(*answers, strict=True)]
    held = sum(shard.data.shape[0] for shard in X.addressable_shards)
    print(f"process {process} holds {held} of {ROWS} rows; differs by {max(differences):.1e}")
    if not max(differences) < ALLOWED:
        sys.exit(f"process {process}: the fits differ by {differences}, over {ALLOWED}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--process", type=int, help="set by the script itself")
    parser.add_argument("--port", type=int, help="set by the script itself")
    options = parser.parse_args()
    if options.process is not None:
        work(options.process, options.port)
        return 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--port", str(port)]
    started = [subprocess.Popen([*command, "--process", str(i)]) for i in range(PROCESSES)]
    codes = [process.wait() for process in started]
    print("the fits agree" if not any(codes) else f"failed: exit codes {codes}")
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
