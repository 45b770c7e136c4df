"""The micro-kernel: a register tile of a matrix product in LLVM vectors, and the vector moves around it.

    C[m, n] (+)= sum over the k of a list of A[m, k] B[k, n]

It holds a tile of C, up to `MR` rows by `VECTORS` vectors, in registers while it runs through the list: each step
loads the vectors of one row of B and broadcasts one float of A per row. The list leaves out the k where A is 0 in the
whole tile. Half of a batch of digits is blank in such a tile, and so are units that have died; what is not multiplied
costs nothing, and leaving out zeros changes no bit of a sum.

Addresses travel as integers (`address(array)`); strides and sizes are counted in float32, lists are int32.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

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
    load,
    load_lanes,
    multiply_add,
    pointer,
    splat,
    store_lanes,
    transposed,
)


def _has(feature: str) -> bool:
    """Whether Numba compiles for a processor with this feature: what NUMBA_CPU_FEATURES says, else the one at hand."""
    wanted = numba.config.CPU_FEATURES
    return llvm.get_host_cpu_features().get(feature, False) if wanted is None else f"+{feature}" in wanted.split(",")


# Lanes of a vector, rows and vectors of the register tile: 6 x 4 accumulators and a row of B fill AVX-512's 32
# registers, 4 x 3 AVX2's 16. Few rows and many columns, because a list is the shorter the fewer rows share it.
# k is cut into blocks of at most KC, so that packed weights stay in the second-level cache: 1 MB and more where there
# is AVX-512, half or less elsewhere.
if _has("avx512f"):
    LANES, MR, VECTORS, KC = 16, 6, 4, 1024
elif _has("avx2"):
    LANES, MR, VECTORS, KC = 8, 4, 3, 256
else:
    LANES, MR, VECTORS, KC = 4, 4, 2, 256
PANEL = VECTORS * LANES  # columns of a panel of B

_EVERYWHERE, _NOWHERE = filled(bits(LANES), 1), filled(bits(LANES), 0)
_ZEROS = filled(floats(LANES), 0.0)


def _micro_kernel(builder: ir.IRBuilder, rows: int, vectors: int, args: Any) -> None:
    """Emit the code for a tile of `rows` x `vectors * LANES`; arguments as in `micro_kernel`."""
    count, a_list, b_list, a_rows, b, c, c_row, width, add_to_c = args
    a_at = [load(builder, a_rows, constant(8 * r), I64) for r in range(rows)]

    before = builder.block
    loop = builder.append_basic_block("k_loop")
    done = builder.append_basic_block("k_done")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(I64)
    tile = [[builder.phi(floats(LANES)) for _ in range(vectors)] for _ in range(rows)]
    entry = builder.mul(step, constant(4))
    in_a, in_b = (builder.sext(load(builder, at, entry, I32), I64) for at in (a_list, b_list))
    b_at = builder.add(b, in_b)
    b_vectors = [load(builder, b_at, constant(4 * LANES * v), floats(LANES)) for v in range(vectors)]
    sums = []
    for r in range(rows):
        a_vector = splat(builder, load(builder, a_at[r], in_a, F32), LANES)
        sums.append([multiply_add(builder, a_vector, b_vectors[v], tile[r][v]) for v in range(vectors)])
    following = builder.add(step, constant(1))
    phis = [(step, constant(0), following)]
    phis += [(tile[r][v], _ZEROS, sums[r][v]) for r in range(rows) for v in range(vectors)]
    for phi, first, later in phis:
        phi.add_incoming(first, before)
        phi.add_incoming(later, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)

    builder.position_at_end(done)
    with builder.if_else(builder.icmp_signed("==", width, constant(LANES * vectors))) as (whole, ragged):
        with whole, builder.if_else(add_to_c) as (add, overwrite):
            with add:
                _to_c(builder, sums, c, c_row, _EVERYWHERE, _EVERYWHERE)
            with overwrite:
                _to_c(builder, sums, c, c_row, _EVERYWHERE, _NOWHERE)
        with ragged:
            valid = first_lanes(builder, builder.sub(width, constant(LANES * (vectors - 1))), LANES)
            _to_c(builder, sums, c, c_row, valid, builder.select(add_to_c, _EVERYWHERE, _NOWHERE))


def _to_c(builder: ir.IRBuilder, sums: list[list[Any]], c: Any, c_row: Any, valid: Any, adding: Any) -> None:
    """Add a tile to C where the mask `adding` says so, and store it; `valid` masks the last vector of a row.

    Masked moves take AVX2 many times as long as whole ones, which is what masks that are constants become.
    """
    masks = [_EVERYWHERE] * (len(sums[0]) - 1) + [valid]
    for row in sums:
        for v, (mask, value) in enumerate(zip(masks, row, strict=True)):
            address = builder.add(c, constant(4 * LANES * v))
            old = load_lanes(builder, address, builder.and_(mask, adding))
            store_lanes(builder, builder.fadd(old, value), address, mask)
        c = builder.add(c, builder.mul(c_row, constant(4)))


@intrinsic
def micro_kernel(
    typing_context: Any, rows: Any, vectors: Any, count: Any, a_list: Any, b_list: Any, a_rows: Any,
    b: Any, c: Any, c_row: Any, width: Any, add_to_c: Any,
) -> Any:  # fmt: skip
    """Multiply one tile: `rows` is MR, 2 or 1; `vectors` from 1 to VECTORS.

    count : of the k to run through, at least 1
    a_list, b_list : where these k lie in a row of A and in the panel of B, int32, in bytes
    a_rows : addresses of the rows of A, int64
    b : address of the panel;  c, c_row, width : address, row stride and columns of C
    add_to_c : add to C or overwrite it
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        rows, vectors, *others = args
        done = builder.append_basic_block("tile_done")
        switch = builder.switch(builder.add(builder.mul(rows, constant(8)), vectors), done)
        for tile_rows in (MR, 2, 1):
            for tile_vectors in range(1, VECTORS + 1):
                block = builder.append_basic_block(f"tile_{tile_rows}_{tile_vectors}")
                switch.add_case(constant(8 * tile_rows + tile_vectors), block)
                builder.position_at_end(block)
                _micro_kernel(builder, tile_rows, tile_vectors, others)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10, types.boolean), codegen


