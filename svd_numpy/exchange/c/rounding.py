"""`to_integers`: round a compact network to whole numbers; calibration data show which range each layer needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_inputs, check_some, check_type
from svd_numpy.exchange.c.integers import LEAST, PIXELS, IntegerModel, IntegerStep, Scale, chunks
from svd_numpy.exchange.c.steps import ImageStep, Step, Steps, steps_of
from svd_numpy.kernels.backend import Array
from svd_numpy.sparse import SparseModel

_MOST_SUM = 2**31 - 1
_MOST_WEIGHT, _MOST_BIAS, _MOST_SHIFT = 127, 32767, 22  # 255 << 22 leaves room for what exceeds the calibrated range
_MOST_ERROR = 0.1  # of the outputs on the calibration data, relative to the largest


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a step reads.

    Attributes
    ----------
    scale : Scale
    mean, whole : arrays (I,)
        The mean of each input on calibration data, in floats and in whole numbers. With them, biases make up for what
        rounding does to sums on average.
    """

    scale: Scale
    mean: Array
    whole: Array


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
    model = IntegerModel(net, (), scale, offset, 1.0, small.likelihood, 0.0)
    some = rows[next(chunks(net, len(rows)))]
    x, q = _floats(net, some), model.first(model.input_bytes(some))
    steps = list[IntegerStep]()
    for step, span in zip(net.steps[:-1], _spans(net, rows), strict=True):
        out = _results(step, inner, *span)
        steps.append(_rounded(step, _inputs(step, inner, x, q), out))
        x, q, inner = step.apply(x), steps[-1].apply(q), out
    last, unit = _last(net.steps[-1], _inputs(net.steps[-1], inner, x, q))
    model = replace(model, steps=(*steps, last), unit=unit)
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
    return replace(model, error=error)


def _centred(scale: Scale, mean: Array) -> tuple[Scale, Array]:
    """Scale of (byte + offset + 1) >> 1, and the offsets 0..255, which subtract the mean."""
    offset = np.clip(255 - np.rint(mean / scale.step) - scale.zero, 0, 255)
    return Scale(2 * scale.step, 128), offset


def _floats(net: Steps, rows: Array) -> Array:
    """Raw rows (B, I) -> what the first step sees in the network in floats."""
    x = net.taken(rows / 255 if rows.dtype == np.uint8 else rows.astype(np.float64))
    return x if net.mean is None else x - net.mean.reshape(net.shape)


def _inputs(step: Step, scale: Scale, x: Array, q: Array) -> _Inputs:
    return _Inputs(scale, step.seen(x).mean(axis=0), step.seen(q, scale.zero).mean(axis=0))


def _spans(net: Steps, rows: Array) -> list[tuple[float, float]]:
    """Smallest and largest result of every step but the last on the calibration data."""
    spans = [(0.0, 0.0) for _ in net.steps[:-1]]
    for at in chunks(net, len(rows)):
        x = _floats(net, rows[at])
        for number, step in enumerate(net.steps[:-1]):
            x = step.apply(x)
            if x.size:
                low, high = spans[number]
                spans[number] = min(low, float(x.min())), max(high, float(x.max()))
    return spans


def _area(step: Step) -> int:
    """How many outputs of a convolution are summed to one result."""
    return math.prod(step.pool.kernel) if isinstance(step, ImageStep) and step.mean else 1


def _results(step: Step, inner: Scale, low: float, high: float) -> Scale:
    """The scale of a step's results: as fine as their range allows, but no finer than what its largest weight adds."""
    out = Scale.of_range(low, high)
    least = 1.001 * float(np.abs(step.matrix).max(initial=0.0)) * inner.step / (_MOST_WEIGHT * _area(step))
    return out if out.step >= least else Scale(least, round(-min(low, 0.0) / least))


def _rounded(step: Step, inner: _Inputs, out: Scale) -> IntegerStep:
    """Round a step whose results go on to another."""
    means, area = isinstance(step, ImageStep) and step.mean, _area(step)
    largest, shift = float(np.abs(step.matrix).max(initial=0.0)), 0
    # The largest weight is inner.step * largest * 2**shift / (out.step * area), at most 127.
    if largest:
        shift = math.floor(math.log2(_MOST_WEIGHT * area) + math.log2(out.step) - math.log2(inner.scale.step * largest))
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


def _last(step: Step, inner: _Inputs) -> tuple[IntegerStep, float]:
    """Round the last step, which gives its sums; return it and what a sum of 1 stands for."""
    largest = float(np.abs(step.matrix).max(initial=0.0)) * inner.scale.step
    unit = max(largest / _MOST_WEIGHT, float(np.abs(step.bias).max()) / 2**29) or 1.0
    while True:
        found = _whole(step, inner, unit, 0)
        if _largest_sum(found, 1) <= _MOST_SUM:
            return found, unit
        unit *= 2


def _whole(step: Step, inner: _Inputs, unit: float, constant: int) -> IntegerStep:
    """Round weights and biases so that a sum of 1 stands for `unit`; `constant` is added to the biases."""
    weights = np.rint(step.matrix * (inner.scale.step / unit)) + 0.0  # + 0 turns -0 into 0
    bias = (step.bias + inner.mean @ step.matrix) / unit - inner.whole @ weights + constant
    most = float(np.abs(bias).max())
    bias_unit = 2 ** max(0, math.ceil(math.log2(max(most, 1.0) / _MOST_BIAS)))
    least = 0 if step.relu else LEAST
    return IntegerStep(step, weights, np.rint(bias / bias_unit) + 0.0, bias_unit, 0, least, 0, inner.scale.zero)


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
