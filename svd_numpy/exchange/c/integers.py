"""Steps in whole numbers: how they are rounded, and the NumPy twin that computes the same bits as the C code.

Every activation is a uint8 q that stands for step * (q - zero), every weight an int8, every sum an int32. Step and zero
of a layer's results come from the range that they have on calibration data. The step of its weights is then such that
a shift to the right turns a sum into a result:

    result = clamp(sum >> shift, 0, 255),    sum = bias + sum of weight * input

The bias takes in one half, for rounding, and both zeros. It is stored as int16, times a power of two. The last layer
gives its sums, without a shift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_inputs, check_some, check_type
from svd_numpy.exchange.c.steps import DenseStep, ImageStep, Step, Steps, steps_of
from svd_numpy.kernels.backend import Array
from svd_numpy.network.objective import Likelihood
from svd_numpy.sparse import SparseModel

LEAST = -(2**31)  # of an int32
_MOST_SUM = 2**31 - 1
_MOST_WEIGHT, _MOST_BIAS, _MOST_SHIFT = 127, 32767, 22  # 255 << 22 leaves room for what exceeds the calibrated range
_ROOM = 2**24  # float64 that examples may take as im2col rows, while they pass through all layers at once
_MOST_ERROR = 0.1  # of the outputs on the calibration data, relative to the largest


@dataclass(frozen=True)
class Scale:
    """What the whole numbers 0 to 255 stand for: step * (q - zero)."""

    step: float
    zero: int

    @classmethod
    def of_range(cls, low: float, high: float) -> Scale:
        """Spread 0..255 over a range of numbers, and over 0, which is then exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / 255 or 1.0
        return cls(step, round(-low / step))

    def whole(self, x: Array) -> Array:
        """Round floats to whole numbers, clamped to 0..255."""
        return np.clip(np.rint(x / self.step) + self.zero, 0, 255)


PIXELS = Scale(1 / 255, 0)


@dataclass(frozen=True, eq=False)
class IntegerStep:
    """A step in whole numbers, held as float64.

    Attributes
    ----------
    step : Step
        Geometry and name; its matrix and bias are not used.
    weights : array (I, O)
        -127 to 127.
    bias : array (O,)
        -32767 to 32767, to be multiplied by `bias_unit`, a power of two.
    bias_unit : int
    start : int
        For a pooling by means: what the sum over a window begins with.
    least : int
        Sums below count as this: 0 for ReLU, else the least int32. It matters for means and for the last layer, since
        0 is the least result anyway.
    shift : int
    pad : int
        Stands for 0 in the inputs.
    """

    step: Step
    weights: Array
    bias: Array
    bias_unit: int
    start: int
    least: int
    shift: int
    pad: int

    def sums(self, x: Array) -> Array:
        """Inputs q (B, ...) -> int32 sums (B, *out_shape), as float64, in which they are exact."""
        bias = self.bias * self.bias_unit
        if isinstance(self.step, DenseStep):
            sums = x.reshape(len(x), -1)[:, self.step.inputs] @ self.weights + bias
            return np.maximum(sums, self.least)
        sums = self.step.products(x, self.weights, bias, self.pad)
        if self.step.mean:
            return self.start + self.step.pooled(np.maximum(sums, self.least))
        return self.step.pooled(sums)

    def apply(self, x: Array) -> Array:
        """Inputs q (B, ...) -> results q (B, *out_shape)."""
        return np.clip(np.floor(self.sums(x) / 2**self.shift), 0, 255)


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """A compact network in whole numbers; `to_integers` makes one, `export_c` writes it as C.

    Attributes
    ----------
    net : Steps
        The network in floats.
    steps : tuple of IntegerStep
    input : Scale
        What the input bytes stand for. uint8 examples are read as they are, floats are rounded to bytes first.
    offset : array (n,) or None
        If a mean is subtracted: the first step sees (byte + offset + 1) >> 1, offset 0 to 255.
    unit : float
        The outputs are about `predict_integers(x) * unit`.
    likelihood : Likelihood
    error : float
        Largest difference from the network in floats on the calibration data, relative to the largest output.
    """

    net: Steps
    steps: tuple[IntegerStep, ...]
    input: Scale
    offset: Array | None
    unit: float
    likelihood: Likelihood
    error: float

    @property
    def pixels(self) -> bool:
        """Whether the inputs are uint8 pixels, which stand for 0 to 1."""
        return self.input == PIXELS

    @property
    def n_outputs(self) -> int:
        """Numbers per example that `predict_integers` returns."""
        return len(self.steps[-1].bias)

    def input_bytes(self, x: Any) -> Array:
        """Examples (B, *in_shape) as the C code takes them: uint8 (B, I)."""
        rows = check_inputs("x", x, self.net.in_shape)
        return rows if rows.dtype == np.uint8 else self.input.whole(rows).astype(np.uint8)

    def predict_integers(self, x: Any) -> Array:
        """Scores (B, O) in int32, bit for bit those of the C code."""
        rows = self.input_bytes(x)
        out = np.empty((len(rows), self.n_outputs), np.int32)
        for at in _chunks(self.net, len(rows)):
            q = self.net.taken(rows[at].astype(np.float64))
            if self.offset is not None:
                q = np.floor((q + self.offset.reshape(self.net.shape) + 1) / 2)
            for step in self.steps[:-1]:
                q = step.apply(q)
            out[at] = self.steps[-1].sums(q)
        return out

    def predict(self, x: Any) -> Array:
        """Outputs (B, O) in float32: scores times their unit."""
        return (self.predict_integers(x) * self.unit).astype(np.float32)


