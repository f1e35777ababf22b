"""How far is a score model's Jacobian from symmetric, and what does a constraint cost in its loss?

    python benchmarks/conservative.py
    python benchmarks/conservative.py --seeds 1 --sets ring

Two densities in the plane and scikit-learn's digits; the ways are those of the examples
`constraints_conservative_score.py` and `constraints_conservative_digits.py`, where they are
explained. Asymmetry: root mean square of the Jacobian's antisymmetric part at unseen noisy points,
relative to that of the whole. Loss: denoising score matching at unseen points. Mean over seeds,
with the standard deviation.

Not measured: other nets, likelihoods.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from _harness import environment, print_table, progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import constraints_conservative_digits as digits
import constraints_conservative_score as plane


def main() -> None:
    """A row a set and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sets = [*plane.DENSITIES, "digits"]
    parser.add_argument("--sets", nargs="+", default=sets, choices=sets)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    table = []
    for name in options.sets:
        runs = []
        for seed in range(options.seeds):
            if name == "digits":
                runs.append(digits.compare(seed, 3000))
            else:
                runs.append(plane.compare(name, seed, 1600))
            progress(f"{name}: seed {seed} of {options.seeds} done")
        first = next(iter(runs[0]))
        for way in runs[0]:
            asymmetries = [run[way]["asymmetry"] for run in runs]
            losses = [run[way]["loss"] for run in runs]
            than = np.mean([run[first]["asymmetry"] / run[way]["asymmetry"] for run in runs])
            more = np.mean([run[way]["loss"] / run[first]["loss"] for run in runs]) - 1
            seconds = np.median([run[way]["seconds"] for run in runs])
            table.append(
                [
                    name,
                    way,
                    f"{np.mean(asymmetries):.1e} ± {np.std(asymmetries):.0e}",
                    f"{than:.3g}",
                    f"{np.mean(losses):.4f} ± {np.std(losses):.4f}",
                    f"{more:+.1%}",
                    f"{seconds:.0f}",
                ]
            )
    print(environment())
    header = ["set", "way", "asymmetry", "less by", "held-out loss", "loss more by", "seconds"]
    print_table(header, table)


if __name__ == "__main__":
    main()
