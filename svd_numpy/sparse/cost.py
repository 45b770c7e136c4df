"""Which form of a weight matrix is faster. The constants were measured with benchmarks/break_even.py."""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.backend import Array
from svd_numpy.sparse.ops import Form

# Batches: the dense kernel shares what it reads among several outputs. Each of its weights, zero or not, takes this
# fraction of the time that a kept weight takes in the sparse kernel.
DENSE_SHARE = 0.42
# A single example, where a vector holds outputs: gathering one input for each output of a vector takes this many times
# as long as sharing one input among them.
GATHER = 4.5


def choose_form(matrix: Array) -> Form:
    """Return "dense" or "sparse", whichever is estimated to be faster for a compacted matrix (I, O)."""
    return "dense" if matrix.size * DENSE_SHARE < np.count_nonzero(matrix) else "sparse"


def shares_inputs(entries: int, inputs: int, vectors: int) -> bool:
    """Whether a single example runs faster when every input is shared by all outputs than with gathered inputs.

    Parameters
    ----------
    entries : int
        Inputs to gather otherwise: the longest list of each vector of outputs, summed over vectors.
    inputs, vectors : int
        Inputs of the matrix, and vectors of outputs.
    """
    return inputs * vectors < GATHER * entries
