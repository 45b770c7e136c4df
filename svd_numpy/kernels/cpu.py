"""The Numba backend: float32, vectorised, parallel. Equations: `backend.py`; plain version: `reference.py`.

This file only prepares arguments; the kernels live in `cpu_layers.py` (layers and losses), `sweep.py` (the pass over
all parameters), `gemm.py` (matrix products) and `simd.py` (exp, log, noise).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from svd_numpy.kernels import cpu_layers, sweep
from svd_numpy.kernels.backend import AdamSettings, Arena, Array, Buffers, NoiseKey, aligned_zeros
from svd_numpy.kernels.gemm import MULTIPLY, PACKED
from svd_numpy.kernels.simd import noise_row
from svd_numpy.kernels.window import Window
from svd_numpy.priors import PRIORS

_F, _U = np.float32, np.uint32
_EMPTY = np.zeros((0, 0), np.float32)
# Numba's `workqueue` threading layer aborts the process on concurrent use, and the scratch memory is shared.
_LOCK = threading.Lock()


class NumbaBackend:
    """Numba implementation of `svd_numpy.kernels.backend.Backend` for float32 arrays.

    It runs on `numba.get_num_threads()` threads; results have the same bits on any number of them.
    """

    name = "numba"
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self) -> None:
        # Private memory of each thread, see `cpu_layers._scratch_parts`; the system backs only what is written.
        self._scratch = aligned_zeros(numba.config.NUMBA_NUM_THREADS, 2 * PACKED + MULTIPLY, np.float32)

    def _run(self, kernel: Callable[..., Any], *args: Any) -> None:
        """Call a parallel kernel with the number of threads first and their private memory last."""
        with _LOCK:
            kernel(numba.get_num_threads(), *args, self._scratch)

    def gather_rows(self, source: Array, index: Array, scale: float, mean: Array, out: Array) -> None:  # noqa: D102
        self._run(cpu_layers.gather_rows, source, index, _F(scale), mean, out.reshape(len(out), -1))

    def noise(self, key: NoiseKey, rows: int, units: int) -> Array:  # noqa: D102
        out = np.empty((rows, -(-units // 64) * 64), np.float32)
        step, layer, first_sample, key0, key1 = _words(key)
        for b in range(rows):
            noise_row(out[b], _U(int(first_sample) + b), step, layer, key0, key1)
        return np.ascontiguousarray(out[:, :units])

    def lrt_forward(  # noqa: D102
        self, x: Array, theta: Array, log_sigma2: Array, bias: Array, keep: float, key: NoiseKey,
        relu: bool, y: Array, memory: Buffers, window: Window | None = None,
    ) -> None:  # fmt: skip
        r = memory.get("r", y.shape, y.dtype)
        y2, r2 = memory.get("y2", y.shape, y.dtype), memory.get("r2", y.shape, y.dtype)
        self._run(cpu_layers.lrt_forward, x, theta, log_sigma2, bias, _F(keep), _words(key),
                  int(relu), y, r, y2, r2)  # fmt: skip

    def lrt_backward(  # noqa: D102
        self, x: Array, theta: Array, log_sigma2: Array, keep: float, dy: Array,
        rectified: Array | None, d_theta: Array, d_sigma2: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None,
    ) -> None:  # fmt: skip
        r = memory.get("r", dy.shape, dy.dtype)
        dx_sq = _EMPTY if dx is None else memory.get("dx_sq", dx.shape, dx.dtype)
        dx, rectified = _EMPTY if dx is None else dx, _EMPTY if rectified is None else rectified
        self._run(cpu_layers.lrt_backward, x, theta, log_sigma2, _F(keep), dy, rectified, r,
                  d_theta, d_sigma2, d_bias, dx, dx_sq)  # fmt: skip

    def dense_forward(  # noqa: D102
        self, x: Array, theta: Array, bias: Array, y: Array, memory: Buffers, window: Window | None = None
    ) -> None:
        self._run(cpu_layers.dense_forward, x, theta, bias, y)

    def dense_backward(  # noqa: D102
        self, x: Array, theta: Array, dy: Array, d_theta: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None,
    ) -> None:  # fmt: skip
        theta_t = _EMPTY if dx is None else np.ascontiguousarray(theta.T)
        self._run(cpu_layers.dense_backward, x, theta_t, dy, d_theta, d_bias, _EMPTY if dx is None else dx)

    def relu_forward(self, y: Array) -> None:  # noqa: D102
        cpu_layers.relu_forward(y.reshape(-1))

    def relu_backward(self, y: Array, dy: Array) -> None:  # noqa: D102
        cpu_layers.relu_backward(y.reshape(-1), dy.reshape(-1))

    def softmax_cross_entropy(self, logits: Array, labels: Array, d_logits: Array) -> tuple[float, int]:  # noqa: D102
        return cpu_layers.softmax_cross_entropy(logits, labels, d_logits)

    def gaussian_nll(  # noqa: D102
        self, prediction: Array, target: Array, std: float, d_prediction: Array
    ) -> tuple[float, float]:
        # A regression's outputs are few: plain NumPy is as fast as a kernel here.
        np.subtract(prediction, target, out=d_prediction)
        squared = float((d_prediction.astype(np.float64) ** 2).sum())
        d_prediction *= _F(1 / (std**2 * len(prediction)))
        return squared / (2 * std**2) + prediction.size * math.log(std * math.sqrt(2 * math.pi)), squared

    def kl(self, theta: Array, log_sigma2: Array, prior: str) -> float:  # noqa: D102
        flat, code = theta.reshape(-1), PRIORS[prior].code
        return float(sweep.kl_sum(flat, log_sigma2.reshape(-1), code, np.empty(sweep.BLOCK, np.float32)))

    def finish_gradients(self, arena: Arena, prior: str, kl_scale: float, keep: float) -> None:  # noqa: D102
        self._run(sweep.finish_gradients, arena.n_weights, arena.params, arena.grads, PRIORS[prior].code,
                  _F(kl_scale), _F(keep))  # fmt: skip

    def adam_step(  # noqa: D102
        self, arena: Arena, prior: str, kl_scale: float, keep: float, adam: AdamSettings, fixed_mask: bool
    ) -> None:
        rate = _F(adam.lr / (1 - adam.beta1**adam.step))
        correction2 = _F(1 / (1 - adam.beta2**adam.step))
        numbers = (rate, correction2, _F(adam.beta1), _F(adam.beta2), _F(adam.epsilon))
        self._run(sweep.adam_sweep, arena.segments, arena.params, arena.grads, arena.m, arena.v,
                  PRIORS[prior].code, _F(kl_scale), _F(keep), int(fixed_mask), numbers)  # fmt: skip


def _words(key: NoiseKey) -> tuple[np.uint32, ...]:
    """The five 32-bit words that the noise kernels take."""
    low, high = key.seed % 2**32, key.seed // 2**32 % 2**32
    return _U(key.step), _U(key.layer), _U(key.first_sample), _U(low), _U(high)
