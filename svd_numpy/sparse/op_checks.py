"""Is a list of ops a network? The compiled kernel checks nothing, so everything it relies on is checked here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.padding import MODES, Padding
from svd_numpy.kernels.window import Window
from svd_numpy.sparse.ops import ConvOp, DenseOp, Op, PadOp, PoolKind, PoolOp, ScaleOp, TakeOp, Weights

MAX_PLACES = 2**24  # numbers per example in all activations together, with padding
MAX_WEIGHTS = 2**28  # of all layers together, zeros included
_MAX_WORK = 2**36  # multiplications per example


def check_ops(ops: Sequence[Op]) -> None:
    """Raise ValueError or TypeError unless `ops` form a network that the kernel can run.

    The first op is a `TakeOp` and each op fits the one before it; arrays have the right types and shapes and finite
    numbers; indices are in range and in order; sizes are those of a sensible network.
    """
    if not isinstance(ops, list | tuple) or not ops or not isinstance(ops[0], TakeOp):
        raise SvdValueError("a compact network begins with a TakeOp; make it with compress, or load it from a file")
    shape, places, work, cells = ops[0].out_shape, 0, 0, 0
    for number, op in enumerate(ops):
        what = f"op {number} ({op.name!r})" if isinstance(op, Op) else f"op {number}"
        try:
            if not isinstance(op, Op) or isinstance(op, TakeOp) != (number == 0):
                raise SvdValueError(f"is a {type(op).__name__}, expected a TakeOp first, then others")
            _require(isinstance(op.name, str) and op.name.isprintable(), "has no printable name")
            work += _CHECKS[type(op)](op, shape)
            shape = op.out_shape
            # An op's inputs are stored with the padding around them, its outputs as the next op's inputs.
            places += _padding(op.window) if isinstance(op, ConvOp | PoolOp) else 0
            places += math.prod(shape)
            cells += math.prod(op.weights.shape) if isinstance(op, DenseOp | ConvOp) else 0
        except (TypeError, ValueError) as error:
            kind = SvdTypeError if isinstance(error, TypeError) else SvdValueError
            raise kind(f"{what} {error}") from None
        if work > _MAX_WORK or places > MAX_PLACES or cells > MAX_WEIGHTS:
            raise SvdValueError(
                f"{what} makes the network larger than 2**24 activations or 2**36 multiplications per example, or "
                "2**28 weights, zeros included"
            )
    _require(math.prod(shape) > 0, "the network has no output")


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise SvdValueError(message)


def _array(name: str, value: Any, dtype: Any, shape: tuple[int, ...]) -> Array:
    """Check type, shape and finiteness of one array."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        got = getattr(value, "dtype", type(value).__name__)
        raise SvdTypeError(f"has {name} of {got}, expected an array of {np.dtype(dtype)}")
    _require(value.shape == shape, f"has {name} of shape {value.shape}, expected {shape}")
    _require(value.dtype != np.float32 or np.isfinite(value).all(), f"has {name} that are not finite")
    return value


def _shape(name: str, shape: Any, *ranks: int) -> int:
    """Check a shape; return how many numbers it holds."""
    good = isinstance(shape, tuple) and len(shape) in ranks and all(type(size) is int and size >= 0 for size in shape)
    _require(good and math.prod(shape) <= MAX_PLACES, f"has {name} {shape!r}, expected sizes of {ranks} axes")
    return math.prod(shape)


def _indices(name: str, value: Any, count: int, limit: int) -> Array:
    """Check int32 indices (count,) below a limit."""
    index = _array(name, value, np.int32, (count,))
    _require(not count or (index.min() >= 0 and index.max() < limit), f"has {name} outside 0..{limit - 1}")
    return index


def _rising(name: str, index: Array) -> None:
    _require((np.diff(index) > 0).all(), f"has {name} that do not rise")


def _check_take(op: TakeOp, shape: tuple[int, ...]) -> int:
    inputs, count = _shape("in_shape", op.in_shape, 1, 3), _shape("out_shape", op.out_shape, 1, 3)
    _require(inputs > 0, "has an empty in_shape")
    index = _indices("index", op.index, count, inputs)
    _require(len(np.unique(index)) == count, "takes an input twice")
    if op.mean is not None:
        _array("mean", op.mean, np.float32, (count,))
    return count


def _check_weights(weights: Any, inputs: int, outputs: int) -> None:
    if not isinstance(weights, Weights):
        raise SvdTypeError(f"has weights of type {type(weights).__name__}, expected Weights")
    _require(weights.shape == (inputs, outputs), f"has weights {weights.shape}, expected {(inputs, outputs)}")
    _require(outputs > 0 and inputs * outputs <= MAX_WEIGHTS, f"has {inputs} x {outputs} weights: none, or too many")
    if weights.rows is None or weights.starts is None:
        _require(weights.rows is weights.starts, "has only one of rows and starts")
        _array("weights", weights.values, np.float32, (inputs, outputs))
        return
    starts = _array("starts", weights.starts, np.int32, (outputs + 1,))
    count = int(starts[-1])
    _require(starts[0] == 0 and (np.diff(starts) >= 0).all(), "has starts that do not rise from 0")
    _array("weights", weights.values, np.float32, (count,))
    rows = _indices("rows", weights.rows, count, inputs)
    within = np.ones(max(0, count - 1), bool)
    borders = starts[1:-1]
    within[borders[(borders > 0) & (borders < count)] - 1] = False
    _require((np.diff(rows)[within] > 0).all(), "has rows that do not rise within an output")


