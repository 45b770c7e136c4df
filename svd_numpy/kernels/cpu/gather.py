"""Numba kernel that gathers a batch of images: pixels become floats, channels last, shifted and mirrored if asked.

`kernels/backend.py` gives shapes and equations. Each thread owns a slice of the batch.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import ZERO, F, address, prefetch


@kernel()
def _gather_image(source, scale, mean, shape, down, right, mirror, out):
    """Write one image: source and mean (C * H * W), out (H * W * C)."""
    height, width, channels = shape
    begin, end = max(0, right), min(width, width + right)  # columns, before the mirror, that come from inside
    first, step = (width - 1 - begin, -channels) if mirror else (begin, channels)
    for y in range(height):
        row = y * width * channels
        if down != 0 or right != 0:
            out[row : row + width * channels] = ZERO
        if not 0 <= y - down < height:
            continue
        for c in range(channels):
            at = np.uint64((c * height + y - down) * width + begin - right)
            to = row + first * channels + c
            for x in range(np.uint64(max(0, end - begin))):
                out[np.uint64(to)] = F(source[at + x]) * scale - mean[at + x]
                to += step


@kernel(parallel=True)
def gather_images(threads, source, index, scale, mean, moves, shape, out, scratch):
    """out[b] = image index[b] of source (N, C * H * W), normalised, then moved by moves[b] = (down, right, mirror)."""
    rows, row_bytes = len(index), source.itemsize * source.shape[1]
    for thread in prange(threads):
        for b in range(thread * rows // threads, (thread + 1) * rows // threads):
            if b + 4 < rows:  # images lie anywhere in memory: ask for one early
                prefetch(address(source) + index[b + 4] * row_bytes, row_bytes)
            down, right, mirror = np.int64(moves[b, 0]), np.int64(moves[b, 1]), moves[b, 2] != 0
            _gather_image(source[index[b]], scale, mean, shape, down, right, mirror, out[b])
