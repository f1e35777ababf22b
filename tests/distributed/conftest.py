"""Runs the programs of this folder in processes of their own: the number of devices is fixed when
JAX starts."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

FLAGS = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1 "
    # With the older emitters of the other tests, collectives of eight devices wait for ever.
    # Eight devices that factorise batches of matrices in one pool of threads would wait for it.
    "--xla_cpu_multi_thread_eigen=false"
)
_results: dict[str, dict] = {}


@pytest.fixture(scope="session")
def on_eight_devices():
    """What `programs.py NAME` prints; every program runs once."""

    def run(name: str) -> dict:
        if name not in _results:
            script = pathlib.Path(__file__).with_name("programs.py")
            done = subprocess.run(
                [sys.executable, str(script), name],
                env={**os.environ, "XLA_FLAGS": FLAGS},
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            assert done.returncode == 0, done.stderr[-4000:]
            _results[name] = json.loads(done.stdout.splitlines()[-1])
        return _results[name]

    return run
