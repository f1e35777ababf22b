"""How much does a turn of the image change a net's outputs, and what does that cost in accuracy?

    python benchmarks/invariance.py
    python benchmarks/invariance.py --seeds 1 --steps 300

The 10,000 MNIST test images, the first 8,000 for training and the others for the test; the ways are
those of `examples/constraints_rotation_invariant.py`, where they are explained. Images of the test
were not seen in training, nor were half and three-quarter turns by what is constrained or told of a
quarter turn only. Change: root mean square of f(gx) - f(x) in units of the spread of f. Mean over
seeds, with the standard deviation.

Not measured: other nets, other groups.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from _harness import data_folder, environment, print_table, progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import constraints_rotation_invariant as example
from constraints_sparse_lenet import mnist


def main() -> None:
    """A row a way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--data", help="folder with mnist/ (default: GPLSQ_DATA, ../shared/data)")
    options = parser.parse_args()
    X, y, X_test, y_test = mnist(data_folder(options.data, "mnist") / "mnist")
    parts = [X[:, 0], y, X_test[:, 0], y_test]
    runs = []
    for seed in range(options.seeds):
        runs.append(example.compare(parts, seed, options.steps))
        progress(f"seed {seed} of {options.seeds} done")

    def over_seeds(way: str, name: str, format: str) -> str:
        values = [run[way][name] for run in runs]
        return f"{np.mean(values):{format}} ± {np.std(values):{format}}"

    print(environment())
    table = [
        [
            way,
            over_seeds(way, "upright", ".2%"),
            over_seeds(way, "turned", ".2%"),
            over_seeds(way, "quarter", ".1e"),
            over_seeds(way, "others", ".1e"),
            f"{np.median([run[way]['seconds'] for run in runs]):.0f}",
        ]
        for way in runs[0]
    ]
    turns = ["change, quarter turn", "change, other turns"]
    print_table(["way", "upright right", "all turns right", *turns, "seconds"], table)


if __name__ == "__main__":
    main()
