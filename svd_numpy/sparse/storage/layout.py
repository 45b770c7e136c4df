"""The layout of a packed network: one description, used by a `Writer` to write and by a `Reader` to read.

Every function takes the value to write, or None when reading, and returns the value written or read. In the end
everything is a whole number: indices become gaps between neighbours, and weights become multiples of a power of two
where that is exact, raw float32 elsewhere. Sizes are checked as they are read, so that no file, whoever made it, can
ask for more memory than `Budget` allows; `SparseModel` then checks that the ops form a network.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.padding import MODES, Padding
from svd_numpy.kernels.window import Window, channels_last
from svd_numpy.network.objective import Gaussian, Likelihood, make_likelihood
from svd_numpy.sparse import ConvOp, DenseOp, Op, PadOp, PoolOp, ScaleOp, TakeOp, Weights
from svd_numpy.sparse.op_checks import MAX_WEIGHTS
from svd_numpy.sparse.ops import channels_first
from svd_numpy.sparse.storage.coder import Coder, Context, Numbers, number

MOST_NAME, MOST_OPS, MOST_SIDE, MOST_WINDOW = 200, 1000, 2**20, 2**10
_MOST_CODE = 2**24  # multiples of a step up to this are exact in float32
_STEP_BIAS = 160  # steps go from 2^-160 to 2^160
_KINDS: tuple[type[Op], ...] = (TakeOp, DenseOp, ConvOp, PoolOp, ScaleOp, PadOp)


@dataclass
class Budget:
    """How many more array elements a file may hold."""

    left: int

    def take(self, count: int) -> int:
        """Return `count` if that many elements are allowed; raise a ValueError otherwise."""
        self.left -= count
        if self.left < 0:
            raise SvdValueError("the arrays are too large for the file")
        return count


class Layout:
    """The description of a network, over one coder.

    Parameters
    ----------
    coder : Writer or Reader
    budget : Budget
    """

    def __init__(self, coder: Coder, budget: Budget) -> None:
        self.coder, self.budget = coder, budget
        self._seen: dict[str, Numbers] = {}
        self._flags: dict[str, Context] = {}

    # ---- numbers, flags, names ----

    def whole(self, kind: str, value: int | None, high: int) -> int:
        """Code a number in [0, high], sharing statistics with others of its kind."""
        if value is not None and not 0 <= value <= high:
            raise SvdValueError(f"{kind} is {value}, which a packed file cannot hold; expected 0 to {high}")
        return number(self.coder, self._seen.setdefault(kind, Numbers()), value or 0, high)

    def flag(self, kind: str, value: bool | None) -> bool:
        """Code a yes or no."""
        return bool(self.coder.bit(self._flags.setdefault(kind, Context()), bool(value)))

    def raw(self, value: int | None, bits: int) -> int:
        """Code bits without learning from them."""
        found = 0
        for place in reversed(range(bits)):
            found = found << 1 | self.coder.bit(None, (value or 0) >> place & 1)
        return found

    def text(self, value: str | None) -> str:
        """Code a short name."""
        given = value.encode() if value is not None else None
        length = self.whole("name length", None if given is None else len(given), MOST_NAME)
        letters = (self.whole("letter", None if given is None else given[at], 255) for at in range(length))
        return bytes(letters).decode()

    def size(self, value: int | None, high: int = MOST_SIDE) -> int:
        """Code one length of a shape."""
        return self.whole("size", value, high)

    def sizes(self, values: tuple[int, ...] | None, count: int, high: int = MOST_SIDE) -> tuple[int, ...]:
        """Code several lengths of a shape."""
        return tuple(self.size(None if values is None else values[at], high) for at in range(count))

    # ---- arrays ----

    def places(self, kind: str, values: Array | None, limit: int) -> Array:
        """Code increasing indices (n,) in [0, limit)."""
        count = self.budget.take(self.whole("count", None if values is None else len(values), limit))
        gaps = None if values is None else (np.diff(values, prepend=-1) - 1).tolist()
        found, at = np.empty(count, np.int64), -1
        for n in range(count):
            at += 1 + self.whole(kind, None if gaps is None else gaps[n], limit)
            found[n] = at
        if at >= limit:
            raise SvdValueError(f"got the index {at}, expected less than {limit}")
        return found

    def jumps(self, values: Array | None, count: int, limit: int) -> Array:
        """Code int32 indices (count,) in [0, limit) in any order; runs of consecutive ones are cheap."""
        steps = None if values is None else np.diff(values, prepend=-1).tolist()
        found, at = np.empty(self.budget.take(count), np.int32), -1
        for n in range(count):
            step = None if steps is None else steps[n]
            back = self.flag("back", None if step is None else step < 0)
            size = self.whole("jump", None if step is None else abs(step), limit)
            at += -size if back else size
            if not 0 <= at < limit:
                raise SvdValueError(f"got the index {at}, expected 0 to {limit - 1}")
            found[n] = at
        return found

    def numbers(self, kind: str, values: Array | None, count: int) -> Array:
        """Code float32 numbers (count,)."""
        self.budget.take(count)
        step = None if values is None else find_step(values)
        if self.flag("steps", step is not None):
            return self._multiples(kind, values, count, step)
        bits = None if values is None else np.ascontiguousarray(values, np.float32).view(np.uint32).tolist()
        found = np.array([self.raw(None if bits is None else bits[n], 32) for n in range(count)], np.uint32)
        return found.view(np.float32)

    def _multiples(self, kind: str, values: Array | None, count: int, step: int | None) -> Array:
        codes = None if values is None or step is None else np.ldexp(values.astype(np.float64), -step).tolist()
        exponent = self.whole("step", None if step is None else step + _STEP_BIAS, 2 * _STEP_BIAS) - _STEP_BIAS
        found = np.empty(count, np.int64)
        for n in range(count):
            code = None if codes is None else int(codes[n])
            size = self.whole(kind, None if code is None else abs(code), _MOST_CODE)
            found[n] = -size if size and self.flag(f"{kind} sign", None if code is None else code < 0) else size
        with np.errstate(over="ignore"):  # infinite weights are refused later, by SparseModel
            return np.ldexp(found.astype(np.float64), exponent).astype(np.float32)

    def weights(self, layer: str, value: Weights | None, inputs: int, outputs: int) -> Weights:
        """Code a matrix (I, O) in the form that it has; layers are so different that each learns its own statistics."""
        if inputs * outputs > MAX_WEIGHTS:
            raise SvdValueError(f"got a weight matrix of {inputs} x {outputs}, expected at most {MAX_WEIGHTS} weights")
        if self.flag("dense", None if value is None else value.form == "dense"):
            cells = self.numbers(f"{layer} weight", None if value is None else value.values.ravel(), inputs * outputs)
            return Weights((inputs, outputs), cells.reshape(inputs, outputs))
        places = None
        if value is not None:
            assert value.rows is not None and value.starts is not None
            places = np.repeat(np.arange(outputs), np.diff(value.starts)) * inputs + value.rows
        places = self.places(f"{layer} gap", places, inputs * outputs)
        starts = np.searchsorted(places, np.arange(outputs + 1) * inputs).astype(np.int32)
        values = self.numbers(f"{layer} weight", None if value is None else value.values, len(places))
        return Weights((inputs, outputs), values, (places % max(1, inputs)).astype(np.int32), starts)

    # ---- ops ----

    def network(self, ops: tuple[Op, ...] | None) -> list[Op]:
        """Code all ops."""
        count = self.whole("ops", None if ops is None else len(ops), MOST_OPS)
        found: list[Op] = []
        for n in range(count):
            op = None if ops is None else ops[n]
            kind = _KINDS[self.whole("kind", None if op is None else _KINDS.index(type(op)), len(_KINDS) - 1)]
            if (kind is TakeOp) != (n == 0):
                raise SvdValueError("the first op, and no other, must take the inputs")
            found.append(self._op(kind, op, found[-1].out_shape if found else ()))
        if not found:
            raise SvdValueError("got no op, expected at least one")
        return found

    def _op(self, kind: type[Op], op: Any, shape: tuple[int, ...]) -> Op:
        name = self.text(op and op.name)
        if kind is TakeOp:
            return self._take(name, op)
        if kind is DenseOp:
            return self._dense(name, op, shape)
        if kind is ScaleOp:
            return self._scale(name, op, shape)
        if len(shape) != 3:
            raise SvdValueError(f"{name} expects images, but gets {shape}")
        if kind is ConvOp:
            return self._conv(name, op, shape)
        if kind is PadOp:
            return self._pad(name, op, shape)
        average = self.flag("average", op and op.kind != "max")
        inside = average and self.flag("average inside", op and op.kind == "avg_inside")
        return PoolOp(
            name, "max" if not average else "avg_inside" if inside else "avg", self._window(op and op.window, shape)
        )

    def _take(self, name: str, op: Any) -> TakeOp:
        in_shape = self._shape(op and op.in_shape)
        out_shape = self._shape(op and op.out_shape)
        count = math.prod(out_shape)
        # Images are channels last in the op and channels first in the example; turned, most indices are consecutive.
        index = self.jumps(op and channels_first(op.index, out_shape), count, math.prod(in_shape))
        mean = None
        if self.flag("mean", op and op.mean is not None):
            given = None if op is None or op.mean is None else channels_first(op.mean, out_shape)
            mean = _turned_back(self.numbers("mean", given, count), out_shape)
        return TakeOp(name, in_shape, out_shape, _turned_back(index, out_shape), mean)

    def _dense(self, name: str, op: Any, shape: tuple[int, ...]) -> DenseOp:
        before = self.sizes(op and op.before, 2)
        inputs = self.places("input gap", op and op.inputs, math.prod(shape)).astype(np.int32)
        bias, relu = self._ending(op)
        return DenseOp(name, before, inputs, self.weights(name, op and op.weights, len(inputs), len(bias)), bias, relu)

    def _conv(self, name: str, op: Any, shape: tuple[int, ...]) -> ConvOp:
        before = self.sizes(op and op.before, 4)
        window = self._window(op and op.window, shape)
        bias, relu = self._ending(op)
        return ConvOp(name, before, window, self.weights(name, op and op.weights, window.taps, len(bias)), bias, relu)

    def _pad(self, name: str, op: Any, shape: tuple[int, ...]) -> PadOp:
        height, width, channels = shape
        edges = self.sizes(op and op.padding.edges, 4)
        mode = MODES[self.whole("mode", None if op is None else MODES.index(op.padding.mode), len(MODES) - 1)]
        return PadOp(name, Padding(height, width, (edges[0], edges[1], edges[2], edges[3]), mode), channels)

    def _ending(self, op: Any) -> tuple[Array, bool]:
        outputs = self.size(op and len(op.bias))
        return self.numbers("bias", op and op.bias, outputs), self.flag("relu", op and op.relu)

    def _scale(self, name: str, op: Any, shape: tuple[int, ...]) -> ScaleOp:
        if self.flag("flat", op and len(op.out_shape) < len(shape)):
            shape = (math.prod(shape),)
        scale, shift = (
            self.numbers(kind, None if op is None else getattr(op, kind), shape[-1]) for kind in ("scale", "shift")
        )
        return ScaleOp(name, shape, scale, shift, self.flag("relu", op and op.relu))

    def _shape(self, value: tuple[int, ...] | None) -> tuple[int, ...]:
        images = self.flag("images", value is not None and len(value) == 3)
        return self.sizes(value, 3 if images else 1)

    def _window(self, value: Window | None, shape: tuple[int, ...]) -> Window:
        flat = value and (*value.kernel, *value.stride, *value.padding, *value.dilation)
        pairs = self.sizes(flat, 8, MOST_WINDOW)
        kernel, stride, padding, dilation = ((pairs[at], pairs[at + 1]) for at in range(0, 8, 2))
        if min(*kernel, *stride, *dilation) < 1:
            raise SvdValueError(
                f"got a window of kernel {kernel}, stride {stride} and dilation {dilation}, expected at least 1"
            )
        height, width, channels = shape
        window = Window(height, width, channels, kernel, stride, padding, dilation)
        if min(window.out) < 1:
            raise SvdValueError(f"got a window of {kernel}, which is larger than the images of {shape}")
        return window

    def likelihood(self, value: Likelihood | None) -> Likelihood:
        """Code the likelihood: what the outputs mean."""
        if not self.flag("gaussian", isinstance(value, Gaussian)):
            return make_likelihood("categorical")
        given = int.from_bytes(struct.pack(">d", value.std), "big") if isinstance(value, Gaussian) else None
        return Gaussian(struct.unpack(">d", self.raw(given, 64).to_bytes(8, "big"))[0])


def _turned_back(values: Array, shape: tuple[int, ...]) -> Array:
    """Undo `channels_first`."""
    return channels_last(values, (shape[-1], *shape[:-1])).ravel()


def find_step(values: Array) -> int | None:
    """Exponent of the largest power of two that divides all values, if none exceeds 2^24 times that power.

    None otherwise, as for weights that were never rounded.
    """
    mantissas, exponents = np.frexp(values[values != 0].astype(np.float64))
    if not mantissas.size:
        return 0
    codes = np.ldexp(mantissas, 24).astype(np.int64)  # whole numbers: a float32 has 24 binary digits
    zeros = np.frexp((codes & -codes).astype(np.float64))[1] - 1  # trailing zeros of each
    step = int((exponents - 24 + zeros).min())
    reaches = float(np.abs(values).max()) <= math.ldexp(_MOST_CODE, step)
    return step if reaches and abs(step) <= _STEP_BIAS else None
