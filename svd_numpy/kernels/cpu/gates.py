"""Numba kernels of gates: a random factor for each unit of rows, or for each channel of images."""

from __future__ import annotations

from numba import prange

from svd_numpy.kernels.cpu.images import times
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import TWO, ZERO, U, exp32, fma32, noise_row, wide_vectors

_BLOCK = 1024


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


@kernel()
def _pulls(theta, d_theta, out):
    wide_vectors()
    for o in range(len(theta)):
        out[o] = theta[o] * d_theta[o]


@kernel()
def _noisy_pulls(theta, d_theta, log_sigma2, d_sigma2, out):
    wide_vectors()
    for o in range(len(theta)):
        out[o] = theta[o] * d_theta[o] + TWO * exp32(log_sigma2[o]) * d_sigma2[o]


@kernel()
def total(terms):
    """Sum of an array, which is lost: its second half is added to the first, again and again."""
    wide_vectors()
    n, found = len(terms), ZERO
    while n > 8:
        half = (n + 1) // 2
        for o in range(n - half):
            terms[o] += terms[half + o]
        n = half
    for o in range(n):
        found += terms[o]
    return found


@kernel(parallel=True)
def weight_pulls(threads, theta, d_theta, log_sigma2, d_sigma2, noisy, out, scratch):
    """out = sum over the outputs of theta * d_theta and, if noisy, of 2 exp(log_sigma2) d_sigma2."""
    for thread in prange(threads):
        for i in range(thread * len(out) // threads, (thread + 1) * len(out) // threads):
            out[i] = ZERO
            for begin in range(0, theta.shape[1], _BLOCK):
                some = slice(begin, min(begin + _BLOCK, theta.shape[1]))
                terms = scratch[thread, : some.stop - begin]
                if noisy:
                    _noisy_pulls(theta[i, some], d_theta[i, some], log_sigma2[i, some], d_sigma2[i, some], terms)
                else:
                    _pulls(theta[i, some], d_theta[i, some], terms)
                out[i] += total(terms)


@kernel(parallel=True)
def gate_forward(threads, x, z, y, scratch):
    """y = x * z at all positions; x, y (B, P * U), z (U,)."""
    for thread in prange(threads):
        for b in range(thread * len(x) // threads, (thread + 1) * len(x) // threads):
            for begin in range(0, x.shape[1], len(z)):
                times(x[b, begin : begin + len(z)], z, y[b, begin : begin + len(z)])


@kernel(parallel=True)
def gate_backward(threads, x, z, dy, d_z, dx, scratch):
    """d_z (B, U) = sum of x * dy over the positions; dx = dy * z."""
    for thread in prange(threads):
        for b in range(thread * len(x) // threads, (thread + 1) * len(x) // threads):
            d_z[b, :] = ZERO
            for begin in range(0, x.shape[1], len(z)):
                _add_pulls(x[b, begin : begin + len(z)], dy[b, begin : begin + len(z)], d_z[b])
                times(dy[b, begin : begin + len(z)], z, dx[b, begin : begin + len(z)])
