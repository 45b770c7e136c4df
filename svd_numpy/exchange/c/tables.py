"""The tables of a network's C code: each layer's weights by the address of their input, gap by gap."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.exchange.c.integers import LEAST, IntegerModel, IntegerStep
from svd_numpy.exchange.c.memory import Plan
from svd_numpy.exchange.c.steps import DenseStep, ImageStep, Step, Steps
from svd_numpy.kernels.backend import Array

_WIDTH = 110  # of a line of a table
_MOST_GAP, _MOST_COUNT = 255, 65535
COPY = "copied_input"  # name of what copies the input, which no layer may have
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # of what C can call by it


@dataclass(frozen=True, eq=False)
class Layer:
    """One step as C sees it.

    Attributes
    ----------
    name : str
        An identifier, different for every layer.
    step : Step
    gaps, weights, counts : arrays
        Each output's weights that are not 0, by address of their input, and how far apart these addresses are.
    biases : array (O,)
    numbers : dict
        Other fields of the C structure and their values.
    """

    name: str
    step: Step
    gaps: Array
    weights: Array
    counts: Array
    biases: Array
    numbers: dict[str, str]


def layers_of(net: Steps, model: IntegerModel | None, plan: Plan) -> list[Layer]:
    """Every step of a network with its tables."""
    steps: list[Step | IntegerStep] = list(net.steps if model is None else model.steps)
    return [
        _layer(name, step, net, plan, n) for n, (name, step) in enumerate(zip(_names(net.steps), steps, strict=True))
    ]


def _names(steps: Iterable[Step]) -> list[str]:
    """An identifier for each layer."""
    found = list[str]()
    for step in steps:
        own = re.sub(r"[^A-Za-z0-9_]", "_", step.name)
        own = own if NAME.fullmatch(own) else f"layer_{own}"
        found.append(own if own not in (*found, COPY) else f"{own}_{len(found)}")
    return found


def _layer(name: str, step: Step | IntegerStep, net: Steps, plan: Plan, number: int) -> Layer:
    if isinstance(step, IntegerStep):
        geometry, matrix, biases = step.step, step.weights, step.bias
        numbers = {
            "bias_unit": str(step.bias_unit),
            "least": "0" if step.least != LEAST else "LEAST_SUM",
            "shift": str(step.shift),
        }
    else:
        area = math.prod(step.pool.kernel) if isinstance(step, ImageStep) and step.mean else 1
        geometry = step
        matrix, biases = (np.asarray(array / area, np.float32) for array in (step.matrix, step.bias))
        numbers = {"least": "0" if step.relu else "LEAST_SUM"}
    places = _addresses(geometry, net, plan, number)
    return Layer(name, geometry, *_with_gaps(geometry.name, matrix, places), biases, numbers)


def _addresses(step: Step, net: Steps, plan: Plan, number: int) -> Array:
    """Where each input of a step lies, counted from the row of its first output, or from the first input."""
    before = net.steps[number - 1] if number else None
    if isinstance(step, DenseStep):
        if before is None:
            return net.index[step.inputs]
        if isinstance(before, DenseStep):
            return step.inputs
        y, x, c = np.unravel_index(step.inputs, before.out_shape)
        _, width, channels = before.out_shape
        return np.asarray((y * channels + c) * width + x)
    (kh, kw), (down, across) = step.window.kernel, step.window.dilation
    ky, kx, c = np.unravel_index(np.arange(len(step.matrix)), (kh, kw, step.window.channels))
    row, channel = strides_of(net, plan, number)
    raw = net.channels[c] if number == 0 and not net.copied else c
    return np.asarray(ky * down * row + raw * channel + kx * across)


def strides_of(net: Steps, plan: Plan, number: int) -> tuple[int, int]:
    """From a row to the next, and from a channel to the next, in the inputs of an image step."""
    if number == 0 and not net.copied:
        return net.in_shape[2], net.in_shape[1] * net.in_shape[2]
    rows = plan.rows[number - 1 + net.copied]
    return rows.row, rows.width


def _with_gaps(name: str, matrix: Array, places: Array) -> tuple[Array, Array, Array]:
    """Gaps, weights and counts of the weights that are not 0, by address; a weight of 0 bridges a gap over 255."""
    order = np.argsort(places)
    gaps, weights, counts = list[int](), list[float](), list[int]()
    for column in matrix.T:
        at, begin = 0, len(gaps)
        for tap in order[column[order] != 0]:
            bridges, gap = divmod(int(places[tap]) - at, _MOST_GAP)
            gaps += [*[_MOST_GAP] * bridges, gap]
            weights += [*[0.0] * bridges, float(column[tap])]
            at = int(places[tap])
        counts.append(len(gaps) - begin)
    if max(counts) > _MOST_COUNT:
        raise SvdValueError(
            f"export_c: layer {name!r} has {max(counts):,} weights at one output, expected at most {_MOST_COUNT:,}"
        )
    return np.array(gaps, np.int64), np.array(weights), np.array(counts)


def table(kind: str, name: str, cells: Iterable[str]) -> str:
    """A constant array, of one 0 if there is nothing to write, since C has no empty arrays."""
    lines, line = [f"static const {kind} {name}[] FLASH = {{"], "   "
    for cell in list(cells) or ["0"]:
        if len(line) + len(cell) + 2 > _WIDTH:
            lines.append(line)
            line = "   "
        line += f" {cell},"
    return "\n".join([*lines, line, "};"])


def cells(numbers: Array, floats: bool) -> list[str]:
    """Numbers as C writes them."""
    return [float_cell(x) for x in numbers.ravel()] if floats else [str(int(x)) for x in numbers.ravel()]


def float_cell(x: float) -> str:
    """A float32 as C writes it, with all its bits."""
    text = f"{np.float32(x):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def tables_of(layer: Layer, floats: bool) -> str:
    """Write the four tables of a layer."""
    return "\n\n".join(
        table(kind, f"{layer.name}_{what}", cells(numbers, floats and what in ("weights", "biases")))
        for kind, what, numbers in (
            ("uint8_t", "gaps", layer.gaps), ("weight_t", "weights", layer.weights),
            ("uint16_t", "counts", layer.counts), ("bias_t", "biases", layer.biases),
        )
    )  # fmt: skip
