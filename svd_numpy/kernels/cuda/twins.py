"""Twins: every host array that an operation is given has a copy on the device, and stands for it.

Layers, arena and buffers hold NumPy arrays on every backend. Here such an array is a *handle*: the first operation that
is given a view of some memory makes a device array of the same size and copies the memory over; from then on the view
stands for the same range of that twin. Operations read and write twins alone. Host and device are brought together only
when someone says so (`Backend.to_device`, `Backend.to_host`), once or twice an epoch. So

- whatever stays the same is sent once: the data set, the tables of indices, the epoch's order of examples;
- a buffer that the host never reads costs no host memory: an untouched array of zeros has no pages;
- what the host forgot to fetch is stale in the simulator as it is on a GPU, so that tests without a GPU notice.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.cuda.device import cuda

Array = NDArray[Any]


def _root(array: Array) -> Array:
    """The array that owns the memory of a view, as far as NumPy knows it."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    flags = root.flags
    return root if root.dtype == array.dtype and (flags.c_contiguous or flags.f_contiguous) else array


class _Twin:
    """The device copy of one root, and the views of it that were asked for."""

    def __init__(self, root: Array) -> None:
        flat = root.reshape(-1, order="A")
        self.start = root.ctypes.data
        self.whole = cuda.to_device(flat)
        self.views: dict[tuple[int, int], Any] = {}

    def view(self, offset: int, size: int) -> Any:
        view = self.views.get((offset, size))
        if view is None:
            view = self.views[offset, size] = self.whole[offset : offset + size]
        return view


class Twins:
    """The twins of one backend."""

    def __init__(self) -> None:
        self._twins: dict[int, _Twin] = {}

    def _find(self, array: Array) -> tuple[_Twin, int, bool]:
        """Twin of an array's root, where in it the array begins (in entries), and whether it was made just now."""
        if not array.flags.c_contiguous:
            raise ValueError(f"an array of shape {array.shape} is not C-contiguous, expected one that is")
        root = _root(array)
        twin = self._twins.get(id(root))
        if fresh := twin is None:
            twin = self._twins[id(root)] = _Twin(root)
            forget = weakref.finalize(root, self._twins.pop, id(root), None)  # before its id can be another's
            forget.atexit = False
        return twin, (array.ctypes.data - twin.start) // array.itemsize, fresh

    def of(self, array: Array) -> Any:
        """The flat device array that an array stands for."""
        twin, offset, _ = self._find(array)
        return twin.view(offset, array.size)

    def push(self, array: Array) -> None:
        """Copy from the host to the device."""
        twin, offset, fresh = self._find(array)
        if array.size and not fresh:
            twin.view(offset, array.size).copy_to_device(array.reshape(-1))

    def pull(self, array: Array) -> None:
        """Copy from the device to the host; an array without a twin was never written there."""
        if array.size and id(_root(array)) in self._twins:
            twin, offset, _ = self._find(array)
            twin.view(offset, array.size).copy_to_host(array.reshape(-1))


class Scratch:
    """Named device arrays without a host side, for what no one but the backend reads; they grow when needed."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, str], Any] = {}

    def get(self, name: str, size: int, dtype: Any = np.float32) -> Any:
        """Return a flat array of at least `size` entries."""
        key = name, np.dtype(dtype).name
        have = self._arrays.get(key)
        if have is None or have.size < size:
            have = self._arrays[key] = cuda.device_array(2 ** math.ceil(math.log2(max(size, 16))), dtype)
        return have
