"""Numba kernel of soft weight-sharing: how a mixture of Gaussians pulls at each weight, and the weights at it.

A loop reads all that it needs before it writes: stored and read again, the same numbers take two to four times as long.
"""

from __future__ import annotations

from numba import prange

from svd_numpy.kernels.cpu.gates import total
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import HALF, ONE, ZERO, F, exp32, fma32, wide_vectors

SLICES = 64  # of the weights, each with sums of its own: a sum has the same bits on any number of threads
BLOCK = 256  # weights at a time: what belongs to them and to 16 components stays in the first-level cache
_LOWEST = F(-3e38)


@kernel()
def _log_joint(theta, mean, half_precision, height, joint, top):
    """joint = height - precision (theta - mean)^2 / 2; top is the highest one of all components."""
    wide_vectors()
    for i in range(len(theta)):
        distance, highest = theta[i] - mean, top[i]
        value = fma32(-half_precision * distance, distance, height)
        joint[i] = value
        top[i] = value if value > highest else highest


@kernel()
def _exponentials(joint, top, together):
    wide_vectors()
    for i in range(len(joint)):
        value = exp32(joint[i] - top[i])
        together[i] += value
        joint[i] = value


@kernel()
def _invert(values):
    wide_vectors()
    for i in range(len(values)):
        values[i] = ONE / values[i]


@kernel()
def _responsibilities(theta, mean, precision, inverse, share, first, second, pull):
    """share = R, first = R (theta - mean), second = R (theta - mean)^2; pull += precision R (theta - mean)."""
    wide_vectors()
    for i in range(len(theta)):
        distance = theta[i] - mean
        mass, before = share[i] * inverse[i], pull[i]
        moment = mass * distance
        pull[i] = fma32(precision, moment, before)
        share[i], first[i], second[i] = mass, moment, moment * distance


@kernel()
def _add_scaled(values, scale, out):
    wide_vectors()
    for i in range(len(out)):
        out[i] = fma32(scale, values[i], out[i])


@kernel(parallel=True)
def mixture_pulls(threads, theta, means, precisions, heights, scale, d_theta, sums, scratch):
    """See `HostMemory.mixture_pulls`; sums (SLICES, 3, K) are those of each slice of the weights."""
    components = len(means)
    for thread in prange(threads):
        work = scratch[thread, : (components + 4) * BLOCK].reshape(components + 4, BLOCK)
        for part in range(thread * SLICES // threads, (thread + 1) * SLICES // threads):
            stop = (part + 1) * len(theta) // SLICES
            for begin in range(part * len(theta) // SLICES, stop, BLOCK):
                here = theta[begin : min(begin + BLOCK, stop)]
                n = len(here)
                top, together = work[components, :n], work[components + 1, :n]
                first, second = work[components + 2, :n], work[components + 3, :n]
                top[:] = _LOWEST
                for j in range(components):
                    _log_joint(here, means[j], HALF * precisions[j], heights[j], work[j, :n], top)
                together[:] = ZERO
                for j in range(components):
                    _exponentials(work[j, :n], top, together)
                _invert(together)
                pull = top
                pull[:] = ZERO
                for j in range(components):
                    _responsibilities(here, means[j], precisions[j], together, work[j, :n], first, second, pull)
                    sums[part, 0, j] += total(work[j, :n])
                    sums[part, 1, j] += total(first)
                    sums[part, 2, j] += total(second)
                _add_scaled(pull, scale, d_theta[begin : begin + n])
