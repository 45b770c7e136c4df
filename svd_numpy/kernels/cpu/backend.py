"""The Numba backend: float32, vectorised, parallel. Equations: `backend.py`; plain version: `reference.py`.

This file only prepares arguments. The kernels are in `layers.py` (dense layers, losses), `vocabulary.py` (losses of
many classes), `conv.py`, `conv_inputs.py`, `conv_few.py` and `conv_events.py` (convolutions), `recurrent.py` (LSTM and
GRU), `living.py` and `stack_kernels.py` (layers on lists of weights), `images.py` (pooling, batch normalisation,
dropout), `gates.py`, `mixture.py` (soft weight-sharing), `gather.py` (batches of images), `norm.py` (of all gradients)
and `sweep.py` (the pass over all parameters). They build on `gemm.py` and `tiles.py` (matrix products) and `simd.py`
(exp, log, noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from svd_numpy.kernels.backend import (
    Arena,
    Array,
    Buffers,
    NoiseKey,
    Segment,
    StepSettings,
    aligned_zeros,
)
from svd_numpy.kernels.cpu import (
    conv,
    conv_events,
    conv_few,
    conv_inputs,
    gates,
    gather,
    images,
    layers,
    lists,
    mixture,
    norm,
    sweep,
    threads,
    vocabulary,
)
from svd_numpy.kernels.cpu.gemm import MULTIPLY, PACKED
from svd_numpy.kernels.cpu.lock import KERNEL_LOCK
from svd_numpy.kernels.cpu.recurrence import NumbaRecurrence
from svd_numpy.kernels.cpu.stack import NumbaStack
from svd_numpy.kernels.cpu.tiles import PANEL
from svd_numpy.kernels.host import HostMemory
from svd_numpy.kernels.living import Living
from svd_numpy.kernels.padding import Padding
from svd_numpy.kernels.prior_fits import CODES
from svd_numpy.kernels.priors import kl_value
from svd_numpy.kernels.recurrence import Recurrence
from svd_numpy.kernels.reference import finish_segment
from svd_numpy.kernels.stack import Stack, StackLayer
from svd_numpy.kernels.window import Window

_F, _U = np.float32, np.uint32
_EMPTY, _NO_IMAGES = np.zeros((0, 0), np.float32), np.zeros((0, 0, 0, 0), np.float32)
_NO_NOISE = NoiseKey(0, 0, 0)
LARGEST = 3e38  # stands for infinity in float32 bounds
_NO_CHOICE = np.zeros((0, 0, 0, 0), np.int32)


class NumbaBackend(HostMemory):
    """Numba implementation of `svd_numpy.kernels.backend.Backend` for float32 arrays.

    It runs on up to `numba.get_num_threads()` threads; results are the same to the bit on any number of them.
    """

    name = "numba"
    knows_lists = True
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self) -> None:
        # Private memory of each thread, see `layers.scratch_parts`; only pages that are written take up memory.
        self._scratch = aligned_zeros(numba.config.NUMBA_NUM_THREADS, 2 * PACKED + MULTIPLY, np.float32)
        self._tables: dict[Sequence[Segment], tuple[Array, Array]] = {}
        self.recurrence: Recurrence | None = NumbaRecurrence(self._run, _words)

    def _run(self, kernel: Callable[..., Any], *args: Any) -> None:
        """Call a parallel kernel with the number of threads first and their private memory last."""
        with KERNEL_LOCK:  # guards the scratch memory, too
            threads.call(kernel, *args, self._scratch)

    def gather_rows(  # noqa: D102
        self, source: Array, index: Array, scale: float, mean: Array, out: Array, moves: Array | None = None
    ) -> None:
        if out.dtype.kind == "i":  # tokens
            np.take(source, index, axis=0, out=out)
            return
        flat = out.reshape(len(out), -1)
        if out.ndim < 4 or (out.shape[3] == 1 and moves is None):
            self._run(layers.gather_rows, source, index, _F(scale), mean, flat)
        else:
            moves = np.zeros((len(out), 3), np.int32) if moves is None else moves
            self._run(gather.gather_images, source, index, _F(scale), mean, moves, out.shape[1:], flat)

    def noise(self, key: NoiseKey, rows: int, units: int) -> Array:  # noqa: D102
        out = np.empty((rows, -(-units // 64) * 64), np.float32)
        self._run(gates.noise_rows, _words(key), out)
        return np.ascontiguousarray(out[:, :units])

    def lrt_forward(  # noqa: D102
        self, x: Array, theta: Array, log_sigma2: Array, bias: Array, keep: float, key: NoiseKey,
        relu: bool, y: Array, memory: Buffers, window: Window | None = None,
        living: Living | None = None,
    ) -> None:  # fmt: skip
        if living is not None:
            lists.forward(self._run, x, theta, log_sigma2, bias, keep, _words(key), relu, y, memory, window, living)
            return
        if window is not None:
            self._convolve(x, theta, log_sigma2, bias, keep, key, relu, y, memory, window)
            return
        r = memory.get("r", y.shape, y.dtype)
        y2, r2 = memory.get("y2", y.shape, y.dtype), memory.get("r2", y.shape, y.dtype)
        self._run(layers.lrt_forward, x, theta, log_sigma2, bias, _F(keep), _words(key),
                  int(relu), y, r, y2, r2)  # fmt: skip

    def lrt_backward(  # noqa: D102
        self, x: Array, theta: Array, log_sigma2: Array, keep: float, dy: Array,
        rectified: Array | None, d_theta: Array, d_sigma2: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        if window is not None:
            self._convolve_back(
                x, theta, log_sigma2, keep, dy, rectified, d_theta, d_sigma2, d_bias, dx, memory, window, living
            )
            return
        if living is not None:
            lists.backward(self._run, theta, dy, rectified, d_theta, d_sigma2, d_bias, dx, memory, window, living)
            return
        r = memory.get("r", dy.shape, dy.dtype)
        dx_sq = _EMPTY if dx is None else memory.get("dx_sq", dx.shape, dx.dtype)
        dx, rectified = _EMPTY if dx is None else dx, _EMPTY if rectified is None else rectified
        self._run(layers.lrt_backward, x, theta, log_sigma2, _F(keep), dy, rectified, r,
                  d_theta, d_sigma2, d_bias, dx, dx_sq)  # fmt: skip

    def dense_forward(  # noqa: D102
        self, x: Array, theta: Array, bias: Array, y: Array, memory: Buffers, window: Window | None = None,
        living: Living | None = None,
    ) -> None:  # fmt: skip
        if living is not None:
            lists.forward(self._run, x, theta, None, bias, 0.0, _words(_NO_NOISE), False, y, memory, window, living)
            return
        if window is not None:
            self._convolve(x, theta, _EMPTY, bias, 0.0, _NO_NOISE, False, y, memory, window)
            return
        self._run(layers.dense_forward, x, theta, bias, y)

    def dense_backward(  # noqa: D102
        self, x: Array, theta: Array, dy: Array, d_theta: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        if window is not None:
            self._convolve_back(x, theta, _EMPTY, 0.0, dy, None, d_theta, _EMPTY, d_bias, dx, memory, window, living)
            return
        if living is not None:
            lists.backward(self._run, theta, dy, None, d_theta, None, d_bias, dx, memory, window, living)
            return
        theta_t = _EMPTY if dx is None else np.ascontiguousarray(theta.T)
        self._run(layers.dense_backward, x, theta_t, dy, d_theta, d_bias, _EMPTY if dx is None else dx)

    def _convolve(
        self, x: Array, theta: Array, log_sigma2: Array, bias: Array, keep: float, key: NoiseKey, relu: bool,
        y: Array, memory: Buffers, window: Window,
    ) -> None:  # fmt: skip
        """Forward pass of a convolution, a plain one if log_sigma2 is empty."""
        rows, variational = (len(x), y.size // len(x)), log_sigma2.size > 0
        r, noise = _EMPTY, _EMPTY
        if variational:
            r = memory.get("r", rows, x.dtype)
            noise = memory.get("noise", (numba.get_num_threads(), -(-rows[1] // 64) * 64), x.dtype)
        padded, squares = self._images(x, variational, memory, window)
        self._run(conv.conv_forward, x, theta, log_sigma2, np.tile(bias, max(1, 512 // len(bias))), _F(keep),
                  _words(key), int(relu), conv.tables(window), window.padding, _by_columns(x, theta, len(bias)),
                  padded, squares, y.reshape(rows), r, noise)  # fmt: skip

    @staticmethod
    def _images(x: Array, squares: bool, memory: Buffers, window: Window) -> tuple[Array, Array]:
        """Buffers for the padded images and their squares, which forward keeps for backward."""
        padded = conv.padded_room(x, "padded", memory, window)
        return padded, memory.get("squares", padded.shape, x.dtype) if squares else _EMPTY

    def _convolve_back(
        self, x: Array, theta: Array, log_sigma2: Array, keep: float, dy: Array, rectified: Array | None,
        d_theta: Array, d_sigma2: Array, d_bias: Array, dx: Array | None, memory: Buffers, window: Window,
        living: Living | None,
    ) -> None:  # fmt: skip
        """Backward pass of a convolution, a plain one if log_sigma2 is empty."""
        rows, variational = (len(x), dy.size // len(dy)), log_sigma2.size > 0
        dy, counts = dy.reshape(rows), memory.get("counts", (len(x),), np.int64)
        self._run(conv_few.rectify, dy, _EMPTY if rectified is None else rectified.reshape(rows), counts)
        few = conv_few.is_few(int(counts.sum()), dy.size)
        if living is not None:
            if few:
                conv_events.backward(self._run, x, theta, dy, d_theta, d_sigma2, d_bias, dx, memory, window, living)
                return
            of_variance = d_sigma2 if variational else None
            lists.backward(self._run, theta, dy, None, d_theta, of_variance, d_bias, dx, memory, window, living)
            return
        if few and conv_few.sizes(window, len(x)).slices > 1:
            conv_few.backward(self._run, x, theta, log_sigma2, keep, dy, d_theta, d_sigma2, d_bias, dx, memory, window)
            return
        padded, squares = self._images(x, variational, memory, window)
        r = memory.get("r", rows, x.dtype) if variational else _EMPTY
        # With more positions than rows of weights, threads split the batch into halves; otherwise only those rows.
        halved = dy.size // theta.shape[1] > len(theta)
        self._run(conv.conv_backward, dy, r, conv.tables(window), padded, squares, d_theta, d_sigma2, d_bias,
                  memory.get("second", theta.shape, x.dtype) if halved else _EMPTY,
                  memory.get("second_sq", theta.shape, x.dtype) if halved and variational else _EMPTY,
                  memory.get("bias_sums", (2, rows[1]), x.dtype))  # fmt: skip
        if dx is not None:
            self._input_gradient(x, theta, log_sigma2, keep, dy, r, dx, memory, window)

    def _input_gradient(
        self, x: Array, theta: Array, log_sigma2: Array, keep: float, dy: Array, d_var: Array, dx: Array,
        memory: Buffers, window: Window,
    ) -> None:  # fmt: skip
        rows, variational = (len(x), dy.size // len(dy)), log_sigma2.size > 0
        mirror = conv_inputs.mirrored(window, theta.shape[1])
        if mirror is None:
            shape = len(x), math.prod(window.padded) * window.channels
            self._run(conv_inputs.scattered, x, theta, log_sigma2, _F(keep), dy.reshape(rows), d_var,
                      conv.tables(window), window.padding, memory.get("sums", shape, x.dtype),
                      memory.get("sums_sq", shape, x.dtype) if variational else _EMPTY,
                      memory.get("pieces", (numba.get_num_threads(), conv_inputs.PIECES), x.dtype), dx)  # fmt: skip
            return
        size = len(x), *window.out, theta.shape[1]
        dy, d_var = dy.reshape(size), d_var.reshape(size) if variational else _NO_IMAGES
        padded = conv.padded_room(dy, "sums", memory, mirror)
        padded_var = conv.padded_room(d_var, "sums_sq", memory, mirror) if variational else _EMPTY
        dx_sq = memory.get("dx_sq", dx.shape, x.dtype) if variational else _NO_IMAGES
        self._run(conv_inputs.gathered, x, theta, log_sigma2, _F(keep), dy, d_var,
                  conv_inputs.mirrored_tables(mirror), mirror.padding, _by_columns(x, theta, window.channels),
                  padded, padded_var, dx, dx_sq)  # fmt: skip

    def make_stack(self, layers: Sequence[StackLayer]) -> Stack:  # noqa: D102
        return NumbaStack(self._run, _words, layers)

    def relu_forward(self, y: Array) -> None:  # noqa: D102
        layers.relu_forward(y.reshape(-1))

    def relu_backward(self, y: Array, dy: Array) -> None:  # noqa: D102
        layers.relu_backward(y.reshape(-1), dy.reshape(-1))

    def softmax_cross_entropy(self, logits: Array, labels: Array, d_logits: Array) -> tuple[float, float]:  # noqa: D102
        if logits.shape[1] < vocabulary.MANY:
            return layers.softmax_cross_entropy(logits, labels, d_logits)
        nll, wrong = np.empty(len(logits)), np.empty(len(logits))
        self._run(vocabulary.softmax_cross_entropy, logits, labels, d_logits, nll, wrong)
        return float(nll.sum()), float(wrong.sum())

    def clip_gradients(self, arena: Arena, most: float) -> None:  # noqa: D102
        total, nothing = 0.0, arena.params[:0]
        for segment in arena.segments:
            total += norm.sum_of_squares(arena.grads[segment.start : segment.stop], nothing)
            if segment.prior:
                behind = slice(segment.log_sigma2, segment.log_sigma2 + segment.stop - segment.start)
                total += norm.sum_of_squares(arena.grads[behind], arena.params[behind])
        if total > most**2:
            arena.grads *= _F(most / math.sqrt(total))

    def gaussian_nll(  # noqa: D102
        self, prediction: Array, target: Array, std: float, d_prediction: Array
    ) -> tuple[float, float]:
        # A regression has few outputs: plain NumPy is as fast as a kernel here.
        np.subtract(prediction, target, out=d_prediction)
        squared = float((d_prediction.astype(np.float64) ** 2).sum())
        d_prediction *= _F(1 / (std**2 * len(prediction)))
        return squared / (2 * std**2) + prediction.size * math.log(std * math.sqrt(2 * math.pi)), squared

    def kl(self, theta: Array, log_sigma2: Array, prior: str) -> float:  # noqa: D102
        if prior not in CODES:
            return float(kl_value(theta, log_sigma2, prior).sum(dtype=np.float64))
        scratch = np.empty(sweep.BLOCK, np.float32)
        return float(sweep.kl_sum(theta.reshape(-1), log_sigma2.reshape(-1), CODES[prior], scratch))

    def _table(self, arena: Arena) -> tuple[Array, Array]:
        """Return the arena's segments in the form that the sweep reads.

        If the sweep does not know the prior, `_finish_others` completes the gradients first, and the sweep treats means
        and log variances as numbers without a posterior.
        """
        found = self._tables.get(arena.segments)
        if found is None:
            rows, limits = list[tuple[int, ...]](), list[tuple[float, ...]]()
            for _, start, stop, log_sigma2, prior, low, high, factor in arena.segments:
                if prior in CODES:
                    rows.append((start, stop, log_sigma2, CODES[prior]))
                elif prior:
                    rows += [(start, stop, -1, 0), (log_sigma2, log_sigma2 + stop - start, -1, 0)]
                    limits.append((-LARGEST, LARGEST, factor))
                else:
                    rows.append((start, stop, -1, 0))
                limits.append((max(low, -LARGEST), min(high, LARGEST), factor))
            found = self._tables[arena.segments] = np.array(rows, np.int64), np.array(limits, np.float32)
        return found

    @staticmethod
    def _finish_others(arena: Arena, kl_scale: float, keep: float) -> None:
        """Complete the gradients of weights whose prior the sweep does not know."""
        for segment in arena.segments:
            if segment.prior and segment.prior not in CODES:
                finish_segment(arena, segment, kl_scale, keep)

    def finish_gradients(self, arena: Arena, kl_scale: float, keep: float) -> None:  # noqa: D102
        self._finish_others(arena, kl_scale, keep)
        self._run(sweep.finish_gradients, self._table(arena)[0], arena.params, arena.grads, _F(kl_scale), _F(keep))

    def adam_step(self, arena: Arena, settings: StepSettings, held: bool) -> None:  # noqa: D102
        kl_scale, keep, adam = settings
        self._finish_others(arena, kl_scale, keep)
        rate = _F(adam.lr / (1 - adam.beta1**adam.step))
        correction2 = _F(1 / (1 - adam.beta2**adam.step))
        numbers = (rate, correction2, _F(adam.beta1), _F(adam.beta2), _F(adam.epsilon))
        self._run(sweep.adam_sweep, *self._table(arena), arena.params, arena.grads, arena.m, arena.v, arena.mask,
                  _F(kl_scale), _F(keep), int(held), numbers)  # fmt: skip

    def max_pool_forward(self, x: Array, window: Window, y: Array, chosen: Array) -> None:  # noqa: D102
        self._run(images.pool_max, x, *images.tables(window)[0], y, chosen)

    def max_pool_backward(self, dy: Array, chosen: Array, window: Window, dx: Array) -> None:  # noqa: D102
        self._run(images.pool_sum, dy, chosen, _F(1), *images.tables(window)[1], dx)

    def avg_pool_forward(self, x: Array, window: Window, y: Array) -> None:  # noqa: D102
        scale = _F(1 / (window.kernel[0] * window.kernel[1]))
        self._run(images.pool_sum, x, _NO_CHOICE, scale, *images.tables(window)[0], y)

    def avg_pool_backward(self, dy: Array, window: Window, dx: Array) -> None:  # noqa: D102
        scale = _F(1 / (window.kernel[0] * window.kernel[1]))
        self._run(images.pool_sum, dy, _NO_CHOICE, scale, *images.tables(window)[1], dx)

    def pad_forward(self, x: Array, padding: Padding, y: Array) -> None:  # noqa: D102
        self._run(images.pool_sum, x, _NO_CHOICE, _F(1), *images.padding_tables(padding, x.shape[3])[0], y)

    def pad_backward(self, dy: Array, padding: Padding, dx: Array) -> None:  # noqa: D102
        self._run(images.pool_sum, dy, _NO_CHOICE, _F(1), *images.padding_tables(padding, dx.shape[3])[1], dx)

    def _channel_sums(self, x: Array, dy: Array, mean: Array, memory: Buffers) -> Array:
        """Two sums over each channel, array (2, C) in float64: see `images.channel_sums`."""
        channels, totals = x.shape[-1], memory.get("totals", (2, x.shape[-1]), np.float64)
        sums = memory.get("sums", (images.CHUNKS, 2, images.tile(channels)), np.float64)
        self._run(images.channel_sums, x.reshape(-1), dy.reshape(-1), images.tiled(mean), sums, totals)
        return totals

    def batch_moments(self, x: Array, mean: Array, var: Array, memory: Buffers) -> None:  # noqa: D102
        total, squares = self._channel_sums(x, _EMPTY, mean, memory) / (x.size // len(mean))
        mean[:] = total
        var[:] = np.maximum(squares - total * total, 0)

    def batch_norm_forward(  # noqa: D102
        self, x: Array, mean: Array, var: Array, epsilon: float, gamma: Array, beta: Array, y: Array
    ) -> None:
        rows = (images.tiled(v, _F) for v in (mean, gamma / np.sqrt(var + epsilon), beta))
        self._run(images.normalise, x.reshape(-1), *rows, y.reshape(-1))

    def batch_norm_backward(  # noqa: D102
        self, x: Array, mean: Array, var: Array, epsilon: float, gamma: Array, of_batch: bool, dy: Array,
        d_gamma: Array, d_beta: Array, dx: Array | None, memory: Buffers,
    ) -> None:  # fmt: skip
        std = np.sqrt(var + epsilon)
        d_beta[:], d_gamma[:] = sum_dy, sum_dy_n = self._channel_sums(x, dy, mean, memory) / [np.ones_like(std), std]
        if dx is not None:
            slope = gamma / std  # dx = slope * dy + pull * (x - mean) + shift
            share = slope / (x.size // len(mean)) if of_batch else np.zeros_like(std)
            rows = (images.tiled(v, _F) for v in (mean, slope, -share * sum_dy_n / std, -share * sum_dy))
            self._run(images.normalise_backward, dy.reshape(-1), x.reshape(-1), *rows, dx.reshape(-1))

    def dropout_factors(self, key: NoiseKey, p: float, out: Array) -> None:  # noqa: D102
        least = np.int32(math.ceil(p * 2**24))
        self._run(images.dropout_factors, _words(key), least, _F(1 / (1 - p)), out)

    def gaussian_factors(self, key: NoiseKey, std: float, out: Array) -> None:  # noqa: D102
        self._run(images.gaussian_factors, _words(key), _F(std), out)

    def multiply(self, x: Array, factors: Array, y: Array) -> None:  # noqa: D102
        self._run(images.multiply, x.reshape(-1), factors.reshape(-1), y.reshape(-1))

    def weight_pulls(  # noqa: D102
        self, theta: Array, d_theta: Array, log_sigma2: Array | None, d_sigma2: Array | None, out: Array
    ) -> None:
        noisy = log_sigma2 is not None
        variance = (log_sigma2, d_sigma2) if noisy else (theta, d_theta)
        self._run(gates.weight_pulls, theta, d_theta, *variance, noisy, out)

    def gate_forward(self, x: Array, z: Array, y: Array) -> None:  # noqa: D102
        self._run(gates.gate_forward, x.reshape(len(x), -1), z, y.reshape(len(x), -1))

    def gate_backward(self, x: Array, z: Array, dy: Array, d_z: Array, dx: Array) -> None:  # noqa: D102
        x, dy, dx = (array.reshape(len(x), -1) for array in (x, dy, dx))
        self._run(gates.gate_backward, x, z, dy, d_z, dx)

    def mixture_pulls(  # noqa: D102
        self, theta: Array, means: Array, precisions: Array, heights: Array, scale: float, d_theta: Array
    ) -> Array:
        sums = np.zeros((mixture.SLICES, 3, len(means)))
        rows = (row.astype(np.float32) for row in (means, precisions, heights))
        self._run(mixture.mixture_pulls, theta, *rows, _F(scale), d_theta, sums)
        total: Array = sums.sum(axis=0)
        return total


def _by_columns(x: Array, theta: Array, columns: int) -> bool:
    """Whether threads split a product with im2col rows by columns, so that each packs only its own weights."""
    return theta.size >= x.size and columns >= numba.get_num_threads() * PANEL


def _words(key: NoiseKey) -> tuple[np.uint32, ...]:
    """The five 32-bit words that the noise kernels take."""
    low, high = key.seed % 2**32, key.seed // 2**32 % 2**32
    return _U(key.step), _U(key.layer), _U(key.first_sample), _U(low), _U(high)
