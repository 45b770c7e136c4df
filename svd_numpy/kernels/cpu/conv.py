"""Numba kernels of convolutions: products straight from the image, with no im2col matrix in memory.

The micro-kernel takes its rows and its steps from tables (`tiles.py`), so a convolution is a product like any other:
a row of A is an output position, a step is a tap, and the sum of their offsets is the address of a pixel. For the
weight gradient it is the other way round. Input gradients: `conv_inputs.py`; all gradients where few outputs have one:
`conv_few.py`.

Plain and variational convolutions share these functions; a plain one passes empty arrays for everything that belongs to
the variance. Bits do not depend on the number of threads: one thread sums each output, and whether weight gradients are
summed in two halves of the batch depends on shapes alone.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import prange
from numpy.typing import NDArray

from svd_numpy.kernels.backend import Array, Buffers
from svd_numpy.kernels.cpu.conv_tiles import NARROW, both_kernel
from svd_numpy.kernels.cpu.gemm import PACKED, TILE, pack_row, pack_weights_transposed, panels, weights_row
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.layers import NO_FLOOR, add, sample_row, scale, scratch_parts, square
from svd_numpy.kernels.cpu.simd import ZERO, U, address, noise_row, own_function
from svd_numpy.kernels.cpu.tiles import KC, LANES, MR, PANEL
from svd_numpy.kernels.window import Window

_BLOCK = 2**16  # floats that fit the second-level cache together with as many squares or variances
_POSITIONS = 192  # positions whose dy stays in the cache while the taps stream past


@cache
def tables(window: Window) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Byte offsets of each tap and each output position in a padded image, and of each tap in a packed panel."""
    row = window.padded[1] * window.channels
    ky, kx, channel = np.indices((*window.kernel, window.channels)).reshape(3, -1)
    taps = 4 * (ky * window.dilation[0] * row + kx * window.dilation[1] * window.channels + channel)
    down, across = np.indices(window.out).reshape(2, -1)
    positions = 4 * (down * window.stride[0] * row + across * window.stride[1] * window.channels)
    return taps.astype(np.int32), positions.astype(np.int32), (4 * PANEL * np.arange(len(taps))).astype(np.int32)


def padded_room(images: Array, name: str, memory: Buffers, window: Window) -> Array:
    """Room (B, pixels) for images with their padding; without padding, the images themselves."""
    shape = len(images), math.prod(window.padded) * window.channels
    return memory.get(name, shape, images.dtype) if any(window.padding) else images.reshape(shape)


@kernel()
def prepare_images(x, first, last, padding, padded, squares):
    """Copy images first..last into `padded` (if there is padding) and square them (unless `squares` is empty)."""
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
def _pack(theta, log_sigma2, keep, mirrored, k0, k1, n0, n1, mean, var, work):
    """Pack rows k0..k1, columns n0..n1 of the matrix that im2col rows are multiplied by: theta (masked) and sigma^2.

    mirrored : 0, or C for the matrix of the input gradient, with a row per tap and output and a column per channel
    """
    n_out = theta.shape[1]
    if mirrored > 0:
        k = k0
        while k < k1:
            tap, o = divmod(k, n_out)
            end = min(n_out, o + k1 - k)
            pack_weights_transposed(theta, log_sigma2, keep, o, end, tap * mirrored + n0, tap * mirrored + n1, k1 - k0,
                                    mean[(k - k0) * PANEL :], var[(k - k0) * PANEL :], work)  # fmt: skip
            k += end - o
        return
    for k in range(k0, k1):
        if log_sigma2.size > 0:
            row_mean, row_var = work[: n1 - n0], work[TILE : TILE + n1 - n0]
            weights_row(theta[k, n0:n1], log_sigma2[k, n0:n1], keep, row_mean, row_var)
            pack_row(address(row_mean), n1 - n0, k - k0, k1 - k0, address(mean))
            pack_row(address(row_var), n1 - n0, k - k0, k1 - k0, address(var))
        else:
            pack_row(address(theta) + 4 * (k * n_out + n0), n1 - n0, k - k0, k1 - k0, address(mean))


