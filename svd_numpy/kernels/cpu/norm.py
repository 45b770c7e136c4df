"""Numba kernel of the norm of all gradients, by which they are clipped."""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import exp32, wide_vectors

_BLOCK = 1024


@kernel()
def _add_squares(values, total):
    wide_vectors()
    for i in range(len(values)):
        total[i] += np.float64(values[i]) * np.float64(values[i])


@kernel()
def _add_scaled_squares(values, log_sigma2, total):
    wide_vectors()
    for i in range(len(values)):
        value = np.float64(values[i] * exp32(log_sigma2[i]))
        total[i] += value * value


@kernel()
def sum_of_squares(values, log_sigma2):
    """Sum of the squares of values, or of sigma^2 values unless log_sigma2 is empty, in float64."""
    total = np.zeros(_BLOCK)
    for i in range(0, len(values), _BLOCK):
        if len(log_sigma2) > 0:
            _add_scaled_squares(values[i : i + _BLOCK], log_sigma2[i : i + _BLOCK], total)
        else:
            _add_squares(values[i : i + _BLOCK], total)
    return total.sum()