@intrinsic
def copy_vector(typing_context, source, target, lanes, exact):
    """Copy `lanes` floats between two addresses; unless `exact`, the vector at `target` is filled up with zeros."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, target, lanes, exact = args
        valid = first_lanes(builder, lanes, LANES)
        store_lanes(builder, load_lanes(builder, source, valid), target, builder.select(exact, valid, _EVERYWHERE))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.boolean), codegen


@intrinsic
def square_vector(typing_context, source, target, lanes):
    """Write the squares of `lanes` floats, and zeros behind them."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        value = load_lanes(builder, args[0], first_lanes(builder, args[2], LANES))
        store_lanes(builder, builder.fmul(value, value), args[1], _EVERYWHERE)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def nonzero_lanes(typing_context, source, lanes):
    """Which of `lanes` floats at an address are not 0, as the bits of an integer."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        value = load_lanes(builder, args[0], first_lanes(builder, args[1], LANES))
        bits = builder.bitcast(builder.fcmp_unordered("!=", value, _ZEROS), ir.IntType(LANES))
        return builder.zext(bits, I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def append_lanes(typing_context, target, k, lanes):
    """Write k + lane for every bit set in `lanes`, one behind the other, to an int32 list; return how many.

    The number behind the last one may be overwritten.
    """

    def one_by_one(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        target, k, lanes = args
        count = constant(0)
        for lane in range(LANES):  # without a branch: which k are 0 cannot be foreseen
            number = builder.trunc(builder.add(k, constant(lane)), I32)
            builder.store(number, pointer(builder, target, builder.mul(count, constant(4)), I32))
            count = builder.add(count, builder.and_(builder.lshr(lanes, constant(lane)), constant(1)))
        return count

    def compressed(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        target, k, lanes = args
        mask = builder.bitcast(builder.trunc(lanes, ir.IntType(LANES)), bits(LANES))
        kind, name = integers(LANES), f"llvm.masked.compressstore.v{LANES}i32"
        compress = declare(builder, name, ir.VoidType(), [kind, kind.as_pointer(), mask.type])
        numbers = ir.Constant(kind, list(range(LANES)))
        values = builder.add(numbers, splat(builder, builder.trunc(k, I32), LANES))
        builder.call(compress, [values, pointer(builder, target, constant(0), kind), mask])
        count = declare(builder, "llvm.ctpop.i64", I64, [I64])
        return builder.call(count, [lanes])

    codegen = compressed if _has("avx512f") else one_by_one
    return types.int64(types.int64, types.int64, types.int64), codegen


def _transpose(builder: ir.IRBuilder, exact: bool, args: Any) -> None:
    """Emit the code of the two functions below, with a path of its own for a whole tile: see `_to_c`."""
    source, source_row, rows, columns, target, target_row = args
    full = constant(LANES)
    whole = builder.icmp_signed("==", builder.add(rows, columns), constant(2 * LANES))
    with builder.if_else(whole) as (moved_whole, moved_in_part):
        with moved_whole:
            _transpose_part(builder, exact, (source, source_row, full, full, target, target_row))
        with moved_in_part:
            _transpose_part(builder, exact, args)


def _transpose_part(builder: ir.IRBuilder, exact: bool, args: Any) -> None:
    source, source_row, rows, columns, target, target_row = args
    four = constant(4)
    vectors = []
    for r in range(LANES):
        lanes = builder.select(builder.icmp_signed("<", constant(r), rows), columns, constant(0))
        at = builder.add(source, builder.mul(builder.mul(source_row, four), constant(r)))
        vectors.append(load_lanes(builder, at, first_lanes(builder, lanes, LANES)))
    wanted = first_lanes(builder, rows, LANES) if exact else _EVERYWHERE
    for c, vector in enumerate(transposed(builder, vectors)):
        mask = builder.select(builder.icmp_signed("<", constant(c), columns), wanted, _NOWHERE)
        at = builder.add(target, builder.mul(builder.mul(target_row, four), constant(c)))
        store_lanes(builder, vector, at, mask)


@intrinsic
def transpose_tile(typing_context, source, source_row, rows, columns, target, target_row):
    """Write the transpose of a `rows` x `columns` piece of a matrix, both at most LANES.

    All LANES columns of the `columns` rows at `target` are written: beyond `rows` they are 0.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _transpose(builder, False, args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic
def transpose_exact(typing_context, source, source_row, rows, columns, target, target_row):
    """Write the transpose of a `rows` x `columns` piece of a matrix, as `transpose_tile` does, and nothing else."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _transpose(builder, True, args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic
def append_if(typing_context: Any, target: Any, k: Any, wanted: Any) -> Any:
    """Write k behind an int32 list and return 1 if it is wanted there, else 0: the next one overwrites it."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        target, k, wanted = args
        builder.store(builder.trunc(k, I32), pointer(builder, target, constant(0), I32))
        return builder.zext(wanted, I64)

    return types.int64(types.int64, types.int64, types.boolean), codegen
