"""How a `RecurrentModel` reads a token and keeps its state: in NumPy, or in one call of a Numba kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from svd_numpy.kernels.backend import Array, Buffers, aligned_zeros
from svd_numpy.kernels.recurrence import Recurrence
from svd_numpy.kernels.reference_recurrence import ReferenceRecurrence

_STATES = {"lstm": 2, "gru": 1}
_LIST_COST = 8  # a weight of a list takes as long as this many of a matrix, zeros included


class PlainSteps:
    """In NumPy, with the live part of the weights as matrices.

    Parameters
    ----------
    ops : sequence of Op
        See `sparse.recurrent`.
    """

    def __init__(self, ops: Sequence[Any]) -> None:
        self._layers = [_PlainLayer(op) for op in ops]

    def reset(self) -> None:
        """Go back to the state in which a sequence begins."""
        for layer in self._layers:
            layer.reset()

    def __call__(self, token: int | None) -> Array:
        """Outputs (O,) of the next step, a new array; None is a step of padding, which changes nothing."""
        x: Any = token
        for layer in self._layers:
            y = layer(x)
            x = None if x is None else y
        return y.copy()


class _PlainLayer:
    """One layer: it reads a token or the outputs of the layer before."""

    def __init__(self, op: Any) -> None:
        self._op = op
        width = len(op.bias) - (op.units if op.kind == "gru" else 0)
        self._inputs = op.inputs.matrix(width)
        self._recurrent = op.recurrent.matrix(width)
        self._ops: Recurrence = ReferenceRecurrence()
        self.reset()

    def reset(self) -> None:
        op = self._op
        self._y = np.zeros(op.units, np.float32)
        self._state = np.zeros((_STATES.get(op.kind, 0), 1, op.units), np.float32)

    def __call__(self, x: int | Array | None) -> Array:
        op = self._op
        if x is None:
            return self._y
        given = self._inputs[x] if isinstance(x, int) else x @ self._inputs
        if op.kind not in _STATES:
            self._y = np.maximum(given + op.bias, 0) if op.relu else given + op.bias
            return self._y
        y, memory, width = np.empty((1, 1, op.units), np.float32), Buffers(), self._inputs.shape[1]
        gates = (given + op.bias[:width]).reshape(1, 1, -1)
        if op.kind == "lstm":
            self._ops.lstm_forward(gates, self._recurrent, self._state, None, y, memory)
        else:
            self._ops.gru_forward(gates, self._recurrent, op.bias[width:], self._state, None, y, memory)
        self._y = y[0, 0]
        return self._y


class FastSteps:
    """The same with Numba. Each matrix is a list of its weights, or has its zeros, too, whichever is faster."""

    def __init__(self, ops: Sequence[Any]) -> None:
        from svd_numpy.kernels.cpu import recurrent_step as cpu

        self._step, kinds = cpu.step, {"lstm": cpu.LSTM, "gru": cpu.GRU}
        self._table = np.zeros((len(ops), cpu.COLUMNS), np.int64)
        places, numbers, state = _Pool(np.uint32), _Pool(np.float32), _Pool(np.float32)
        for row, op in zip(self._table, ops, strict=True):
            width = len(op.bias) - (op.units if op.kind == "gru" else 0)
            row[cpu.KIND], row[cpu.UNITS] = kinds.get(op.kind, cpu.RELU if op.relu else cpu.LINEAR), op.units
            row[cpu.BIAS], row[cpu.STATE] = (
                numbers.add(op.bias),
                state.add(np.zeros(_STATES.get(op.kind, 1) * op.units)),
            )
            row[cpu.INPUTS : cpu.RECURRENT] = _put(op.inputs, width, places, numbers)
            row[cpu.RECURRENT :] = _put(op.recurrent, width, places, numbers)
        self._places, self._numbers, self._state = places.array(), numbers.array(), state.array()
        self._work = aligned_zeros(1, 6 * max(op.units for op in ops), np.float32)[0]
        self._outputs = self._state[row[cpu.STATE] :][: row[cpu.UNITS]]

    def reset(self) -> None:
        """See `PlainSteps.reset`."""
        self._state[:] = 0

    def __call__(self, token: int | None) -> Array:
        """See `PlainSteps`."""
        if token is not None:
            self._step(self._table, self._places, self._numbers, token, self._state, self._work)
        return self._outputs.copy()


class _Pool:
    """Several arrays in one, each on cache lines of its own."""

    def __init__(self, dtype: Any) -> None:
        self._dtype, self._parts, self._size = dtype, list[tuple[int, Array]](), 0

    def add(self, array: Array) -> int:
        """Take an array; return where it begins."""
        at = self._size
        self._parts.append((at, array))
        self._size += -(-array.size // 16) * 16
        return at

    def array(self) -> Array:
        """All of them."""
        found = aligned_zeros(1, self._size, self._dtype)[0]
        for at, array in self._parts:
            found[at : at + array.size] = array.reshape(-1)
        return found


def _put(rows: Any, width: int, places: _Pool, numbers: _Pool) -> tuple[int, int, int]:
    """Add a sparse matrix; return what the table says of it."""
    count = len(rows.starts) - 1
    if _LIST_COST * len(rows.values) > count * width:
        return count, -1, numbers.add(rows.matrix(width))
    return count, places.add(np.concatenate([rows.starts, rows.columns])), numbers.add(rows.values)
