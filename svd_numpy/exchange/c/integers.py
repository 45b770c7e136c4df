"""Steps in whole numbers: what they mean, and the NumPy twin that computes the same bits as the C code.

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
from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_numpy.checks import check_inputs
from svd_numpy.exchange.c.steps import DenseStep, ImageStep, Step, Steps
from svd_numpy.kernels.backend import Array
from svd_numpy.network.objective import Likelihood

LEAST = -(2**31)  # of an int32
_ROOM = 2**24  # float64 that examples may take as im2col rows, while they pass through all layers at once


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
            sums = self.step.seen(x) @ self.weights + bias
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
        for at in chunks(self.net, len(rows)):
            q = self.first(rows[at])
            for step in self.steps[:-1]:
                q = step.apply(q)
            out[at] = self.steps[-1].sums(q)
        return out

    def first(self, rows: Array) -> Array:
        """Input bytes (B, I) -> what the first step sees (B, *shape), as float64."""
        q = self.net.taken(rows.astype(np.float64))
        return q if self.offset is None else np.floor((q + self.offset.reshape(self.net.shape) + 1) / 2)

    def predict(self, x: Any) -> Array:
        """Outputs (B, O) in float32: scores times their unit."""
        return (self.predict_integers(x) * self.unit).astype(np.float32)


def chunks(net: Steps, count: int) -> Iterator[slice]:
    """Cut `count` examples into pieces for which memory suffices."""
    images = [step.window for step in net.steps if isinstance(step, ImageStep)]
    largest = max((math.prod(window.out) * window.taps for window in images), default=math.prod(net.in_shape))
    size = max(1, _ROOM // largest)
    return (slice(start, start + size) for start in range(0, count, size))
