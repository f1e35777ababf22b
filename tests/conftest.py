"""Shared set-up: the x64 mode of a run, seeded randomness, and dtypes worth testing."""

import atexit
import functools
import gc
import os
import pathlib
import tempfile
from collections.abc import Callable

# Tests compile a thousand small programs and run each once: compile them with little optimisation.
# Set before JAX starts; a user's own flags win.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    # The emitters of jaxlib 0.10 took two thirds of a test's time.
    " --xla_cpu_use_fusion_emitters=false"
    # Code of small programs in parts, on several threads, took an eighth more processor time.
    " --xla_cpu_parallel_codegen_split_count=1",
)

# What tests measure of a loaded machine, in programs that are not optimised, is not for the user's
# own cache. Workers and subprocesses inherit the folder.
if "GPLSQ_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="gplsq-tests-")
    atexit.register(_cache.cleanup)
    os.environ["GPLSQ_CACHE_DIR"] = _cache.name

# One core for each worker: with threads for all cores in every one, those of a Cholesky factor
# wait for each other, and it took up to seventy times as long.
if os.environ.get("PYTEST_XDIST_WORKER") and hasattr(os, "sched_setaffinity"):
    _cores, _worker = sorted(os.sched_getaffinity(0)), os.environ["PYTEST_XDIST_WORKER"][2:]
    os.sched_setaffinity(0, {_cores[int(_worker) % len(_cores)]})

import jax
import numpy as np
import pytest

# The suite runs twice, with GPLSQ_X64=1 and GPLSQ_X64=0.
jax.config.update("jax_enable_x64", os.environ.get("GPLSQ_X64", "1") == "1")


# A compiled program keeps a few memory mappings, of which Linux allows a process 65,530; compiling
# beyond that crashes the interpreter.
_MAPS = pathlib.Path("/proc/self/maps")
_MOST_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()


_SLOW = pathlib.Path(__file__).with_name("slow.txt")


def pytest_configure(config: pytest.Config) -> None:
    """Here, so that copies of the tests without the repository know it too."""
    words = "slow: listed in tests/slow.txt, and run by `make test-all` only"
    config.addinivalue_line("markers", words)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test` leaves out."""
    slow = set(_SLOW.read_text().splitlines())
    for item in items:
        if item.nodeid in slow:
            item.add_marker("slow")


def pytest_report_header() -> str:
    return f"jax {jax.__version__}, x64 {'on' if jax.config.jax_enable_x64 else 'off'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the zoo, the fuzzers and the properties of random cases tried."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [text for report in reports for name, text in report.user_properties if name == "tried"]
    if lines:
        terminalreporter.section("tried")
        terminalreporter.write_line("\n".join(sorted(lines)))


@pytest.fixture
def tried(record_property: Callable) -> Callable[[str], None]:
    """Takes a line for the end of the run that says how many cases a test tried."""
    return functools.partial(record_property, "tried")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> np.dtype:
    """Both dtypes; float64 arrays exist only with x64 on."""
    if request.param == "float64" and not jax.config.jax_enable_x64:
        pytest.skip("float64 arrays need x64")
    return np.dtype(request.param)


@pytest.fixture
def x64() -> None:
    """For tests that need float64 accuracy to say anything."""
    if not jax.config.jax_enable_x64:
        pytest.skip("needs x64")
