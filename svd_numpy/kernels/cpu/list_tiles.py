"""The micro-kernels of compact networks: weighted sums over lists of inputs, in LLVM vectors.

    y[r, p] = max(bias[r] + sum over the entries e of a list of weight[e, r] x[index[e] + position p], floor)

Every x is a vector of LANES neighbours in memory: the same number of several examples or, where those are few, of
several positions in a row of an image. A tile of `outputs` x `positions` sums stays in registers while it runs through
the list, so that one weight serves all positions and one load of x all outputs. The order of each sum is that of the
list, whatever the tile: results do not depend on how the work is cut up.

Addresses are integers, steps are in bytes, lists are int32 and count units of `unit` bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from svd_numpy.checks import LARGEST_INPUT
from svd_numpy.kernels.cpu.tiles import LANES
from svd_numpy.kernels.cpu.vectors import (
    F32,
    I32,
    I64,
    bits,
    constant,
    declare,
    filled,
    first_lanes,
    floats,
    integers,
    larger,
    load,
    load_lanes,
    multiply_add,
    pointer,
    splat,
    store_lanes,
    transposed,
)

_VEC, _EVERYWHERE = floats(LANES), filled(bits(LANES), 1)
GROUP = 4  # outputs that share a list in the dense form
MOST = 8  # positions of a tile with one output; GROUP outputs take MOST / 2: 16 sums and 4 inputs fill 20 registers
_FLOAT_BYTES = 4


def _vector(builder: ir.IRBuilder, address: Any) -> Any:
    return load(builder, address, constant(0), _VEC)


def looped(
    builder: ir.IRBuilder, count: Any, first: list[Any], step: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Emit a loop over entries 0 to count - 1 that carries vectors: step(entry, vectors) emits the next ones."""
    before = builder.block
    loop, done = builder.append_basic_block("entries"), builder.append_basic_block("entries_done")
    builder.cbranch(builder.icmp_signed(">", count, constant(0)), loop, done)
    builder.position_at_end(loop)
    entry, totals = builder.phi(I64), [builder.phi(_VEC) for _ in first]
    later = step(entry, totals)
    following = builder.add(entry, constant(1))
    entry.add_incoming(constant(0), before)
    entry.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    results = [builder.phi(_VEC) for _ in first]
    for total, result, start, end in zip(totals, results, first, later, strict=True):
        for phi in (total, result):
            phi.add_incoming(start, before)
            phi.add_incoming(end, loop)
    return results


def _sums(builder: ir.IRBuilder, outputs: int, offsets: list[Any], args: Any) -> list[list[Any]]:
    """Emit the sums of one tile: a vector for each output and each of the byte offsets of its positions."""
    count, indices, weights, x, unit, bias = args

    def scalar(address: Any, number: int) -> Any:
        return splat(builder, load(builder, address, constant(_FLOAT_BYTES * number), F32), LANES)

    def entry(number: Any, totals: list[Any]) -> list[Any]:
        index = builder.sext(load(builder, indices, builder.mul(number, constant(4)), I32), I64)
        at = builder.add(x, builder.mul(index, unit))
        seen = [_vector(builder, builder.add(at, offset)) for offset in offsets]
        here = builder.add(weights, builder.mul(number, constant(_FLOAT_BYTES * outputs)))
        scalars = [scalar(here, r) for r in range(outputs)]
        pairs = [(weight, vector) for weight in scalars for vector in seen]
        return [multiply_add(builder, *pair, total) for pair, total in zip(pairs, totals, strict=True)]

    sums = looped(builder, count, [scalar(bias, r) for r in range(outputs) for _ in offsets], entry)
    return [sums[r * len(offsets) : (r + 1) * len(offsets)] for r in range(outputs)]


def _emit_tile(builder: ir.IRBuilder, outputs: int, positions: int, args: Any) -> None:
    count, indices, weights, x, unit, step, bias, floor, y, y_output, y_step, inner, last = args
    offsets = [builder.mul(step, constant(p)) for p in range(positions)]
    sums = _sums(builder, outputs, offsets, (count, indices, weights, x, unit, bias))
    low = splat(builder, floor, LANES)
    masks = [first_lanes(builder, inner, LANES)] * (positions - 1) + [first_lanes(builder, last, LANES)]
    for r in range(outputs):
        at = builder.add(y, builder.mul(y_output, constant(r)))
        for p in range(positions):
            store_lanes(
                builder, larger(builder, low, sums[r][p]), builder.add(at, builder.mul(y_step, constant(p))), masks[p]
            )


