"""Check a wheel and a source distribution as a user would meet them: `make dist`.

    python tests/release/check_dist.py dist

Each file of the folder is installed into an empty environment of its own. A small program fits,
solves, differentiates, saves and loads there, in a folder without a checkout; pyright then checks
it against the types that were installed. Quick tests are copied to that folder and run on what is
installed. Exits with a message at the first thing that fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What is run from the source distribution; from the wheel it is what --tests names.
FEW_TESTS = ["tests/solvers/test_lstsq_api.py", "tests/solvers/test_rank.py"]

PROGRAM = """
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import gplsq
from gplsq import GPRegressor, lstsq
from gplsq.solvers import Solution

here = pathlib.Path(gplsq.__file__).resolve()
assert pathlib.Path(sys.prefix).resolve() in here.parents, here
assert gplsq.__version__ == sys.argv[1], gplsq.__version__
assert (here.parent / "py.typed").exists()

X = np.linspace(0, 6, 60)[:, None]
y = np.sin(X[:, 0])
model = GPRegressor(levels=[(60, 10)], random_state=0).fit(X, y)
mean, std = model.predict(X, return_std=True)
assert np.abs(mean - y).max() < 0.1
assert (std > 0).all()
model.save("model.gplsq")
assert (gplsq.load("model.gplsq").predict(X) == mean).all()

A, b = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), jnp.array([1.0, 2.0, 3.0])
solution: Solution = lstsq(A, b, damp=0.1)
assert bool(solution.ok)
slope = jax.grad(lambda damp: lstsq(A, b, damp=damp).value.sum())(0.1)
assert bool(jnp.isfinite(slope))
print(f"gplsq {gplsq.__version__} on jax {jax.__version__} from {here.parent}")
"""

# What pyright must see from outside: types where py.typed is found, and errors for wrong use.
TYPED = """
from gplsq import LSMR, lstsq
from gplsq.solvers import Solution
import jax.numpy as jnp

solution = lstsq(jnp.eye(2), jnp.ones(2))
reveal_type(solution)
kept: Solution = solution
LSMR(rtol="tight")  # an error, if types are seen
"""


def call(*command: object, **options) -> str:
    """Output of a command; ends the check where it fails."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:4]))} ... failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def check_contents(sdist: Path, folder: Path) -> None:
    """The source distribution holds the licence, the package and its marker for types."""
    shutil.unpack_archive(sdist, folder)
    (top,) = folder.iterdir()
    for name in ("LICENSE", "README.md", "pyproject.toml", "gplsq/py.typed", "PKG-INFO"):
        if not (top / name).exists():
            sys.exit(f"{sdist.name} does not hold {name}")


def check_types(folder: Path, python: Path, pyright: str) -> None:
    """The program has no type errors, and a wrong argument has one: py.typed is seen."""
    call(pyright, "--pythonpath", python, "program.py", cwd=folder)
    (folder / "typed.py").write_text(TYPED)
    done = subprocess.run(
        [pyright, "--pythonpath", str(python), "typed.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if 'is "Solution"' not in done.stdout or 'rtol"' not in done.stdout:
        sys.exit(f"pyright does not see the types of the installed package:\n{done.stdout}")


def check(file: Path, version: str, pyright: str, tests: list[str]) -> None:
    """Install one file into an empty environment and use it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "environment"
        venv.create(home, with_pip=True)
        python = home / "bin" / "python"
        environment = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        call(*pip, file, cwd=folder, env=environment)
        work = folder / "work"
        work.mkdir()
        (work / "program.py").write_text(PROGRAM)
        print(call(python, "program.py", version, cwd=work, env=environment).strip(), flush=True)
        check_types(work, python, pyright)
        print("types are seen from outside", flush=True)
        extra = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "matplotlib", "pandas")
        call(*pip, *extra, cwd=folder, env=environment)
        shutil.copytree(ROOT / "tests", work / "tests")
        run = (python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *tests)
        said = call(*run, cwd=work, env={**environment, "GPLSQ_X64": "1"})
        print(said.strip().splitlines()[-1], flush=True)


def main() -> None:
    """Check every wheel and source distribution of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pyright", default="pyright", help="the type checker's command")
    parser.add_argument("--tests", nargs="+", default=FEW_TESTS, help="of the wheel")
    options = parser.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    folder = options.folder.resolve()
    wheel = folder / f"gplsq-{version}-py3-none-any.whl"
    sdist = folder / f"gplsq-{version}.tar.gz"
    with tempfile.TemporaryDirectory() as name:
        check_contents(sdist, Path(name))
    for file in (wheel, sdist):
        print(f"== {file.name}", flush=True)
        check(file, version, options.pyright, options.tests if file is wheel else FEW_TESTS)


if __name__ == "__main__":
    main()
