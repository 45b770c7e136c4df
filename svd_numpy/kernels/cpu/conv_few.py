"""Numba kernels of convolutions: all gradients where few of the outputs have any.

Behind a convolution with max-pooling and a ReLU, seven of eight output gradients are 0: a window passes its gradient to
the output that won, and only if that is above 0. Instead of products of whole matrices, these kernels add up what the
others contribute, one output gradient at a time: to the gradients of the weights the row of im2col that the output saw,
and to the gradients of that row the weights of the output. Both are sums over a list (`living_tiles.sums`): here its
planes are rows of taps.

A thread owns slices of the batch. Their number depends on shapes alone, and each slice is summed on its own: the bits
are the same on any number of threads. A plain convolution passes empty arrays for everything that belongs to the
variance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from svd_numpy.kernels.backend import Array, Buffers
from svd_numpy.kernels.cpu.conv import padded_room, tables
from svd_numpy.kernels.cpu.gemm import weights_row
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.layers import add, relu_backward
from svd_numpy.kernels.cpu.living_tiles import MOST, PAIRS, PLAIN, SQUARES, sums
from svd_numpy.kernels.cpu.simd import ZERO, F, U, address, own_function, wide_vectors
from svd_numpy.kernels.cpu.tiles import LANES, copy_vector, nonzero_lanes, transpose_exact, transpose_tile
from svd_numpy.kernels.cpu.vectors import I64, declare
from svd_numpy.kernels.window import Window

SLICES = 8  # at most so many of a batch
_ROWS = 2**16  # floats of the im2col rows that are made at a time; with their gradients, half a second-level cache
_SHARE = 0.35  # of the output gradients; with more than these, products of whole matrices are faster
_WIDE = np.int64(MOST * LANES)  # taps that are summed at a time
_LINE = 16  # floats of a cache line
WORD = 64  # output gradients whose places are the bits of one number
_NOTHING = np.int64(0)  # the address of no array
_EMPTY, _NO_ROOM = np.zeros((0, 0), F), np.zeros((0, 0, 0), F)


class Sizes(NamedTuple):
    """How these kernels cut a batch of a layer, and the memory that each thread needs."""

    slices: int  # of the batch; fewer than 2: the layer has too few positions for its weights
    row: int  # floats from one im2col row to the next, an odd number of cache lines: even ones share their places there
    block: int  # im2col rows that are made at a time
    list: int  # floats of the list of an output


@cache
def sizes(window: Window, batch: int) -> Sizes:
    """Sizes for a layer and a batch."""
    positions = window.out[0] * window.out[1]
    row = (-(-window.taps // _LINE) | 1) * _LINE
    block = max(1, min(_ROWS // row, batch * positions))
    return Sizes(min(SLICES, batch, batch * positions // window.taps), row, block, (-(-block // _LINE) | 1) * _LINE)


def is_few(found: int, outputs: int) -> bool:
    """Whether so few output gradients are not 0 that these kernels are faster than products of matrices."""
    return found < _SHARE * outputs


class Runs(NamedTuple):
    """Taps of a window that are adjacent in memory."""

    start: NDArray[np.int64]  # where each run starts, and behind them the number of taps
    copies: NDArray[np.int64]  # (n, 3): vectors to copy, as bytes in the image, bytes in an im2col row, and lanes


@cache
def runs(window: Window) -> Runs:
    """Runs of a window."""
    taps = tables(window)[0]
    start = np.append(np.flatnonzero(np.diff(taps, prepend=taps[0] - 8) != 4), len(taps))
    copies = [(taps[t], 4 * t, min(LANES, end - t)) for first, end in pairwise(start) for t in range(first, end, LANES)]
    return Runs(start, np.array(copies, np.int64))


@intrinsic
def _lowest_bit(typing_context: Any, bits: Any) -> Any:
    """Number of the lowest bit that is set; there must be one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = declare(builder, "llvm.cttz.i64", I64, [I64, ir.IntType(1)])
        return builder.call(count, [args[0], ir.Constant(ir.IntType(1), 1)])

    return types.int64(types.int64), codegen


@kernel()
def _count(dy):
    wide_vectors()
    count = np.int32(0)
    for i in range(len(dy)):
        count += np.int32(1) if dy[i] != ZERO else np.int32(0)
    return count