def _emit_pooled(builder: ir.IRBuilder, outputs: int, pairs: int, args: Any) -> None:
    """Tiles of 2 x 2 positions per result, each position a vector of examples."""
    count, indices, weights, x, unit, down, right, bias, floor, y, y_output, y_down, _ = args
    offsets = [
        builder.add(builder.mul(down, constant(row)), builder.mul(right, constant(column)))
        for row in range(2 * pairs)
        for column in range(2)
    ]
    sums = _sums(builder, outputs, offsets, (count, indices, weights, x, unit, bias))
    low = splat(builder, floor, LANES)
    for r in range(outputs):
        at = builder.add(y, builder.mul(y_output, constant(r)))
        for pair in range(pairs):
            a, b, c, d = sums[r][4 * pair : 4 * pair + 4]
            largest = larger(builder, larger(builder, a, b), larger(builder, c, d))
            here = builder.add(at, builder.mul(y_down, constant(pair)))
            store_lanes(builder, larger(builder, low, largest), here, _EVERYWHERE)


def _emit_pooled_row(builder: ir.IRBuilder, outputs: int, pairs: int, args: Any) -> None:
    """Tiles of one example: each position is a vector of neighbours in a row, which are pooled two by two."""
    count, indices, weights, x, unit, down, _, bias, floor, y, y_output, y_down, lanes = args
    offsets = [builder.mul(down, constant(row)) for row in range(2 * pairs)]
    sums = _sums(builder, outputs, offsets, (count, indices, weights, x, unit, bias))
    low, mask = splat(builder, floor, LANES), first_lanes(builder, lanes, LANES)
    left, right = ([2 * lane % LANES + side for lane in range(LANES)] for side in (0, 1))
    for r in range(outputs):
        at = builder.add(y, builder.mul(y_output, constant(r)))
        for pair in range(pairs):
            tall = larger(builder, sums[r][2 * pair], sums[r][2 * pair + 1])
            halves = [builder.shuffle_vector(tall, tall, ir.Constant(integers(LANES), half)) for half in (left, right)]
            here = builder.add(at, builder.mul(y_down, constant(pair)))
            store_lanes(builder, larger(builder, low, larger(builder, *halves)), here, mask)