def _check_before(op: DenseOp | ConvOp, rank: int) -> None:
    good = isinstance(op.before, tuple) and len(op.before) == rank and all(type(n) is int and n > 0 for n in op.before)
    _require(
        good and type(op.relu) is bool, f"has before {op.before!r} and relu {op.relu!r}, expected sizes and a flag"
    )


def _check_dense(op: DenseOp, shape: tuple[int, ...]) -> int:
    _check_before(op, 2)
    inputs, outputs = (*np.shape(op.inputs), 0)[0], (*np.shape(op.bias), 0)[0]
    _rising("inputs", _indices("inputs", op.inputs, inputs, math.prod(shape)))
    _array("bias", op.bias, np.float32, (outputs,))
    _check_weights(op.weights, inputs, outputs)
    return op.weights.values.size


def _padding(window: Window) -> int:
    """Count the zeros around an image, in all channels."""
    return (math.prod(window.padded) - window.height * window.width) * window.channels


def _check_window(window: Any, shape: tuple[int, ...]) -> None:
    """Check that a window fits the images before it."""
    if not isinstance(window, Window):
        raise SvdTypeError(f"has a window of type {type(window).__name__}, expected Window")
    pairs = (window.kernel, window.stride, window.padding, window.dilation)
    good = all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs)
    good = good and all(type(n) is int and 0 <= n <= 2**20 for pair in pairs for n in pair)
    good = good and all(min(pair) >= 1 for pair in (window.kernel, window.stride, window.dilation))
    _require(good, f"has the window {window}, expected pairs of sizes")
    good = all(type(size) is int for size in window[:3])  # not 28.0, which is equal to 28
    _require(
        good and tuple(window[:3]) == shape and window.channels > 0, f"looks at images {window[:3]}, but gets {shape}"
    )
    _require(min(window.out) >= 1, "has a window larger than its images")
    _require(_padding(window) <= MAX_PLACES, "has more padding than any sensible network")


def _check_conv(op: ConvOp, shape: tuple[int, ...]) -> int:
    _check_before(op, 4)
    _check_window(op.window, shape)
    outputs = (*np.shape(op.bias), 0)[0]
    _array("bias", op.bias, np.float32, (outputs,))
    _check_weights(op.weights, op.window.taps, outputs)
    return op.weights.values.size * math.prod(op.window.out)


def _check_pool(op: PoolOp, shape: tuple[int, ...]) -> int:
    _require(op.kind in get_args(PoolKind), f"has kind {op.kind!r}, expected one of {get_args(PoolKind)}")
    _check_window(op.window, shape)
    fits = all(2 * pad <= size for pad, size in zip(op.window.padding, op.window.kernel, strict=True))
    _require(fits and op.window.dilation == (1, 1), "is not a valid pooling: it has too much padding, or is dilated")
    return math.prod(op.out_shape) * math.prod(op.window.kernel)


def _check_pad(op: PadOp, shape: tuple[int, ...]) -> int:
    if not isinstance(op.padding, Padding):
        raise SvdTypeError(f"has padding of type {type(op.padding).__name__}, expected Padding")
    height, width, edges, mode = op.padding
    sizes = (height, width, op.channels, *(edges if isinstance(edges, tuple) else ()))
    good = len(sizes) == 7 and all(type(size) is int and 0 <= size <= MAX_PLACES for size in sizes) and mode in MODES
    _require(good, f"has the padding {op.padding}, expected sizes and one of {MODES}")
    _require(shape == sizes[:3] and min(shape) > 0, f"looks at images {sizes[:3]}, but gets {shape}")
    return _shape("out_shape", op.out_shape, 3)


def _check_scale(op: ScaleOp, shape: tuple[int, ...]) -> int:
    size = _shape("out_shape", op.out_shape, 1, 3)
    _require(size == math.prod(shape) and size > 0, f"has out_shape {op.out_shape}, but gets {shape}")
    _require(op.out_shape in (shape, (size,)), f"has out_shape {op.out_shape}, but gets {shape}")
    _require(type(op.relu) is bool, f"has relu {op.relu!r}, expected a flag")
    for name, values in (("scale", op.scale), ("shift", op.shift)):
        _array(name, values, np.float32, op.out_shape[-1:])
    return size


_CHECKS: dict[type, Any] = {
    TakeOp: _check_take, DenseOp: _check_dense, ConvOp: _check_conv, PoolOp: _check_pool, ScaleOp: _check_scale,
    PadOp: _check_pad,
}  # fmt: skip
