"""How much memory is free where JAX computes."""

import os

import jax

# Of the free memory, what a fit or a kept kernel matrix may take if the user gives no budget.
_FRACTION = 0.5


def default_budget() -> float:
    """Bytes that may be taken without being asked: half of what is free now."""
    return _FRACTION * free_memory()


def free_memory() -> float:
    """Bytes free on the first device of this process now; of the machine, where that is a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with open("/proc/meminfo") as lines:  # counts reclaimable caches as free, where it exists
            for line in lines:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
    except (OSError, ValueError, AttributeError):
        free = 4 * 1024**3
    return float(free)
