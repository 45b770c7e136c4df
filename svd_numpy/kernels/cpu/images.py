"""Numba kernels of the image layers: pooling, padding, batch normalisation and the factors of dropout.

`reference.py` computes the same in plain NumPy, and `kernels/backend.py` gives shapes and equations; here it is in
float32 and parallel. Pooling: each thread owns a slice of the images, and the backward pass looks up for each pixel
which windows saw it, so that every number is written once. Batch statistics: sums in float64 over a number of chunks
that depends on the shape alone, then over the chunks in order.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import (
    ONE,
    ZERO,
    I,
    U,
    address,
    box_muller,
    fma32,
    philox4x32,
    wide_vectors,
)
from svd_numpy.kernels.cpu.vectors import (
    I32,
    I64,
    bits,
    constant,
    filled,
    first_lanes,
    floats,
    integers,
    load,
    load_lanes,
    splat,
    store_lanes,
)
from svd_numpy.kernels.padding import Padding, sources
from svd_numpy.kernels.window import Window

CHUNKS = 32  # pieces of a batch that are summed on their own
TILE = 256  # channels are repeated to about this many neighbours in memory, so that even three of them fill vectors
_D = np.float64
_NOTHING = np.int64(0)  # the address of no array
_LANES = 16  # channels of a pixel are taken so many at a time: few loops are long enough for LLVM to bother


# ---------------------------------------------------------------- pooling: the channels of one pixel
def _number(builder: Any, base: Any, number: Any, mask: Any) -> Any:
    """Load the floats of the lanes in a mask, of an array from index `number` on."""
    return load_lanes(builder, builder.add(base, builder.mul(number, constant(4))), mask)


def _tap(builder: Any, base: Any, number: Any) -> Any:
    """Load the int32 at index `number` of an array into every lane."""
    return splat(builder, load(builder, base, builder.mul(number, constant(4)), I32), _LANES)


def _offset(builder: Any, base: Any, number: Any) -> Any:
    """Load the int64 at index `number` of an array."""
    return load(builder, base, builder.mul(number, constant(8)), I64)


def _vectors(builder: Any, channels: Any, emit: Any) -> None:
    """Loop over the channels of a pixel, a vector at a time; a mask says which lanes of the last one count."""
    width = constant(_LANES)
    count = builder.udiv(channels, width)
    with cgutils.for_range(builder, count) as loop:
        emit(builder.mul(loop.index, width), filled(bits(_LANES), 1))
    done = builder.mul(count, width)
    left = builder.sub(channels, done)
    with builder.if_then(builder.icmp_signed(">", left, constant(0))):
        emit(done, first_lanes(builder, left, _LANES))


_ADDRESS, _COUNT = types.int64, types.int64


@intrinsic
def _first_maximum(context: Any, x: Any, at: Any, tap: Any, n: Any, y: Any, chosen: Any, channels: Any) -> Any:
    """y[c] = max over j < n of x[at[j] + c], and chosen[c] = tap[j] of the first such j; NaN counts as the largest.

    x, at (int64), tap (int32), y and chosen (int32) are addresses.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, at, tap, n, y, chosen, channels = args

        def emit(c: Any, mask: Any) -> None:
            best = cgutils.alloca_once(builder, floats(_LANES))
            first = cgutils.alloca_once(builder, integers(_LANES))
            builder.store(filled(floats(_LANES), -math.inf), best)
            builder.store(_tap(builder, tap, constant(0)), first)
            with cgutils.for_range(builder, n) as loop:
                offset = _offset(builder, at, loop.index)
                value = _number(builder, x, builder.add(offset, c), mask)
                have = builder.load(best)
                # unordered: true also where the value is NaN; but what is NaN already stays
                above = builder.and_(builder.fcmp_unordered(">", value, have), builder.fcmp_ordered("==", have, have))
                number = _tap(builder, tap, loop.index)
                builder.store(builder.select(above, value, have), best)
                builder.store(builder.select(above, number, builder.load(first)), first)
            place = builder.mul(c, constant(4))
            store_lanes(builder, builder.load(best), builder.add(y, place), mask)
            taps = builder.bitcast(builder.load(first), floats(_LANES))
            store_lanes(builder, taps, builder.add(chosen, place), mask)

        _vectors(builder, channels, emit)
        return context.get_dummy_value()

    return types.void(_ADDRESS, _ADDRESS, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _COUNT), codegen


