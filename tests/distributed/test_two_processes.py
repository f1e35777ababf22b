"""A fit over two processes, by the example that shows it."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "distributed" / "two_processes.py"


@pytest.mark.skipif(
    getattr(jax.config, "jax_cpu_collectives_implementation", None) != "gloo",
    reason="processes on CPUs need JAX's gloo collectives, which are not its default here",
)
def test_two_processes_fit_what_one_fits():
    environment = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**environment, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.count("holds 10000 of 20000 rows") == 2
    assert done.stdout.splitlines()[-1] == "the fits agree"
