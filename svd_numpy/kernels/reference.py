"""The contract in plain NumPy: any float dtype, one line per equation. Every other backend is tested against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from svd_numpy.kernels.backend import Arena, Array, Buffers, NoiseKey, Segment, StepSettings
from svd_numpy.kernels.host import HostMemory
from svd_numpy.kernels.layer_by_layer import LayerByLayer
from svd_numpy.kernels.living import Living, listed, spread
from svd_numpy.kernels.padding import Padding, sources
from svd_numpy.kernels.philox import gaussian, philox4x32
from svd_numpy.kernels.priors import kl_grad, kl_value
from svd_numpy.kernels.recurrence import Recurrence
from svd_numpy.kernels.reference_recurrence import ReferenceRecurrence
from svd_numpy.kernels.stack import Stack, StackLayer
from svd_numpy.kernels.window import Window, channels_last, col2im, im2col

TINY_VAR = 1e-30


def parts(segment: Segment, flat: Array) -> tuple[Array, Array]:
    """Views of a segment's means and log variances in one of the arena's buffers."""
    size = segment.stop - segment.start
    return flat[segment.start : segment.stop], flat[segment.log_sigma2 : segment.log_sigma2 + size]


def finish_segment(arena: Arena, segment: Segment, kl_scale: float, keep: float) -> None:
    """Apply `Backend.finish_gradients` to one segment with a posterior."""
    (theta, log_sigma2), (d_theta, d_sigma2) = parts(segment, arena.params), parts(segment, arena.grads)
    kl_theta, kl_log_sigma2 = kl_grad(theta, log_sigma2, segment.prior)
    sigma2 = np.exp(log_sigma2)
    d_theta[:] = np.where(theta**2 >= keep * sigma2, d_theta, 0) + kl_scale * kl_theta
    d_sigma2[:] = sigma2 * d_sigma2 + kl_scale * kl_log_sigma2


class ReferenceBackend(HostMemory):
    """NumPy implementation of `svd_numpy.kernels.backend.Backend`, where the equations are documented."""

    name = "numpy"
    knows_lists = True

    def __init__(self, dtype: Any = np.float64) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.recurrence: Recurrence | None = ReferenceRecurrence()

    def gather_rows(  # noqa: D102
        self, source: Array, index: Array, scale: float, mean: Array, out: Array, moves: Array | None = None
    ) -> None:
        if out.dtype.kind == "i":  # tokens
            out[:] = source[index]
            return
        rows = source[index].astype(self.dtype) * self.dtype.type(scale) - mean
        images = out.ndim == 4
        out[:] = channels_last(rows, (out.shape[3], *out.shape[1:3])) if images else rows.reshape(out.shape)
        if moves is not None:
            height, width = out.shape[1:3]
            columns = np.where(moves[:, 2:] == 1, np.arange(width)[::-1], np.arange(width))  # (B, W)
            y, x = (np.arange(height) - moves[:, :1])[:, :, None], (columns - moves[:, 1:2])[:, None, :]
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            seen = out[np.arange(len(out))[:, None, None], y.clip(0, height - 1), x.clip(0, width - 1)]
            out[:] = np.where(inside[..., None], seen, 0)

    def noise(self, key: NoiseKey, rows: int, units: int) -> Array:  # noqa: D102
        return gaussian(key, rows, units, self.dtype)

    def lrt_forward(  # noqa: D102
        self, x: Array, theta: Array, log_sigma2: Array, bias: Array, keep: float, key: NoiseKey,
        relu: bool, y: Array, memory: Buffers, window: Window | None = None,
        living: Living | None = None,
    ) -> None:  # fmt: skip
        rows, examples = im2col(x, window), len(x)
        sigma2 = np.exp(log_sigma2)
        theta, sigma2 = spread(living, np.where(theta**2 >= keep * sigma2, theta, 0)), spread(living, sigma2)
        mean = rows @ theta + bias  # (B, O), or (B * P, O)
        var = (rows * rows) @ sigma2
        noise = self.noise(key, examples, mean.size // examples).reshape(mean.shape)
        std = np.sqrt(var)
        y[:] = (mean + std * noise).reshape(y.shape)
        r = memory.get("r", mean.shape, y.dtype)
        r[:] = np.where(var > TINY_VAR, 0.5 * noise / np.where(var > TINY_VAR, std, 1), 0)
        if relu:
            self.relu_forward(y)

    def lrt_backward(  # noqa: D102
        self, x: Array, theta: Array, log_sigma2: Array, keep: float, dy: Array,
        rectified: Array | None, d_theta: Array, d_sigma2: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        if rectified is not None:
            self.relu_backward(rectified, dy)
        rows, dy = im2col(x, window), dy.reshape(-1, len(d_bias))
        d_var = dy * memory.get("r", dy.shape, dy.dtype)  # (B, O), or (B * P, O)
        d_bias[:] = dy.sum(axis=0)
        d_theta[:] = listed(living, rows.T @ dy)
        d_sigma2[:] = listed(living, (rows * rows).T @ d_var)
        if dx is not None:
            sigma2 = np.exp(log_sigma2)
            theta, sigma2 = spread(living, np.where(theta**2 >= keep * sigma2, theta, 0)), spread(living, sigma2)
            d_rows = dy @ theta.T + 2 * rows * (d_var @ sigma2.T)
            dx[:] = col2im(d_rows, window)

    def dense_forward(  # noqa: D102
        self, x: Array, theta: Array, bias: Array, y: Array, memory: Buffers, window: Window | None = None,
        living: Living | None = None,
    ) -> None:  # fmt: skip
        y[:] = (im2col(x, window) @ spread(living, theta) + bias).reshape(y.shape)

    def dense_backward(  # noqa: D102
        self, x: Array, theta: Array, dy: Array, d_theta: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        rows, dy = im2col(x, window), dy.reshape(-1, len(d_bias))
        d_theta[:] = listed(living, rows.T @ dy)
        d_bias[:] = dy.sum(axis=0)
        if dx is not None:
            dx[:] = col2im(dy @ spread(living, theta).T, window)

    def make_stack(self, layers: Sequence[StackLayer]) -> Stack:  # noqa: D102
        return LayerByLayer(self, layers)

    def relu_forward(self, y: Array) -> None:  # noqa: D102
        np.maximum(y, 0, out=y)

    def relu_backward(self, y: Array, dy: Array) -> None:  # noqa: D102
        dy *= y > 0

    def softmax_cross_entropy(self, logits: Array, labels: Array, d_logits: Array) -> tuple[float, float]:  # noqa: D102
        rows = np.arange(len(logits))
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        nll = (log_total[:, 0] - shifted[rows, labels]).sum(dtype=np.float64)
        d_logits[:] = np.exp(shifted - log_total)
        d_logits[rows, labels] -= 1
        d_logits /= len(logits)
        return float(nll), float((logits.argmax(axis=1) != labels).sum())

    def gaussian_nll(  # noqa: D102
        self, prediction: Array, target: Array, std: float, d_prediction: Array
    ) -> tuple[float, float]:
        error = prediction - target
        squared = float((error.astype(np.float64) ** 2).sum())
        d_prediction[:] = error / (std**2 * len(prediction))
        return squared / (2 * std**2) + error.size * float(np.log(std * np.sqrt(2 * np.pi))), squared

    def kl(self, theta: Array, log_sigma2: Array, prior: str) -> float:  # noqa: D102
        return float(kl_value(theta, log_sigma2, prior).sum(dtype=np.float64))

    def finish_gradients(self, arena: Arena, kl_scale: float, keep: float) -> None:  # noqa: D102
        for segment in arena.segments:
            if segment.prior:
                finish_segment(arena, segment, kl_scale, keep)

    def adam_step(self, arena: Arena, settings: StepSettings, held: bool) -> None:  # noqa: D102
        kl_scale, keep, (lr, beta1, beta2, epsilon, step) = settings
        self.finish_gradients(arena, kl_scale, keep)
        if held:
            arena.grads[arena.mask == 0] = 0
        for segment in arena.segments:
            ranges = [(segment.start, segment.low, segment.high)]
            if segment.prior:  # the bounds apply to the log variances only
                ranges = [(segment.start, -np.inf, np.inf), (segment.log_sigma2, segment.low, segment.high)]
            for start, low, high in ranges:
                here = slice(start, start + segment.stop - segment.start)
                x, gradient, m, v = (flat[here] for flat in (arena.params, arena.grads, arena.m, arena.v))
                np.clip(gradient, -1e18, 1e18, out=gradient)  # keeps the squares finite in float32
                m += (1 - beta1) * (gradient - m)
                v += (1 - beta2) * (gradient**2 - v)
                m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
                x -= lr * segment.lr_factor * m_hat / (np.sqrt(v_hat) + epsilon)
                np.clip(x, low, high, out=x)

    def max_pool_forward(self, x: Array, window: Window, y: Array, chosen: Array) -> None:  # noqa: D102
        seen = np.stack(list(window.views(window.pad(x, -np.inf))))  # (taps, B, OH, OW, C)
        chosen[:] = seen.argmax(axis=0)  # the first of equal ones
        y[:] = seen.max(axis=0)

    def max_pool_backward(self, dy: Array, chosen: Array, window: Window, dx: Array) -> None:  # noqa: D102
        taps = np.arange(window.kernel[0] * window.kernel[1])[:, None]
        won = chosen[:, :, :, None] == taps  # (B, OH, OW, taps, C)
        dx[:] = col2im((dy[:, :, :, None] * won).reshape(-1, window.taps), window)

    def avg_pool_forward(self, x: Array, window: Window, y: Array) -> None:  # noqa: D102
        y[:] = np.mean(list(window.views(window.pad(x))), axis=0)

    def avg_pool_backward(self, dy: Array, window: Window, dx: Array) -> None:  # noqa: D102
        area = window.kernel[0] * window.kernel[1]
        dx[:] = col2im(np.repeat(dy[:, :, :, None] / area, area, axis=3).reshape(-1, window.taps), window)

    def pad_forward(self, x: Array, padding: Padding, y: Array) -> None:  # noqa: D102
        source = sources(padding)
        pixels = x.reshape(len(x), -1, x.shape[3])[:, source] * (source >= 0)[:, None]
        y[:] = pixels.reshape(y.shape)

    def pad_backward(self, dy: Array, padding: Padding, dx: Array) -> None:  # noqa: D102
        source, pixels = sources(padding), np.zeros((dx.shape[1] * dx.shape[2], len(dx), dx.shape[3]), dx.dtype)
        pulls = dy.reshape(len(dy), -1, dy.shape[3]).swapaxes(0, 1)
        np.add.at(pixels, source[source >= 0], pulls[source >= 0])
        dx[:] = pixels.swapaxes(0, 1).reshape(dx.shape)

    def batch_moments(self, x: Array, mean: Array, var: Array, memory: Buffers) -> None:  # noqa: D102
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        mean[:], var[:] = rows.mean(axis=0), rows.var(axis=0)

    def batch_norm_forward(  # noqa: D102
        self, x: Array, mean: Array, var: Array, epsilon: float, gamma: Array, beta: Array, y: Array
    ) -> None:
        y[:] = gamma * ((x - mean) / np.sqrt(var + epsilon)) + beta

    def batch_norm_backward(  # noqa: D102
        self, x: Array, mean: Array, var: Array, epsilon: float, gamma: Array, of_batch: bool, dy: Array,
        d_gamma: Array, d_beta: Array, dx: Array | None, memory: Buffers,
    ) -> None:  # fmt: skip
        axes, std = tuple(range(x.ndim - 1)), np.sqrt(var + epsilon)
        n = (x - mean) / std
        sum_dy_n, sum_dy = (dy * n).sum(axis=axes), dy.sum(axis=axes, dtype=np.float64)
        d_gamma[:], d_beta[:] = sum_dy_n, sum_dy
        if dx is not None:
            per_channel = x.size // len(gamma)
            pull = (sum_dy + n * sum_dy_n) / per_channel if of_batch else 0.0
            dx[:] = gamma / std * (dy - pull)

    def dropout_factors(self, key: NoiseKey, p: float, out: Array) -> None:  # noqa: D102
        (rows, units), groups = out.shape, -(-out.shape[1] // 64)
        blocks = np.arange(16 * groups).reshape(1, groups, 16)
        samples = (key.first_sample + np.arange(rows)).reshape(rows, 1, 1)
        words = philox4x32((blocks, samples, key.step, key.layer), (key.seed % 2**32, key.seed // 2**32 % 2**32))
        uniforms = (words >> np.uint64(8)).transpose(1, 2, 0, 3).reshape(rows, 64 * groups)[:, :units] / 2.0**24
        out[:] = np.where(uniforms >= p, 1 / (1 - p), 0)

    def gaussian_factors(self, key: NoiseKey, std: float, out: Array) -> None:  # noqa: D102
        out[:] = 1 + std * self.noise(key, *out.shape)

    def multiply(self, x: Array, factors: Array, y: Array) -> None:  # noqa: D102
        np.multiply(x, factors, out=y)

    def weight_pulls(  # noqa: D102
        self, theta: Array, d_theta: Array, log_sigma2: Array | None, d_sigma2: Array | None, out: Array
    ) -> None:
        out[:] = (theta * d_theta).sum(axis=1)
        if log_sigma2 is not None:
            out += 2 * (np.exp(log_sigma2) * d_sigma2).sum(axis=1)

    def gate_forward(self, x: Array, z: Array, y: Array) -> None:  # noqa: D102
        np.multiply(x, z, out=y)

    def gate_backward(self, x: Array, z: Array, dy: Array, d_z: Array, dx: Array) -> None:  # noqa: D102
        d_z[:] = (x * dy).reshape(len(x), -1, len(z)).sum(axis=1)
        self.gate_forward(dy, z, dx)