@kernel()
def block_sizes(n_in, columns):
    """Rows and columns of a block of weights that stays in the second-level cache while the images stream past."""
    blocks = (n_in + KC - 1) // KC
    rows = (n_in + blocks - 1) // blocks
    most = min(_BLOCK // rows, TILE)  # `_pack` prepares a row of them in a tile
    return rows, min(columns, PANEL * max(1, most // PANEL))


@kernel()
def _multiply(first, last, padded, squares, places, mean, var, k0, k1, n0, n1, y, r, y_row, addresses):
    """Images first..last of y[:, n0:n1] (+)= X @ theta, and of r (+)= X2 @ sigma^2, by a packed block of weights."""
    own_function()
    taps, positions, steps = places
    n_positions, image, panel = len(positions), 4 * padded.shape[1], 4 * PANEL * (k1 - k0)
    rows1, rows2 = addresses[:MR], addresses[MR : 2 * MR]
    lists = address(taps) + 4 * k0, address(steps)
    for m in range(first * n_positions, last * n_positions, MR):
        rows = min(MR, last * n_positions - m)
        b, p = divmod(m, n_positions)
        for i in range(rows):
            rows1[i] = address(padded) + b * image + positions[p]
            rows2[i] = address(squares) + b * image + positions[p]
            p += 1
            if p == n_positions:  # a tile of rows may reach into the next image
                b, p = b + 1, 0
        at = 4 * (m * y_row + n0)
        if r.size > 0 and n1 - n0 <= NARROW:
            for n in range(0, n1 - n0, LANES):
                done, width = np.int64(0), min(LANES, n1 - n0 - n)
                while done < rows:  # an incomplete tile goes in twos and ones, as in `panels`
                    some = rows if rows == MR else min(np.int64(2), rows - done)
                    there = at + 4 * (done * y_row + n)
                    both_kernel(some, k1 - k0, *lists, address(rows1) + 8 * done, address(rows2) + 8 * done,
                                address(mean) + 4 * n, address(var) + 4 * n, address(y) + there, address(r) + there,
                                y_row, width, k0 > 0)  # fmt: skip
                    done += some
            continue
        panels(rows, k1 - k0, *lists, address(rows1), address(mean), panel, n1 - n0, address(y) + at, y_row, k0 > 0)
        if r.size > 0:
            panels(rows, k1 - k0, *lists, address(rows2), address(var), panel, n1 - n0, address(r) + at, y_row, k0 > 0)


@kernel()
def convolve(first, last, n0, n1, padded, squares, places, theta, log_sigma2, keep, mirrored, y, r, y_row, scratch):
    """Images first..last, columns n0..n1 of y = X @ theta, and of r = X2 @ sigma^2 unless r is empty.

    X, X2 : im2col rows of `padded` and `squares`;  y, r : rows of `y_row` columns, one per image and position
    """
    mean, var, work = scratch_parts(scratch)
    addresses, n_in = work[2 * TILE : 2 * TILE + 4 * MR].view(np.int64), len(places[0])
    k_step, n_step = block_sizes(n_in, n1 - n0)
    for k in range(0, n_in, k_step):
        for n in range(n0, n1, n_step):
            k_end, n_end = min(k + k_step, n_in), min(n + n_step, n1)
            _pack(theta, log_sigma2, keep, mirrored, k, k_end, n, n_end, mean, var, work)
            _multiply(first, last, padded, squares, places, mean, var, k, k_end, n, n_end, y, r, y_row, addresses)


@kernel()
def share(thread, threads, by_columns, batch, columns):
    """Bounds of the images, and of the columns, that belong to one thread."""
    if by_columns:
        n_panels = (columns + PANEL - 1) // PANEL
        return 0, batch, thread * n_panels // threads * PANEL, min((thread + 1) * n_panels // threads * PANEL, columns)
    return thread * batch // threads, (thread + 1) * batch // threads, 0, columns


@kernel()
def sample(first, last, bias, key, floor, y, r, noise):
    """Add the bias to images first..last and, unless r is empty, the noise; r keeps what backward needs."""
    step, layer, first_sample, key0, key1 = key
    units = y.shape[1]
    for b in range(first, last):
        if r.size > 0:
            noise_row(noise, U(first_sample + b), step, layer, key0, key1)
        for at in range(0, units, len(bias)):
            end = min(at + len(bias), units)
            if r.size > 0:
                sample_row(y[b, at:end], r[b, at:end], bias, noise[at:end], floor)
            else:
                add(bias, y[b, at:end])


@kernel(parallel=True)
def conv_forward(threads, x, theta, log_sigma2, bias, keep, key, relu, places, padding, by_columns, padded, squares,
                 y, r, noise, scratch):  # fmt: skip
    """Convolve images and add the bias; with log_sigma2 also sample, as `lrt_forward` does.

    bias : repeated until it fills a few vectors; padded, squares : (B, pixels) scratch that backward needs again
    by_columns : whether threads split the output columns (for large weights) rather than the images
    y, r : (B, P * O);  noise : (threads, P * O rounded up to 64)
    """
    batch, n_in, n_out = len(x), theta.shape[0], theta.shape[1]
    floor = ZERO if relu == 1 else NO_FLOOR
    for thread in prange(threads):
        prepare_images(x, thread * batch // threads, (thread + 1) * batch // threads, padding, padded, squares)
    one_block = not by_columns and block_sizes(n_in, n_out) == (n_in, n_out)
    for thread in prange(threads):
        first, last, n0, n1 = share(thread, threads, by_columns, batch, n_out)
        if one_block:  # sample a few images at a time, while they are in the cache
            mean, var, work = scratch_parts(scratch[thread])
            addresses = work[2 * TILE : 2 * TILE + 4 * MR].view(np.int64)
            _pack(theta, log_sigma2, keep, 0, 0, n_in, 0, n_out, mean, var, work)
            some = max(1, _BLOCK // y.shape[1])
            for b in range(first, last, some):
                end = min(b + some, last)
                _multiply(b, end, padded, squares, places, mean, var, 0, n_in, 0, n_out, y, r, n_out, addresses)
                sample(b, end, bias, key, floor, y, r, noise[thread] if r.size > 0 else bias)
        else:
            convolve(first, last, n0, n1, padded, squares, places, theta, log_sigma2, keep, 0, y, r, n_out,
                     scratch[thread])  # fmt: skip
    if not one_block:
        for thread in prange(threads):
            sample(thread * batch // threads, (thread + 1) * batch // threads, bias, key, floor, y, r,
                    noise[thread] if r.size > 0 else bias)  # fmt: skip


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


@kernel(parallel=True)
def conv_backward(threads, dy, r, places, padded, squares, d_theta, d_sigma2, d_bias, second, second_sq,
                  bias_sums, scratch):  # fmt: skip
    """Gradients of `conv_forward` for the weights; dy, r (becomes d/dvar) : (B, P * O).

    second, second_sq : scratch of d_theta's shape for the second half of the batch; if empty, it is not halved
    bias_sums : (2, P * O)
    """
    batch, units, n_in, n_out = len(dy), dy.shape[1], d_theta.shape[0], d_theta.shape[1]
    halves = 2 if second.size > 0 else 1
    parts = (threads + halves - 1) // halves
    for thread in prange(threads):
        for b in range(thread * batch // threads, (thread + 1) * batch // threads):
            scale(dy[b], dy[b, :0], r[b] if r.size > 0 else r[:0].reshape(-1))
    for thread in prange(threads):
        for task in range(thread * halves * parts // threads, (thread + 1) * halves * parts // threads):
            half, part = task // parts, task % parts
            first, last = half * batch // halves, (half + 1) * batch // halves
            k0, k1 = part * n_in // parts, (part + 1) * n_in // parts
            _bias_gradient(dy, first, last, part * units // parts, (part + 1) * units // parts, bias_sums[half])
            if half == 0:
                _weight_gradients(first, last, k0, k1, padded, squares, places, dy, r, d_theta, d_sigma2,
                                  scratch[thread])  # fmt: skip
            else:
                _weight_gradients(first, last, k0, k1, padded, squares, places, dy, r, second, second_sq,
                                  scratch[thread])  # fmt: skip
    if halves == 2:
        for thread in prange(threads):
            for k in range(thread * n_in // threads, (thread + 1) * n_in // threads):
                add(second[k], d_theta[k])
                if d_sigma2.size > 0:
                    add(second_sq[k], d_sigma2[k])
    d_bias[:] = ZERO
    for half in range(halves):
        for at in range(0, units, n_out):
            add(bias_sums[half, at : at + n_out], d_bias)
