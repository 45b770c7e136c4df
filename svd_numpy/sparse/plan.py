"""Turn a list of ops into the table, lists and values that the compiled kernel reads (`svd_numpy.kernels.cpu.sparse`).

All activations share one memory, with a region for each op. Images are stored channels first in it; each channel is a
plane that includes the padding of the op that reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.cpu import sparse as kernel
from svd_numpy.kernels.cpu.list_tiles import GROUP
from svd_numpy.kernels.cpu.tiles import LANES
from svd_numpy.kernels.padding import sources
from svd_numpy.sparse.cost import shares_inputs
from svd_numpy.sparse.ops import ConvOp, DenseOp, Op, PadOp, PoolOp, ScaleOp, TakeOp, WeightedOp, Weights

_SLACK = 2 * LANES  # floats that a vector may read beyond the last place


class Region(NamedTuple):
    """Where the outputs of an op are stored: images of `channels` planes; rows count as images of one pixel."""

    start: int
    height: int
    width: int
    channels: int
    pad: tuple[int, int]
    lowest: bool

    @property
    def row(self) -> int:
        """Places of a row, with padding."""
        return self.width + 2 * self.pad[1]

    @property
    def plane(self) -> int:
        """Places of a channel, with padding."""
        return self.row * (self.height + 2 * self.pad[0])

    @property
    def first(self) -> int:
        """Place of the first pixel in its plane."""
        return self.pad[0] * self.row + self.pad[1]

    @property
    def end(self) -> int:
        """First place after the region."""
        return self.start + self.channels * self.plane

    def places(self) -> Array:
        """The place of each number relative to the start, in the order (H, W, C)."""
        pixels = self.first + self.row * np.arange(self.height)[:, None] + np.arange(self.width)
        return (pixels[:, :, None] + self.plane * np.arange(self.channels)).ravel()


@dataclass(frozen=True, eq=False)
class Plan:
    """A network as the compiled kernel reads it.

    Attributes
    ----------
    table : array (operations, COLUMNS) of int64
    lists : array of int32
    values : array of float32
    places : int
        Size of the memory, in floats per example.
    work : float
        Multiplications and copies per example.
    images : bool
        Whether any activations are images.
    """

    table: Array
    lists: Array
    values: Array
    places: int
    work: float
    images: bool

    def floats(self, lanes: int) -> int:
        """Size of the memory of one thread."""
        return self.places * lanes + _SLACK


class _Writer:
    """Collects rows of the table, lists and values."""

    def __init__(self) -> None:
        self.rows: list[Array] = []
        self._lists: list[Array] = [np.zeros(0, np.int32)]
        self._values: list[Array] = [np.zeros(0, np.float32)]
        self._n_lists = self._n_values = 0
        self.list_of([0])  # no list may start at 0, which stands for "no list"

    def list_of(self, numbers: Any) -> int:
        """Append int32 numbers; return where they start."""
        start, array = self._n_lists, np.asarray(numbers).astype(np.int32).ravel()
        self._lists.append(array)
        self._n_lists += array.size
        return start

    def values_of(self, numbers: Any) -> int:
        """Append float32 numbers; return where they start."""
        start, array = self._n_values, np.asarray(numbers, np.float32).ravel()
        self._values.append(array)
        self._n_values += array.size
        return start

    def row(self, kind: int, source: Region | None, target: Region | None, **columns: int) -> None:
        """Append a row of the table."""
        row = np.zeros(kernel.COLUMNS, np.int64)
        row[kernel.KIND] = kind
        if source is not None:
            row[kernel.IN], row[kernel.IN_PLANE], row[kernel.IN_ROW] = source.start, source.plane, source.row
        if target is not None:
            row[kernel.OUT], row[kernel.LOWEST] = target.start, target.lowest
            row[kernel.HEIGHT], row[kernel.WIDTH], row[kernel.CHANNELS] = target.height, target.width, target.channels
            row[kernel.PLANE], row[kernel.ROW], row[kernel.FIRST] = target.plane, target.row, target.first
        for name, value in columns.items():
            row[getattr(kernel, name.upper())] = value
        self.rows.append(row)

    def finish(self) -> tuple[Array, Array, Array]:
        """Return table, lists and values, none of them empty, since the kernel takes their addresses."""
        lists, values = np.concatenate([*self._lists, [0]]), np.concatenate([*self._values, np.zeros(LANES)])
        return np.stack(self.rows), lists.astype(np.int32), values.astype(np.float32)


def plan(ops: tuple[Op, ...]) -> Plan:
    """Lay out the activations of a network and list the kernel's operations."""
    regions: list[Region] = []
    for op, reader in zip(ops, [*ops[1:], None], strict=True):
        window = reader.window if isinstance(reader, ConvOp | PoolOp) else None
        height, width, channels = op.out_shape if len(op.out_shape) == 3 else (1, 1, op.out_shape[0])
        start = regions[-1].end if regions else 0
        lowest = isinstance(reader, PoolOp) and reader.kind == "max"
        regions.append(Region(start, height, width, channels, window.padding if window else (0, 0), lowest))
    write, trash = _Writer(), regions[-1].end
    for number, op in enumerate(ops):
        source, target = regions[number - 1] if number else None, regions[number]
        if isinstance(op, TakeOp):
            _take(write, op, target, trash)
            continue
        assert source is not None
        if isinstance(op, ScaleOp):
            _scale(write, op, source, target)
        elif isinstance(op, PadOp):
            _pad(write, op, source, target)
        elif isinstance(op, PoolOp):
            (down, right), (height, width) = op.window.stride, op.window.kernel
            write.row(kernel.POOL, source, target, down=down * source.row, right=right, kernel_height=height,
                      kernel_width=width, maximum=op.kind == "max")  # fmt: skip
            if op.kind == "avg_inside":
                factors = np.repeat(op.factors.ravel(), op.window.channels)
                _list_numbers(write, target.places(), factors, 0, target, target)
        else:
            following = ops[number + 1] if number + 1 < len(ops) else None
            _weigh(write, op, source, target, fused=_pools_by_two(op, following))
    outputs = regions[-1].places()
    write.row(kernel.GIVE, regions[-1], None, count=outputs.size, lists=write.list_of(outputs))
    images = any(len(op.out_shape) == 3 for op in ops)
    return Plan(*write.finish(), trash + 1, sum(map(_work, ops)), images)


