"""Matrix products for one thread: a register-tile micro-kernel in LLVM vectors, and the packing around it.

    C[m, n] (+)= sum_k A[m, k] B[k, n]

The micro-kernel holds a tile of C, `MR` rows by two vectors, in registers while it runs through all k: each step loads
two vectors of B and broadcasts one float of A per row. B is packed once into panels two vectors wide, so that its
loads are contiguous; A is read where it lies, through a row stride and a k stride, so that x @ theta and x.T @ dy use
the same code. Every element of C is summed over k in order, whatever the tile and whatever the thread: the bits do not
depend on how the work was split.

Addresses travel as integers (`array.ctypes.data`); strides and sizes are counted in float32.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from svd_numpy.kernels.jit import kernel
from svd_numpy.kernels.simd import ZERO, exp32, own_function, wide_vectors

_features = llvm.get_host_cpu_features()
# Lanes of a vector, and rows of the register tile (no more than lanes): 12 x 2 accumulators fill AVX-512's 32
# registers, 6 x 2 AVX2's 16.
if _features.get("avx512f", False):
    LANES, MR = 16, 12
elif _features.get("avx2", False):
    LANES, MR = 8, 6
else:
    LANES, MR = 4, 4
PANEL = 2 * LANES  # columns of a panel of B
KC = 1024  # k is cut into blocks of at most this, so that a packed panel stays in the second-level cache
NC = 256  # and the columns into blocks of this
TILE = KC * LANES  # scratch for one row tile of a transposed A

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VEC = ir.VectorType(_F32, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
_INDEX = ir.VectorType(_I32, LANES)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _declare(module: ir.Module, name: str, result: Any, args: list[Any]) -> Any:
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, args), name)


def _splat(builder: ir.IRBuilder, scalar: Any, vector_type: ir.VectorType) -> Any:
    """Copy one scalar into every lane."""
    undefined = ir.Constant(vector_type, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_INDEX, [0] * LANES))


def _micro_kernel(rows: int, vectors: int) -> Any:
    """Make the intrinsic for a tile of `rows` x `vectors * LANES`.

    Its arguments: k count; address, row stride, k stride of A; address of the packed B panel; address and row stride
    of C; valid lanes of the last vector; and whether to add to C or to overwrite it.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        k_count, a, a_row, a_k, b, c, c_row, last_lanes, add_to_c = args
        module, four = builder.module, _constant(4)
        name = f"v{LANES}f32"
        fma = _declare(module, f"llvm.fma.{name}", _VEC, [_VEC] * 3)
        load = _declare(module, f"llvm.masked.load.{name}.p0", _VEC, [_VEC.as_pointer(), _I32, _MASK, _VEC])
        store_args = [_VEC, _VEC.as_pointer(), _I32, _MASK]
        store = _declare(module, f"llvm.masked.store.{name}.p0", ir.VoidType(), store_args)
        zero = ir.Constant(_VEC, [0.0] * LANES)

        def at(address: Any, offset: Any, pointee: Any) -> Any:
            return builder.inttoptr(builder.add(address, offset), pointee.as_pointer())

        # One moving pointer serves three rows of A (offsets 0, 1, 2 row strides fit one x86 address each).
        row_bytes, k_bytes = builder.mul(a_row, four), builder.mul(a_k, four)
        offsets = [_constant(0), row_bytes, builder.add(row_bytes, row_bytes)]
        starts = [builder.add(a, builder.mul(row_bytes, _constant(3 * j))) for j in range(-(-rows // 3))]

        before = builder.block
        loop = builder.append_basic_block("k_loop")
        done = builder.append_basic_block("k_done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, b_at = builder.phi(_I64), builder.phi(_I64)
        a_at = [builder.phi(_I64) for _ in starts]
        tile = [[builder.phi(_VEC) for _ in range(vectors)] for _ in range(rows)]
        b_vectors = []
        for v in range(vectors):
            b_vectors.append(builder.load(at(b_at, _constant(4 * LANES * v), _VEC)))
            b_vectors[-1].align = 4
        sums = []
        for r in range(rows):
            a_value = builder.load(at(a_at[r // 3], offsets[r % 3], _F32))
            a_vector = _splat(builder, a_value, _VEC)
            sums.append([builder.call(fma, [a_vector, b_vectors[v], tile[r][v]]) for v in range(vectors)])
        k_next = builder.add(k, _constant(1))
        steps = [(k, _constant(0), k_next), (b_at, b, builder.add(b_at, _constant(4 * LANES * vectors)))]
        steps += [(p, start, builder.add(p, k_bytes)) for p, start in zip(a_at, starts, strict=True)]
        steps += [(tile[r][v], zero, sums[r][v]) for r in range(rows) for v in range(vectors)]
        for phi, first, following in steps:
            phi.add_incoming(first, before)
            phi.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", k_next, k_count), loop, done)

        builder.position_at_end(done)
        everywhere = ir.Constant(_MASK, [1] * LANES)
        lane = ir.Constant(_INDEX, list(range(LANES)))
        valid = builder.icmp_signed("<", lane, _splat(builder, builder.trunc(last_lanes, _I32), _INDEX))
        nowhere = ir.Constant(_MASK, [0] * LANES)
        adding = builder.select(add_to_c, everywhere, nowhere)
        align, c_at = ir.Constant(_I32, 4), c
        for r in range(rows):
            for v in range(vectors):
                mask = valid if v == vectors - 1 else everywhere
                pointer = at(c_at, _constant(4 * LANES * v), _VEC)
                old = builder.call(load, [pointer, align, builder.and_(mask, adding), zero])
                builder.call(store, [builder.fadd(old, sums[r][v]), pointer, align, mask])
            c_at = builder.add(c_at, builder.mul(c_row, four))
        return context.get_dummy_value()

    @intrinsic
    def micro(typing_context, k_count, a, a_row, a_k, b, c, c_row, last_lanes, add_to_c):
        return types.void(*[types.int64] * 8, types.boolean), codegen

    return micro


@intrinsic
def copy_vector(typing_context, source, target, lanes, exact):
    """Copy `lanes` floats between two addresses; unless `exact`, the vector at `target` is filled up with zeros."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        load_args, store_args = [_VEC.as_pointer(), _I32, _MASK, _VEC], [_VEC, _VEC.as_pointer(), _I32, _MASK]
        load = _declare(builder.module, f"llvm.masked.load.v{LANES}f32.p0", _VEC, load_args)
        store = _declare(builder.module, f"llvm.masked.store.v{LANES}f32.p0", ir.VoidType(), store_args)
        lane = ir.Constant(_INDEX, list(range(LANES)))
        valid = builder.icmp_signed("<", lane, _splat(builder, builder.trunc(args[2], _I32), _INDEX))
        everywhere, align = ir.Constant(_MASK, [1] * LANES), ir.Constant(_I32, 4)
        pointers = [builder.inttoptr(arg, _VEC.as_pointer()) for arg in args[:2]]
        value = builder.call(load, [pointers[0], align, valid, ir.Constant(_VEC, [0.0] * LANES)])
        written = builder.select(args[3], valid, everywhere)
        builder.call(store, [value, pointers[1], align, written])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.boolean), codegen


_tile_2, _tile_1 = _micro_kernel(MR, 2), _micro_kernel(MR, 1)
_four_2, _four_1 = _micro_kernel(4, 2), _micro_kernel(4, 1)
_one_2, _one_1 = _micro_kernel(1, 2), _micro_kernel(1, 1)


@kernel()
def _row_tile(rows, k_count, a, a_row, a_k, panel, vectors, c, c_row, lanes, add):
    """Rows [0, rows) of one panel, rows <= MR: the full tile, or what is left over in fours and ones."""
    if rows == MR:
        if vectors == 2:
            _tile_2(k_count, a, a_row, a_k, panel, c, c_row, lanes, add)
        else:
            _tile_1(k_count, a, a_row, a_k, panel, c, c_row, lanes, add)
        return
    r = 0
    while r + 4 <= rows:
        if vectors == 2:
            _four_2(k_count, a + 4 * r * a_row, a_row, a_k, panel, c + 4 * r * c_row, c_row, lanes, add)
        else:
            _four_1(k_count, a + 4 * r * a_row, a_row, a_k, panel, c + 4 * r * c_row, c_row, lanes, add)
        r += 4
    while r < rows:
        if vectors == 2:
            _one_2(k_count, a + 4 * r * a_row, a_row, a_k, panel, c + 4 * r * c_row, c_row, lanes, add)
        else:
            _one_1(k_count, a + 4 * r * a_row, a_row, a_k, panel, c + 4 * r * c_row, c_row, lanes, add)
        r += 1


@kernel()
def multiply(m_count, k_count, a, a_row, a_k, packed, columns, c, c_row, add, tile):
    """C[:m_count, :columns] (+)= A @ B with B already packed.

    a : address of A[0, 0]; one of the strides a_row, a_k is 1
    packed : panels of B as written by one of the `pack_*` functions below
    c : address of C[0, 0];  tile : scratch of TILE floats
    """
    own_function()
    for m in range(0, m_count, MR):
        rows = min(MR, m_count - m)
        a_at, row_stride, k_stride = a + 4 * m * a_row, a_row, a_k
        if a_row == 1 and a_k != 1:  # bring the strided column pieces together once, not once per panel
            for k in range(k_count):
                copy_vector(a_at + 4 * k * a_k, tile.ctypes.data + 4 * k * LANES, rows, False)
            a_at, k_stride = tile.ctypes.data, LANES
        for n in range(0, columns, PANEL):
            width = min(PANEL, columns - n)
            vectors = 2 if width > LANES else 1
            panel = packed.ctypes.data + 4 * n * k_count
            at = c + 4 * (m * c_row + n)
            _row_tile(rows, k_count, a_at, row_stride, k_stride, panel, vectors, at, c_row,
                      width - LANES * (vectors - 1), add)  # fmt: skip


@kernel()
def _pack_row(source, columns, k, k_count, out):
    """Spread one row of B, `columns` floats at address `source`, over the panels at address `out`."""
    for n in range(0, columns, PANEL):
        panel = out + 4 * n * k_count
        width = min(PANEL, columns - n)
        if width > LANES:
            copy_vector(source + 4 * n, panel + 4 * k * PANEL, LANES, False)
            copy_vector(source + 4 * (n + LANES), panel + 4 * (k * PANEL + LANES), width - LANES, False)
        else:
            copy_vector(source + 4 * n, panel + 4 * k * LANES, width, False)


@kernel()
def pack(b, k0, k1, n0, n1, out):
    """Pack b[k0:k1, n0:n1] into panels: panel p holds, for each k in turn, its PANEL (last: maybe LANES) columns."""
    source, target = b.ctypes.data + 4 * n0, out.ctypes.data
    for k in range(k0, k1):
        _pack_row(source + 4 * k * b.shape[1], n1 - n0, k - k0, k1 - k0, target)


@kernel()
def _weights_row(theta, log_sigma2, keep, mean, var):
    """mean = theta where theta^2 >= keep * sigma^2, else 0;  var = sigma^2."""
    wide_vectors()
    for j in range(len(theta)):
        sigma2 = exp32(log_sigma2[j])
        mean[j] = theta[j] if theta[j] * theta[j] >= keep * sigma2 else ZERO
        var[j] = sigma2


@kernel()
def _pack_panel(theta, log_sigma2, keep, rows, n_out, n, width, padded, out_mean, out_var, at):
    """One panel of `pack_weights`, from flat arrays.

    The columns from `width` to `padded` may hold anything, since nothing of them is stored: they are simply read on
    into the next row. Indices are unsigned: a signed one could be negative, and would not vectorise.
    """
    wide_vectors()
    own_function()
    for k in range(len(rows)):
        source, target = np.uint64(np.int64(rows[k]) * n_out + n), np.uint64(at + k * padded)
        if np.int64(rows[k]) * n_out + n + padded <= len(theta):
            for j in range(padded):
                i, o = source + np.uint64(j), target + np.uint64(j)
                sigma2 = exp32(log_sigma2[i])
                out_mean[o] = theta[i] if theta[i] * theta[i] >= keep * sigma2 else ZERO
                out_var[o] = sigma2
        else:
            for j in range(width):
                i, o = source + np.uint64(j), target + np.uint64(j)
                sigma2 = exp32(log_sigma2[i])
                out_mean[o] = theta[i] if theta[i] * theta[i] >= keep * sigma2 else ZERO
                out_var[o] = sigma2


@kernel()
def pack_weights(theta, log_sigma2, keep, rows, n0, n1, out_mean, out_var):
    """Pack the given rows of theta and of sigma^2 = exp(log_sigma2), columns n0..n1.

    A mean stays only where theta^2 >= keep * sigma^2, that is where log_alpha <= -ln(keep); keep = 0 keeps all.
    """
    flat_theta, flat_log_sigma2 = theta.reshape(-1), log_sigma2.reshape(-1)
    for n in range(0, n1 - n0, PANEL):
        width = min(PANEL, n1 - n0 - n)
        padded = PANEL if width > LANES else LANES
        _pack_panel(flat_theta, flat_log_sigma2, keep, rows, theta.shape[1], n0 + n, width, padded,
                    out_mean, out_var, n * len(rows))  # fmt: skip


@kernel()
def pack_weights_transposed(theta, log_sigma2, keep, k0, k1, n0, n1, row, out_mean, out_var):
    """Pack theta.T and sigma^2.T for dy @ theta.T: k over outputs, n over inputs; `row` is scratch of 2 KC floats."""
    k_count = k1 - k0
    mean, var = row[:k_count], row[KC : KC + k_count]
    for j in range(-(-(n1 - n0) // LANES) * LANES):
        panel = j // PANEL * PANEL
        width = PANEL if n1 - n0 - panel > LANES else LANES
        at = panel * k_count + j - panel
        if j < n1 - n0:
            _weights_row(theta[n0 + j, k0:k1], log_sigma2[n0 + j, k0:k1], keep, mean, var)
            for k in range(k_count):
                out_mean[at + k * width] = mean[k]
                out_var[at + k * width] = var[k]
        else:
            for k in range(k_count):
                out_mean[at + k * width] = ZERO
                out_var[at + k * width] = ZERO


def packed_size() -> int:
    """Floats of one packed block: KC rows of NC columns, and room for a padded last panel."""
    return KC * (NC + LANES)
