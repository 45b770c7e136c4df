"""Vector building blocks: float32 exponential, logarithm, square root, and counter-based Gaussian noise.

Each function works on one float32 and contains no branch and no library call, so that a loop over it becomes vector
code: LLVM cannot vectorise a call to the C library's `exp`, and Numba has no vector maths library of its own.
Polynomials are the classic Cephes ones (S. Moshier); errors are stated per function and tested.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from svd_numpy.kernels.cpu.jit import kernel

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)


@intrinsic
def wide_vectors(typing_context: Any) -> Any:
    """Allow 512-bit vectors in the calling kernel where the processor has them.

    LLVM prefers 256 bits on most of today's processors. These kernels are arithmetic all through and gain 1.2-1.7x
    from the full width; the preference is set per function, so nobody else's compiled code changes.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite knows no string attributes
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def own_function(typing_context: Any) -> Any:
    """Keep the calling kernel a function of its own: copies of a large one would only cost compile time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


def _llvm_float(name: str, n_args: int) -> Any:
    """Make a Numba intrinsic out of the LLVM floating-point instruction `name`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function_type = ir.FunctionType(_FLOAT, [_FLOAT] * n_args)
        return builder.call(builder.module.declare_intrinsic(f"llvm.{name}", [_FLOAT], function_type), args)

    f32 = types.float32
    if n_args == 1:
        return intrinsic(lambda typing_context, x: (f32(f32), codegen))
    if n_args == 2:
        return intrinsic(lambda typing_context, x, y: (f32(f32, f32), codegen))
    return intrinsic(lambda typing_context, x, y, z: (f32(f32, f32, f32), codegen))


sqrt32 = _llvm_float("sqrt", 1)
rint32 = _llvm_float("rint", 1)
abs32 = _llvm_float("fabs", 1)
fma32 = _llvm_float("fma", 3)


@intrinsic
def bits_of(typing_context: Any, x: Any) -> Any:
    """Read a float32 as the int32 with the same bits."""
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], _INT)


@intrinsic
def float_of(typing_context: Any, x: Any) -> Any:
    """Read an int32 as the float32 with the same bits."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], _FLOAT)


@intrinsic
def to_int(typing_context: Any, x: Any) -> Any:
    """Convert a float32 that holds a whole number to int32."""
    return types.int32(types.float32), lambda context, builder, sig, args: builder.fptosi(args[0], _INT)


@intrinsic
def to_float(typing_context: Any, x: Any) -> Any:
    """Convert an int32 to float32."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.sitofp(args[0], _FLOAT)


@intrinsic
def _prefetch_line(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer_type = ir.IntType(8).as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [pointer_type, _INT, _INT, _INT])
        name = "llvm.prefetch.p0"
        request = builder.module.globals.get(name) or ir.Function(builder.module, function_type, name)
        flags = [ir.Constant(_INT, flag) for flag in (0, 3, 1)]  # for reading; all cache levels; data
        builder.call(request, [builder.inttoptr(args[0], pointer_type), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@kernel()
def prefetch(start, size):
    """Ask for the `size` bytes from address `start` on, which will be read soon."""
    for offset in range(0, size, 64):
        _prefetch_line(start + offset)


@kernel(inline=True)
def address(array):
    """Address of an array's first element: signed, since an unsigned one plus an offset would be a float in Numba."""
    return np.int64(array.ctypes.data)


_FLUSH = 0x8040  # of MXCSR: subnormal results become 0, subnormal operands count as 0
_HAS_MXCSR = platform.machine().lower() in ("x86_64", "amd64")


@intrinsic
def flush_subnormals(typing_context: Any) -> Any:
    """Let this thread take subnormals as 0, and return its mode before, for `restore_mode`.

    A subnormal traps on many x86 processors and takes a hundred times as long; elsewhere it costs little, and nothing
    is done.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _HAS_MXCSR:
            return ir.Constant(_INT, 0)
        at = builder.alloca(_INT)
        store = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        builder.call(_declared(builder, "llvm.x86.sse.stmxcsr", store), [builder.bitcast(at, store.args[0])])
        mode = builder.load(at)
        _set_mode(builder, builder.or_(mode, ir.Constant(_INT, _FLUSH)))
        return mode

    return types.int32(), codegen


@intrinsic
def restore_mode(typing_context: Any, mode: Any) -> Any:
    """End what `flush_subnormals` began."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _HAS_MXCSR:
            _set_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int32), codegen


def _declared(builder: Any, name: str, function_type: Any) -> Any:
    return builder.module.globals.get(name) or ir.Function(builder.module, function_type, name)


def _set_mode(builder: Any, mode: Any) -> None:
    at = builder.alloca(_INT)
    builder.store(mode, at)
    load = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    builder.call(_declared(builder, "llvm.x86.sse.ldmxcsr", load), [builder.bitcast(at, load.args[0])])


F = np.float32
I = np.int32  # noqa: E741
U = np.uint32
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)


