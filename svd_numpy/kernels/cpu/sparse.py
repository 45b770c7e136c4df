"""Compact networks on the CPU: one compiled kernel that reads the network as a table of operations.

A network's memory is one row of float32 for each thread. It holds every activation of a block of examples: places, each
of `lanes` floats, one per example. An image is a plane of places per channel, with the padding that its reader needs
around it. So every layer, dense or convolutional, is a set of sums over lists of places, with the examples in the
vector lanes. `list_tiles` computes these sums; `svd_numpy.sparse.plan` turns a network into a table, lists and values.

A block of one example has one float per place; a vector then holds neighbours in a row of an image.
"""

from __future__ import annotations

import numba
import numpy as np

from svd_numpy.checks import LARGEST_INPUT
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.list_tiles import MOST, list_tile, pooled_tile, single_tile, take_floats, take_pixels
from svd_numpy.kernels.cpu.simd import F, address, max32, own_function, prefetch, wide_vectors
from svd_numpy.kernels.cpu.tiles import LANES

# Kinds of operations, and the columns of the table. Places are counted in the memory, starts in lists and values.
TAKE, WEIGH, POOL, SCALE, GIVE = range(5)
(
    KIND, IN, OUT,  # first place read, first place written
    COUNT, LISTS, VALUES,  # of groups, tiles or numbers; where their lists and values start
    RELU,
    HEIGHT, WIDTH, DOWN, RIGHT,  # output positions; places of the input from one to the next
    CHANNELS, PLANE, ROW, FIRST,  # of the output image: places of a channel and of a row, place of its first pixel
    LOWEST,  # whether its padding is minus infinity, else 0
    FUSED,  # WEIGH: whether the next operation is a 2 x 2 pooling, done in the same pass
    IN_PLANE, IN_ROW, KERNEL_HEIGHT, KERNEL_WIDTH, MAXIMUM,  # POOL
    # For one example alone, TAKE and dense WEIGH: numbers or groups of outputs, where lists and values start, and
    # whether the outputs of a group share a list.
    SINGLE_COUNT, SINGLE_LISTS, SINGLE_VALUES, SINGLE_SHARED,
) = range(26)  # fmt: skip
COLUMNS = 26
GROUP_COLUMNS = 4  # of a group of outputs that share a list: outputs, entries, where its indices and its weights start
TILE = LANES + 1  # of a tile of inputs: the first column, and LANES places
BAD_INPUT, BAD_OUTPUT = 1, 2
_INFINITY = F(np.inf)
_LARGEST_INPUT = F(LARGEST_INPUT)


@kernel()
def _take(op, lists, values, x, first, rows, scale, memory, lanes):
    """Copy the inputs that the network reads into its memory, tile by tile; return whether one is too large or NaN."""
    own_function()
    x_row, unit, width = x.shape[1] * x.itemsize, 4 * lanes, x.shape[1]
    source, target = address(x) + first * x_row, address(memory) + unit * op[OUT]
    bad = np.int64(0)
    for tile in range(op[COUNT]):
        at, means = op[LISTS] + tile * TILE, address(values) + 4 * (op[VALUES] + tile * LANES)
        column = np.int64(lists[at])
        columns, places = min(LANES, width - column), address(lists) + 4 * (at + 1)
        for row in range(min(lanes, len(x) - first - lanes)):  # the next block's: rows apart, no hardware foresees them
            prefetch(source + (lanes + row) * x_row + column * x.itemsize, x.itemsize * LANES)
        for lane in range(0, lanes, LANES):
            here, few, stored = source + lane * x_row + column * x.itemsize, rows - lane, min(LANES, lanes - lane)
            if x.itemsize == 1:
                take_pixels(here, x_row, few, columns, scale, means, places, target + 4 * lane, unit, stored)
            else:
                bad |= take_floats(here, x_row, few, columns, scale, means, places, target + 4 * lane, unit, stored)
    return bad != 0


