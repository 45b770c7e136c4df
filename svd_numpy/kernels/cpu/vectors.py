"""LLVM code for vectors: the few operations that the micro-kernels are made of.

Numba leaves it to LLVM which registers a loop uses. Where that is too slow, a kernel is an `intrinsic` that emits its
own instructions through the functions below. Each takes the `builder` of the function being compiled. The number of
lanes is that of the operands, so one function serves all widths.

Addresses are int64, offsets are in bytes, and a mask is a vector of bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_ALIGN = 4


def floats(lanes: int) -> ir.VectorType:
    """Vector of float32."""
    return ir.VectorType(F32, lanes)


def integers(lanes: int) -> ir.VectorType:
    """Vector of int32."""
    return ir.VectorType(I32, lanes)


def bits(lanes: int) -> ir.VectorType:
    """Vector of bits: a mask."""
    return ir.VectorType(ir.IntType(1), lanes)


def constant(value: int) -> ir.Constant:
    """An int64."""
    return ir.Constant(I64, value)


def filled(kind: ir.VectorType, value: float) -> ir.Constant:
    """A constant vector with the same number in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def declare(builder: ir.IRBuilder, name: str, result: Any, args: list[Any]) -> Any:
    """Declare an LLVM intrinsic, once a module."""
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, args), name)


def pointer(builder: ir.IRBuilder, address: Any, offset: Any, kind: Any) -> Any:
    """Pointer to a value of this kind, `offset` bytes behind an address."""
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def splat(builder: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    """Copy a scalar into every lane."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, filled(integers(lanes), 0))


def first_lanes(builder: ir.IRBuilder, count: Any, lanes: int) -> Any:
    """Mask of the first `count` (int64) lanes."""
    numbers = ir.Constant(integers(lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(count, I32), lanes))


def load(builder: ir.IRBuilder, address: Any, offset: Any, kind: Any) -> Any:
    """Load a vector, or a single number, that lies `offset` bytes behind an address."""
    return builder.load(pointer(builder, address, offset, kind), align=_ALIGN)


def store(builder: ir.IRBuilder, value: Any, address: Any, offset: Any) -> None:
    """Store a vector, or a single number, `offset` bytes behind an address."""
    builder.store(value, pointer(builder, address, offset, value.type), align=_ALIGN)


def load_lanes(builder: ir.IRBuilder, address: Any, mask: Any) -> Any:
    """Load floats; lanes outside the mask are 0, and their memory is not touched."""
    lanes = mask.type.count
    kind = floats(lanes)
    function = declare(builder, f"llvm.masked.load.v{lanes}f32.p0", kind, [kind.as_pointer(), I32, mask.type, kind])
    where = pointer(builder, address, constant(0), kind)
    return builder.call(function, [where, ir.Constant(I32, _ALIGN), mask, filled(kind, 0.0)])


def store_lanes(builder: ir.IRBuilder, value: Any, address: Any, mask: Any) -> None:
    """Store the floats of the lanes in the mask."""
    kind, name = value.type, f"llvm.masked.store.v{value.type.count}f32.p0"
    function = declare(builder, name, ir.VoidType(), [kind, kind.as_pointer(), I32, mask.type])
    builder.call(function, [value, pointer(builder, address, constant(0), kind), ir.Constant(I32, _ALIGN), mask])


def multiply_add(builder: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """Emit x * y + z, rounded once, for vectors of floats."""
    function = declare(builder, f"llvm.fma.v{x.type.count}f32", x.type, [x.type] * 3)
    return builder.call(function, [x, y, z])


def larger(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    """The larger of two vectors; y where either is NaN, so that a NaN in y stays."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def transposed(builder: ir.IRBuilder, vectors: list[Any]) -> list[Any]:
    """Transpose a square of vectors by swapping ever smaller off-diagonal blocks (Eklundh 1972)."""
    vectors, lanes = list(vectors), len(vectors)
    index, step = integers(lanes), lanes // 2
    while step:
        for r in (r for r in range(lanes) if not r & step):
            upper, lower = vectors[r], vectors[r + step]
            keep = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
            move = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
            vectors[r] = builder.shuffle_vector(upper, lower, ir.Constant(index, keep))
            vectors[r + step] = builder.shuffle_vector(upper, lower, ir.Constant(index, move))
        step //= 2
    return vectors


def totals(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    """Sums of the lanes of vectors, their number a power of two and at most LANES, as a vector of so many numbers.

    Each is summed by halves, then halves of halves; several vectors share these steps, in one vector of many parts.
    """
    lanes, width = vectors[0].type.count, vectors[0].type.count  # width: lanes that belong to one sum
    while width > 1:
        merging = len(vectors) > 1
        parts = range(0, (2 if merging else 1) * lanes, width)  # where parts begin, counted through both vectors
        halves = [[part + side + lane for part in parts for lane in range(width // 2)] for side in (0, width // 2)]
        pairs = [vectors[v : v + 2] for v in range(0, len(vectors), 2)] if merging else [[vectors[0]] * 2]
        vectors = [
            builder.fadd(*(builder.shuffle_vector(*pair, ir.Constant(integers(len(half)), half)) for half in halves))
            for pair in pairs
        ]
        lanes, width = vectors[0].type.count, width // 2
    return vectors[0]