@kernel(inline=True)
def min32(x, y):
    """The smaller of two numbers: one instruction, where the NaN rules of `min` would take three."""
    return x if x < y else y


@kernel(inline=True)
def max32(x, y):
    """The larger of two numbers."""
    return x if x > y else y


# ---------------------------------------------------------------- exp and log
_LOG2_E = F(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = F(0.693359375), F(-2.12194440e-4)
_EXP_MIN, _EXP_MAX = F(-87.3), F(88.0)
_E0, _E1, _E2 = F(1.9875691500e-4), F(1.3981999507e-3), F(8.3334519073e-3)
_E3, _E4, _E5 = F(4.1665795894e-2), F(1.6666665459e-1), F(5.0000001201e-1)
_MANTISSA, _BIAS, _SHIFT = I(0x007FFFFF), I(127), I(23)


@kernel(inline=True)
def exp32(x):
    """e**x with relative error below 2e-7; x is clamped to [-87.3, 88], so the result is finite and normal."""
    x = min32(max32(x, _EXP_MIN), _EXP_MAX)
    n = rint32(x * _LOG2_E)
    r = fma32(n, -_LN2_LOW, fma32(n, -_LN2_HIGH, x))  # x = n ln2 + r, |r| <= ln2 / 2
    p = fma32(fma32(fma32(fma32(fma32(_E0, r, _E1), r, _E2), r, _E3), r, _E4), r, _E5)
    p = fma32(p, r * r, r) + ONE
    return p * float_of(I(I(to_int(n) + _BIAS) << _SHIFT))


_PAIR_MIN, _PAIR_MAX = F(-52.0), F(44.0)


@kernel(inline=True)
def exp_pair(x):
    """e**x and e**-x for the price of one, relative error below 3e-7; x is clamped to [-52, 44].

    With x = n ln2 + r the two share the even and the odd part of e**r.
    """
    x = min32(max32(x, _PAIR_MIN), _PAIR_MAX)
    n = rint32(x * _LOG2_E)
    r = fma32(n, -_LN2_LOW, fma32(n, -_LN2_HIGH, x))
    z = r * r
    even = fma32(fma32(fma32(F(1 / 720), z, F(1 / 24)), z, HALF), z, ONE)
    odd = r * fma32(fma32(fma32(F(1 / 5040), z, F(1 / 120)), z, F(1 / 6)), z, ONE)
    k = to_int(n)
    up, down = float_of(I(I(_BIAS + k) << _SHIFT)), float_of(I(I(_BIAS - k) << _SHIFT))
    return (even + odd) * up, (even - odd) * down


_TWO_THIRDS = I(0x3F2AAAAB)
_L0, _L1, _L2 = F(7.0376836292e-2), F(-1.1514610310e-1), F(1.1676998740e-1)
_L3, _L4, _L5 = F(-1.2420140846e-1), F(1.4249322787e-1), F(-1.6668057665e-1)
_L6, _L7, _L8 = F(2.0000714765e-1), F(-2.4999993993e-1), F(3.3333331174e-1)


@kernel(inline=True)
def log32(x):
    """ln(x) for a positive normal float32, error below 2 units in the last place."""
    shifted = I(bits_of(x) - _TWO_THIRDS)  # Numba computes in int64 unless told otherwise
    e = to_float(I(shifted >> _SHIFT))
    m = float_of(I((shifted & _MANTISSA) + _TWO_THIRDS)) - ONE  # x = 2**e (1 + m), 1 + m in [2/3, 4/3)
    p = fma32(fma32(fma32(_L0, m, _L1), m, _L2), m, _L3)
    p = fma32(fma32(fma32(p, m, _L4), m, _L5), m, _L6)
    p = fma32(fma32(p, m, _L7), m, _L8)
    z = m * m
    tail = fma32(-HALF, z, fma32(e, _LN2_LOW, p * m * z))
    return fma32(e, _LN2_HIGH, m + tail)


# ---------------------------------------------------------------- noise
_PHILOX_M0, _PHILOX_M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0 = tuple(U(i * 0x9E3779B9 % 2**32) for i in range(10))  # the key of round i is key + _W[i]
_W1 = tuple(U(i * 0xBB67AE85 % 2**32) for i in range(10))
_U32, _LOW = np.uint64(32), np.uint64(2**32 - 1)


@kernel(inline=True)
def _philox_round(c0, c1, c2, c3, k0, k1):
    # The words stay in 64 bits, whatever their upper halves hold: to narrow them would cost more than to multiply.
    p0, p1 = (c0 & _LOW) * _PHILOX_M0, (c2 & _LOW) * _PHILOX_M1
    return (p1 >> _U32) ^ c1 ^ np.uint64(k0), p1, (p0 >> _U32) ^ c3 ^ np.uint64(k1), p0


@kernel(inline=True)
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 (Salmon et al. 2011, section 4.2): counter and key in, four random uint32 out.

    The ten rounds are written out: with a loop inside, the loop around it would not become vector code.
    """
    c0, c1, c2, c3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, U(k0 + _W0[1]), U(k1 + _W1[1]))
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, U(k0 + _W0[2]), U(k1 + _W1[2]))
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, U(k0 + _W0[3]), U(k1 + _W1[3]))
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, U(k0 + _W0[4]), U(k1 + _W1[4]))
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, U(k0 + _W0[5]), U(k1 + _W1[5]))
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, U(k0 + _W0[6]), U(k1 + _W1[6]))
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, U(k0 + _W0[7]), U(k1 + _W1[7]))
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, U(k0 + _W0[8]), U(k1 + _W1[8]))
    c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, U(k0 + _W0[9]), U(k1 + _W1[9]))
    return U(c0), U(c1), U(c2), U(c3)


_TWO_M24 = F(2.0**-24)
_TWO_PI = F(6.283185307179586)
_S1, _S2, _S3 = F(-1.6666654611e-1), F(8.3321608736e-3), F(-1.9515295891e-4)
_C1, _C2, _C3 = F(4.166664568298827e-2), F(-1.388731625493765e-3), F(2.443315711809948e-5)


@kernel(inline=True)
def box_muller(a, b):
    """Turn two uint32 into two standard normals: radius from `a`, angle from `b`, 24 bits of each.

    sqrt(-2 ln u1) * (sin, cos)(2 pi u2) with u1 = (a>>8 + 1) / 2**24 in (0, 1] and u2 = (b>>8) / 2**24 - 1/2.
    """
    u1 = fma32(to_float(I(a >> U(8))), _TWO_M24, _TWO_M24)
    u2 = fma32(to_float(I(b >> U(8))), _TWO_M24, -HALF)
    radius = sqrt32(F(-2.0) * log32(u1))
    quarter = rint32(u2 * F(4.0))
    j = to_int(quarter)
    r = fma32(quarter, F(-0.25), u2) * _TWO_PI  # angle left over, in [-pi/4, pi/4]
    z = r * r
    s = fma32(fma32(fma32(_S3, z, _S2), z, _S1), z * r, r)
    c = fma32(fma32(fma32(_C3, z, _C2), z, _C1), z * z, fma32(-HALF, z, ONE))
    odd = (j & I(1)) != 0
    sine, cosine = (c if odd else s), (s if odd else c)
    sine = float_of(bits_of(sine) ^ ((j & I(2)) << I(30)))  # signs of the four quadrants
    cosine = float_of(bits_of(cosine) ^ (((j + I(1)) & I(2)) << I(30)))
    return radius * sine, radius * cosine


@kernel()
def noise_row(out, sample, step, layer, key0, key1):
    """Fill `out` with standard normals, a pure function of (key, layer, step, sample, unit).

    Unit u takes word (u // 16) % 4 of Philox block 16 (u // 64) + u % 16: one vector of 16 blocks makes 64 normals.
    The five numbers are uint32; len(out) is a multiple of 64 (callers round up and ignore the rest).
    """
    wide_vectors()
    own_function()
    for group in range(len(out) // 64):
        at = 64 * group
        for lane in range(16):
            w0, w1, w2, w3 = philox4x32(U(16 * group + lane), sample, step, layer, key0, key1)
            n0, n1 = box_muller(w0, w1)
            n2, n3 = box_muller(w2, w3)
            out[at + lane] = n0
            out[at + 16 + lane] = n1
            out[at + 32 + lane] = n2
            out[at + 48 + lane] = n3
