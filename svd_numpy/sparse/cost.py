"""Which form of a weight matrix is the faster one. The numbers are measured by benchmarks/break_even.py."""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.backend import Array
from svd_numpy.sparse.ops import Form

# Batches: the dense kernel shares what it reads among several outputs. A weight of it, zero or not, takes this part of
# the time of a kept weight in the sparse kernel.
DENSE_SHARE = 0.42
# One example alone, whose vectors are outputs: to gather the inputs of a vector takes so many times as long as to
# give one input to all its outputs.
GATHER = 4.5


def choose_form(matrix: Array) -> Form:
    """Return "dense" or "sparse", whichever is estimated to be faster for a compacted matrix (I, O)."""
    return "dense" if matrix.size * DENSE_SHARE < np.count_nonzero(matrix) else "sparse"


def shares_inputs(entries: int, inputs: int, vectors: int) -> bool:
    """Whether one example alone is faster with every input given to all outputs.

    Parameters
    ----------
    entries : int
        Inputs to be gathered else, summed over the vectors of outputs; the longest list of a vector counts.
    inputs, vectors : int
        Of the matrix.
    """
    return inputs * vectors < GATHER * entries
