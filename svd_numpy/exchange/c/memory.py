"""Where each activation lies in memory, so that little of it is needed.

Images are computed row by row. A step keeps only those rows of its inputs that it needs at once; the first reads the
input itself. When a convolution needs a row, the one before it computes it. What has been read for the last time is
overwritten, the input included: rows are rectangles in memory and time, and no two of them may overlap.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from svd_numpy.exchange.c.steps import DenseStep, ImageStep, Steps

_MOST_TRIED = 5  # buffers of which all orders are tried


@dataclass(frozen=True)
class Rows:
    """Rows of an image in memory, each with its channels one after the other.

    Attributes
    ----------
    channels, width : int
        Of a row, its padding included.
    slots : int
        Rows that are kept; when one more comes, all move up.
    padding : (int, int)
        Rows above and below, columns left and right.
    height : int
        Rows of the image, without padding.
    """

    channels: int
    width: int
    slots: int
    padding: tuple[int, int]
    height: int

    @property
    def row(self) -> int:
        """Numbers per row."""
        return self.channels * self.width


@dataclass(frozen=True)
class Plan:
    """Buffers and where they begin.

    Attributes
    ----------
    rows : list of Rows
        What each image step writes, after what copies the input, if it is copied.
    starts : list of int
        Where the input begins, then each of `rows`, then the results of each dense step but the last.
    size : int
        Numbers in memory.
    """

    rows: list[Rows]
    starts: list[int]
    size: int


@dataclass
class _Part:
    """A part of a buffer, from `low` to `high`, that is needed from time `first` to time `last`."""

    low: int
    high: int
    first: int
    last: int


def plan_memory(net: Steps) -> Plan:
    """Find a place for every buffer."""
    rows = rows_of(net)
    parts = _Timeline(net, rows).parts
    tried = list(range(len(parts)))
    orders = itertools.permutations(tried) if len(tried) <= _MOST_TRIED else [tried, tried[::-1]]
    size, starts = min(_placed(parts, order) for order in orders)
    return Plan(rows, list(starts), size)


def rows_of(net: Steps) -> list[Rows]:
    """What is kept of the copied input and of each image step's results."""
    images = [step for step in net.steps if isinstance(step, ImageStep)]
    if not images:
        return []
    shapes = ([net.shape] if net.copied else []) + [step.out_shape for step in images]
    readers: list[ImageStep | None] = [*(images if net.copied else images[1:]), None]
    found = []
    for (height, width, channels), reader in zip(shapes, readers, strict=True):
        padding, slots = (reader.padding, reader.seen_rows) if reader else ((0, 0), height)
        found.append(Rows(channels, width + 2 * padding[1], slots, padding, height))
    return found


class _Timeline:
    """Run through the rows as the C code does, and note when each part of memory is used."""

    def __init__(self, net: Steps, rows: list[Rows]) -> None:
        self._net, self._rows, self._now = net, rows, 0
        self._images = [step for step in net.steps if isinstance(step, ImageStep)]
        self._pushed = [0] * len(rows)
        size = math.prod(net.in_shape)
        by_row = len(net.in_shape) == 3 and net.in_shape[0] == 1 and bool(rows)
        width = net.in_shape[2] if by_row else size
        self.parts = [[_Part(low, low + width, 0, 0) for low in range(0, size, width)]]
        self.parts += [[] for _ in rows]
        for _ in range(rows[-1].height if rows else 0):
            self._push(len(rows) - 1)
        for step in net.steps[:-1]:
            if isinstance(step, DenseStep):
                self._dense(len(step.bias))
        self._tick(self.parts[-1])

    def _tick(self, read: list[_Part]) -> None:
        self._now += 1
        for part in read:
            part.last = self._now

    def _dense(self, size: int) -> None:
        self._tick(self.parts[-1])
        self.parts.append([_Part(0, size, self._now, self._now)])

    def _push(self, number: int) -> None:
        """Compute the next row of a buffer, or fill a row of padding."""
        rows, done = self._rows[number], self._pushed[number]
        y = done - rows.padding[0]
        reads = self._reads(number, y) if 0 <= y < rows.height else []
        if reads:
            self._pull(number, reads[0])
        self._tick([])
        own = self.parts[number + 1]
        if done < rows.slots:
            own.append(_Part(done * rows.row, (done + 1) * rows.row, self._now, self._now))
        for low in reads:
            self._pull(number, low)
            self._tick(self._sources(number, low))
        self._pushed[number] = done + 1
        for part in own:
            part.last = self._now

    def _reads(self, number: int, y: int) -> list[int]:
        """The first row of the inputs of each pass that row y takes."""
        if number < self._net.copied:
            return [y]
        step = self._images[number - self._net.copied]
        passes = step.pool.kernel[0] if step.streamed else 1
        return [y * step.row_step + n * step.window.stride[0] for n in range(passes)]

    def _seen(self, number: int) -> int:
        return 1 if number < self._net.copied else self._images[number - self._net.copied].seen_rows

    def _pull(self, number: int, low: int) -> None:
        """Compute the rows that a pass reads."""
        while number and self._pushed[number - 1] < low + self._seen(number):
            self._push(number - 1)

    def _sources(self, number: int, low: int) -> list[_Part]:
        """What a pass reads that begins at row `low`."""
        if number:
            return self.parts[number]
        raw = self.parts[0]
        return raw[low : low + self._seen(0)] if len(raw) > 1 else raw


def _placed(parts: list[list[_Part]], order: tuple[int, ...] | list[int]) -> tuple[int, list[int]]:
    """Place buffers in this order, each as low as it can lie; return the size and the starts."""
    starts, done, size = [0] * len(parts), list[_Part](), 0
    for number in order:
        own = parts[number]
        start = _lowest(own, done)
        starts[number] = start
        done += [_Part(part.low + start, part.high + start, part.first, part.last) for part in own]
        size = max(size, start + max((part.high for part in own), default=0))
    return size, starts


def _lowest(own: list[_Part], done: list[_Part]) -> int:
    """Lowest start at which no part of a buffer meets another part that is needed at the same time."""
    if not own or not done:
        return 0
    mine, theirs = (np.array([[p.low, p.high, p.first, p.last] for p in group]).T[:, :, None] for group in (own, done))
    low, high, first, last = (row.T for row in theirs)
    meets = (mine[2] <= last) & (first <= mine[3])
    # Starts strictly between these are forbidden by a pair that meets in time.
    below, above = (low - mine[1])[meets], (high - mine[0])[meets]
    start = 0
    for number in np.argsort(below):
        if below[number] < start < above[number]:
            start = int(above[number])
    return start
