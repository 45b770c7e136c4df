"""Twins: every host array that an operation is given has a copy on the device, and stands for it.

Layers, arena and buffers hold NumPy arrays on every backend. Here such an array is a *handle*: the first operation that
is given a view of some memory makes a device array of the same size and copies the memory over; from then on the view
stands for the same range of that twin. Operations read and write twins alone. Host and device are brought together only
when someone says so (`Backend.to_device`, `Backend.to_host`), once or twice an epoch. So

- whatever stays the same is sent once: the data set, the tables of indices, the epoch's order of examples;
- a buffer that the host never reads costs no host memory: an untouched array of zeros has no pages;
- what the host forgot to fetch is stale in the simulator as it is on a GPU, so that tests without a GPU notice.

**Where the memory of several runs lies.** A twin has a row for each run, one after the other, each beginning on a line
of 128 bytes, which is what a warp's 32 loads fetch at once. Kernels get all rows, from where the view begins on
(`device.py`). The network that is given to operations is the first run's; its buffers have rows for all without
knowing it. What the host must tell runs apart by (weights, moments, order of examples) is stacked: from then on the
array of run r stands for row r. Every other array is copied to all rows when it is met, and read back from the first.
Data sets and tables of addresses are common: one row, whatever the number of runs.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.cuda.device import cuda

Array = NDArray[Any]
LINE = 128  # bytes: what a warp fetches at once


def _root(array: Array) -> Array:
    """The array that owns the memory of a view, as far as NumPy knows it."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    flags = root.flags
    return root if root.dtype == array.dtype and (flags.c_contiguous or flags.f_contiguous) else array


def _begin(array: Array, root: Array) -> int:
    """Where in its root an array begins, in entries."""
    return int(array.ctypes.data - root.ctypes.data) // array.itemsize


class _Twin:
    """The device copies of one root, a row for each run, and the views of them that were asked for."""

    def __init__(self, root: Array, runs: int) -> None:
        flat = root.reshape(-1, order="A")
        entries = LINE // flat.itemsize  # of a line
        self.runs, self.stride = runs, -(-flat.size // entries) * entries
        rows = runs if runs == 1 else runs + 1  # views of several begin inside the first row and end behind the last
        self.whole = cuda.device_array(max(1, rows * self.stride), flat.dtype)
        self.views: dict[tuple[int, int], Any] = {}
        if flat.size:
            for run in range(runs):
                self.row(run, 0, flat.size).copy_to_device(flat)

    def row(self, run: int, offset: int, size: int) -> Any:
        """One run's view."""
        return self.whole[run * self.stride + offset :][:size]

    def view(self, offset: int, size: int) -> Any:
        """Every run's view, (runs, entries), where there are several as long as the distance to the next run's."""
        view = self.views.get((offset, size))
        if view is None:
            entries = size if self.runs == 1 else self.stride
            here = self.whole[offset : offset + self.runs * entries]
            view = self.views[offset, size] = here.reshape(self.runs, entries)
        return view


class _Place(NamedTuple):
    """What a root stands for: a twin, which run's row of it (None: every run's), how far its entries are shifted."""

    twin: _Twin
    run: int | None
    shift: int = 0


class Twins:
    """The twins of one backend, for so many runs side by side.

    Attributes
    ----------
    closed : bool
        While a step is recorded: nothing may be copied then, and no array may be new (`recording.py`).
    """

    closed = False

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._places: dict[int, _Place] = {}

    def _remember(self, root: Array, place: _Place) -> None:
        self._places[id(root)] = place
        forget = weakref.finalize(root, self._places.pop, id(root), None)  # before its id can be another's
        forget.atexit = False

    def _find(self, array: Array, runs: int) -> tuple[_Place, int]:
        """Place of an array's root, made where there is none, and where in the twin the array begins."""
        if not array.flags.c_contiguous:
            raise ValueError(f"an array of shape {array.shape} is not C-contiguous, expected one that is")
        root = _root(array)
        place = self._places.get(id(root))
        if place is None:
            self._require_open(f"an array of shape {array.shape} is new")
            place = _Place(_Twin(root, runs), None)
            self._remember(root, place)
        return place, _begin(array, root) + place.shift

    def _require_open(self, what: str) -> None:
        if self.closed:
            raise RuntimeError(f"{what} while a step is recorded, expected the arrays and launches of the step before")

    def of(self, array: Array, common: bool = False) -> Any:
        """The device array that an array stands for: (runs, entries), or a flat one that is `common` to all."""
        place, offset = self._find(array, 1 if common else self._runs)
        if not common and place.twin.runs < self._runs:
            raise ValueError(f"an array of shape {array.shape} was common to all runs before, expected each run's own")
        return place.twin.row(0, offset, array.size) if common else place.twin.view(offset, array.size)

    def stack(self, arrays: Sequence[Array]) -> None:
        """Let arrays[r], all of one shape, stand for run r's row of the twin of arrays[0]; copy them there."""
        roots = [_root(array) for array in arrays]
        if id(roots[0]) not in self._places:
            self._remember(roots[0], _Place(_Twin(roots[0], self._runs), 0))
        twin, begin = self._places[id(roots[0])].twin, _begin(arrays[0], roots[0])
        for run, (array, root) in enumerate(zip(arrays, roots, strict=True)):
            if id(root) not in self._places:
                self._remember(root, _Place(twin, run, begin - _begin(array, root)))
            self.push(array)

    def push(self, array: Array) -> None:
        """Copy from the host to the device: to its run's row, or to every one.

        An array without a twin is left alone: it is copied when an operation meets it.
        """
        self._require_open("an array is copied to the device")
        if array.size and id(_root(array)) in self._places:
            (twin, run, _), offset = self._find(array, self._runs)
            for row in range(twin.runs) if run is None else (run,):
                twin.row(row, offset, array.size).copy_to_device(array.reshape(-1))

    def pull(self, array: Array) -> None:
        """Copy from the device to the host, from its run's row; an array without a twin was never written there."""
        self._require_open("an array is copied to the host")
        if array.size and id(_root(array)) in self._places:
            (twin, run, _), offset = self._find(array, self._runs)
            twin.row(run or 0, offset, array.size).copy_to_host(array.reshape(-1))


class Scratch:
    """Named device arrays without a host side, for what no one but the backend reads; they grow when needed."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._arrays: dict[tuple[str, str], Any] = {}

    def get(self, name: str, size: int, dtype: Any = np.float32) -> Any:
        """Return an array (runs, at least `size` entries)."""
        key = name, np.dtype(dtype).name
        have = self._arrays.get(key)
        if have is None or have.shape[1] < size:
            entries = 2 ** math.ceil(math.log2(max(size, LINE // 4)))
            have = self._arrays[key] = cuda.device_array((self._runs, entries), dtype)
        return have
