"""A stack of dense layers on lists, prepared for its kernels (`stack_kernels.py`): one table, filled once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import Array, Buffers, NoiseKey, aligned_zeros
from svd_numpy.kernels.cpu import stack_kernels as kernels
from svd_numpy.kernels.cpu.lists import lists_of
from svd_numpy.kernels.cpu.tiles import LANES
from svd_numpy.kernels.stack import Rows, StackLayer

F = np.float32
_NOTHING, _NO_NOISE = np.zeros((0, 0), F), NoiseKey(0, 0, 0)
# What takes as long as so many weights: a unit, a block of noise for four units, a tile of inputs turned into planes.
_UNIT_COST, _NOISE_COST, _TILE_COST = 4, 30, 30


class NumbaStack:
    """See `kernels.stack.Stack`. Its planes are made in the first pass, and anew for a larger batch."""

    def __init__(
        self, run: Callable[..., None], words: Callable[[NoiseKey], Any], layers: Sequence[StackLayer]
    ) -> None:
        self._run, self._words, self._layers = run, words, layers
        self._memory, self._room = Buffers(), 0
        self._kept = list[Any]()  # arrays of which the table holds only the addresses
        self._table = np.zeros((len(layers), kernels.COLUMNS), np.int64)
        self._forward_costs, self._backward_costs = np.zeros(len(layers) + 2), np.zeros(len(layers) + 1)
        for number, layer in enumerate(layers):
            self._describe(number, layer)
        rows, inputs = layers[0].living.rows, layers[0].living.shape[0]
        self._tiles = np.unique(rows // LANES).astype(np.int32)
        self._in_costs = _added_up(_UNIT_COST + np.bincount(rows, minlength=inputs))
        self._forward_costs[0] = inputs + _TILE_COST * len(self._tiles)
        self._no_mean, self._in_order = np.zeros(inputs, F), np.arange(0)
        self._forward_costs[-1] = _TILE_COST * (layers[-1].living.shape[1] // LANES + 1)
        self._backward_costs[-1] = self._in_costs[-1]

    def _describe(self, number: int, layer: StackLayer) -> None:
        """Write all columns of one layer but those of its planes."""
        (inputs, outputs), n, lists = layer.living.shape, len(layer.theta), lists_of(layer.living, None)
        units = np.bincount(layer.living.columns, minlength=outputs)
        following = self._layers[number + 1].living.rows if number + 1 < len(self._layers) else layer.living.rows[:0]
        of_unit = np.arange(outputs)
        block = of_unit // (4 * kernels.BLOCK) * kernels.BLOCK + of_unit % kernels.BLOCK
        blocks = _added_up(_NOISE_COST + np.bincount(block, units + _UNIT_COST).astype(np.int64))
        readers = _added_up(_UNIT_COST + units + np.bincount(following, minlength=outputs))
        self._forward_costs[number + 1], self._backward_costs[-2 - number] = blocks[-1], readers[-1]
        arrays = {
            kernels.THETA: layer.theta, kernels.LOG_SIGMA2: layer.log_sigma2, kernels.BIAS: layer.bias,
            kernels.D_THETA: layer.d_theta, kernels.D_SIGMA2: layer.d_sigma2, kernels.D_BIAS: layer.d_bias,
            kernels.STARTS: lists.starts, kernels.PLACES: lists.places, kernels.ORDER: lists.order,
            kernels.IN_STARTS: lists.in_starts, kernels.IN_PLACES: lists.in_places,
            **{
                column: np.zeros(n, F) for column in (kernels.USED, kernels.SIGMA2, kernels.IN_USED, kernels.IN_SIGMA2)
            },
            kernels.BLOCKS: blocks, kernels.UNITS: readers,
        }  # fmt: skip
        self._kept.append(arrays)
        numbers = {kernels.INPUTS: inputs, kernels.OUTPUTS: outputs, kernels.INDEX: layer.number}
        addresses = {column: array.ctypes.data for column, array in arrays.items()}
        for column, value in {**numbers, kernels.RELU: int(layer.relu), **addresses}.items():
            self._table[number, column] = value

    def _planes(self, rows: int) -> int:
        """Make room for the planes of a batch; return the number of their lanes."""
        lanes = -(-rows // LANES) * LANES
        if lanes > self._room:
            self._room = lanes
            x = aligned_zeros(1, self._layers[0].living.shape[0] * lanes, F)
            self._kept_planes = [x]
            for row, layer in zip(self._table, self._layers, strict=True):
                y, r, slopes = (aligned_zeros(1, layer.living.shape[1] * lanes, F) for _ in range(3))
                self._kept_planes += [y, r, slopes]
                for column, array in ((kernels.X, x), (kernels.Y, y), (kernels.R, r), (kernels.SLOPES, slopes)):
                    row[column] = array.ctypes.data
                x = y
        return lanes

    def forward(self, x: Array | Rows, keep: float, key: NoiseKey | None) -> Array:
        """See `Stack.forward`."""
        if not isinstance(x, Rows):
            if len(x) > len(self._in_order):
                self._in_order = np.arange(len(x))
            x = Rows(x, self._in_order[: len(x)], 1.0, self._no_mean)
        source, order, scale, mean = x
        batch, threads = len(order), numba.get_num_threads()
        lanes = self._planes(batch)
        self._noisy = int(key is not None)
        step, _, *others = self._words(key or _NO_NOISE)
        y = self._memory.get("y", (batch, self._layers[-1].living.shape[1]), F)
        rows = self._memory.get("rows", (threads, LANES, len(mean)), F)
        noise = self._memory.get("noise", (threads, 4, lanes), F)
        self._run(kernels.forward, self._forward_costs, self._table, self._tiles, (source, order, F(scale), mean), y,
                  lanes, self._noisy, F(keep), (step, *others), rows, noise)  # fmt: skip
        return y

    def backward(self, dy: Array, want_dx: bool) -> Array | None:
        """See `Stack.backward`."""
        lanes, dx, at = self._planes(len(dy)), _NOTHING, 0
        if want_dx:
            inputs = self._layers[0].living.shape[0]
            dx = self._memory.get("dx", (len(dy), inputs), F)
            at = self._memory.get("d_planes", (inputs, lanes), F).ctypes.data
        self._run(kernels.backward, self._backward_costs, self._table, self._in_costs, dy, at, dx, lanes, self._noisy)
        if not self._noisy:
            for layer in self._layers:
                layer.d_sigma2[:] = 0
        return dx if want_dx else None


def _added_up(costs: Array) -> NDArray[np.int64]:
    """0, the first, the first two, ... all."""
    return np.concatenate([[0], np.cumsum(costs)]).astype(np.int64)