def to_integers(small: SparseModel, calibration: Any) -> IntegerModel:
    """Round a compact network to whole numbers, so that it needs no float arithmetic.

    Parameters
    ----------
    small : SparseModel
    calibration : array (B, *in_shape)
        Typical inputs, for the range of each layer's results; a few hundred training examples will do. If they are
        uint8 pixels, the inputs are such pixels; if they are floats, inputs are rounded to 256 steps between the
        smallest and the largest of them.

    Returns
    -------
    IntegerModel

    Raises
    ------
    SvdValueError
        If a layer is too large, or if, on the calibration data, outputs differ from those in floats by more than 0.1 of
        the largest output.
    """
    check_type("small", small, SparseModel)
    if calibration is None:
        raise SvdTypeError("calibration: got None, expected typical inputs, such as a few hundred training examples")
    rows = check_inputs("calibration", calibration, small.in_shape)
    check_some("calibration", rows)
    net = steps_of(small)
    scale = PIXELS if rows.dtype == np.uint8 else Scale.of_range(float(rows.min()), float(rows.max()))
    inner, offset = (scale, None) if net.mean is None else _centred(scale, net.mean)
    steps = list[IntegerStep]()
    for step, span in zip(net.steps[:-1], _spans(net, rows), strict=True):
        out = Scale.of_range(*span)
        steps.append(_rounded(step, inner, out))
        inner = out
    last, unit = _last(net.steps[-1], inner)
    model = IntegerModel(net, (*steps, last), scale, offset, unit, small.likelihood, 0.0)
    with np.errstate(over="ignore"):
        wanted = small.predict(calibration)
    largest = float(np.abs(wanted).max())
    error = float(np.abs(model.predict(calibration) - wanted).max()) / (largest or 1.0)
    if not error <= _MOST_ERROR:
        raise SvdValueError(
            f"to_integers: outputs are wrong by {error:.2g} of the largest one, expected at most {_MOST_ERROR:g}: "
            f"{_suspect(net)} has weights of very different sizes, or inputs that cancel each other; export the "
            "network in floats"
        )
    return IntegerModel(net, model.steps, scale, offset, unit, small.likelihood, error)


