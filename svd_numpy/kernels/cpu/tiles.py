"""The micro-kernel: a register tile of a matrix product in LLVM vectors, and the vector moves around it.

    C[m, n] (+)= sum over the k of a list of A[m, k] B[k, n]

It holds a tile of C, up to `MR` rows by `VECTORS` vectors, in registers while it runs through the list: each step
loads the vectors of one row of B and broadcasts one float of A per row. The list leaves out the k where A is 0 in the
whole tile. Half of a batch of digits is blank in such a tile, and so are units that have died; what is not multiplied
costs nothing, and leaving out zeros changes no bit of a sum.

Addresses travel as integers (`array.ctypes.data`); strides and sizes are counted in float32, lists are int32.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_features = llvm.get_host_cpu_features()
# Lanes of a vector, rows and vectors of the register tile: 6 x 4 accumulators and a row of B fill AVX-512's 32
# registers, 6 x 2 AVX2's 16. Few rows and many columns, because a list is the shorter the fewer rows share it.
if _features.get("avx512f", False):
    LANES, MR, VECTORS = 16, 6, 4
elif _features.get("avx2", False):
    LANES, MR, VECTORS = 8, 6, 2
else:
    LANES, MR, VECTORS = 4, 4, 2
PANEL = VECTORS * LANES  # columns of a panel of B

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VEC = ir.VectorType(_F32, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
_INDEX = ir.VectorType(_I32, LANES)
_ALIGN = ir.Constant(_I32, 4)
_LANE = ir.Constant(_INDEX, list(range(LANES)))
_EVERYWHERE, _NOWHERE = ir.Constant(_MASK, [1] * LANES), ir.Constant(_MASK, [0] * LANES)
_ZEROS = ir.Constant(_VEC, [0.0] * LANES)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _declare(builder: ir.IRBuilder, name: str, result: Any, args: list[Any]) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, args), name)


def _splat(builder: ir.IRBuilder, scalar: Any, vector_type: ir.VectorType) -> Any:
    """Copy one scalar into every lane."""
    undefined = ir.Constant(vector_type, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_INDEX, [0] * LANES))


def _first_lanes(builder: ir.IRBuilder, count: Any) -> Any:
    """The mask of the first `count` (int64) lanes."""
    return builder.icmp_signed("<", _LANE, _splat(builder, builder.trunc(count, _I32), _INDEX))


def _at(builder: ir.IRBuilder, address: Any, offset: Any, pointee: Any) -> Any:
    return builder.inttoptr(builder.add(address, offset), pointee.as_pointer())


def _load(builder: ir.IRBuilder, address: Any, mask: Any) -> Any:
    """Load a vector; lanes outside the mask are 0 and are not touched in memory."""
    function = _declare(builder, f"llvm.masked.load.v{LANES}f32.p0", _VEC, [_VEC.as_pointer(), _I32, _MASK, _VEC])
    return builder.call(function, [_at(builder, address, _constant(0), _VEC), _ALIGN, mask, _ZEROS])


def _store(builder: ir.IRBuilder, value: Any, address: Any, mask: Any) -> None:
    """Store the lanes of the mask."""
    function = _declare(
        builder, f"llvm.masked.store.v{LANES}f32.p0", ir.VoidType(), [_VEC, _VEC.as_pointer(), _I32, _MASK]
    )
    builder.call(function, [value, _at(builder, address, _constant(0), _VEC), _ALIGN, mask])


def _micro_kernel(builder: ir.IRBuilder, rows: int, vectors: int, args: Any) -> None:
    """Emit the code for a tile of `rows` x `vectors * LANES`; arguments as in `micro_kernel`."""
    count, a_list, b_list, a_rows, b, c, c_row, width, add_to_c = args
    fma = _declare(builder, f"llvm.fma.v{LANES}f32", _VEC, [_VEC] * 3)
    valid = _first_lanes(builder, builder.sub(width, _constant(LANES * (vectors - 1))))
    masks = [_EVERYWHERE] * (vectors - 1) + [valid]
    a_at = [builder.load(_at(builder, a_rows, _constant(8 * r), _I64)) for r in range(rows)]

    before = builder.block
    loop = builder.append_basic_block("k_loop")
    done = builder.append_basic_block("k_done")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(_I64)
    tile = [[builder.phi(_VEC) for _ in range(vectors)] for _ in range(rows)]
    entry = builder.mul(step, _constant(4))
    in_a, in_b = (builder.sext(builder.load(_at(builder, at, entry, _I32)), _I64) for at in (a_list, b_list))
    b_at = builder.add(b, in_b)
    b_vectors = [_load(builder, builder.add(b_at, _constant(4 * LANES * v)), masks[v]) for v in range(vectors)]
    sums = []
    for r in range(rows):
        a_vector = _splat(builder, builder.load(_at(builder, a_at[r], in_a, _F32)), _VEC)
        sums.append([builder.call(fma, [a_vector, b_vectors[v], tile[r][v]]) for v in range(vectors)])
    following = builder.add(step, _constant(1))
    phis = [(step, _constant(0), following)]
    phis += [(tile[r][v], _ZEROS, sums[r][v]) for r in range(rows) for v in range(vectors)]
    for phi, first, later in phis:
        phi.add_incoming(first, before)
        phi.add_incoming(later, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)

    builder.position_at_end(done)
    adding = builder.select(add_to_c, _EVERYWHERE, _NOWHERE)
    for r in range(rows):
        for v in range(vectors):
            address = builder.add(c, _constant(4 * LANES * v))
            old = _load(builder, address, builder.and_(masks[v], adding))
            _store(builder, builder.fadd(old, sums[r][v]), address, masks[v])
        c = builder.add(c, builder.mul(c_row, _constant(4)))


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
        switch = builder.switch(builder.add(builder.mul(rows, _constant(8)), vectors), done)
        for tile_rows in (MR, 2, 1):
            for tile_vectors in range(1, VECTORS + 1):
                block = builder.append_basic_block(f"tile_{tile_rows}_{tile_vectors}")
                switch.add_case(_constant(8 * tile_rows + tile_vectors), block)
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
        valid = _first_lanes(builder, lanes)
        _store(builder, _load(builder, source, valid), target, builder.select(exact, valid, _EVERYWHERE))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.boolean), codegen


@intrinsic
def square_vector(typing_context, source, target, lanes):
    """Write the squares of `lanes` floats, and zeros behind them."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        value = _load(builder, args[0], _first_lanes(builder, args[2]))
        _store(builder, builder.fmul(value, value), args[1], _EVERYWHERE)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def nonzero_lanes(typing_context, source, lanes):
    """Which of `lanes` floats at an address are not 0, as the bits of an integer."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        value = _load(builder, args[0], _first_lanes(builder, args[1]))
        bits = builder.bitcast(builder.fcmp_unordered("!=", value, _ZEROS), ir.IntType(LANES))
        return builder.zext(bits, _I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def append_lanes(typing_context, target, k, lanes):
    """Write k + lane for every bit set in `lanes`, one behind the other, to an int32 list; return how many."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        target, k, lanes = args
        few = builder.trunc(lanes, ir.IntType(LANES))
        store = _declare(
            builder, f"llvm.masked.compressstore.v{LANES}i32", ir.VoidType(), [_INDEX, _INDEX.as_pointer(), _MASK]
        )
        values = builder.add(_LANE, _splat(builder, builder.trunc(k, _I32), _INDEX))
        pointer = _at(builder, target, _constant(0), _INDEX)
        builder.call(store, [values, pointer, builder.bitcast(few, _MASK)])
        count = _declare(builder, "llvm.ctpop.i64", _I64, [_I64])
        return builder.call(count, [lanes])

    return types.int64(types.int64, types.int64, types.int64), codegen


