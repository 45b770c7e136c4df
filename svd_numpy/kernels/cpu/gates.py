"""Numba kernels of gates: a random factor for each unit of rows, or for each channel of images."""

from __future__ import annotations

from numba import prange

from svd_numpy.kernels.cpu.images import times
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import ZERO, U, fma32, noise_row, wide_vectors


@kernel(parallel=True)
def noise_rows(threads, key, out, scratch):
    """Fill out (B, a multiple of 64) with noise."""
    step, layer, first_sample, key0, key1 = key
    for thread in prange(threads):
        for b in range(thread * len(out) // threads, (thread + 1) * len(out) // threads):
            noise_row(out[b], U(first_sample + b), step, layer, key0, key1)


@kernel()
def _add_pulls(x, dy, d_z):
    wide_vectors()
    for u in range(len(d_z)):
        d_z[u] = fma32(x[u], dy[u], d_z[u])


@kernel(parallel=True)
def gate_forward(threads, x, z, y, scratch):
    """y = x * z at all positions; x, y (B, P * U), z (B, U)."""
    units = z.shape[1]
    for thread in prange(threads):
        for b in range(thread * len(z) // threads, (thread + 1) * len(z) // threads):
            for begin in range(0, x.shape[1], units):
                times(x[b, begin : begin + units], z[b], y[b, begin : begin + units])


@kernel(parallel=True)
def gate_backward(threads, x, z, dy, d_z, dx, scratch):
    """d_z = sum of x * dy over the positions; dx = dy * z."""
    units = z.shape[1]
    for thread in prange(threads):
        for b in range(thread * len(z) // threads, (thread + 1) * len(z) // threads):
            d_z[b, :] = ZERO
            for begin in range(0, x.shape[1], units):
                _add_pulls(x[b, begin : begin + units], dy[b, begin : begin + units], d_z[b])
                times(dy[b, begin : begin + units], z[b], dx[b, begin : begin + units])
