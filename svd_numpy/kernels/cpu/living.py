"""Numba kernels of layers on living weights: dense and convolutional, forward and backward, on lists.

The inputs of a batch are turned into planes, one float per example, so that one weight meets a whole batch in a few
instructions (`living_tiles.py`). A dense layer is a convolution over images of one pixel. Positions and channels of an
image are planes in the order of memory, and a list says which plane a weight reads relative to its position.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from svd_numpy.kernels.cpu.conv import sample
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.layers import NO_FLOOR, column_sums, scale
from svd_numpy.kernels.cpu.living_tiles import MOST, PAIRS, PLAIN, SQUARES, TOGETHER, dots, sums
from svd_numpy.kernels.cpu.simd import ZERO, address, exp32, own_function, wide_vectors
from svd_numpy.kernels.cpu.tiles import LANES, transpose_exact, transpose_tile

# Fields of `lists.Lists.size`, numbers of planes unless stated otherwise.
(
    HEIGHT, RUN, ROW, FIRST,  # inputs: rows, planes of a row; from one row to the next in memory; first, behind padding
    DOWN, ACROSS, DOWN_STEP, STEP,  # positions; inputs from one to the next below and beside it
    OUTPUTS, OUT_ROW, OUT_FIRST,  # per position; from one row of positions to the next in memory; first, behind padding
    CHANNELS, PLANES, OUT_PLANES,  # of the input; planes of inputs and of outputs with their padding
) = range(14)  # fmt: skip


@kernel()
def _to_planes(thread, threads, x, rows, run, step, first, planes):
    """Turn one thread's part of x (B, rows * run) into planes; row r of an image begins at plane first + r * step."""
    own_function()
    batch, columns, unit = len(x), x.shape[1], planes.shape[1]
    tiles = (run + LANES - 1) // LANES
    for tile in range(thread * rows * tiles // threads, (thread + 1) * rows * tiles // threads):
        row, at = tile // tiles, tile % tiles * LANES
        few = min(LANES, run - at)
        source, target = address(x) + 4 * (row * run + at), address(planes) + 4 * unit * (first + row * step + at)
        for b in range(0, batch, LANES):
            transpose_tile(source + 4 * b * columns, columns, min(LANES, batch - b), few, target + 4 * b, unit)


@kernel()
def _from_planes(first, last, planes, x):
    """Turn the planes of examples first..last, at multiples of a vector, into rows of x (B, planes)."""
    own_function()
    columns, unit = x.shape[1], planes.shape[1]
    for b in range(first, last, LANES):
        for at in range(0, columns, LANES):
            transpose_exact(address(planes) + 4 * (at * unit + b), unit, min(LANES, columns - at), min(LANES, last - b),
                            address(x) + 4 * (b * columns + at), columns)  # fmt: skip


@kernel()
def _share(thread, threads, positions, starts):
    """Bounds of one thread's sums: number position * lists + list. A single position is split by the lengths of lists.

    starts : where each list starts
    """
    lists = len(starts) - 1
    if positions > 1:
        return thread * positions // threads * lists, (thread + 1) * positions // threads * lists
    total = starts[lists]
    first = np.searchsorted(starts[:lists], thread * total // threads) if thread > 0 else 0
    last = np.searchsorted(starts[:lists], (thread + 1) * total // threads) if thread < threads - 1 else lists
    return np.int64(first), np.int64(last)


@kernel()
def _all_sums(kind, first, last, width, row_step, step, starts, places, weights, weights2, x, x2, y, y2, scales, size):
    """Sums first..last (`_share`) into the planes of y and y2; positions are `width` to a row.

    row_step, step : planes of x from one position to the next below and beside it
    scales : with PAIRS, planes of the inputs, laid out as `size` says
    """
    own_function()
    lists, unit = len(starts) - 1, 4 * x.shape[1]
    for number in range(first, last):
        position, group = number // lists, number % lists
        row, column = position // width, position % width
        at, count = starts[group], starts[group + 1] - starts[group]
        source = unit * (row * row_step + column * step)
        seen = np.int64(0)
        if kind == PAIRS:
            seen = address(scales) + unit * (size[FIRST] + row * size[ROW] + column * lists + group)
        lane = np.int64(0)
        while lane < x.shape[1]:
            vectors = min(np.int64(MOST), (x.shape[1] - lane) // LANES)
            here, there = 4 * lane, unit * number + 4 * lane
            sums(kind, vectors, count, address(places) + 4 * at, address(weights) + 4 * at, address(weights2) + 4 * at,
                 address(x) + source + here, address(x2) + source + here, unit,
                 address(y) + there, address(y2) + there, seen + here)  # fmt: skip
            lane += vectors * LANES


@kernel()
def _used_weights(first, last, theta, log_sigma2, keep, used, sigma2):
    """Means and variances of the weights first..last as a pass uses them (`Backend.lrt_forward`)."""
    wide_vectors()
    for e in range(first, last):
        variance = exp32(log_sigma2[e])
        sigma2[e] = variance
        used[e] = theta[e] if theta[e] * theta[e] >= keep * variance else ZERO


@kernel()
def _forward(stage, thread, threads, size, lists, x, theta, log_sigma2, bias, keep, key, relu, planes, used, sigma2,
             mean, var, y, r, noise):  # fmt: skip
    """One thread's part of a stage of `forward`; the stages follow each other."""
    starts, places = lists
    batch, variational = len(y), r.size > 0
    if stage == 0:
        if size[PLANES] > size[HEIGHT] * size[RUN]:
            planes[thread * size[PLANES] // threads : (thread + 1) * size[PLANES] // threads] = ZERO
        if variational:
            first, last = thread * len(theta) // threads, (thread + 1) * len(theta) // threads
            _used_weights(first, last, theta, log_sigma2, keep, used, sigma2)
    elif stage == 1:
        _to_planes(thread, threads, x, size[HEIGHT], size[RUN], size[ROW], size[FIRST], planes)
    elif stage == 2:
        first, last = _share(thread, threads, size[DOWN] * size[ACROSS], starts)
        kind, weights, weights2 = (SQUARES, used, sigma2) if variational else (PLAIN, theta, theta)
        _all_sums(kind, first, last, size[ACROSS], size[DOWN_STEP], size[STEP], starts, places, weights, weights2,
                  planes, planes, mean, var, planes, size)  # fmt: skip
    else:
        blocks = (batch + LANES - 1) // LANES
        first, last = thread * blocks // threads * LANES, min((thread + 1) * blocks // threads * LANES, batch)
        _from_planes(first, last, mean, y)
        if variational:
            _from_planes(first, last, var, r)
        sample(first, last, bias, key, ZERO if relu == 1 else NO_FLOOR, y, r, noise[thread] if variational else bias)


@kernel(parallel=True)
def forward(threads, size, lists, x, theta, log_sigma2, bias, keep, key, relu, planes, used, sigma2, mean, var, y, r,
            noise, scratch):  # fmt: skip
    """y (B, P * O) of a layer, plain if r is empty, and r = noise / (2 std).

    bias : tiled, whole positions;  planes : of the inputs, kept for `backward`, as are used and sigma2 (n,)
    mean, var : planes of the outputs;  noise (threads, units rounded up to 64)
    """
    for stage in range(4):
        for thread in prange(threads):
            _forward(stage, thread, threads, size, lists, x, theta, log_sigma2, bias, keep, key, relu, planes, used,
                     sigma2, mean, var, y, r, noise)  # fmt: skip


@kernel()
def forward_alone(threads, size, lists, x, theta, log_sigma2, bias, keep, key, relu, planes, used, sigma2, mean, var, y,
                  r, noise, scratch):  # fmt: skip
    """`forward` on one thread, without the price of waking others."""
    for stage in range(4):
        _forward(stage, 0, 1, size, lists, x, theta, log_sigma2, bias, keep, key, relu, planes, used, sigma2, mean, var,
                 y, r, noise)  # fmt: skip


@kernel()
def _gradients(kind, first, last, size, columns, places, planes, slopes, slopes2, d_theta, d_sigma2):
    """Gradients of the weights first..last, from the planes of the inputs, of dy and of d_var."""
    own_function()
    unit, e = 4 * planes.shape[1], first
    while e < last:
        output = columns[e]
        weights = np.int64(TOGETHER) if e + TOGETHER <= last and columns[e + TOGETHER - 1] == output else np.int64(1)
        for row in range(size[DOWN]):
            slope = unit * (size[OUT_FIRST] + row * size[OUT_ROW] + output)
            lane = np.int64(0)
            while lane < planes.shape[1]:
                vectors, here = min(np.int64(MOST), (planes.shape[1] - lane) // LANES), 4 * lane
                dots(kind, weights, vectors, size[ACROSS], address(places) + 4 * e,
                     address(planes) + unit * row * size[DOWN_STEP] + here, unit, unit * size[STEP],
                     address(slopes) + slope + here, address(slopes2) + slope + here, unit * size[OUTPUTS],
                     row + lane > 0, address(d_theta) + 4 * e, address(d_sigma2) + 4 * e)  # fmt: skip
                lane += vectors * LANES
        e += weights


@kernel()
def _backward(stage, thread, threads, size, columns, places, backwards, theta, used, sigma2, dy, rectified, r, planes,
              slopes, slopes2, in_order, unit_sums, d_theta, d_sigma2, d_bias, d_planes, dx):  # fmt: skip
    """One thread's part of a stage of `backward`."""
    order, in_starts, in_places = backwards
    variational, want_dx = r.size > 0, dx.size > 0
    units, n, outputs = dy.shape[1], len(theta), size[OUTPUTS]
    if stage == 0:
        if variational:
            flat_dy, flat_y, flat_r = dy.reshape(-1), rectified.reshape(-1), r.reshape(-1)
            first, last = thread * dy.size // threads, (thread + 1) * dy.size // threads
            scale(flat_dy[first:last], flat_y[first:last], flat_r[first:last])
        if want_dx:
            for e in range(thread * n // threads, (thread + 1) * n // threads):
                in_order[0, e] = used[order[e]] if variational else theta[order[e]]
                if variational:
                    in_order[1, e] = sigma2[order[e]]
        if size[OUT_PLANES] > units:
            first, last = thread * size[OUT_PLANES] // threads, (thread + 1) * size[OUT_PLANES] // threads
            slopes[first:last] = ZERO
            if variational:
                slopes2[first:last] = ZERO
    elif stage == 1:
        across = size[ACROSS] * outputs
        _to_planes(thread, threads, dy, size[DOWN], across, size[OUT_ROW], size[OUT_FIRST], slopes)
        if variational:
            _to_planes(thread, threads, r, size[DOWN], across, size[OUT_ROW], size[OUT_FIRST], slopes2)
        column_sums(dy, thread * units // threads, (thread + 1) * units // threads, unit_sums)
    elif stage == 2:
        first, last = thread * n // threads, (thread + 1) * n // threads
        kind = SQUARES if variational else PLAIN
        _gradients(kind, first, last, size, columns, places, planes, slopes, slopes2, d_theta, d_sigma2)
        if want_dx:
            across = size[RUN] // size[CHANNELS]
            first, last = _share(thread, threads, size[HEIGHT] * across, in_starts)
            kind = PAIRS if variational else PLAIN
            _all_sums(kind, first, last, across, size[OUT_ROW], outputs, in_starts, in_places, in_order[0], in_order[1],
                      slopes, slopes2, d_planes, d_planes, planes, size)  # fmt: skip
    else:
        if thread == 0:
            d_bias[:] = ZERO
            for u in range(units):
                d_bias[u % outputs] += unit_sums[u]
        if want_dx:
            blocks = (len(dx) + LANES - 1) // LANES
            first, last = thread * blocks // threads * LANES, min((thread + 1) * blocks // threads * LANES, len(dx))
            _from_planes(first, last, d_planes, dx)


@kernel(parallel=True)
def backward(threads, size, columns, places, backwards, theta, used, sigma2, dy, rectified, r, planes, slopes, slopes2,
             in_order, unit_sums, d_theta, d_sigma2, d_bias, d_planes, dx, scratch):  # fmt: skip
    """Gradients of `forward`; of the inputs unless dx is empty. r becomes d/dvar; all but (n,) and (O,) are (B, ...).

    backwards : (order, in_starts, in_places);  in_order (2, n): scratch for the weights in that order
    slopes, slopes2, d_planes : scratch for the planes of dy, d_var and dx;  unit_sums (P * O,)
    """
    for stage in range(4):
        for thread in prange(threads):
            _backward(stage, thread, threads, size, columns, places, backwards, theta, used, sigma2, dy, rectified, r,
                      planes, slopes, slopes2, in_order, unit_sums, d_theta, d_sigma2, d_bias, d_planes,
                      dx)  # fmt: skip


@kernel()
def backward_alone(threads, size, columns, places, backwards, theta, used, sigma2, dy, rectified, r, planes, slopes,
                   slopes2, in_order, unit_sums, d_theta, d_sigma2, d_bias, d_planes, dx, scratch):  # fmt: skip
    """`backward` on one thread, without the price of waking others."""
    for stage in range(4):
        _backward(stage, 0, 1, size, columns, places, backwards, theta, used, sigma2, dy, rectified, r, planes, slopes,
                  slopes2, in_order, unit_sums, d_theta, d_sigma2, d_bias, d_planes, dx)  # fmt: skip
