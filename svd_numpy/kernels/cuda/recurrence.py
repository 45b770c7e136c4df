"""The operations of recurrent networks on the device: this file only launches the kernels of `recurrent.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from svd_numpy.kernels.backend import Array, Buffers, NoiseKey
from svd_numpy.kernels.cuda import dials, elementwise, recurrent
from svd_numpy.kernels.cuda.device import U

_NO_PADDING = np.ones(1, np.uint8)


def _flat(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


def _padding(present: Array | None) -> tuple[Any, Array]:
    """What kernels take: whether there is padding, and where there is none."""
    return U(present is not None), _NO_PADDING if present is None else present


class CudaRecurrence:
    """CUDA implementation of `svd_numpy.kernels.recurrence.Recurrence`; a part of `CudaBackend`, which launches."""

    _each: Callable[..., None]
    _turn: Callable[..., None]
    _noise_of: Callable[..., tuple[Any, ...]]
    _column_sums: Callable[..., None]
    dense_backward: Callable[..., None]
    copy_columns: Callable[..., None]
    _dials: dials.Dials

    def sample_weights(  # noqa: D102
        self, theta: Array, log_sigma2: Array, keep: float, key: NoiseKey, rows: Array | None, w: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        r = memory.get("r", theta.shape, theta.dtype)
        self._turn({dials.KEEP: keep})
        # All rows are written: a thread that has nothing to do costs as much as one that has.
        self._each(recurrent.sample_weights, theta.size, U(theta.size), U(theta.shape[1]), theta, log_sigma2,
                   self._dials.table, *self._noise_of(key), w, r)  # fmt: skip

    def sample_weights_backward(self, d_w: Array, d_sigma2: Array, memory: Buffers) -> None:  # noqa: D102
        r = memory.get("r", d_w.shape, d_w.dtype)
        self._each(elementwise.multiply, d_w.size, U(d_w.size), d_w, r, d_sigma2)

    def take_rows(self, table: Array, tokens: Array, bias: Array | None, y: Array) -> None:  # noqa: D102
        self._each(recurrent.take_rows, y.size, U(y.size), U(y.shape[1]), table, tokens, U(bias is not None),
                      table if bias is None else bias, y)  # fmt: skip

    def take_rows_backward(self, tokens: Array, dy: Array, d_table: Array) -> None:  # noqa: D102
        self._each(recurrent.take_rows_backward, d_table.size, U(d_table.size), U(d_table.shape[1]), U(len(tokens)),
                      tokens, dy, d_table)  # fmt: skip

    def _steps(self, kernel: Any, y: Array, steps: range, *args: Any) -> None:
        """Launch a kernel for each step of sequences (B, T, H)."""
        sequences, total, units = y.shape
        for t in steps:
            self._each(kernel, sequences * units, U(sequences * units), U(total), U(units), U(t), *args)

    def _keep_last(self, y: Array, state: Array) -> None:
        """state = y behind the last step."""
        sequences, steps, units = y.shape
        self.copy_columns(y.reshape(sequences, -1), (steps - 1) * units, state, 0, units)

    def lstm_forward(  # noqa: D102
        self, gates: Array, w: Array, state: Array, present: Array | None, y: Array, memory: Buffers
    ) -> None:
        kept = (memory.get(name, y.shape, y.dtype) for name in ("before", "c", "tanh_c"))
        self._steps(recurrent.lstm_step, y, range(y.shape[1]), gates, w, state, *_padding(present), y, *kept)
        self._keep_last(y, state[0])

    def lstm_backward(  # noqa: D102
        self, gates: Array, w: Array, present: Array | None, dy: Array, d_w: Array, d_bias: Array, memory: Buffers
    ) -> None:
        before, c_before, tanh_c = (memory.get(name, dy.shape, dy.dtype) for name in ("before", "c", "tanh_c"))
        dh, dc = (memory.get(name, dy[:, 0].shape, dy.dtype) for name in ("dh", "dc"))
        self._steps(recurrent.lstm_step_back, dy, range(dy.shape[1])[::-1], gates, w, *_padding(present), dy, dh,
                    dc, c_before, tanh_c)  # fmt: skip
        self.dense_backward(_flat(before), w, _flat(gates), d_w, d_bias, None, memory)

    def gru_forward(  # noqa: D102
        self, gates: Array, w: Array, inner: Array, state: Array, present: Array | None, y: Array, memory: Buffers
    ) -> None:
        kept = (memory.get(name, y.shape, y.dtype) for name in ("before", "u"))
        self._steps(recurrent.gru_step, y, range(y.shape[1]), gates, w, inner, state, *_padding(present), y, *kept)
        self._keep_last(y, state[0])

    def gru_backward(  # noqa: D102
        self, gates: Array, w: Array, present: Array | None, dy: Array, d_w: Array, d_bias: Array,
        d_inner: Array, memory: Buffers,
    ) -> None:  # fmt: skip
        before, u = (memory.get(name, dy.shape, dy.dtype) for name in ("before", "u"))
        through, dq = memory.get("through", dy[:, 0].shape, dy.dtype), memory.get("dq", gates.shape, gates.dtype)
        self._steps(recurrent.gru_step_back, dy, range(dy.shape[1])[::-1], gates, w, *_padding(present), dy,
                    through, before, u, dq)  # fmt: skip
        units, inside = len(d_inner), memory.get("inside", (1, len(d_bias)), dy.dtype)
        self.dense_backward(_flat(before), w, _flat(dq), d_w, inside[0], None, memory)
        self.copy_columns(inside, 2 * units, d_inner[None], 0, units)
        self._column_sums(gates, len(d_bias), d_bias)
