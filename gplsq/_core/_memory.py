"""How much memory is free where JAX computes."""

import os

import jax


def free_memory() -> float:
    """Bytes free on JAX's default device now; of the machine, if that is where JAX computes."""
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
