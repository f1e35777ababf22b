"""What error a test allows: by dtype and condition."""

from typing import Any

import numpy as np


def tolerance(dtype: Any, condition: float = 1.0, safety: float = 100.0) -> float:
    """Relative error to allow a backward-stable computation: `safety * eps * condition`."""
    return float(min(0.5, safety * np.finfo(dtype).eps * condition))
