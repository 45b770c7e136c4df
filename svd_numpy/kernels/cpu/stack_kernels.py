"""Numba kernels of a stack of dense layers on lists (`kernels/stack.py`): one call forward, one backward.

Everything between the layers is a plane: the number of one unit for every example of the batch, one float each, in
whole vectors. A forward pass is one stage per layer, in which each thread computes some units from their sum to their
sample. A backward pass is one stage per layer, too: a unit adds up what comes from its readers, and with it the
gradients of its weights. Units belong to threads as their lists are long; each is computed by one thread, and in the
same order of sums, so that the bits do not depend on the number of threads.

The layers are rows of a table of numbers and addresses. Lanes behind the last example hold zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, prange, types
from numba.extending import intrinsic

from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.layers import NO_FLOOR, TINY_VAR, gather_row
from svd_numpy.kernels.cpu.living_tiles import MOST, PAIRS, PLAIN, SQUARES, TOGETHER, dots, sums, total
from svd_numpy.kernels.cpu.simd import (
    HALF,
    ZERO,
    U,
    address,
    box_muller,
    exp32,
    fma32,
    own_function,
    philox4x32,
    prefetch,
    sqrt32,
    wide_vectors,
)
from svd_numpy.kernels.cpu.tiles import LANES, transpose_exact, transpose_tile

# Columns of the table, one row per layer. All but the numbers in the first line are addresses.
(
    INPUTS, OUTPUTS, INDEX, RELU,
    THETA, LOG_SIGMA2, BIAS, D_THETA, D_SIGMA2, D_BIAS,
    STARTS, PLACES, ORDER, IN_STARTS, IN_PLACES,  # `lists.Lists`
    USED, SIGMA2, IN_USED, IN_SIGMA2,  # means and variances that the pass uses, by output and by input
    X, Y, R, SLOPES,  # planes of inputs, outputs, noise / (2 std) (backward: d_var) and dy
    BLOCKS, UNITS,  # costs, added up: of blocks of noise forward, of units backward
) = range(25)  # fmt: skip
COLUMNS = 25
BLOCK = 16  # units u, u + 16, u + 32 and u + 48 take the four words of one block of noise (`NoiseKey`)
LITTLE = 4e4  # costs times lanes of a stage that one thread does before a second would be awake


@intrinsic
def _pointer(typing_context: Any, kind: Any, at: Any) -> Any:
    """Turn an address into a pointer to numbers of a type."""
    result = types.CPointer(kind.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], context.get_value_type(result))

    return result(kind, types.int64), codegen


@kernel(inline=True)
def _floats(at, count):
    """View `count` float32 at an address."""
    return carray(_pointer(np.float32, at), (count,))


@kernel(inline=True)
def _wholes(at, count):
    """View `count` int64 at an address."""
    return carray(_pointer(np.int64, at), (count,))


@kernel()
def _share(thread, threads, costs):
    """Bounds of one thread's part of tasks whose costs, added up, are given."""
    n = len(costs) - 1
    return (np.searchsorted(costs, thread * costs[n] // threads),
            np.searchsorted(costs, (thread + 1) * costs[n] // threads))  # fmt: skip


@kernel()
def _take_inputs(first, last, tiles, examples, rows, planes, lanes):
    """Gather the examples first..last, and turn those of their inputs that are read into planes.

    first : a multiple of LANES
    tiles : numbers of the tiles of LANES inputs that are read at all
    examples : see `forward`;  rows (LANES, I) : scratch
    """
    own_function()
    source, order, scale, mean = examples
    columns, row_bytes = source.shape[1], source.itemsize * source.shape[1]
    for b in range(first, last, LANES):
        few = min(LANES, last - b)
        for row in range(few):
            if b + row + 4 < len(order):  # they are scattered in memory: ask for one early
                prefetch(address(source) + order[b + row + 4] * row_bytes, row_bytes)
            gather_row(source[order[b + row]], scale, mean, rows[row])
        for tile in tiles:
            at = np.int64(tile) * LANES
            transpose_tile(address(rows) + 4 * at, columns, few, min(LANES, columns - at),
                           planes + 4 * (at * lanes + b), lanes)  # fmt: skip


@kernel()
def _give_rows(first, last, planes, lanes, x):
    """Turn the planes first..last into columns of x (B, planes)."""
    own_function()
    batch, columns = x.shape
    for at in range(first, last, LANES):
        for b in range(0, batch, LANES):
            transpose_exact(planes + 4 * (at * lanes + b), lanes, min(LANES, last - at), min(LANES, batch - b),
                            address(x) + 4 * (b * columns + at), columns)  # fmt: skip


@kernel()
def _noise(block, key, layer, out0, out1, out2, out3, words):
    """Planes of noise for the units of one block; only those of the first `words` units are needed."""
    wide_vectors()
    own_function()
    step, first_sample, key0, key1 = key
    if words <= 2:
        for b in range(len(out0)):
            w0, w1, _, _ = philox4x32(U(block), U(first_sample + U(b)), step, layer, key0, key1)
            out0[b], out1[b] = box_muller(w0, w1)
        return
    for b in range(len(out0)):
        w0, w1, w2, w3 = philox4x32(U(block), U(first_sample + U(b)), step, layer, key0, key1)
        out0[b], out1[b] = box_muller(w0, w1)
        out2[b], out3[b] = box_muller(w2, w3)


@kernel()
def _use(theta, log_sigma2, keep, used, sigma2):
    """Means and variances as a pass uses them (`Backend.lrt_forward`)."""
    wide_vectors()
    for e in range(len(theta)):
        variance = exp32(log_sigma2[e])
        sigma2[e] = variance
        used[e] = theta[e] if theta[e] * theta[e] >= keep * variance else ZERO


@kernel()
def _sample(y, r, bias, noise, floor, batch):
    """y <- max(y + bias + std noise, floor) and r <- noise / (2 std), std^2 being in r, of one unit."""
    wide_vectors()
    for b in range(len(y)):
        variance = r[b]
        std = sqrt32(variance)
        value = fma32(std, noise[b], y[b] + bias)
        r[b] = HALF * noise[b] / std if variance > TINY_VAR else ZERO
        y[b] = value if value > floor else floor
    y[batch:] = ZERO
    r[batch:] = ZERO


@kernel()
def _shift(y, bias, floor, batch):
    """y <- max(y + bias, floor) of one unit."""
    wide_vectors()
    for b in range(len(y)):
        value = y[b] + bias
        y[b] = value if value > floor else floor
    y[batch:] = ZERO


@kernel()
def _sum_planes(kind, count, places, weights, weights2, x, x2, lanes, y, y2, scale):
    """`sums` over whole planes."""
    lane = np.int64(0)
    while lane < lanes:
        vectors, here = min(np.int64(MOST), (lanes - lane) // LANES), 4 * lane
        sums(kind, vectors, count, places, weights, weights2, x + here, x2 + here, 4 * lanes, y + here, y2 + here,
             scale + here)  # fmt: skip
        lane += vectors * LANES


@kernel()
def _forward_units(thread, threads, row, lanes, batch, noisy, keep, key, noise):
    """One thread's part of the outputs of a layer."""
    own_function()
    outputs, layer = row[OUTPUTS], U(row[INDEX])
    blocks = outputs // (4 * BLOCK) * BLOCK + min(BLOCK, outputs % (4 * BLOCK))
    starts, bias = _wholes(row[STARTS], outputs + 1), _floats(row[BIAS], outputs)
    floor = ZERO if row[RELU] == 1 else NO_FLOOR
    first, last = _share(thread, threads, _wholes(row[BLOCKS], blocks + 1))
    for block in range(first, last):
        begin = block // BLOCK * 4 * BLOCK + block % BLOCK
        words = min(4, (outputs - begin + BLOCK - 1) // BLOCK)
        if noisy == 1:
            _noise(block, key, layer, noise[0, :lanes], noise[1, :lanes], noise[2, :lanes], noise[3, :lanes], words)
        for word in range(words):
            unit = begin + word * BLOCK
            at, n = 4 * starts[unit], starts[unit + 1] - starts[unit]
            y, r = row[Y] + 4 * unit * lanes, row[R] + 4 * unit * lanes
            if noisy == 0:
                _sum_planes(
                    PLAIN, n, row[PLACES] + at, row[THETA] + at, row[THETA] + at, row[X], row[X], lanes, y, y, y
                )
                _shift(_floats(y, lanes), bias[unit], floor, batch)
                continue
            _use(_floats(row[THETA] + at, n), _floats(row[LOG_SIGMA2] + at, n), keep,
                 _floats(row[USED] + at, n), _floats(row[SIGMA2] + at, n))  # fmt: skip
            _sum_planes(SQUARES, n, row[PLACES] + at, row[USED] + at, row[SIGMA2] + at, row[X], row[X], lanes, y, r, y)
            _sample(_floats(y, lanes), _floats(r, lanes), bias[unit], noise[word], floor, batch)


@kernel()
def _forward(stage, thread, threads, table, tiles, examples, y, lanes, noisy, keep, key, rows, noise):
    """One thread's part of a stage of `forward`."""
    layers, batch = len(table), len(y)
    if stage == 0:
        blocks = (batch + LANES - 1) // LANES
        first, last = thread * blocks // threads * LANES, min((thread + 1) * blocks // threads * LANES, batch)
        _take_inputs(first, last, tiles, examples, rows[thread], table[0, X], lanes)
    elif stage <= layers:
        _forward_units(thread, threads, table[stage - 1], lanes, batch, noisy, keep, key, noise[thread])
    else:
        first, last = thread * y.shape[1] // threads, (thread + 1) * y.shape[1] // threads
        _give_rows(first, last, table[layers - 1, Y], lanes, y)


@kernel(parallel=True)
def forward(threads, costs, table, tiles, examples, y, lanes, noisy, keep, key, rows, noise, scratch):
    """Examples, gathered from `examples` = (source, order, scale, mean) -> a sample of the outputs y (B, O).

    costs : of each stage;  tiles : see `_take_inputs`
    noisy : 1 for a sample, 0 for the means
    key : step, first_sample and two words of the seed
    rows (threads, LANES, I), noise (threads, 4, at least lanes) : scratch
    """
    for stage in range(len(costs)):
        if threads == 1 or costs[stage] * lanes < LITTLE:
            _forward(stage, 0, 1, table, tiles, examples, y, lanes, noisy, keep, key, rows, noise)
        else:
            for thread in prange(threads):
                _forward(stage, thread, threads, table, tiles, examples, y, lanes, noisy, keep, key, rows, noise)


@kernel()
def _pull(row, unit, lanes, noisy, out):
    """Gradient of one input of a layer, from the planes of its dy and d_var."""
    in_starts = _wholes(row[IN_STARTS], row[INPUTS] + 1)
    first, last = in_starts[unit], in_starts[unit + 1]
    if first == last:  # nothing reads it, and its plane may hold anything
        _floats(out, lanes)[:] = ZERO
        return
    weights = in_starts[row[INPUTS]]
    order = carray(_pointer(np.int32, row[ORDER]), (weights,))
    used, sigma2 = _floats(row[USED] if noisy == 1 else row[THETA], weights), _floats(row[SIGMA2], weights)
    in_used, in_sigma2 = _floats(row[IN_USED], weights), _floats(row[IN_SIGMA2], weights)
    for e in range(first, last):
        in_used[e] = used[order[e]]
        in_sigma2[e] = sigma2[order[e]]
    kind, at = PAIRS if noisy == 1 else PLAIN, 4 * first
    _sum_planes(kind, last - first, row[IN_PLACES] + at, row[IN_USED] + at, row[IN_SIGMA2] + at, row[SLOPES], row[R],
                lanes, out, out, row[X] + 4 * unit * lanes)  # fmt: skip


@kernel()
def _rectify(dy, y, r, relu, noisy):
    """dy <- dy where y > 0, else 0 (with relu); then (if noisy) r <- dy * r, of one unit."""
    wide_vectors()
    if relu == 1:
        for b in range(len(dy)):
            dy[b] = dy[b] if y[b] > ZERO else ZERO
    if noisy == 1:
        for b in range(len(dy)):
            r[b] = dy[b] * r[b]


@kernel()
def _weight_gradients(row, first, last, unit, lanes, noisy):
    """Gradients of the weights first..last, which belong to one unit."""
    kind = SQUARES if noisy == 1 else PLAIN
    e, slopes, slopes2 = first, row[SLOPES] + 4 * unit * lanes, row[R] + 4 * unit * lanes
    while e < last:
        weights, lane = np.int64(TOGETHER) if e + TOGETHER <= last else np.int64(1), np.int64(0)
        while lane < lanes:
            vectors, here = min(np.int64(MOST), (lanes - lane) // LANES), 4 * lane
            dots(kind, weights, vectors, np.int64(1), row[PLACES] + 4 * e, row[X] + here, 4 * lanes, np.int64(0),
                 slopes + here, slopes2 + here, np.int64(0), lane > 0,
                 row[D_THETA] + 4 * e, row[D_SIGMA2] + 4 * e)  # fmt: skip
            lane += vectors * LANES
        e += weights


@kernel()
def _backward_units(thread, threads, table, number, dy, lanes, noisy):
    """One thread's part of the units of a layer: their slopes, and the gradients of their weights."""
    own_function()
    row, outputs = table[number], table[number, OUTPUTS]
    first, last = _share(thread, threads, _wholes(row[UNITS], outputs + 1))
    starts, d_bias = _wholes(row[STARTS], outputs + 1), _floats(row[D_BIAS], outputs)
    if number == len(table) - 1:
        batch = len(dy)
        for at in range(first, last, LANES):
            for b in range(0, batch, LANES):
                transpose_tile(address(dy) + 4 * (b * outputs + at), outputs, min(LANES, batch - b),
                               min(LANES, last - at), row[SLOPES] + 4 * (at * lanes + b), lanes)  # fmt: skip
    for unit in range(first, last):
        here = 4 * unit * lanes
        slopes = row[SLOPES] + here
        if number < len(table) - 1:
            _pull(table[number + 1], unit, lanes, noisy, slopes)
        _rectify(_floats(slopes, lanes), _floats(row[Y] + here, lanes), _floats(row[R] + here, lanes), row[RELU],
                 noisy)  # fmt: skip
        d_bias[unit] = total(slopes, lanes // LANES)
        _weight_gradients(row, starts[unit], starts[unit + 1], unit, lanes, noisy)


@kernel()
def _backward(stage, thread, threads, table, in_costs, dy, d_planes, dx, lanes, noisy):
    """One thread's part of a stage of `backward`."""
    layers = len(table)
    if stage < layers:
        _backward_units(thread, threads, table, layers - 1 - stage, dy, lanes, noisy)
    else:
        first, last = _share(thread, threads, in_costs)
        for unit in range(first, last):
            _pull(table[0], unit, lanes, noisy, d_planes + 4 * unit * lanes)
        _give_rows(first, last, d_planes, lanes, dx)


@kernel(parallel=True)
def backward(threads, costs, table, in_costs, dy, d_planes, dx, lanes, noisy, scratch):
    """Gradients of `forward` for dy (B, O), and dx (B, I) unless it is empty.

    costs : of each stage; the last one is for dx
    in_costs : of the inputs, added up;  d_planes : address of scratch for the planes of dx
    """
    for stage in range(len(costs) if dx.size > 0 else len(table)):
        if threads == 1 or costs[stage] * lanes < LITTLE:
            _backward(stage, 0, 1, table, in_costs, dy, d_planes, dx, lanes, noisy)
        else:
            for thread in prange(threads):
                _backward(stage, thread, threads, table, in_costs, dy, d_planes, dx, lanes, noisy)