def _chunks(net: Steps, count: int) -> Iterator[slice]:
    images = [step.window for step in net.steps if isinstance(step, ImageStep)]
    largest = max((math.prod(window.out) * window.taps for window in images), default=math.prod(net.in_shape))
    size = max(1, _ROOM // largest)
    return (slice(start, start + size) for start in range(0, count, size))


def _centred(scale: Scale, mean: Array) -> tuple[Scale, Array]:
    """Scale of (byte + offset + 1) >> 1, and the offsets 0..255, which subtract the mean."""
    offset = np.clip(255 - np.rint(mean / scale.step) - scale.zero, 0, 255)
    return Scale(2 * scale.step, 128), offset


def _spans(net: Steps, rows: Array) -> list[tuple[float, float]]:
    """Smallest and largest result of every step but the last on the calibration data."""
    spans = [(0.0, 0.0) for _ in net.steps[:-1]]
    for at in _chunks(net, len(rows)):
        piece = rows[at].astype(np.float64)
        x = net.taken(piece / 255 if rows.dtype == np.uint8 else piece)
        x = x if net.mean is None else x - net.mean.reshape(net.shape)
        for number, step in enumerate(net.steps[:-1]):
            x = step.apply(x)
            if x.size:
                low, high = spans[number]
                spans[number] = min(low, float(x.min())), max(high, float(x.max()))
    return spans


def _rounded(step: Step, inner: Scale, out: Scale) -> IntegerStep:
    """Round a step whose results go on to another."""
    means = isinstance(step, ImageStep) and step.mean
    area = math.prod(step.pool.kernel) if isinstance(step, ImageStep) and step.mean else 1
    largest, shift = float(np.abs(step.matrix).max(initial=0.0)), 0
    # The largest weight is inner.step * largest * 2**shift / (out.step * area), at most 127.
    if largest:
        shift = math.floor(math.log2(_MOST_WEIGHT * area) + math.log2(out.step) - math.log2(inner.step * largest))
        if shift < 0:
            raise SvdValueError(
                f"to_integers: layer {step.name!r} has a weight of {largest:.3g}, but its results stay within "
                f"{255 * out.step:.3g}, so that its inputs cancel each other; export the network in floats"
            )
    for fewer in range(min(shift, _MOST_SHIFT), -1, -1):
        unit = out.step * area / 2**fewer  # of a sum before pooling
        constant = 2**fewer // 2 + out.zero * 2**fewer
        found = _whole(step, inner, unit, 0 if means else constant)
        found = replace(found, start=constant if means else 0, shift=fewer)
        if _largest_sum(found, area) <= _MOST_SUM:
            return found
    raise SvdValueError(
        f"to_integers: layer {step.name!r} has sums that do not fit into 32 bits; export the network in floats"
    )


def _last(step: Step, inner: Scale) -> tuple[IntegerStep, float]:
    """Round the last step, which gives its sums; return it and what a sum of 1 stands for."""
    largest = float(np.abs(step.matrix).max(initial=0.0)) * inner.step
    unit = max(largest / _MOST_WEIGHT, float(np.abs(step.bias).max()) / 2**29) or 1.0
    while True:
        found = _whole(step, inner, unit, 0)
        if _largest_sum(found, 1) <= _MOST_SUM:
            return found, unit
        unit *= 2


def _whole(step: Step, inner: Scale, unit: float, constant: int) -> IntegerStep:
    """Round weights and biases so that a sum of 1 stands for `unit`; `constant` is added to the biases."""
    weights = np.rint(step.matrix * (inner.step / unit)) + 0.0  # + 0 turns -0 into 0
    bias = step.bias / unit - inner.zero * weights.sum(axis=0) + constant
    most = float(np.abs(bias).max())
    bias_unit = 2 ** max(0, math.ceil(math.log2(max(most, 1.0) / _MOST_BIAS)))
    least = 0 if step.relu else LEAST
    return IntegerStep(step, weights, np.rint(bias / bias_unit) + 0.0, bias_unit, 0, least, 0, inner.zero)


def _largest_sum(step: IntegerStep, area: int) -> float:
    """Bound on every sum, whatever the input."""
    sums = np.abs(step.bias) * step.bias_unit + 255 * np.abs(step.weights).sum(axis=0)
    return float(sums.max()) * area + step.start


def _suspect(net: Steps) -> str:
    """Name the layer whose weights differ most in size."""

    def spread(step: Step) -> float:
        sizes = np.abs(step.matrix[step.matrix != 0])
        return float(sizes.max() / np.median(sizes)) if sizes.size else 0.0

    return f"layer {max(net.steps, key=spread).name!r}"