def _work(op: Op) -> float:
    if isinstance(op, ConvOp | DenseOp):
        return op.weights.values.size * (math.prod(op.window.out) if isinstance(op, ConvOp) else 1)
    return math.prod(op.out_shape)


def _pools_by_two(op: WeightedOp, following: Op | None) -> bool:
    if not isinstance(op, ConvOp) or not isinstance(following, PoolOp) or op.window.stride[1] != 1:
        return False
    kernel_size, stride, padding = following.window.kernel, following.window.stride, following.window.padding
    return following.kind == "max" and kernel_size == stride == (2, 2) and padding == (0, 0)


def _take(write: _Writer, op: TakeOp, target: Region, trash: int) -> None:
    """Cut the inputs into tiles of LANES neighbours; those in a tile that are not read all go to the place `trash`."""
    width, order = math.prod(op.in_shape), np.argsort(op.index, kind="stable")
    columns, places = op.index[order], target.places()[order]
    means = np.zeros(len(order), np.float32) if op.mean is None else -op.mean[order]
    tiles, offsets, at = [], [], 0
    while at < len(columns):
        first = columns[at]
        end = np.searchsorted(columns, min(first + LANES, width))
        tile, offset = np.full(LANES, trash - target.start), np.zeros(LANES, np.float32)
        tile[columns[at:end] - first], offset[columns[at:end] - first] = places[at:end], means[at:end]
        tiles.append(np.concatenate([[first], tile]))
        offsets.append(offset)
        at = end
    singles = write.list_of(np.stack([columns, places], axis=1))
    write.row(kernel.TAKE, None, target, count=len(tiles), lists=write.list_of(tiles), values=write.values_of(offsets),
              single_count=len(columns), single_lists=singles, single_values=write.values_of(means))  # fmt: skip


def _scale(write: _Writer, op: ScaleOp, source: Region, target: Region) -> None:
    """List every number: where it comes from and where it goes."""
    _list_numbers(write, source.places(), op.scale, op.shift, source, target, op.relu)