@kernel(parallel=True)
def rectify(threads, dy, rectified, counts, scratch):
    """dy (B, P * O) <- dy where rectified > 0, else 0, unless that is empty; counts (B,) of those that are not 0."""
    for thread in prange(threads):
        for b in range(thread * len(dy) // threads, (thread + 1) * len(dy) // threads):
            if rectified.size > 0:
                relu_backward(rectified[b], dy[b])
            counts[b] = _count(dy[b])


@kernel(parallel=True)
def transpose_weights(threads, theta, log_sigma2, keep, out, scratch):
    """out[0] = theta.T (masked) and, unless log_sigma2 is empty, out[1] = (sigma^2).T;  out : (2, O, row)."""
    n_in, n_out = theta.shape
    tiles, kinds, row = (n_in + LANES - 1) // LANES, 2 if log_sigma2.size > 0 else 1, out.shape[2]
    for thread in prange(threads):
        work = scratch[thread, : 2 * LANES * n_out].reshape(2, LANES, n_out)
        for tile in range(thread * tiles // threads, (thread + 1) * tiles // threads):
            first = tile * LANES
            rows = min(LANES, n_in - first)
            for k in range(rows):
                if kinds == 2:
                    weights_row(theta[first + k], log_sigma2[first + k], keep, work[0, k], work[1, k])
                else:
                    work[0, k] = theta[first + k]
            for kind in range(kinds):
                for o in range(0, n_out, LANES):
                    transpose_tile(address(work) + 4 * (kind * LANES * n_out + o), n_out, rows, min(LANES, n_out - o),
                                   address(out) + 4 * ((kind * n_out + o) * row + first), row)  # fmt: skip


@kernel()
def _unfold(first, count, padded, positions, copies, rows):
    """Make the im2col rows first..first + count, counted through all positions of all images."""
    b, p = divmod(first, len(positions))
    for i in range(count):
        image = address(padded) + 4 * b * padded.shape[1] + positions[p]
        target = address(rows) + 4 * i * rows.shape[1]
        for c in range(len(copies)):  # zeros written behind a run are overwritten by the next one
            copy_vector(image + copies[c, 0], target + copies[c, 1], copies[c, 2], False)
        p += 1
        if p == len(positions):
            b, p = b + 1, 0


@kernel()
def list_slopes(dy, r, by_output, by_row, fill, starts):
    """List the output gradients of some rows that are not 0, by output and, if it has room, by row.

    dy, r : flat, O to a row
    by_output : (3, O, list): number of the row (as int32), dy, and d_var = dy * r unless r is empty
    by_row : (3, rows * O): number of the output, dy, d_var
    fill, starts : length of each output's list; where the list of each row starts, and where the last one ends
    """
    n_out, n = U(len(fill)), np.uint64(0)
    row_of, output_of = by_output[0].view(np.int32), by_row[0].view(np.int32)
    fill[:], starts[:] = 0, 0
    for begin in range(0, len(dy), WORD):
        bits = np.int64(0)
        for at in range(begin, min(begin + WORD, len(dy)), LANES):
            bits |= nonzero_lanes(address(dy) + 4 * at, min(LANES, len(dy) - at)) << (at - begin)
        while bits != 0:
            e = np.uint64(begin + _lowest_bit(bits))
            bits &= bits - 1
            i = np.uint64(U(e) // n_out)
            o = e - i * n_out
            slope, k = dy[e], np.uint64(fill[o])
            slope2 = slope * r[e] if len(r) > 0 else ZERO
            fill[o] += 1
            row_of[o, k], by_output[1, o, k], by_output[2, o, k] = i, slope, slope2
            if by_row.size > 0:
                output_of[n], by_row[1, n], by_row[2, n] = o, slope, slope2
                n += np.uint64(1)
                starts[i + np.uint64(1)] = n
    for row in range(1, len(starts)):  # one may have none
        starts[row] = max(starts[row], starts[row - 1])


@kernel()
def _add_to_weights(kind, width, rows, by_output, fill, found, results):
    """Add what listed gradients contribute to results (2, O, row), by im2col rows;  found : scratch (2, _WIDE)."""
    n_out, row, lists, kinds = len(fill), rows.shape[1], 4 * by_output.shape[2], 1 if kind == PLAIN else 2
    for t in range(0, width, _WIDE):
        taps = min(_WIDE, width - t)
        for o in range(n_out):
            if fill[o] > 0:
                here = address(by_output) + lists * o
                sums(kind, taps // LANES, fill[o], here, here + lists * n_out, here + 2 * lists * n_out,
                     address(rows) + 4 * t, _NOTHING, 4 * row, address(found), address(found) + 4 * _WIDE,
                     _NOTHING)  # fmt: skip
                for part in range(kinds):
                    add(found[part, :taps], results[part, o, t : t + taps])


@kernel()
def _slopes_of_rows(kind, width, count, rows, by_row, starts, weights, d_rows):
    """Gradients of im2col rows, by listed gradients and weights (2, O, row); rows without any stay as they are."""
    row, lists = rows.shape[1], 4 * by_row.shape[1]
    means, variances = address(weights), address(weights) + 4 * weights.shape[1] * row
    for t in range(0, width, _WIDE):
        vectors = min(_WIDE, width - t) // LANES
        for i in range(count):
            here, at, n = address(by_row) + 4 * starts[i], 4 * (i * row + t), starts[i + 1] - starts[i]
            if n > 0:
                sums(kind, vectors, n, here, here + lists, here + 2 * lists, means + 4 * t, variances + 4 * t, 4 * row,
                     address(d_rows) + at, _NOTHING, address(rows) + at)  # fmt: skip


@kernel()
def _fold(first, count, places, run_start, starts, d_rows, images):
    """Add the gradients of im2col rows to those of the pixels that they saw."""
    taps, positions, _ = places
    b, p = divmod(first, len(positions))
    for i in range(count):
        if starts[i + 1] > starts[i]:
            image, row = images[b], d_rows[i]
            for q in range(len(run_start) - 1):
                at, n = (positions[p] + taps[run_start[q]]) // 4, run_start[q + 1] - run_start[q]
                add(row[run_start[q] : run_start[q + 1]], image[at : at + n])
        p += 1
        if p == len(positions):
            b, p = b + 1, 0


@kernel()
def _slice(first, last, padded, dy, r, places, runs, weights, rows, d_rows, by_output, by_row, numbers, found, results,
           bias_sums, images):  # fmt: skip
    """Gradients of images first..last; the arguments are those of `gradients`, its arrays one thread's or slice's."""
    own_function()
    taps, positions, _ = places
    n_out, want_dx = results.shape[1], images.size > 0
    width, variational = (len(taps) + LANES - 1) // LANES * LANES, r.size > 0
    fill, starts, end = numbers[:n_out], numbers[n_out:], last * len(positions)
    rows[:, len(taps) : width] = ZERO  # what stands behind the taps is summed, too
    results[:] = ZERO
    bias_sums[:] = ZERO
    if want_dx:
        images[first:last] = ZERO
    for m in range(first * len(positions), end, len(rows) - 1):
        count = min(len(rows) - 1, end - m)
        _unfold(m, count, padded, positions, runs[1], rows)
        here = slice(m * n_out, (m + count) * n_out)
        list_slopes(dy.reshape(-1)[here], r.reshape(-1)[here], by_output, by_row, fill, starts)
        _add_to_weights(SQUARES if variational else PLAIN, width, rows, by_output, fill, found, results)
        if want_dx:
            _slopes_of_rows(PAIRS if variational else PLAIN, width, count, rows, by_row, starts, weights, d_rows)
            _fold(m, count, places, runs[0], starts, d_rows, images)
    for b in range(first, last):
        add(dy[b], bias_sums)


@kernel()
def _finish_weights(begin, end, results, d_theta, d_sigma2):
    """Taps begin..end of the gradients: the sum of results (slices, 2, O, row) over the slices, transposed."""
    slices, _, n_out, row = results.shape
    for part in range(2 if d_sigma2.size > 0 else 1):
        target = address(d_theta) if part == 0 else address(d_sigma2)
        for o in range(0, n_out, LANES):
            outputs = min(LANES, n_out - o)
            for t in range(begin, end, LANES):
                for k in range(o, o + outputs):
                    for s in range(1, slices):
                        add(results[s, part, k, t : t + LANES], results[0, part, k, t : t + LANES])
                sums_at = address(results) + 4 * ((part * n_out + o) * row + t)
                transpose_exact(sums_at, row, outputs, min(LANES, end - t), target + 4 * (t * n_out + o), n_out)


@kernel(parallel=True)
def gradients(threads, dy, r, places, runs, padded, weights, rows, d_rows, by_output, by_row, numbers, results,
              bias_sums, images, d_theta, d_sigma2, d_bias, scratch):  # fmt: skip
    """Gradients of a convolution from output gradients of which few are not 0: dy (B, P * O), rectified already.

    weights : (2, O, row), see `transpose_weights`;  images : gradients of the padded images (B, pixels), or empty, and
        then so are d_rows and by_row
    rows, d_rows, by_output, by_row, numbers : each thread's own memory (`Sizes`, `list_slopes`), one row more in rows
    results, bias_sums : scratch (slices, 2, O, row) and (slices, P * O)
    """
    batch, slices, n_in = len(dy), len(results), len(d_theta)
    for thread in prange(threads):
        found = scratch[thread, : 2 * _WIDE].reshape(2, _WIDE)
        for s in range(thread * slices // threads, (thread + 1) * slices // threads):
            _slice(s * batch // slices, (s + 1) * batch // slices, padded, dy, r, places, runs, weights, rows[thread],
                   d_rows[thread], by_output[thread], by_row[thread], numbers[thread], found, results[s], bias_sums[s],
                   images)  # fmt: skip
    tiles = (n_in + LANES - 1) // LANES
    for thread in prange(threads):
        begin, end = thread * tiles // threads * LANES, min((thread + 1) * tiles // threads * LANES, n_in)
        _finish_weights(begin, end, results, d_theta, d_sigma2)
    d_bias[:] = ZERO
    for s in range(slices):
        for at in range(0, dy.shape[1], len(d_bias)):
            add(bias_sums[s, at : at + len(d_bias)], d_bias)


@kernel(parallel=True)
def without_padding(threads, padding, padded, images, scratch):
    """Images (B, H, W, C) out of padded ones (B, pixels)."""
    height, width, channels = images.shape[1], images.shape[2], images.shape[3]
    row = (width + 2 * padding[1]) * channels
    for thread in prange(threads):
        for b in range(thread * len(images) // threads, (thread + 1) * len(images) // threads):
            for h in range(height):
                at = (h + padding[0]) * row + padding[1] * channels
                images[b, h].reshape(-1)[:] = padded[b, at : at + width * channels]


def backward(
    run: Callable[..., None], x: Array, theta: Array, log_sigma2: Array, keep: float, dy: Array, d_theta: Array,
    d_sigma2: Array, d_bias: Array, dx: Array | None, memory: Buffers, window: Window,
) -> None:  # fmt: skip
    """All gradients of a convolution, a plain one if log_sigma2 is empty; dy (B, P * O) is rectified already."""
    own, threads, n_out = sizes(window, len(x)), numba.get_num_threads(), len(d_bias)
    padded, variational = padded_room(x, "padded", memory, window), log_sigma2.size > 0
    matrices, images, d_rows, by_row = _NO_ROOM, _EMPTY, _NO_ROOM, _NO_ROOM
    if dx is not None:
        matrices = memory.get("matrices", (2, n_out, own.row), F)
        run(transpose_weights, theta, log_sigma2, F(keep), matrices)
        images = padded_room(dx, "sums", memory, window)
        d_rows = memory.get("d_rows", (threads, own.block, own.row), F)
        by_row = memory.get("by_row", (threads, 3, own.block * n_out), F)
    run(
        gradients, dy, memory.get("r", dy.shape, F) if variational else _EMPTY, tables(window), runs(window), padded,
        matrices, memory.get("rows", (threads, own.block + 1, own.row), F), d_rows,
        memory.get("by_output", (threads, 3, n_out, own.list), F), by_row,
        memory.get("numbers", (threads, n_out + own.block + 1), np.int64),
        memory.get("results", (own.slices, 2, n_out, own.row), F),
        memory.get("slice_sums", (own.slices, dy.shape[1]), F), images, d_theta,
        d_sigma2 if variational else _EMPTY, d_bias,
    )  # fmt: skip
    if dx is not None and any(window.padding):
        run(without_padding, window.padding, images, dx)
