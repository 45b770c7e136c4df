"""Numba kernels of convolutions: products straight from the image, with no im2col matrix in memory.

The micro-kernel takes its rows and its steps from tables (`tiles.py`), so a convolution is a product like any other:
a row of A is an output position, a step is a tap, and the sum of their offsets is the address of a pixel. For the
weight gradient it is the other way round. Only the input gradient is summed back from a small piece of im2col rows.

Plain and variational convolutions share these functions; a plain one hands over empty arrays for all that belongs to
the variance. Bits do not depend on the threads: an image belongs to one thread, and weight gradients are always summed
in two halves of the batch.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import prange
from numpy.typing import NDArray

from svd_numpy.kernels.cpu_layers import NO_FLOOR, add, add_scaled, sample_row, scale, scratch_parts, square
from svd_numpy.kernels.gemm import (
    KC,
    NC,
    PACKED,
    TILE,
    multiply,
    pack_row,
    pack_weights_transposed,
    panels,
    weights_row,
)
from svd_numpy.kernels.jit import kernel
from svd_numpy.kernels.simd import ZERO, U, address, noise_row, own_function
from svd_numpy.kernels.tiles import MR, PANEL
from svd_numpy.kernels.window import Window

_ZERO, _ONE = np.int64(0), np.int64(1)
_BLOCK = 2**16  # floats of weights that stay in the second-level cache while images pass by
_POSITIONS = 192  # positions whose dy stays near while taps pass by
_CHUNK = 11 * MR  # positions whose input gradient is formed at a time
PIECES = 2 * _CHUNK * NC + NC + 16  # floats of their im2col rows, and a list of runs in them


@cache
def tables(window: Window) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Where things lie, in bytes: each tap and each output position in a padded image; each tap in a packed panel."""
    row = window.padded[1] * window.channels
    ky, kx, channel = np.indices((*window.kernel, window.channels)).reshape(3, -1)
    taps = 4 * (ky * window.dilation[0] * row + kx * window.dilation[1] * window.channels + channel)
    down, across = np.indices(window.out).reshape(2, -1)
    positions = 4 * (down * window.stride[0] * row + across * window.stride[1] * window.channels)
    return taps.astype(np.int32), positions.astype(np.int32), (4 * PANEL * np.arange(len(taps))).astype(np.int32)


