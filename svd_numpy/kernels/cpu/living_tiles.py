"""The micro-kernels of training on living weights: sums over lists, with the examples of a batch in the vector lanes.

A plane is a row of floats, one per example; an input, an output or a gradient is a plane. `sums` adds up the planes
that a list of weights names, `dots` multiplies pairs of planes to the gradients of weights. Results stay in registers
while a tile is summed. The order of every sum is that of the list and of the lanes, whatever the tile and the thread.

Addresses are integers, steps are in bytes, lists are int32 and count planes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from svd_numpy.kernels.cpu.list_tiles import choose, looped
from svd_numpy.kernels.cpu.tiles import LANES
from svd_numpy.kernels.cpu.vectors import (
    F32,
    I32,
    I64,
    constant,
    filled,
    floats,
    load,
    multiply_add,
    splat,
    store,
    totals,
)

MOST = 8 if LANES == 16 else 4  # two results and what they are made of must fit into the 32 or 16 registers
TOGETHER = 4  # weights of one output whose gradients are computed in the same pass
PLAIN, SQUARES, PAIRS = range(3)  # kinds of `sums`; `dots` knows the first two
_VEC = floats(LANES)
_BYTES = 4 * LANES  # of a vector


def _vectors(builder: ir.IRBuilder, address: Any, count: int) -> list[Any]:
    return [load(builder, address, constant(_BYTES * v), _VEC) for v in range(count)]


def _emit_sums(builder: ir.IRBuilder, kind: int, vectors: int, args: Any) -> None:
    count, places, weights, weights2, x, x2, unit, y, y2, scale = args

    def entry(number: Any, before: list[Any]) -> list[Any]:
        at = builder.mul(number, constant(4))
        plane = builder.mul(builder.sext(load(builder, places, at, I32), I64), unit)
        seen = _vectors(builder, builder.add(x, plane), vectors)
        first = splat(builder, load(builder, weights, at, F32), LANES)
        later = [multiply_add(builder, first, vector, y) for vector, y in zip(seen, before[:vectors], strict=True)]
        if kind != PLAIN:
            if kind == SQUARES:
                seen2 = [builder.fmul(vector, vector) for vector in seen]
            else:
                seen2 = _vectors(builder, builder.add(x2, plane), vectors)
            second = splat(builder, load(builder, weights2, at, F32), LANES)
            later += [
                multiply_add(builder, second, vector, y) for vector, y in zip(seen2, before[vectors:], strict=True)
            ]
        return later

    zeros = [filled(_VEC, 0.0)] * (vectors if kind == PLAIN else 2 * vectors)
    found = looped(builder, count, zeros, entry)
    results, results2 = found[:vectors], found[vectors:]
    if kind == PAIRS:
        twice = [builder.fadd(vector, vector) for vector in _vectors(builder, scale, vectors)]
        results = [multiply_add(builder, *three) for three in zip(twice, results2, results, strict=True)]
    for v, result in enumerate(results):
        store(builder, result, y, constant(_BYTES * v))
    if kind == SQUARES:
        for v, result in enumerate(results2):
            store(builder, result, y2, constant(_BYTES * v))


@intrinsic
def sums(
    typing_context: Any, kind: Any, vectors: Any, count: Any, places: Any, weights: Any, weights2: Any, x: Any, x2: Any,
    unit: Any, y: Any, y2: Any, scale: Any,
) -> Any:  # fmt: skip
    """Add up planes: a tile of `vectors` (1 to MOST) vectors of each result.

    PLAIN    y = sum_e weights[e] x[places[e]]
    SQUARES  the same, and y2 = sum_e weights2[e] x[places[e]]^2
    PAIRS    y = sum_e weights[e] x[places[e]] + 2 scale sum_e weights2[e] x2[places[e]]

    count, places : entries of the list; address of the numbers of their planes
    unit : bytes from one plane of x and x2 to the next
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind, vectors, *others = args
        key = builder.add(builder.mul(kind, constant(16)), vectors)
        cases = [(k, v) for k in (PLAIN, SQUARES, PAIRS) for v in range(1, MOST + 1)]
        choose(builder, key, [(16 * k + v, partial(_emit_sums, builder, k, v, others)) for k, v in cases])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12), codegen


