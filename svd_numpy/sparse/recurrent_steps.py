"""One layer of a `RecurrentModel`: it reads a token or the outputs of the layer before, and keeps its state."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.kernels.backend import Array, Buffers
from svd_numpy.kernels.recurrence import Recurrence
from svd_numpy.kernels.reference_recurrence import ReferenceRecurrence

_STATES = {"lstm": 2, "gru": 1}
_WORK = {"lstm": 4, "gru": 6}  # numbers of scratch per unit
_NO_INPUT = np.zeros(0, np.float32)


class PlainLayer:
    """In NumPy, with the live part of the weights as matrices.

    Parameters
    ----------
    op : Op
        See `sparse.recurrent`.
    """

    def __init__(self, op: Any) -> None:
        self._op = op
        width = len(op.bias) - (op.units if op.kind == "gru" else 0)
        self._inputs = op.inputs.matrix(width)
        self._recurrent = op.recurrent.matrix(width)
        self._ops: Recurrence = ReferenceRecurrence()
        self.reset()

    def reset(self) -> None:
        """Go back to the state in which a sequence begins."""
        op = self._op
        self._y = np.zeros(op.units, np.float32)
        self._state = np.zeros((_STATES.get(op.kind, 0), 1, op.units), np.float32)

    def __call__(self, x: int | Array | None) -> Array:
        """Outputs of the next step (O,); None is a step of padding, which changes nothing."""
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


class FastLayer:
    """The same with Numba, on lists of weights."""

    def __init__(self, op: Any) -> None:
        from svd_numpy.kernels.cpu import recurrent_step

        self._relu, self._recurrent = op.relu, op.kind in _STATES
        kernels = {"lstm": recurrent_step.lstm_step, "gru": recurrent_step.gru_step}
        self._kernel = kernels.get(op.kind, recurrent_step.dense_step)
        lists = [op.inputs, op.recurrent] if self._recurrent else [op.inputs]
        self._weights = [array for rows in lists for array in (rows.starts, rows.columns, rows.values)]
        self._bias = op.bias
        self._state = np.zeros((_STATES.get(op.kind, 1), op.units), np.float32)
        self._work = np.zeros(_WORK.get(op.kind, 0) * op.units, np.float32)

    def reset(self) -> None:
        """See `PlainLayer.reset`."""
        self._state[:] = 0

    def __call__(self, x: int | Array | None) -> Array:
        """See `PlainLayer`."""
        y = self._state[0]
        if x is None:
            return y
        token, row = (x, _NO_INPUT) if isinstance(x, int) else (-1, x)
        if self._recurrent:
            self._kernel(*self._weights, self._bias, token, row, self._state, self._work)
        else:
            self._kernel(*self._weights, self._bias, self._relu, token, row, y)
        return y