def _transposed(builder: ir.IRBuilder, vectors: list[Any]) -> list[Any]:
    """Transpose a square of vectors by swapping ever smaller off-diagonal blocks (Eklundh 1972)."""
    vectors, step = list(vectors), LANES // 2
    while step:
        for r in (r for r in range(LANES) if not r & step):
            upper, lower = vectors[r], vectors[r + step]
            keep = [lane if not lane & step else LANES + lane - step for lane in range(LANES)]
            move = [lane + step if not lane & step else LANES + lane for lane in range(LANES)]
            vectors[r] = builder.shuffle_vector(upper, lower, ir.Constant(_INDEX, keep))
            vectors[r + step] = builder.shuffle_vector(upper, lower, ir.Constant(_INDEX, move))
        step //= 2
    return vectors


@intrinsic
def transpose_tile(typing_context, source, source_row, rows, columns, target, target_row):
    """Write the transpose of a `rows` x `columns` piece of a matrix, both at most LANES.

    All LANES columns of the `columns` rows at `target` are written: beyond `rows` they are 0.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, source_row, rows, columns, target, target_row = args
        four = _constant(4)
        vectors = []
        for r in range(LANES):
            lanes = builder.select(builder.icmp_signed("<", _constant(r), rows), columns, _constant(0))
            at = builder.add(source, builder.mul(builder.mul(source_row, four), _constant(r)))
            vectors.append(_load(builder, at, _first_lanes(builder, lanes)))
        for c, vector in enumerate(_transposed(builder, vectors)):
            mask = builder.select(builder.icmp_signed("<", _constant(c), columns), _EVERYWHERE, _NOWHERE)
            at = builder.add(target, builder.mul(builder.mul(target_row, four), _constant(c)))
            _store(builder, vector, at, mask)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic
def append_if(typing_context: Any, target: Any, k: Any, wanted: Any) -> Any:
    """Write k behind an int32 list and return 1 if it is wanted there, else 0: the next one overwrites it."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        target, k, wanted = args
        builder.store(builder.trunc(k, _I32), _at(builder, target, _constant(0), _I32))
        return builder.zext(wanted, _I64)

    return types.int64(types.int64, types.int64, types.boolean), codegen
