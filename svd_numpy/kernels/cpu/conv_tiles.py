"""A register tile of the two products of a variational convolution with few filters: means and variances at a time.

The tile of `tiles.py` is wide; few filters fill one or two of its vectors, and then more time goes into beginning and
ending tiles than into products. Here both products share a tile of one vector each, its lists and its loop. Every sum
is the same, in the same order.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from svd_numpy.kernels.cpu.list_tiles import choose, looped
from svd_numpy.kernels.cpu.tiles import LANES, MR, VECTORS
from svd_numpy.kernels.cpu.vectors import (
    F32,
    I32,
    I64,
    bits,
    constant,
    filled,
    first_lanes,
    floats,
    load,
    load_lanes,
    multiply_add,
    splat,
    store_lanes,
)

NARROW = VECTORS // 2 * LANES  # filters up to which this is faster than one product after the other


def _emit(builder: ir.IRBuilder, rows: int, args: Any) -> None:
    count, a_list, b_list, a_rows, a2_rows, b, b2, c, c2, c_row, width, add_to_c = args
    mask, nowhere = first_lanes(builder, width, LANES), filled(bits(LANES), 0)
    seen = [[load(builder, of, constant(8 * r), I64) for r in range(rows)] for of in (a_rows, a2_rows)]

    def step(number: Any, before: list[Any]) -> list[Any]:
        entry = builder.mul(number, constant(4))
        in_a, in_b = (builder.sext(load(builder, at, entry, I32), I64) for at in (a_list, b_list))
        later = list[Any]()
        for panel, a_at in zip((b, b2), seen, strict=True):
            weights = load_lanes(builder, builder.add(panel, in_b), mask)  # what stands behind them may be subnormal
            for at in a_at:
                one = splat(builder, load(builder, at, in_a, F32), LANES)
                later.append(multiply_add(builder, one, weights, before[len(later)]))
        return later

    sums = iter(looped(builder, count, [filled(floats(LANES), 0.0)] * (2 * rows), step))
    for target in (c, c2):
        for r in range(rows):
            at = builder.add(target, builder.mul(c_row, constant(4 * r)))
            old = load_lanes(builder, at, builder.select(add_to_c, mask, nowhere))
            store_lanes(builder, builder.fadd(old, next(sums)), at, mask)


@intrinsic
def both_kernel(
    typing_context: Any, rows: Any, count: Any, a_list: Any, b_list: Any, a_rows: Any, a2_rows: Any, b: Any, b2: Any,
    c: Any, c2: Any, c_row: Any, width: Any, add_to_c: Any,
) -> Any:  # fmt: skip
    """Multiply one tile of each of two products, C (+)= A @ B and C2 (+)= A2 @ B2, of at most a vector of columns.

    The arguments are those of `tiles.micro_kernel`.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        rows, *others = args
        choose(builder, rows, [(r, partial(_emit, builder, r, others)) for r in (MR, 2, 1)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12, types.boolean), codegen