def _list_numbers(
    write: _Writer,
    places: Array,
    scale: Array,
    shift: Array | float,
    source: Region,
    target: Region,
    relu: bool = False,
) -> None:
    """List every number of the target: its place in the source, and what it is multiplied by and added to."""
    pairs = np.stack([places, target.places()], axis=1)
    values = np.stack([np.resize(array, len(pairs)) for array in (scale, shift)], axis=1)
    write.row(kernel.SCALE, source, target, count=len(pairs), lists=write.list_of(pairs),
              values=write.values_of(values), relu=relu)  # fmt: skip


def _pad(write: _Writer, op: PadOp, source: Region, target: Region) -> None:
    """List every number as a scaling does: copied times 1, or, where nothing is copied, any number times 0."""
    pixels = sources(op.padding)
    places = source.places().reshape(-1, op.channels)[np.maximum(pixels, 0)]
    _list_numbers(write, places.ravel(), np.repeat(pixels >= 0, op.channels), 0, source, target)


def _weigh(write: _Writer, op: WeightedOp, source: Region, target: Region, fused: bool) -> None:
    """List the groups of outputs, each with its inputs and weights."""
    if isinstance(op, DenseOp):
        places, down, right = source.places()[op.inputs], 0, 1
    else:
        window = op.window
        rows = np.arange(window.kernel[0])[:, None, None] * window.dilation[0] * source.row
        columns = np.arange(window.kernel[1])[:, None] * window.dilation[1]
        places = (rows + columns + source.plane * np.arange(window.channels)).ravel()
        down, right = window.stride[0] * source.row, window.stride[1]
    groups = _groups(write, op.weights, places)
    single = _single(write, op.weights, places) if isinstance(op, DenseOp) else {}
    write.row(kernel.WEIGH, source, target, count=len(groups), lists=write.list_of(groups),
              values=write.values_of(op.bias), relu=op.relu, down=down, right=right, fused=fused, **single)  # fmt: skip


def _groups(write: _Writer, weights: Weights, places: Array) -> list[tuple[int, int, int, int]]:
    """Return for each group: outputs, entries, where its indices start, where its weights start."""
    inputs, outputs = weights.shape
    if weights.rows is not None and weights.starts is not None:
        start, values = write.list_of(places[weights.rows]), write.values_of(weights.values)
        ends = weights.starts[1:]
        return [(1, int(e - s), start + int(s), values + int(s)) for s, e in zip(weights.starts, ends, strict=False)]
    start, groups, output = write.list_of(places), [], 0
    while output < outputs:
        size = GROUP if output + GROUP <= outputs else 1
        values = write.values_of(weights.values[:, output : output + size])
        groups.append((size, inputs, start, values))
        output += size
    return groups


def _single(write: _Writer, weights: Weights, places: Array) -> dict[str, int]:
    """List the weights a second time for single examples: by vectors of outputs."""
    inputs, outputs = weights.shape
    vectors, most = -(-outputs // LANES), 4 * weights.values.size + 256 * LANES  # limit of the numbers listed
    # A sparse matrix never becomes dense here: its zeros take no space in a file, and may be very many.
    lists = weights if weights.form == "sparse" else Weights.from_matrix(weights.values, "sparse")
    assert lists.rows is not None and lists.starts is not None
    entries = np.zeros(vectors * LANES, np.int64)
    entries[:outputs] = np.diff(lists.starts)
    counts = entries.reshape(vectors, LANES).max(axis=1)
    total = int(counts.sum())
    if shares_inputs(total, inputs, vectors) and inputs * vectors * LANES <= most:
        matrix = np.zeros((inputs, vectors * LANES), np.float32)
        matrix[:, :outputs] = weights.matrix()
        start, values = write.list_of(places), write.values_of(matrix)
        return {"single_count": inputs, "single_lists": start, "single_values": values, "single_shared": 1}
    if total * LANES > most:
        return {}
    output = np.repeat(np.arange(outputs), entries[:outputs])
    step = np.arange(len(lists.values)) - lists.starts[output]
    at = (np.cumsum(counts) - counts)[output // LANES] + step, output % LANES
    index, numbers = np.zeros((total, LANES), np.int32), np.zeros((total, LANES), np.float32)
    index[at], numbers[at] = places[lists.rows], lists.values  # the rest of each vector has weight 0
    start = write.list_of(counts)
    write.list_of(index)
    return {"single_count": vectors, "single_lists": start, "single_values": write.values_of(numbers)}
