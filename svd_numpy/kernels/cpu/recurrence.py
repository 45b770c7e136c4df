"""The operations of recurrent networks on the Numba backend: this file only prepares arguments for `recurrent.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from svd_numpy.kernels.backend import Array, Buffers, NoiseKey
from svd_numpy.kernels.cpu import recurrent
from svd_numpy.kernels.cpu.tiles import PANEL

_NO_MASK = np.zeros((0, 0), np.uint8)


def _packed(w: Array, memory: Buffers) -> Array:
    """Room for the packed form of w."""
    return memory.get("packed", (w.shape[0] * -(-w.shape[1] // PANEL) * PANEL,), w.dtype)


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


class NumbaRecurrence:
    """Numba implementation of `svd_numpy.kernels.recurrence.Recurrence` for float32 arrays.

    Parameters
    ----------
    run : function (kernel, *args)
        Calls a parallel kernel (`NumbaBackend._run`).
    words : function (NoiseKey) -> tuple
        The five words that noise kernels take.
    """

    def __init__(self, run: Callable[..., None], words: Callable[[NoiseKey], tuple[np.uint32, ...]]) -> None:
        self._run, self._words = run, words

    def sample_weights(  # noqa: D102
        self, theta: Array, log_sigma2: Array, keep: float, key: NoiseKey, rows: Array | None, w: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        rows = np.arange(len(theta)) if rows is None else rows
        r = memory.get("r", theta.shape, theta.dtype)
        self._run(recurrent.sample_weights, theta, log_sigma2, np.float32(keep), self._words(key), rows, w, r)

    def sample_weights_backward(self, d_w: Array, d_sigma2: Array, memory: Buffers) -> None:  # noqa: D102
        np.multiply(d_w, memory.get("r", d_w.shape, d_w.dtype), out=d_sigma2)

    def take_rows(self, table: Array, tokens: Array, bias: Array | None, y: Array) -> None:  # noqa: D102
        bias = np.zeros(table.shape[1], table.dtype) if bias is None else bias
        self._run(recurrent.take_rows, table, tokens, bias, y)

    def take_rows_backward(self, tokens: Array, dy: Array, d_table: Array) -> None:  # noqa: D102
        self._run(recurrent.take_rows_backward, tokens, dy, d_table)

    def lstm_forward(  # noqa: D102
        self, gates: Array, w: Array, state: Array, present: Array | None, y: Array, memory: Buffers
    ) -> None:
        h_before, c_before, tanh_c = (memory.get(name, y.shape, y.dtype) for name in ("before", "c", "tanh_c"))
        present = _NO_MASK if present is None else present
        self._run(recurrent.lstm_forward, gates, w, state, present, y, h_before, c_before, tanh_c, _packed(w, memory))

    def lstm_backward(  # noqa: D102
        self, gates: Array, w: Array, present: Array | None, dy: Array, d_w: Array, d_bias: Array, memory: Buffers
    ) -> None:
        h_before, c_before, tanh_c = (memory.get(name, dy.shape, dy.dtype) for name in ("before", "c", "tanh_c"))
        dh, dc, kept = (memory.get(name, dy[:, 0].shape, dy.dtype) for name in ("dh", "dc", "kept"))
        present = _NO_MASK if present is None else present
        self._run(recurrent.lstm_backward, gates, w, present, dy, dh, dc, kept, c_before, tanh_c, _packed(w.T, memory))
        self._run(recurrent.weight_gradients, _rows(h_before), _rows(gates), d_w, d_bias)

    def gru_forward(  # noqa: D102
        self, gates: Array, w: Array, inner: Array, state: Array, present: Array | None, y: Array, memory: Buffers
    ) -> None:
        h_before, u = memory.get("before", y.shape, y.dtype), memory.get("u", y.shape, y.dtype)
        q = memory.get("q", gates[:, 0].shape, y.dtype)
        present = _NO_MASK if present is None else present
        self._run(recurrent.gru_forward, gates, w, inner, state, present, y, h_before, u, q, _packed(w, memory))

    def gru_backward(  # noqa: D102
        self, gates: Array, w: Array, present: Array | None, dy: Array, d_w: Array, d_bias: Array, d_inner: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        h_before, u = memory.get("before", dy.shape, dy.dtype), memory.get("u", dy.shape, dy.dtype)
        dh, dq = memory.get("dh", dy[:, 0].shape, dy.dtype), memory.get("dq", gates.shape, gates.dtype)
        present = _NO_MASK if present is None else present
        self._run(recurrent.gru_backward, gates, w, present, dy, dh, h_before, u, dq, _packed(w.T, memory))
        inside = np.empty_like(d_bias)
        self._run(recurrent.weight_gradients, _rows(h_before), _rows(dq), d_w, inside)
        units = len(d_inner)
        d_inner[:] = inside[2 * units :]
        d_bias[:] = inside
        d_bias[2 * units :] = _rows(gates)[:, 2 * units :].sum(axis=0)
