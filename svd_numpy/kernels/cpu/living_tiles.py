"""The micro-kernels of training on living weights: sums over lists, with the examples of a batch in the vector lanes.

A plane is a row of floats, one per example; an input, an output or a gradient is a plane. `sums` adds up the planes that
a list of weights names, `dots` multiplies two planes to the gradient of one weight. A tile of up to MOST vectors of each
result stays in registers. The order of every sum is that of the list and of the lanes, whatever the tile and the thread.

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
    total,
)

MOST = 8 if LANES == 16 else 4  # two results and what they are made of must fit into the 32 or 16 registers
PLAIN, SQUARES, PAIRS = range(3)  # kinds of `sums`; `dots` knows the first two
_VEC = floats(LANES)
_BYTES = 4 * LANES  # of a vector


def _vectors(builder: ir.IRBuilder, address: Any, count: int) -> list[Any]:
    return [load(builder, address, constant(_BYTES * v), _VEC) for v in range(count)]


def _emit_sums(builder: ir.IRBuilder, kind: int, vectors: int, args: Any) -> None:
    count, places, weights, weights2, x, x2, unit, y, y2, scale = args

    def entry(number: Any, totals: list[Any]) -> list[Any]:
        at = builder.mul(number, constant(4))
        plane = builder.mul(builder.sext(load(builder, places, at, I32), I64), unit)
        seen = _vectors(builder, builder.add(x, plane), vectors)
        first = splat(builder, load(builder, weights, at, F32), LANES)
        later = [
            multiply_add(builder, first, vector, total) for vector, total in zip(seen, totals[:vectors], strict=True)
        ]
        if kind != PLAIN:
            if kind == SQUARES:
                seen2 = [builder.fmul(vector, vector) for vector in seen]
            else:
                seen2 = _vectors(builder, builder.add(x2, plane), vectors)
            second = splat(builder, load(builder, weights2, at, F32), LANES)
            later += [
                multiply_add(builder, second, vector, total)
                for vector, total in zip(seen2, totals[vectors:], strict=True)
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


def _emit_dots(builder: ir.IRBuilder, kind: int, vectors: int, args: Any) -> None:
    count, x, x_step, dy, d_var, dy_step, add, out, out2 = args
    chains = min(vectors, 4)  # sums of their own, so that one addition need not wait for the one before

    def entry(number: Any, totals: list[Any]) -> list[Any]:
        seen = _vectors(builder, builder.add(x, builder.mul(number, x_step)), vectors)
        at = builder.mul(number, dy_step)
        later = list(totals)
        for v, (vector, slope) in enumerate(zip(seen, _vectors(builder, builder.add(dy, at), vectors), strict=True)):
            later[v % chains] = multiply_add(builder, vector, slope, later[v % chains])
        if kind == SQUARES:
            for v, (vector, slope) in enumerate(
                zip(seen, _vectors(builder, builder.add(d_var, at), vectors), strict=True)
            ):
                c = chains + v % chains
                later[c] = multiply_add(builder, builder.fmul(vector, vector), slope, later[c])
        return later

    found = looped(builder, count, [filled(_VEC, 0.0)] * (chains if kind == PLAIN else 2 * chains), entry)
    for first, target in ((0, out), (chains, out2))[: 1 if kind == PLAIN else 2]:
        parts = found[first : first + chains]
        while len(parts) > 1:
            parts = [builder.fadd(*parts[:2]), *parts[2:]]
        old = load(builder, target, constant(0), F32)
        old = builder.select(add, old, ir.Constant(F32, 0.0))
        store(builder, builder.fadd(old, total(builder, parts[0])), target, constant(0))


@intrinsic
def dots(
    typing_context: Any, kind: Any, vectors: Any, count: Any, x: Any, x_step: Any, dy: Any, d_var: Any, dy_step: Any,
    add: Any, out: Any, out2: Any,
) -> Any:  # fmt: skip
    """Multiply pairs of planes, `vectors` (1 to MOST) vectors of each, and add up all products.

    PLAIN    out (+)= sum over p < count of x[p] dy[p]
    SQUARES  the same, and out2 (+)= sum of x[p]^2 d_var[p]

    x_step, dy_step : bytes from p to p + 1
    add : whether to add to what stands in out and out2
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind, vectors, *others = args
        key = builder.add(builder.mul(kind, constant(16)), vectors)
        cases = [(k, v) for k in (PLAIN, SQUARES) for v in range(1, MOST + 1)]
        choose(builder, key, [(16 * k + v, partial(_emit_dots, builder, k, v, others)) for k, v in cases])
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 8, types.boolean, i64, i64), codegen
