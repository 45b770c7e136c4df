"""Numba kernels of convolutions: the gradient for their inputs, in two ways.

`gathered` is itself a convolution, of dy by the mirrored filters: every pixel gathers what the outputs that saw it
send back. It is as fast as the forward pass, but it needs a stride of 1, and multiplies many zeros if an image is much
larger than its output or has few channels. `scattered` is general: it computes a small piece of the gradient of the
im2col rows at a time, and sums it onto the image.

In both, a plain convolution passes empty arrays for everything that belongs to the variance.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import prange
from numpy.typing import NDArray

from svd_numpy.kernels.cpu.conv import convolve, prepare_images, share, tables
from svd_numpy.kernels.cpu.gemm import NC, multiply, pack_weights_transposed
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.layers import add, add_scaled, scratch_parts
from svd_numpy.kernels.cpu.simd import ZERO, address, own_function
from svd_numpy.kernels.cpu.tiles import KC, LANES, MR
from svd_numpy.kernels.window import Window

_ZERO, _ONE = np.int64(0), np.int64(1)
_CHUNK = 11 * MR  # positions whose input gradient is computed at a time
PIECES = 2 * _CHUNK * NC + NC + 16  # floats of their im2col rows, and a list of runs in them
_WORTH = 1.25  # `gathered` is about this much faster per product


@cache
def mirrored(window: Window, n_out: int) -> Window | None:
    """The window that `gathered` slides over dy (B, *window.out, n_out); None if `scattered` is to be used."""
    padding = tuple(d * (k - 1) - p for d, k, p in zip(window.dilation, window.kernel, window.padding, strict=True))
    if window.stride != (1, 1) or min(padding) < 0:
        return None
    area, out, kernel_area = window.height * window.width, window.out[0] * window.out[1], window.taps // window.channels
    products = area * kernel_area * -(-window.channels // LANES), out * -(-window.taps // LANES)
    if products[0] > _WORTH * products[1]:
        return None
    return Window(*window.out, n_out, window.kernel, (1, 1), (padding[0], padding[1]), window.dilation)


@cache
def mirrored_tables(window: Window) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """`tables` of a window of `mirrored`, with its taps in the order of the filters: from the last to the first."""
    taps, positions, steps = tables(window)
    return np.ascontiguousarray(taps.reshape(-1, window.channels)[::-1]).reshape(-1), positions, steps


@kernel(parallel=True)
def gathered(threads, x, theta, log_sigma2, keep, dy, d_var, places, padding, by_columns, padded, padded_var, dx, dx_sq,
             scratch):  # fmt: skip
    """dx = X @ theta' + 2 x (X2 @ sigma2'), X and X2 the im2col rows of dy and d_var, theta' the filters mirrored.

    dy, d_var : (B, OH, OW, O);  padded, padded_var : the same with their padding;  dx_sq : scratch of dx's shape
    """
    channels, batch, none = x.shape[3], len(x), dx_sq[:0, 0, 0]
    for thread in prange(threads):
        first, last = thread * batch // threads, (thread + 1) * batch // threads
        prepare_images(dy, first, last, padding, padded, none)
        if d_var.size > 0:
            prepare_images(d_var, first, last, padding, padded_var, none)
    for thread in prange(threads):
        first, last, n0, n1 = share(thread, threads, by_columns, batch, channels)
        convolve(first, last, n0, n1, padded, padded_var, places, theta, log_sigma2, keep, channels, dx, dx_sq,
                 channels, scratch[thread])  # fmt: skip
    if d_var.size > 0:
        for thread in prange(threads):
            for b in range(thread * batch // threads, (thread + 1) * batch // threads):
                add_scaled(dx[b].reshape(-1), x[b].reshape(-1), dx_sq[b].reshape(-1))


@kernel()
def _find_runs(taps, n0, count, runs):
    """Find runs of taps that are adjacent in memory, among taps n0 .. n0 + count; return how many there are."""
    found = 0
    for n in range(count):
        if n == 0 or taps[n0 + n] != taps[n0 + n - 1] + 4:
            runs[found] = n
            found += 1
    runs[found] = count
    return found


@kernel()
def _add_runs(rows, taps, runs, n_runs, offset, image):
    """Sum a row of im2col gradients onto the image, run by run; `taps` belong to the row."""
    for i in range(n_runs):
        at = (offset + taps[runs[i]]) // 4
        add(rows[runs[i] : runs[i + 1]], image[at : at + runs[i + 1] - runs[i]])


@kernel()
def _image_gradients(first, last, theta, log_sigma2, keep, places, dy, d_var, sums, sums_sq, scratch, pieces):
    """Input gradient of images first..last: of X into `sums`, of X^2 into `sums_sq` (unless it is empty)."""
    own_function()
    taps, positions, _ = places
    mean, var, work = scratch_parts(scratch)
    n_in, n_out = theta.shape
    n_positions, both, half = len(positions), sums_sq.size > 0, _CHUNK * NC
    runs = pieces[2 * half :].view(np.int32)
    sums[first:last] = ZERO
    sums_sq[first:last] = ZERO
    for n in range(0, n_in, NC):
        columns = min(NC, n_in - n)
        n_runs, block_taps = _find_runs(taps, n, columns, runs), taps[n : n + columns]
        for k in range(0, n_out, KC):
            k_end = min(n_out, k + KC)
            pack_weights_transposed(theta, log_sigma2, keep, k, k_end, n, n + columns, k_end - k, mean, var, work)
            for b in range(first, last):
                for p in range(0, n_positions, _CHUNK):
                    count = min(_CHUNK, n_positions - p)
                    at = 4 * ((b * n_positions + p) * n_out + k)
                    multiply(count, k_end - k, address(dy) + at, address(d_var) + at, n_out, _ONE,
                             address(mean), address(var) if both else _ZERO, columns,
                             address(pieces), address(pieces) + 4 * half, columns, False, work)  # fmt: skip
                    for i in range(count):
                        row = pieces[i * columns : (i + 1) * columns]
                        _add_runs(row, block_taps, runs, n_runs, positions[p + i], sums[b])
                        if both:
                            row = pieces[half + i * columns : half + (i + 1) * columns]
                            _add_runs(row, block_taps, runs, n_runs, positions[p + i], sums_sq[b])


@kernel()
def _finish_images(x, first, last, padding, sums, sums_sq, dx):
    """dx = sums + 2 x sums_sq, without the padding."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    row = width * channels
    padded_row = (width + 2 * padding[1]) * channels
    for b in range(first, last):
        for h in range(height):
            at = (h + padding[0]) * padded_row + padding[1] * channels
            out = dx[b, h].reshape(-1)
            out[:] = sums[b, at : at + row]
            if sums_sq.size > 0:
                add_scaled(out, x[b, h].reshape(-1), sums_sq[b, at : at + row])


@kernel(parallel=True)
def scattered(threads, x, theta, log_sigma2, keep, dy, d_var, places, padding, sums, sums_sq, pieces, dx, scratch):
    """dx = col2im(dy @ theta.T) + 2 x col2im(d_var @ sigma^2.T);  dy, d_var : (B, P * O).

    sums, sums_sq : scratch (B, pixels of a padded image);  pieces : scratch (threads, PIECES)
    """
    batch = len(x)
    for thread in prange(threads):
        first, last = thread * batch // threads, (thread + 1) * batch // threads
        _image_gradients(first, last, theta, log_sigma2, keep, places, dy, d_var, sums, sums_sq, scratch[thread],
                         pieces[thread])  # fmt: skip
        _finish_images(x, first, last, padding, sums, sums_sq, dx)