def choose(builder: ir.IRBuilder, key: Any, cases: list[tuple[int, Any]]) -> None:
    """Emit a switch: (value of the key, function that emits the code)."""
    done = builder.append_basic_block("chosen")
    switch = builder.switch(key, done)
    for value, emit in cases:
        block = builder.append_basic_block(f"case_{value}")
        switch.add_case(constant(value), block)
        builder.position_at_end(block)
        emit()
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def list_tile(
    typing_context: Any, outputs: Any, positions: Any, count: Any, indices: Any, weights: Any, x: Any, unit: Any,
    step: Any, bias: Any, floor: Any, y: Any, y_output: Any, y_step: Any, inner: Any, last: Any,
) -> Any:  # fmt: skip
    """Compute one tile and store it.

    outputs, positions : 1 and 1 to MOST, or GROUP and 1 to MOST / 2
    count, indices, weights : the list: entries, addresses of the indices and of the weights (count, outputs)
    x, unit, step : address of position 0 at index 0, bytes from one index and one position to the next
    bias, floor : address of the biases; float32
    y, y_output, y_step : address of the result, bytes to that of the next output and of the next position
    inner, last : lanes stored at all positions but the last, and there
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        outputs, positions, *others = args
        key = builder.add(builder.mul(outputs, constant(16)), positions)
        cases = [(1, p) for p in range(1, MOST + 1)] + [(GROUP, p) for p in range(1, MOST // 2 + 1)]
        choose(
            builder, key,
            [(16 * o + p, partial(_emit_tile, builder, o, p, others)) for o, p in cases],
        )  # fmt: skip
        return context.get_dummy_value()

    i64, f32 = types.int64, types.float32
    return types.void(*[i64] * 9, f32, *[i64] * 5), codegen


@intrinsic
def pooled_tile(
    typing_context: Any, outputs: Any, pairs: Any, count: Any, indices: Any, weights: Any, x: Any, unit: Any,
    down: Any, right: Any, bias: Any, floor: Any, y: Any, y_output: Any, y_down: Any, lanes: Any,
) -> Any:  # fmt: skip
    """Compute the sums of 2 x 2 positions, and store only the largest of the four.

    outputs, pairs : 1 and 1 or 2, or GROUP and 1: results, one below the other
    down, right : bytes from a position of x to the one below it and beside it
    y, y_output, y_down : address of the result, bytes to that of the next output and of the next pair
    lanes : 0 where the lanes are examples; else they are neighbours in a row, and so many results are stored: then
        pairs may be 1 to 4 (with GROUP outputs 1 or 2)
    The others are those of `list_tile`.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        outputs, pairs, *others = args
        in_row = builder.select(builder.icmp_signed(">", others[-1], constant(0)), constant(8), constant(0))
        key = builder.add(builder.mul(outputs, constant(16)), builder.add(in_row, pairs))
        cases = [(o, p, 0, _emit_pooled) for o, p in ((1, 1), (1, 2), (GROUP, 1))]
        cases += [(o, p, 8, _emit_pooled_row) for o, most in ((1, 4), (GROUP, 2)) for p in range(1, most + 1)]
        choose(
            builder, key,
            [(16 * o + row + p, partial(emit, builder, o, p, others)) for o, p, row, emit in cases],
        )  # fmt: skip
        return context.get_dummy_value()

    i64, f32 = types.int64, types.float32
    return types.void(*[i64] * 10, f32, *[i64] * 4), codegen


def _inputs(builder: ir.IRBuilder, address: Any, mask: Any, pixels: bool) -> Any:
    """Load up to LANES raw inputs as floats."""
    if not pixels:
        return load_lanes(builder, address, mask)
    bytes_type = ir.VectorType(ir.IntType(8), LANES)
    name = f"llvm.masked.load.v{LANES}i8.p0"
    function = declare(builder, name, bytes_type, [bytes_type.as_pointer(), I32, mask.type, bytes_type])
    where = pointer(builder, address, constant(0), bytes_type)
    nothing = filled(bytes_type, 0)
    return builder.uitofp(builder.call(function, [where, ir.Constant(I32, 1), mask, nothing]), _VEC)


def _take_tile(pixels: bool) -> Any:
    @intrinsic
    def take_tile(
        typing_context: Any, x: Any, x_row: Any, rows: Any, columns: Any, scale: Any, minus_mean: Any,
        places: Any, target: Any, unit: Any, lanes: Any,
    ) -> Any:  # fmt: skip
        """Transpose a tile of raw inputs into places of the memory; return 0 unless one is too large or NaN.

        x, x_row : address of the tile, bytes from one example to the next
        rows, columns : examples and inputs in it, at most LANES each
        scale, minus_mean : float32; address of LANES floats that are added
        places, target, unit : addresses of LANES int32 and of place 0; bytes between places
        lanes : floats stored at each place; those behind `rows` become 0
        """

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            x, x_row, rows, columns, scale, minus_mean, places, target, unit, lanes = args
            fabs = declare(builder, f"llvm.fabs.v{LANES}f32", _VEC, [_VEC])
            factor, offset = splat(builder, scale, LANES), _vector(builder, minus_mean)
            largest = filled(_VEC, LARGEST_INPUT)
            zeros = filled(_VEC, 0.0)
            bad, vectors = filled(bits(LANES), 0), []
            for r in range(LANES):
                there = builder.icmp_signed("<", constant(r), rows)
                mask = first_lanes(builder, builder.select(there, columns, constant(0)), LANES)
                raw = _inputs(builder, builder.add(x, builder.mul(x_row, constant(r))), mask, pixels)
                if not pixels:
                    bad = builder.or_(bad, builder.fcmp_unordered(">", builder.call(fabs, [raw]), largest))
                vectors.append(builder.select(mask, multiply_add(builder, raw, factor, offset), zeros))
            stored = first_lanes(builder, lanes, LANES)
            for c, vector in enumerate(transposed(builder, vectors)):
                place = builder.sext(load(builder, places, constant(4 * c), I32), I64)
                store_lanes(builder, vector, builder.add(target, builder.mul(place, unit)), stored)
            return builder.zext(builder.bitcast(bad, ir.IntType(LANES)), I64)

        i64 = types.int64
        return i64(*[i64] * 4, types.float32, *[i64] * 5), codegen

    return take_tile


