"""Numba kernel of the loss of networks that predict one of many tokens: a softmax in vectors."""

from __future__ import annotations

import numpy as np
from numba import prange

from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import ONE, ZERO, F, exp32, log32, wide_vectors
from svd_numpy.kernels.cpu.tiles import LANES

MANY = 32  # classes from which vectors pay
_TINY = F(1e-30)  # smaller ones would make subnormal products in the backward pass


@kernel()
def _highest(z, lanes):
    """The largest of z that is a number; lanes (LANES,) is scratch. One maximum a lane: a single one has no vectors."""
    wide_vectors()
    whole = len(z) // LANES * LANES
    lanes[:] = F(-np.inf)
    for c in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] = z[c + lane] if z[c + lane] > lanes[lane] else lanes[lane]
    best = F(-np.inf)
    for lane in range(LANES):
        best = lanes[lane] if lanes[lane] > best else best
    for c in range(whole, len(z)):
        best = z[c] if z[c] > best else best
    return best


@kernel()
def _exponentials(z, best, d):
    wide_vectors()
    for c in range(len(z)):
        d[c] = exp32(z[c] - best)


@kernel()
def _total(d, lanes):
    """Sum of d, lane by lane."""
    wide_vectors()
    whole = len(d) // LANES * LANES
    lanes[:] = ZERO
    for c in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += d[c + lane]
    total = ZERO
    for lane in range(LANES):
        total += lanes[lane]
    for c in range(whole, len(d)):
        total += d[c]
    return total


@kernel()
def _scale(d, factor):
    wide_vectors()
    for c in range(len(d)):
        d[c] = d[c] * factor if d[c] > _TINY else ZERO


@kernel(parallel=True)
def softmax_cross_entropy(threads, logits, labels, d_logits, nll, wrong, scratch):
    """NLL and error (B,) of each row; d_logits = (softmax - one_hot) / B."""
    rows, classes = logits.shape
    share = ONE / F(rows)
    for thread in prange(threads):
        lanes = scratch[thread, :LANES]
        for b in range(thread * rows // threads, (thread + 1) * rows // threads):
            z, d, label = logits[b], d_logits[b], labels[b]
            best, first = _highest(z, lanes), 0
            while first < classes - 1 and z[first] != best:
                first += 1
            _exponentials(z, best, d)
            total = _total(d, lanes)
            _scale(d, share / total)
            d[label] -= share
            nll[b] = np.float64(log32(total) - (z[label] - best))
            wrong[b] = first != label
