"""Which form of a weight matrix is the faster one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.sparse.ops import Form

# The dense kernel reads no index and shares what it reads among several outputs: a weight of it, zero or not, takes
# this part of the time of a kept weight in the sparse kernel. Measured by benchmarks/break_even.py.
DENSE_SHARE = 0.6


def choose_form(matrix: NDArray[Any]) -> Form:
    """Return "dense" or "sparse", whichever is estimated to be faster for a compacted matrix (I, O)."""
    return "dense" if matrix.size * DENSE_SHARE < np.count_nonzero(matrix) else "sparse"
