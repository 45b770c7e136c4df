"""Every operation of the CUDA backend on random data, against the plain backend in float64; for `gpu_check.py`.

A case makes its arrays from a fixed seed, poisons its outputs with NaN, runs on a backend, and returns the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import AdamSettings, Buffers, NoiseKey, StepSettings
from svd_numpy.kernels.padding import MODES, Padding
from svd_numpy.kernels.prior_fits import CODES
from svd_numpy.kernels.window import Window
from svd_numpy.network.params import Arena, ParamSpec

Array = NDArray[Any]
Case = Callable[[Any], list[Array]]
KEY = NoiseKey(2**35 + 1, 2, 77, 13)
KEEP = float(np.exp(-3))


class Data:
    """Random arrays of a backend's dtype, the same numbers on every backend, and poisoned outputs."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.rng = backend, np.random.default_rng(0)
        self.outputs: list[Array] = []

    def normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape).astype(np.float32).astype(self.backend.dtype)

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return self.rng.uniform(low, high, shape).astype(np.float32).astype(self.backend.dtype)

    def out(self, *shape: int, dtype: Any = None) -> Array:
        whole = dtype is not None and np.issubdtype(dtype, np.integer)
        made = np.full(shape, -1 if whole else np.nan, self.backend.dtype if dtype is None else dtype)
        self.outputs.append(made)
        return made

    def results(self) -> list[Array]:
        self.backend.to_host(*self.outputs)
        return self.outputs


def lrt(x_shape: tuple[int, ...], n_out: int, window: Window | None) -> Case:
    def case(backend: Any) -> list[Array]:
        data, memory = Data(backend), Buffers()
        n_in = window.taps if window else x_shape[1]
        y_shape = (x_shape[0], *window.out, n_out) if window else (x_shape[0], n_out)
        x, theta, log_sigma2 = data.normal(*x_shape), data.normal(n_in, n_out), data.uniform(-8, 0, n_in, n_out)
        bias, dy = data.normal(n_out), data.normal(*y_shape)
        y, d_theta, d_sigma2 = data.out(*y_shape), data.out(n_in, n_out), data.out(n_in, n_out)
        d_bias, dx = data.out(n_out), data.out(*x_shape)
        backend.lrt_forward(x, theta, log_sigma2, bias, KEEP, KEY, False, y, memory, window)
        backend.lrt_backward(x, theta, log_sigma2, KEEP, dy, None, d_theta, d_sigma2, d_bias, dx, memory, window)
        return data.results()

    return case


def dense(x_shape: tuple[int, ...], n_out: int, window: Window | None) -> Case:
    def case(backend: Any) -> list[Array]:
        data, memory = Data(backend), Buffers()
        n_in = window.taps if window else x_shape[1]
        y_shape = (x_shape[0], *window.out, n_out) if window else (x_shape[0], n_out)
        x, theta, bias, dy = data.normal(*x_shape), data.normal(n_in, n_out), data.normal(n_out), data.normal(*y_shape)
        y, d_theta, d_bias, dx = data.out(*y_shape), data.out(n_in, n_out), data.out(n_out), data.out(*x_shape)
        backend.dense_forward(x, theta, bias, y, memory, window)
        backend.dense_backward(x, theta, dy, d_theta, d_bias, dx, memory, window)
        return data.results()

    return case


def sweep(n: int, prior: str, held: bool) -> Case:
    def case(backend: Any) -> list[Array]:
        data = Data(backend)
        specs = [
            ParamSpec("a.theta", (n,), data.normal(n), data.uniform(-8, 1, n)),
            ParamSpec("a.bias", (7,), data.normal(7)),
            ParamSpec("b.theta", (9, 5), data.normal(9, 5), data.uniform(-1, 1, 9, 5), "ard", -1, 1, 0.3),
            ParamSpec("b.scale", (300,), data.uniform(0.1, 1, 300), low=0.1, high=1.0, lr_factor=3.0),
        ]
        arena = Arena(specs, backend.dtype, prior)
        arena.mask[:] = data.rng.integers(0, 4, arena.mask.size) > 0
        for step in (1, 2):
            arena.grads[:] = data.normal(arena.grads.size)
            backend.to_device(arena.grads)
            settings = StepSettings(0.01, KEEP, AdamSettings(0.01, 0.9, 0.999, 1e-8, step))
            backend.adam_step(arena, settings, held)
        backend.to_host(arena.params, arena.m, arena.v)
        arena.grads[:] = data.normal(arena.grads.size)
        backend.to_device(arena.grads)
        backend.finish_gradients(arena, 0.01, KEEP)
        backend.to_host(arena.grads)
        finished = [arena.grads[segment.start : segment.stop] for segment in arena.segments]
        kl = backend.kl(arena.views["a.theta"], arena.views["a.log_sigma2"], prior)
        return [arena.params, arena.m, arena.v, *finished, np.array([kl])]

    return case


def losses(rows: int, classes: int) -> Case:
    def case(backend: Any) -> list[Array]:
        data = Data(backend)
        logits, labels = data.normal(rows, classes), data.rng.integers(0, classes, rows)
        target, d_logits = data.normal(rows, classes), data.out(rows, classes)
        found = [*backend.softmax_cross_entropy(logits, labels, d_logits)]
        for std in (0.7, 3.0):  # one after the other: the second is not that of the first
            found += backend.gaussian_nll(logits, target, std, data.out(rows, classes))
        return [*data.results(), np.array(found)]

    return case