take_floats, take_pixels = _take_tile(False), _take_tile(True)


def _emit_gathered(builder: ir.IRBuilder, args: Any) -> None:
    """Sums of LANES outputs of one example, each with a list of its own: entry e of all of them side by side."""
    count, indices, weights, _, x, bias, floor, y, lanes = args
    pointers, places = ir.VectorType(F32.as_pointer(), LANES), ir.VectorType(I64, LANES)
    gather = declare(
        builder, f"llvm.masked.gather.v{LANES}f32.v{LANES}p0", _VEC, [pointers, I32, _EVERYWHERE.type, _VEC]
    )
    base, size = splat(builder, x, LANES), filled(places, _FLOAT_BYTES)

    def entry(number: Any, totals: list[Any]) -> list[Any]:
        at = builder.mul(number, constant(_FLOAT_BYTES * LANES))
        index = load(builder, indices, at, integers(LANES))
        where = builder.inttoptr(builder.add(base, builder.mul(builder.sext(index, places), size)), pointers)
        seen = builder.call(gather, [where, ir.Constant(I32, 4), _EVERYWHERE, filled(_VEC, 0.0)])
        return [multiply_add(builder, _vector(builder, builder.add(weights, at)), seen, totals[0])]

    (total,) = looped(builder, count, [_vector(builder, bias)], entry)
    store_lanes(builder, larger(builder, splat(builder, floor, LANES), total), y, first_lanes(builder, lanes, LANES))


def _emit_broadcast(builder: ir.IRBuilder, vectors: int, args: Any) -> None:
    """Sums of `vectors` * LANES outputs of one example, which share one list: each input meets a row of weights."""
    count, indices, weights, row, x, bias, floor, y, lanes = args
    offsets = [constant(_FLOAT_BYTES * LANES * v) for v in range(vectors)]

    def entry(number: Any, totals: list[Any]) -> list[Any]:
        place = load(builder, indices, builder.mul(number, constant(4)), I32)
        at = builder.mul(builder.sext(place, I64), constant(_FLOAT_BYTES))
        seen = splat(builder, load(builder, x, at, F32), LANES)
        here = builder.add(weights, builder.mul(number, row))
        return [
            multiply_add(builder, _vector(builder, builder.add(here, offset)), seen, total)
            for offset, total in zip(offsets, totals, strict=True)
        ]

    first = [_vector(builder, builder.add(bias, offset)) for offset in offsets]
    masks = [_EVERYWHERE] * (vectors - 1) + [first_lanes(builder, lanes, LANES)]
    for total, offset, mask in zip(looped(builder, count, first, entry), offsets, masks, strict=True):
        store_lanes(builder, larger(builder, splat(builder, floor, LANES), total), builder.add(y, offset), mask)


@intrinsic
def single_tile(
    typing_context: Any, vectors: Any, count: Any, indices: Any, weights: Any, row: Any, x: Any, bias: Any, floor: Any,
    y: Any, lanes: Any,
) -> Any:  # fmt: skip
    """Compute neighbouring outputs of one example: the lanes are outputs, and a place holds one float.

    vectors : 0: LANES outputs, each with its own list; indices and weights are (count, LANES)
        1 to MOST: so many times LANES outputs with one list; indices (count,), weights (count, ...)
    row : bytes from one entry's weights to the next, of the second kind
    lanes : outputs stored of the last vector
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vectors, *others = args
        cases = [(0, partial(_emit_gathered, builder, others))]
        cases += [(v, partial(_emit_broadcast, builder, v, others)) for v in range(1, MOST + 1)]
        choose(builder, vectors, cases)
        return context.get_dummy_value()

    i64, f32 = types.int64, types.float32
    return types.void(*[i64] * 7, f32, *[i64] * 2), codegen