@intrinsic
def _sum(context: Any, x: Any, at: Any, tap: Any, n: Any, chosen: Any, scale: Any, y: Any, channels: Any) -> Any:
    """y[c] = scale * sum over j < n of x[at[j] + c], where chosen[at[j] + c] == tap[j], if chosen is not address 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, at, tap, n, chosen, scale, y, channels = args

        def emit_of(masked: bool) -> Any:
            def emit(c: Any, mask: Any) -> None:
                total = cgutils.alloca_once(builder, floats(_LANES))
                zeros = filled(floats(_LANES), 0.0)
                builder.store(zeros, total)
                with cgutils.for_range(builder, n) as loop:
                    offset = _offset(builder, at, loop.index)
                    offset = builder.add(offset, c)
                    value = _number(builder, x, offset, mask)
                    if masked:
                        won = builder.bitcast(_number(builder, chosen, offset, mask), integers(_LANES))
                        here = builder.icmp_signed("==", won, _tap(builder, tap, loop.index))
                        value = builder.select(here, value, zeros)
                    builder.store(builder.fadd(builder.load(total), value), total)
                scaled = builder.fmul(builder.load(total), splat(builder, scale, _LANES))
                store_lanes(builder, scaled, builder.add(y, builder.mul(c, constant(4))), mask)

            return emit

        masked = builder.icmp_signed("!=", chosen, constant(0))
        with builder.if_else(masked) as (then, otherwise):
            with then:
                _vectors(builder, channels, emit_of(True))
            with otherwise:
                _vectors(builder, channels, emit_of(False))
        return context.get_dummy_value()

    return types.void(_ADDRESS, _ADDRESS, _ADDRESS, _COUNT, _ADDRESS, types.float32, _ADDRESS, _COUNT), codegen


# ---------------------------------------------------------------- pooling and padding
class Table(NamedTuple):
    """What each position sums or compares: entries start[p]..start[p + 1] of two lists."""

    start: NDArray[np.int64]
    at: NDArray[np.int64]  # where a pixel lies in an image, or a position in an output; in numbers
    tap: NDArray[np.int32]  # by which tap of the window the two see each other


@lru_cache(maxsize=64)
def tables(window: Window) -> tuple[Table, Table]:
    """Which pixels each output position sees, in the order of taps; and which output positions see each pixel."""
    pixels = np.arange(window.height * window.width).reshape(1, window.height, window.width, 1)
    seen = np.stack([view.ravel() for view in window.views(window.pad(pixels, -1))], axis=1)
    output, tap = np.nonzero(seen >= 0)
    pixel = seen[output, tap]
    order = np.argsort(pixel, kind="stable")
    return (
        _table(output, pixel, tap, len(seen), window.channels),
        _table(pixel[order], output[order], tap[order], pixels.size, window.channels),
    )


@lru_cache(maxsize=64)
def padding_tables(padding: Padding, channels: int) -> tuple[Table, Table]:
    """Which pixel each padded pixel copies, at most one; and which padded pixels copy each pixel."""
    source = sources(padding)
    padded = np.flatnonzero(source >= 0)
    order = padded[np.argsort(source[padded], kind="stable")]
    return (
        _table(padded, source[padded], np.zeros_like(padded), source.size, channels),
        _table(source[order], order, np.zeros_like(order), padding.height * padding.width, channels),
    )


def _table(rows: NDArray[Any], at: NDArray[Any], tap: NDArray[Any], n_rows: int, channels: int) -> Table:
    return Table(np.searchsorted(rows, np.arange(n_rows + 1)), at * channels, tap.astype(np.int32))


@kernel(parallel=True)
def pool_max(threads, x, start, at, tap, y, chosen, scratch):
    """y = the largest pixel of each window and channel; chosen = the number of the first tap that holds it."""
    images, channels, positions = len(x), y.shape[3], len(start) - 1
    for thread in prange(threads):
        for b in range(thread * images // threads, (thread + 1) * images // threads):
            p_x, p_y, p_chosen = address(x[b]), address(y[b]), address(chosen[b])
            for p in range(positions):
                first, o = start[p], 4 * p * channels
                _first_maximum(p_x, address(at) + 8 * first, address(tap) + 4 * first, start[p + 1] - first,
                               p_y + o, p_chosen + o, channels)  # fmt: skip


@kernel(parallel=True)
def pool_sum(threads, x, chosen, scale, start, at, tap, y, scratch):
    """y = scale * the sum of what each position sees in x; where chosen.size > 0 only of what it saw by that tap."""
    images, channels, positions = len(x), y.shape[3], len(start) - 1
    masked = chosen.size > 0
    for thread in prange(threads):
        for b in range(thread * images // threads, (thread + 1) * images // threads):
            p_x, p_y, p_chosen = address(x[b]), address(y[b]), address(chosen[b]) if masked else _NOTHING
            for p in range(positions):
                first = start[p]
                _sum(p_x, address(at) + 8 * first, address(tap) + 4 * first, start[p + 1] - first,
                     p_chosen, scale, p_y + 4 * p * channels, channels)  # fmt: skip


# ---------------------------------------------------------------- batch normalisation
def tile(channels: int) -> int:
    """Numbers in a tile: as many whole pixels as fit into TILE numbers, at least one."""
    return max(1, TILE // channels) * channels


def tiled(values: NDArray[Any], dtype: Any = np.float64) -> NDArray[Any]:
    """Repeat one number per channel over a tile."""
    return np.resize(values, tile(len(values))).astype(dtype)


@kernel()
def _add_moments(x, total, squares):
    wide_vectors()
    for j in range(len(x)):
        value = _D(x[j])
        total[j] += value
        squares[j] += value * value


@kernel()
def _add_products(dy, x, mean, total, products):
    wide_vectors()
    for j in range(len(dy)):
        total[j] += _D(dy[j])
        products[j] += _D(dy[j]) * (_D(x[j]) - mean[j])


@kernel(parallel=True)
def channel_sums(threads, x, dy, mean, sums, totals, scratch):
    """Sums over a batch, each channel: of x and x^2, or of dy and dy (x - mean) if dy.size > 0.

    x and dy are flat; mean (tiled) and each row of sums (CHUNKS, 2, tile) are whole pixels long; totals (2, C).
    """
    width, channels = sums.shape[2], totals.shape[1]
    blocks = (len(x) + width - 1) // width
    for thread in prange(threads):
        for chunk in range(thread * CHUNKS // threads, (thread + 1) * CHUNKS // threads):
            first, second = sums[chunk, 0], sums[chunk, 1]
            first[:], second[:] = _D(0), _D(0)
            for block in range(chunk * blocks // CHUNKS, (chunk + 1) * blocks // CHUNKS):
                part = slice(block * width, min((block + 1) * width, len(x)))
                if len(dy) > 0:
                    _add_products(dy[part], x[part], mean, first, second)
                else:
                    _add_moments(x[part], first, second)
    totals[:] = _D(0)
    for chunk in range(CHUNKS):
        for begin in range(0, width, channels):
            for c in range(channels):
                totals[0, c] += sums[chunk, 0, begin + c]
                totals[1, c] += sums[chunk, 1, begin + c]


@kernel()
def _normalise(x, mean, scale, shift, y):
    wide_vectors()
    for j in range(len(x)):
        y[j] = fma32(x[j] - mean[j], scale[j], shift[j])


@kernel(parallel=True)
def normalise(threads, x, mean, scale, shift, y, scratch):
    """y = (x - mean) * scale + shift on flat x and y; the others are tiled."""
    width = len(mean)
    blocks = (len(x) + width - 1) // width
    for thread in prange(threads):
        for block in range(thread * blocks // threads, (thread + 1) * blocks // threads):
            part = slice(block * width, min((block + 1) * width, len(x)))
            _normalise(x[part], mean, scale, shift, y[part])


@kernel()
def _input_gradient(dy, x, mean, slope, pull, shift, dx):
    wide_vectors()
    for j in range(len(x)):
        dx[j] = fma32(slope[j], dy[j], fma32(pull[j], x[j] - mean[j], shift[j]))


@kernel(parallel=True)
def normalise_backward(threads, dy, x, mean, slope, pull, shift, dx, scratch):
    """dx = slope * dy + pull * (x - mean) + shift on flat dy, x and dx; the others are tiled."""
    width = len(mean)
    blocks = (len(x) + width - 1) // width
    for thread in prange(threads):
        for block in range(thread * blocks // threads, (thread + 1) * blocks // threads):
            part = slice(block * width, min((block + 1) * width, len(x)))
            _input_gradient(dy[part], x[part], mean, slope, pull, shift, dx[part])


# ---------------------------------------------------------------- dropout
@kernel()
def _bernoulli_row(out, buffer, sample, step, layer, key0, key1, least, scale):
    """Write scale where the first 24 bits of the unit's word are `least` or more, else 0."""
    wide_vectors()
    for group in range((len(out) + 63) // 64):
        for lane in range(16):
            w0, w1, w2, w3 = philox4x32(U(16 * group + lane), sample, step, layer, key0, key1)
            buffer[lane] = scale if I(w0 >> U(8)) >= least else ZERO
            buffer[16 + lane] = scale if I(w1 >> U(8)) >= least else ZERO
            buffer[32 + lane] = scale if I(w2 >> U(8)) >= least else ZERO
            buffer[48 + lane] = scale if I(w3 >> U(8)) >= least else ZERO
        n = min(64, len(out) - 64 * group)
        out[64 * group : 64 * group + n] = buffer[:n]


@kernel()
def _gaussian_row(out, buffer, sample, step, layer, key0, key1, std):
    """Write 1 + std * noise; the numbers are those of `noise_row`, of a row of any length."""
    wide_vectors()
    for group in range((len(out) + 63) // 64):
        for lane in range(16):
            w0, w1, w2, w3 = philox4x32(U(16 * group + lane), sample, step, layer, key0, key1)
            n0, n1 = box_muller(w0, w1)
            n2, n3 = box_muller(w2, w3)
            buffer[lane], buffer[16 + lane] = fma32(std, n0, ONE), fma32(std, n1, ONE)
            buffer[32 + lane], buffer[48 + lane] = fma32(std, n2, ONE), fma32(std, n3, ONE)
        n = min(64, len(out) - 64 * group)
        out[64 * group : 64 * group + n] = buffer[:n]


@kernel(parallel=True)
def dropout_factors(threads, key, least, scale, out, scratch):
    """Fill out (B, units) with 0 or scale."""
    step, layer, first_sample, key0, key1 = key
    for thread in prange(threads):
        for b in range(thread * len(out) // threads, (thread + 1) * len(out) // threads):
            _bernoulli_row(out[b], scratch[thread], U(first_sample + b), step, layer, key0, key1, least, scale)


@kernel(parallel=True)
def gaussian_factors(threads, key, std, out, scratch):
    """Fill out (B, units) with 1 + std * noise."""
    step, layer, first_sample, key0, key1 = key
    for thread in prange(threads):
        for b in range(thread * len(out) // threads, (thread + 1) * len(out) // threads):
            _gaussian_row(out[b], scratch[thread], U(first_sample + b), step, layer, key0, key1, std)


@kernel()
def times(x, factors, y):
    """y = x * factors on flat arrays, on one thread."""
    wide_vectors()
    for i in range(len(x)):
        y[i] = x[i] * factors[i]


@kernel(parallel=True)
def multiply(threads, x, factors, y, scratch):
    """y = x * factors on flat arrays."""
    for thread in prange(threads):
        part = slice(thread * len(x) // threads, (thread + 1) * len(x) // threads)
        times(x[part], factors[part], y[part])