def _emit_dots(builder: ir.IRBuilder, kind: int, weights: int, vectors: int, args: Any) -> None:
    count, places, x, x_unit, x_step, dy, d_var, dy_step, add, out, out2 = args
    starts = []
    for e in range(weights):
        plane = builder.sext(load(builder, places, constant(4 * e), I32), I64)
        starts.append(builder.add(x, builder.mul(plane, x_unit)))

    def position(number: Any, sums: list[Any]) -> list[Any]:
        later, at = list(sums), builder.mul(number, dy_step)
        x_at = [builder.add(start, builder.mul(number, x_step)) for start in starts]
        for v in range(vectors):
            offset = constant(_BYTES * v)
            slope = load(builder, builder.add(dy, at), offset, _VEC)
            slope2 = load(builder, builder.add(d_var, at), offset, _VEC) if kind == SQUARES else None
            for e, seen in enumerate([load(builder, here, offset, _VEC) for here in x_at]):
                later[e] = multiply_add(builder, seen, slope, later[e])
                if kind == SQUARES:
                    square = builder.fmul(seen, seen)
                    later[weights + e] = multiply_add(builder, square, slope2, later[weights + e])
        return later

    n_results = 1 if kind == PLAIN else 2
    found = looped(builder, count, [filled(_VEC, 0.0)] * (weights * n_results), position)
    for first, target in ((0, out), (weights, out2))[:n_results]:
        found_here = totals(builder, found[first : first + weights])
        old = load(builder, target, constant(0), found_here.type)
        old = builder.select(add, old, filled(found_here.type, 0.0))
        store(builder, builder.fadd(old, found_here), target, constant(0))


@intrinsic
def dots(
    typing_context: Any, kind: Any, weights: Any, vectors: Any, count: Any, places: Any, x: Any, x_unit: Any,
    x_step: Any, dy: Any, d_var: Any, dy_step: Any, add: Any, out: Any, out2: Any,
) -> Any:  # fmt: skip
    """Multiply planes and add up all products, for TOGETHER weights of one output, or for one weight.

    PLAIN    out[e] (+)= sum over p < count of x[places[e] + p] dy[p]
    SQUARES  the same, and out2[e] (+)= sum of x[places[e] + p]^2 d_var[p]

    vectors : of each plane, 1 to MOST
    x_unit : bytes from one plane of x to the next
    x_step, dy_step : bytes from p to p + 1
    add : whether to add to what stands in out and out2
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind, weights, vectors, *others = args
        key = builder.add(builder.mul(builder.add(builder.mul(kind, constant(8)), weights), constant(16)), vectors)
        cases = [(k, w, v) for k in (PLAIN, SQUARES) for w in (1, TOGETHER) for v in range(1, MOST + 1)]
        choose(
            builder, key, [(16 * (8 * k + w) + v, partial(_emit_dots, builder, k, w, v, others)) for k, w, v in cases]
        )
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 11, types.boolean, i64, i64), codegen


@intrinsic
def total(typing_context: Any, x: Any, vectors: Any) -> Any:
    """Add up the floats of a plane of `vectors` vectors, by lanes first."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        x, vectors = args

        def vector(number: Any, sums: list[Any]) -> list[Any]:
            return [builder.fadd(sums[0], load(builder, x, builder.mul(number, constant(_BYTES)), _VEC))]

        found = totals(builder, looped(builder, vectors, [filled(_VEC, 0.0)], vector))
        return builder.extract_element(found, ir.Constant(I32, 0))

    return types.float32(types.int64, types.int64), codegen
