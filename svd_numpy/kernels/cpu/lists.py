"""Layers on living weights, prepared for their kernels (`living.py`): lists of places, and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numba
import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import Array, Buffers
from svd_numpy.kernels.cpu import living as kernels
from svd_numpy.kernels.cpu.tiles import LANES
from svd_numpy.kernels.living import Living
from svd_numpy.kernels.window import Window

F = np.float32
_NOTHING, _NO_WEIGHTS = np.zeros((0, 0), F), np.zeros(0, F)
_LITTLE = 1e6  # multiplications that are done before a second thread would be awake


class Lists(NamedTuple):
    """The lists of a layer: by output for its sums and gradients, by input channel for the gradient of the inputs.

    Attributes
    ----------
    size : tuple of int
        See the names in `living.py`.
    columns, starts, places : int32 (n,), int64 (O + 1,), int32 (n,)
        Output of each weight; where the weights of each output start; input planes, relative to the first that its
        position sees.
    order, in_starts, in_places : int32 (n,), int64 (C + 1,), int32 (n,)
        Weights by input channel; where those of each channel start; output planes, relative to the first at a pixel.
    """

    size: tuple[int, ...]
    columns: NDArray[np.int32]
    starts: NDArray[np.int64]
    places: NDArray[np.int32]
    order: NDArray[np.int32]
    in_starts: NDArray[np.int64]
    in_places: NDArray[np.int32]


_KNOWN: WeakKeyDictionary[Living, Lists] = WeakKeyDictionary()


def lists_of(living: Living, window: Window | None) -> Lists:
    """Make the lists of a layer, once; the stride of its window must be 1."""
    found = _KNOWN.get(living)
    if found is None:
        _KNOWN[living] = found = _make_lists(living, window or Window(1, 1, living.shape[0], (1, 1)))
    return found


def _make_lists(living: Living, window: Window) -> Lists:
    height, width, channels = window[:3]
    (py, px), (dy, dx), (kh, kw), outputs = window.padding, window.dilation, window.kernel, living.shape[1]
    (padded_height, padded_width), (down, across) = window.padded, window.out
    # Around the outputs lie as many zeros as a kernel reaches over: then every pixel sees a whole kernel of them.
    reach_y, reach_x = dy * (kh - 1), dx * (kw - 1)
    out_height, out_width = down + 2 * reach_y, across + 2 * reach_x
    size = (
        height, width * channels, padded_width * channels, (py * padded_width + px) * channels,
        down, across, padded_width * channels, channels,
        outputs, out_width * outputs, (reach_y * out_width + reach_x) * outputs,
        channels, padded_height * padded_width * channels, out_height * out_width * outputs,
    )  # fmt: skip
    tap, channel = np.divmod(living.rows.astype(np.int64), channels)
    ky, kx = np.divmod(tap, kw)
    columns = living.columns.astype(np.int64)
    places = (ky * dy * padded_width + kx * dx) * channels + channel
    order = np.argsort(channel, kind="stable")
    back = ((reach_y - ky * dy + py) * out_width + reach_x - kx * dx + px) * outputs + columns
    bounds = np.searchsorted(columns, np.arange(outputs + 1)), np.searchsorted(channel[order], np.arange(channels + 1))
    starts, in_starts = (found.astype(np.int64) for found in bounds)
    small = (array.astype(np.int32) for array in (order, back[order]))
    return Lists(size, living.columns, starts, places.astype(np.int32), next(small), in_starts, next(small))


def forward(
    run: Callable[..., None], x: Array, theta: Array, log_sigma2: Array | None, bias: Array, keep: float, words: Any,
    relu: bool, y: Array, memory: Buffers, window: Window | None, living: Living,
) -> None:  # fmt: skip
    """Forward pass of a layer, a plain one without log_sigma2; `run` calls a kernel, `words` are those of the noise."""
    own, rows = lists_of(living, window), (len(x), y.size // len(x))
    planes, mean = _planes(memory, "planes", len(x), own.size[kernels.PLANES]), _planes(memory, "mean", *rows)
    # Without noise nothing is read or written here.
    var, r, noise, used, sigma2 = mean, _NOTHING, _NOTHING, _NO_WEIGHTS, _NO_WEIGHTS
    if log_sigma2 is not None:
        var, r = _planes(memory, "var", *rows), memory.get("r", rows, F)
        noise = memory.get("noise", (numba.get_num_threads(), -(-rows[1] // 64) * 64), F)
        used, sigma2 = (memory.get(name, theta.shape, F) for name in ("used", "sigma2"))
    if rows[1] > len(bias):
        bias = np.tile(bias, max(1, 512 // len(bias)))  # enough to fill a few vectors
    run(
        kernels.forward_alone if _is_little(theta, rows) else kernels.forward,
        own.size, (own.starts, own.places), x.reshape(len(x), -1), theta,
        _NO_WEIGHTS if log_sigma2 is None else log_sigma2, bias, F(keep), words, int(relu), planes, used, sigma2,
        mean, var, y.reshape(rows), r, noise,
    )  # fmt: skip


def backward(
    run: Callable[..., None], theta: Array, dy: Array, rectified: Array | None, d_theta: Array, d_sigma2: Array | None,
    d_bias: Array, dx: Array | None, memory: Buffers, window: Window | None, living: Living,
) -> None:  # fmt: skip
    """Backward pass of a layer, a plain one without d_sigma2."""
    own, rows = lists_of(living, window), (len(dy), dy.size // len(dy))
    slopes = _planes(memory, "slopes", len(dy), own.size[kernels.OUT_PLANES])
    slopes2, used, sigma2, r = slopes, _NO_WEIGHTS, _NO_WEIGHTS, _NOTHING
    if d_sigma2 is not None:
        slopes2 = _planes(memory, "slopes2", len(dy), own.size[kernels.OUT_PLANES])
        r, used, sigma2 = memory.get("r", rows, F), *(memory.get(name, theta.shape, F) for name in ("used", "sigma2"))
    flat_dx = _NOTHING if dx is None else dx.reshape(len(dx), -1)
    run(
        kernels.backward_alone if _is_little(theta, rows) else kernels.backward,
        own.size, own.columns, own.places, (own.order, own.in_starts, own.in_places), theta, used, sigma2,
        dy.reshape(rows), _NOTHING if rectified is None else rectified.reshape(rows), r,
        _planes(memory, "planes", len(dy), own.size[kernels.PLANES]), slopes, slopes2,
        memory.get("in_order", (2, len(theta)), F), memory.get("unit_sums", rows[1:], F), d_theta,
        _NO_WEIGHTS if d_sigma2 is None else d_sigma2, d_bias, _planes(memory, "d_planes", *flat_dx.shape), flat_dx,
    )  # fmt: skip


def _planes(memory: Buffers, name: str, batch: int, count: int) -> Array:
    """Memory for so many planes: one number of every example, in whole vectors."""
    return memory.get(name, (count, -(-batch // LANES) * LANES), F)


def _is_little(theta: Array, rows: tuple[int, int]) -> bool:
    batch, units = rows
    return batch * (len(theta) + 10 * units) < _LITTLE