def pools(images: int, window: Window) -> Case:
    def case(backend: Any) -> list[Array]:
        data = Data(backend)
        x, shape = data.normal(images, *window[:3]), (images, *window.out, window.channels)
        chosen, dy = np.full(shape, -1, np.int32), data.normal(*shape)
        backend.max_pool_forward(x, window, data.out(*shape), chosen)
        backend.max_pool_backward(dy, chosen, window, data.out(*x.shape))
        backend.avg_pool_forward(x, window, data.out(*shape))
        backend.avg_pool_backward(dy, window, data.out(*x.shape))
        return data.results()

    return case


def paddings(images: int, height: int, width: int, channels: int) -> Case:
    def case(backend: Any) -> list[Array]:
        data = Data(backend)
        x = data.normal(images, height, width, channels)
        for mode in MODES:
            padding = Padding(height, width, (2, 1, 0, 3), mode)
            dy = data.normal(images, *padding.out, channels)
            backend.pad_forward(x, padding, data.out(*dy.shape))
            backend.pad_backward(dy, padding, data.out(*x.shape))
        wide = data.normal(images, height, width, channels + 2)
        backend.copy_columns(wide, 2, data.out(images, height, width, channels), 0, channels)
        return data.results()

    return case


def batch_norm(*shape: int) -> Case:
    def case(backend: Any) -> list[Array]:
        data, memory, channels = Data(backend), Buffers(), shape[-1]
        x, dy, gamma, beta = data.normal(*shape), data.normal(*shape), data.normal(channels), data.normal(channels)
        mean, var = data.out(channels, dtype=np.float64), data.out(channels, dtype=np.float64)
        y, dx, d_gamma, d_beta = data.out(*shape), data.out(*shape), data.out(channels), data.out(channels)
        backend.batch_moments(x, mean, var, memory)
        backend.batch_norm_forward(x, mean, var, 1e-5, gamma, beta, y)
        backend.batch_norm_backward(x, mean, var, 1e-5, gamma, True, dy, d_gamma, d_beta, dx, memory)
        return data.results()

    return case


def batches(rows: int, *shape: int) -> Case:
    def case(backend: Any) -> list[Array]:
        data = Data(backend)
        source = data.rng.integers(0, 256, (50, int(np.prod(shape)))).astype(np.uint8)
        index, mean = data.rng.integers(0, 50, rows), data.normal(source.shape[1])
        moves = np.column_stack([data.rng.integers(-3, 4, (rows, 2)), data.rng.integers(0, 2, rows)]).astype(np.int32)
        backend.gather_rows(source, index, 1 / 255, mean, data.out(rows, source.shape[1]))
        backend.gather_rows(source, index, 1 / 255, mean, data.out(rows, *shape), moves)
        backend.gather_rows(source, index, 1 / 255, mean, data.out(rows, shape[0], shape[1] * shape[2]))
        backend.dropout_factors(KEY, 0.3, data.out(rows, 131))
        backend.gaussian_factors(KEY, 0.7, data.out(rows, 131))
        tokens, out = source.astype(np.int64), data.out(rows, source.shape[1], dtype=np.int64)
        backend.gather_rows(tokens, index, 1.0, mean, out)
        theta, mask = data.normal(rows, 37), data.rng.integers(0, 2, (rows, 37)).astype(np.uint8)
        backend.apply_mask(theta, mask, data.out(rows, 37))
        return [*data.results(), backend.noise(KEY, rows, 131)]

    return case


def cases(tiny: bool) -> Iterator[tuple[str, Case]]:
    """Name and function of every case; tiny ones for a trial of the script."""
    sizes = [(3, 5, 4)] if tiny else [(1, 1, 1), (100, 784, 300), (257, 1001, 515), (2000, 1030, 1027), (33, 4099, 67)]
    for rows, n_in, n_out in sizes:
        yield f"lrt {rows} x {n_in} x {n_out}", lrt((rows, n_in), n_out, None)
        yield f"dense {rows} x {n_in} x {n_out}", dense((rows, n_in), n_out, None)
    windows = [(1, Window(4, 4, 1, (3, 3), (1, 1), (1, 1)), 2)]
    if not tiny:
        windows = [
            (100, Window(28, 28, 1, (5, 5)), 20),
            (100, Window(12, 12, 20, (5, 5)), 50),
            (17, Window(32, 32, 64, (3, 3), (1, 1), (1, 1)), 64),
            (33, Window(9, 8, 5, (2, 3), (3, 2), (1, 2), (2, 1)), 7),
        ]
    for images, window, n_out in windows:
        yield f"lrt conv {images} x {tuple(window)} -> {n_out}", lrt((images, *window[:3]), n_out, window)
        yield f"dense conv {images} x {tuple(window)} -> {n_out}", dense((images, *window[:3]), n_out, window)
        pooling = Window(*window[:3], (3, 2), (2, 2), (1, 1))
        yield f"pools {images} x {tuple(pooling)}", pools(images, pooling)
        yield f"paddings {images} x {window[:3]}", paddings(images, *window[:3])
    for prior in CODES:
        yield f"sweep, {prior}", sweep(9 if tiny else 266_203, prior, held=prior == "log_uniform")
    rows = 3 if tiny else 1030
    yield f"losses {rows} x 10", losses(rows, 10)
    yield f"batch norm {rows} x 37", batch_norm(rows, 37 if not tiny else 2)
    yield f"batches {rows}", batches(rows, *((2, 3, 1) if tiny else (9, 11, 3)))