@kernel()
def _take_single(op, lists, values, x, row, scale, memory):
    """`_take` of one example: number by number."""
    own_function()
    bad = False
    for number in range(op[SINGLE_COUNT]):
        at = op[SINGLE_LISTS] + 2 * number
        raw = F(x[row, lists[at]])
        bad |= not abs(raw) <= _LARGEST_INPUT
        memory[op[OUT] + lists[at + 1]] = raw * scale + values[op[SINGLE_VALUES] + number]
    return bad


@kernel()
def _weigh(op, lists, values, memory, lanes, rows):
    """Do the products of one layer: every position, every group of outputs."""
    own_function()
    unit = 4 * lanes
    width = op[WIDTH] if op[RIGHT] == 1 else 1  # positions side by side are one run of floats
    run = rows if op[HEIGHT] * op[WIDTH] == 1 else width * lanes
    in_rows = op[HEIGHT] > 1  # the positions of a tile lie below each other, else side by side
    positions = op[HEIGHT] if in_rows else (run + LANES - 1) // LANES
    step, y_step = (op[DOWN] * unit, op[ROW] * unit) if in_rows else (4 * LANES, 4 * LANES)
    chunk = LANES if in_rows else run
    floor = F(0) if op[RELU] else -_INFINITY
    x0 = address(memory) + op[IN] * unit
    y0 = address(memory) + (op[OUT] + op[FIRST]) * unit
    plane = op[PLANE] * unit
    for top in range(0, positions, MOST):
        for piece in range(op[WIDTH] // width):
            for lane in range(0, run, chunk):
                last = min(LANES, run - lane) if in_rows else run - (positions - 1) * LANES
                inner = last if in_rows else LANES
                x = x0 + piece * op[RIGHT] * unit + 4 * lane
                y = y0 + piece * unit + 4 * lane
                bias = address(values) + 4 * op[VALUES]
                for group in range(op[COUNT]):
                    at = op[LISTS] + GROUP_COLUMNS * group
                    outputs, count = np.int64(lists[at]), np.int64(lists[at + 1])
                    indices = address(lists) + 4 * np.int64(lists[at + 2])
                    weights = address(values) + 4 * np.int64(lists[at + 3])
                    most = MOST if outputs == 1 else MOST // 2
                    for p in range(top, min(top + MOST, positions), most):
                        few = min(most, positions - p)
                        list_tile(
                            outputs, few, count, indices, weights, x + p * step, unit, step, bias, floor,
                            y + p * y_step, plane, y_step, inner, last if p + few == positions else inner,
                        )  # fmt: skip
                    bias += 4 * outputs
                    y += outputs * plane


@kernel()
def _weigh_and_pool(op, pool, lists, values, memory, lanes):
    """`_weigh` and the 2 x 2 max-pooling after it, with no images between; lanes is 1 or a multiple of LANES."""
    own_function()
    unit = 4 * lanes
    down, right, plane, y_down = op[DOWN] * unit, op[RIGHT] * unit, pool[PLANE] * unit, pool[ROW] * unit
    single = lanes == 1
    floor = F(0) if op[RELU] else -_INFINITY
    x0 = address(memory) + op[IN] * unit
    y0 = address(memory) + (pool[OUT] + pool[FIRST]) * unit
    wide = LANES // 2 if single else 1  # results of a tile, side by side
    tall = 4 if single else 2  # and below each other
    for top in range(0, pool[HEIGHT], tall):
        for left in range(0, pool[WIDTH], wide):
            stored = min(wide, pool[WIDTH] - left) if single else 0
            for lane in range(0, lanes, LANES):
                x = x0 + 2 * left * right + 4 * lane
                y = y0 + left * unit + 4 * lane
                bias = address(values) + 4 * op[VALUES]
                for group in range(op[COUNT]):
                    at = op[LISTS] + GROUP_COLUMNS * group
                    outputs, count = np.int64(lists[at]), np.int64(lists[at + 1])
                    indices = address(lists) + 4 * np.int64(lists[at + 2])
                    weights = address(values) + 4 * np.int64(lists[at + 3])
                    most = tall if outputs == 1 else tall // 2
                    for p in range(top, min(top + tall, pool[HEIGHT]), most):
                        pooled_tile(
                            outputs, min(most, pool[HEIGHT] - p), count, indices, weights, x + 2 * p * down, unit,
                            down, right, bias, floor, y + p * y_down, plane, y_down, stored,
                        )  # fmt: skip
                    bias += 4 * outputs
                    y += outputs * plane


@kernel()
def _weigh_single(op, lists, values, memory):
    """Do a dense layer for one example: vectors of outputs."""
    own_function()
    floor = F(0) if op[RELU] else -_INFINITY
    numbers, places = address(values), address(lists)
    x, y, bias = address(memory) + 4 * op[IN], address(memory) + 4 * op[OUT], numbers + 4 * op[VALUES]
    indices, weights = places + 4 * op[SINGLE_LISTS], numbers + 4 * op[SINGLE_VALUES]
    left = op[CHANNELS]
    if op[SINGLE_SHARED]:
        row = 4 * LANES * ((left + LANES - 1) // LANES)
        while left > 0:
            vectors = min(MOST, (left + LANES - 1) // LANES)
            last = min(left - (vectors - 1) * LANES, LANES)
            single_tile(vectors, op[SINGLE_COUNT], indices, weights, row, x, bias, floor, y, last)
            step = 4 * LANES * vectors
            weights, bias, y, left = weights + step, bias + step, y + step, left - LANES * vectors
        return
    start = indices + 4 * op[SINGLE_COUNT]  # behind the numbers of entries of all groups
    for group in range(op[SINGLE_COUNT]):
        count = np.int64(lists[op[SINGLE_LISTS] + group])
        entries = 4 * LANES * count
        single_tile(0, count, start, weights, 0, x, bias, floor, y, min(left, LANES))
        start, weights, bias, y = start + entries, weights + entries, bias + 4 * LANES, y + 4 * LANES
        left -= LANES


@kernel()
def _pool(op, memory, lanes):
    """Any pooling: tap by tap, over rows of floats."""
    own_function()
    maximum = op[MAXIMUM] != 0
    width = op[WIDTH] if op[RIGHT] == 1 or lanes == 1 else 1
    step = op[RIGHT] if lanes == 1 else 1  # floats from one position to the next
    run = width * lanes
    share = F(1) / F(op[KERNEL_HEIGHT] * op[KERNEL_WIDTH])
    for channel in range(op[CHANNELS]):
        for row in range(op[HEIGHT]):
            for piece in range(op[WIDTH] // width):
                target = (op[OUT] + op[FIRST] + channel * op[PLANE] + row * op[ROW] + piece) * lanes
                y = memory[target : target + run]
                y[:] = -_INFINITY if maximum else F(0)
                corner = op[IN] + channel * op[IN_PLANE] + row * op[DOWN] + piece * op[RIGHT]
                for ky in range(op[KERNEL_HEIGHT]):
                    for kx in range(op[KERNEL_WIDTH]):
                        x = memory[(corner + ky * op[IN_ROW] + kx) * lanes :]
                        if maximum and step == 1:
                            for i in range(run):
                                y[i] = max32(y[i], x[i])
                        elif maximum:
                            for i in range(run):
                                y[i] = max32(y[i], x[i * step])
                        else:
                            for i in range(run):
                                y[i] += x[i * step]
                if not maximum:
                    for i in range(run):
                        y[i] *= share


@kernel()
def _scale(op, lists, values, memory, lanes):
    """y = x * scale + shift, rectified if wanted, number by number; lists hold pairs of places."""
    own_function()
    floor = F(0) if op[RELU] else -_INFINITY
    for number in range(op[COUNT]):
        at, value = op[LISTS] + 2 * number, op[VALUES] + 2 * number
        source, target = (op[IN] + lists[at]) * lanes, (op[OUT] + lists[at + 1]) * lanes
        scale, shift = values[value], values[value + 1]
        for lane in range(lanes):
            y = memory[source + lane] * scale + shift
            memory[target + lane] = floor if y < floor else y


@kernel()
def _surround(op, memory, lanes):
    """Fill the padding around the images that an operation writes: everything between their rows."""
    value = -_INFINITY if op[LOWEST] else F(0)
    gap = op[ROW] - op[WIDTH]
    for channel in range(op[CHANNELS]):
        start = op[OUT] + channel * op[PLANE]
        memory[start * lanes : (start + op[FIRST]) * lanes] = value
        end = start + op[FIRST] + op[WIDTH]
        for _ in range(op[HEIGHT] - 1):
            memory[end * lanes : (end + gap) * lanes] = value
            end += op[ROW]
        memory[end * lanes : (start + op[PLANE]) * lanes] = value


@kernel()
def _give(op, lists, memory, lanes, out, first, rows):
    """Copy the outputs out of the memory; return whether one of them is not finite."""
    bad = False
    for number in range(op[COUNT]):
        source = (op[IN] + lists[op[LISTS] + number]) * lanes
        for row in range(rows):
            y = memory[source + row]
            bad |= not abs(y) < _INFINITY
            out[first + row, number] = y
    return bad


@kernel()
def _run_block(table, lists, values, x, first, rows, scale, memory, lanes, out):
    """Run `rows` examples from number `first` on through the whole network; return BAD_INPUT, BAD_OUTPUT or 0."""
    own_function()
    wide_vectors()
    faults, done = 0, False
    fits = lanes == 1 or lanes % LANES == 0
    for number in range(len(table)):
        if done:  # together with the one before it
            done = False
            continue
        op = table[number]
        if op[KIND] == WEIGH and op[FUSED] and fits:
            pool = table[number + 1]
            if pool[PLANE] > pool[HEIGHT] * pool[WIDTH]:
                _surround(pool, memory, lanes)
            _weigh_and_pool(op, pool, lists, values, memory, lanes)
            done = True
            continue
        if op[PLANE] > op[HEIGHT] * op[WIDTH]:
            _surround(op, memory, lanes)
        if op[KIND] == TAKE:
            if lanes == 1:
                bad = _take_single(op, lists, values, x, first, scale, memory)
            else:
                bad = _take(op, lists, values, x, first, rows, scale, memory, lanes)
            if bad:
                faults |= BAD_INPUT
        elif op[KIND] == WEIGH and op[SINGLE_LISTS] and lanes == 1:
            _weigh_single(op, lists, values, memory)
        elif op[KIND] == WEIGH:
            _weigh(op, lists, values, memory, lanes, rows)
        elif op[KIND] == POOL:
            _pool(op, memory, lanes)
        elif op[KIND] == SCALE:
            _scale(op, lists, values, memory, lanes)
        elif _give(op, lists, memory, lanes, out, first, rows):
            faults |= BAD_OUTPUT
    return faults


@kernel()
def run(table, lists, values, x, scale, memory, lanes, out):
    """Run all examples x (B, I) through a network, block by block of `lanes`; out (B, O). On one thread."""
    faults = 0
    for first in range(0, len(x), lanes):
        rows = min(lanes, len(x) - first)
        faults |= _run_block(table, lists, values, x, first, rows, scale, memory[0], lanes, out)
    return faults


@kernel(parallel=True)
def run_parallel(table, lists, values, x, scale, memory, lanes, out, faults):
    """`run` on as many threads as memory has rows; faults (threads,) are written."""
    threads, blocks = len(memory), (len(x) + lanes - 1) // lanes
    for thread in numba.prange(threads):
        faults[thread] = 0
        for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
            first = block * lanes
            rows = min(lanes, len(x) - first)
            faults[thread] |= _run_block(table, lists, values, x, first, rows, scale, memory[thread], lanes, out)