@kernel()
def _prepare(x, first, last, padding, padded, squares):
    """Copy images first..last into their padding (unless there is none) and square them (if wanted)."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    row = width * channels
    padded_row = (width + 2 * padding[1]) * channels
    for b in range(first, last):
        if padding[0] + padding[1] > 0:
            padded[b] = ZERO
            for h in range(height):
                at = (h + padding[0]) * padded_row + padding[1] * channels
                padded[b, at : at + row] = x[b, h].reshape(-1)
        if squares.size > 0:
            square(padded[b], squares[b])


@kernel()
def _pack(theta, log_sigma2, keep, k0, k1, mean, var, work):
    """Pack rows k0..k1 of theta (masked) and sigma^2, or of theta alone, into panels of all K rows."""
    n_in, n_out = theta.shape
    for k in range(k0, k1):
        if log_sigma2.size > 0:
            row_mean, row_var = work[:n_out], work[TILE : TILE + n_out]
            weights_row(theta[k], log_sigma2[k], keep, row_mean, row_var)
            pack_row(address(row_mean), n_out, k, n_in, address(mean))
            pack_row(address(row_var), n_out, k, n_in, address(var))
        else:
            pack_row(address(theta) + 4 * k * n_out, n_out, k, n_in, address(mean))


@kernel()
def _convolve(first, last, padded, squares, places, mean, var, n_out, y, r, addresses):
    """Images first..last of y = X @ theta, and of r = X^2 @ sigma^2 unless r is empty, with X the im2col rows."""
    own_function()
    taps, positions, steps = places
    n_in, n_positions, image = len(taps), len(positions), 4 * padded.shape[1]
    rows1, rows2 = addresses[:MR], addresses[MR : 2 * MR]
    for k in range(0, n_in, KC):
        count = min(KC, n_in - k)
        columns = PANEL * max(1, _BLOCK // (count * PANEL))
        lists = address(taps) + 4 * k, address(steps) + 4 * k
        for n in range(0, n_out, columns):
            width, panel = min(columns, n_out - n), 4 * n * n_in
            for b in range(first, last):
                for p in range(0, n_positions, MR):
                    rows = min(MR, n_positions - p)
                    for i in range(rows):
                        rows1[i] = address(padded) + b * image + positions[p + i]
                        rows2[i] = address(squares) + b * image + positions[p + i]
                    at = 4 * ((b * n_positions + p) * n_out + n)
                    panels(rows, count, *lists, address(rows1), address(mean) + panel, 4 * PANEL * n_in, width,
                           address(y) + at, n_out, k > 0)  # fmt: skip
                    if r.size > 0:
                        panels(rows, count, *lists, address(rows2), address(var) + panel, 4 * PANEL * n_in,
                               width, address(r) + at, n_out, k > 0)  # fmt: skip


@kernel(parallel=True)
def conv_forward(threads, x, theta, log_sigma2, bias, keep, key, relu, places, padding, padded, squares,
                 mean, var, y, r, noise, scratch):  # fmt: skip
    """Convolve images and add the bias; with log_sigma2 also sample, as `lrt_forward` does.

    bias : repeated until it fills a few vectors; padded, squares : (B, pixels) scratch that backward needs again
    mean, var : scratch for the packed weights;  y, r : (B, P * O);  noise : (threads, P * O rounded up to 64)
    """
    batch, n_out, units = len(x), theta.shape[1], y.shape[1]
    step, layer, first_sample, key0, key1 = key
    floor = ZERO if relu == 1 else NO_FLOOR
    for thread in prange(threads):
        _pack(theta, log_sigma2, keep, thread * len(theta) // threads, (thread + 1) * len(theta) // threads,
              mean, var, scratch_parts(scratch[thread])[2])  # fmt: skip
    for thread in prange(threads):
        first, last = thread * batch // threads, (thread + 1) * batch // threads
        _prepare(x, first, last, padding, padded, squares)
        addresses = scratch[thread, : 4 * MR].view(np.int64)
        _convolve(first, last, padded, squares, places, mean, var, n_out, y, r, addresses)
        for b in range(first, last):
            if r.size > 0:
                noise_row(noise[thread], U(first_sample + b), step, layer, key0, key1)
            for at in range(0, units, len(bias)):
                end = min(at + len(bias), units)
                if r.size > 0:
                    sample_row(y[b, at:end], r[b, at:end], bias, noise[thread, at:end], floor)
                else:
                    add(bias, y[b, at:end])


@kernel()
def _weight_gradient(k0, k1, image, taps, count, in_image, in_dy, packed, n_out, d_theta, add_to_it, rows_at):
    """Rows k0..k1 of d_theta (+)= X.T @ dy over a block of positions, whose dy is packed."""
    for k in range(k0, k1, MR):
        rows = min(MR, k1 - k)
        for i in range(rows):
            rows_at[i] = image + taps[k + i]
        panels(rows, count, address(in_image), address(in_dy), address(rows_at), address(packed),
               4 * PANEL * count, n_out, address(d_theta) + 4 * k * n_out, n_out, add_to_it)  # fmt: skip


@kernel()
def _weight_gradients(first, last, k0, k1, padded, squares, places, dy, d_var, d_theta, d_sigma2, scratch):
    """Rows k0..k1 of d_theta = X.T @ dy, and of d_sigma2 = (X^2).T @ d_var unless it is empty, over some images."""
    own_function()
    taps, positions, _ = places
    packed, packed2, work = scratch_parts(scratch)
    numbers = work.view(np.int32)
    in_image, in_dy, rows_at = numbers[:KC], numbers[KC : 2 * KC], numbers[2 * KC : 2 * KC + 2 * MR].view(np.int64)
    n_positions, image, n_out = len(positions), 4 * padded.shape[1], d_theta.shape[1]
    block = min(_POSITIONS, PACKED // ((n_out + PANEL - 1) // PANEL * PANEL))
    if first == last:
        d_theta[k0:k1] = ZERO
        d_sigma2[k0:k1] = ZERO
    start, end = first * n_positions, last * n_positions
    for m in range(start, end, block):
        count = min(block, end - m)
        for i in range(count):
            b, p = divmod(m + i, n_positions)
            in_image[i] = b * image + positions[p]
            in_dy[i] = 4 * PANEL * i
            pack_row(address(dy) + 4 * (m + i) * n_out, n_out, i, count, address(packed))
            if d_sigma2.size > 0:
                pack_row(address(d_var) + 4 * (m + i) * n_out, n_out, i, count, address(packed2))
        _weight_gradient(k0, k1, address(padded), taps, count, in_image, in_dy, packed, n_out, d_theta,
                         m > start, rows_at)  # fmt: skip
        if d_sigma2.size > 0:
            _weight_gradient(k0, k1, address(squares), taps, count, in_image, in_dy, packed2, n_out, d_sigma2,
                             m > start, rows_at)  # fmt: skip


@kernel()
def _bias_gradient(dy, first, last, begin, end, total):
    """total[begin:end] = sum over some images of dy (B, P * O)."""
    total[begin:end] = ZERO
    for b in range(first, last):
        add(dy[b, begin:end], total[begin:end])


@kernel()
def _find_runs(taps, n0, count, runs):
    """Bounds of the runs of taps that are neighbours in memory, among taps n0 .. n0 + count; return how many."""
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
    """Images first..last of the input gradient: of X into `sums`, of X^2 into `sums_sq` (unless it is empty)."""
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
            # A plain layer has no variance: whatever stands in its place is packed, but not used.
            pack_weights_transposed(theta, log_sigma2 if both else theta, keep, k, k_end, n, n + columns,
                                    mean, var, work)  # fmt: skip
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
def conv_backward(threads, x, theta, log_sigma2, keep, dy, rectified, r, places, padding, padded, squares,
                  d_theta, d_sigma2, d_bias, second, second_sq, bias_sums, dx, sums, sums_sq, pieces, scratch,
                  ):  # fmt: skip
    """Gradients of `conv_forward`; dy, rectified, r (becomes d/dvar) : (B, P * O).

    second, second_sq : scratch of d_theta's shape for the second half of the batch;  bias_sums : (2, P * O)
    dx : wanted where dx.size > 0;  sums, sums_sq : (B, pixels of a padded image);  pieces : (threads, PIECES)
    """
    batch, units, n_in, n_out = len(x), dy.shape[1], theta.shape[0], theta.shape[1]
    parts = (threads + 1) // 2
    for thread in prange(threads):
        for b in range(thread * batch // threads, (thread + 1) * batch // threads):
            scale(dy[b], rectified[b] if rectified.size > 0 else rectified[:0].reshape(-1),
                  r[b] if r.size > 0 else r[:0].reshape(-1))  # fmt: skip
    for thread in prange(threads):
        for task in range(thread * 2 * parts // threads, (thread + 1) * 2 * parts // threads):
            part, half = task % parts, task // parts
            first, last = half * batch // 2, (half + 1) * batch // 2
            k0, k1 = part * n_in // parts, (part + 1) * n_in // parts
            _bias_gradient(dy, first, last, part * units // parts, (part + 1) * units // parts, bias_sums[half])
            if half == 0:
                _weight_gradients(first, last, k0, k1, padded, squares, places, dy, r, d_theta, d_sigma2,
                                  scratch[thread])  # fmt: skip
            else:
                _weight_gradients(first, last, k0, k1, padded, squares, places, dy, r, second, second_sq,
                                  scratch[thread])  # fmt: skip
        if dx.size > 0:
            first, last = thread * batch // threads, (thread + 1) * batch // threads
            _image_gradients(first, last, theta, log_sigma2, keep, places, dy, r, sums, sums_sq, scratch[thread],
                             pieces[thread])  # fmt: skip
            _finish_images(x, first, last, padding, sums, sums_sq, dx)
    for thread in prange(threads):
        first, last = thread * n_in // threads, (thread + 1) * n_in // threads
        for k in range(first, last):
            add(second[k], d_theta[k])
            if d_sigma2.size > 0:
                add(second_sq[k], d_sigma2[k])
    d_bias[:] = ZERO
    for half in range(2):
        for at in range(0, units, n_out):
            add(bias_sums[half, at : at + n_out], d_bias)
