"""The CUDA backend: float32, fused, the same bits from run to run. Equations: `kernels/backend.py`.

This file only prepares arguments and launches kernels. The arrays that it is given are NumPy's and stand for their
twins on the device (`twins.py`); what an operation writes, it writes there, and the host sees it after `to_host`.

Kernels: `product.py` with `sampling.py` and `finish.py` (the layers), `sweep.py` (the pass over all parameters),
`philox.py` (noise), `elementwise.py`, `images.py`, `norm.py`, `losses.py`, `sums.py`, `clip.py`, and `recurrent.py` (by
`recurrence.py`). Every launch is for all runs that go side by side (`device.py`): of a model's own backend, one.
`side_by_side.py` adds what a runner needs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from svd_numpy.kernels.backend import Arena, Array, Buffers, NoiseKey, Segment, StepSettings
from svd_numpy.kernels.cuda import clip, dials, elementwise, images, losses, norm, philox, sums, sweep, tables
from svd_numpy.kernels.cuda.device import COMMON, SIMULATED, THREADS, D, F, I, Kernel, U, blocks_for, cuda
from svd_numpy.kernels.cuda.finish import FINISH
from svd_numpy.kernels.cuda.product import PRODUCTS
from svd_numpy.kernels.cuda.recording import Launch, Recording
from svd_numpy.kernels.cuda.recurrence import CudaRecurrence
from svd_numpy.kernels.cuda.tiling import FORWARD, INPUTS, TILES, WEIGHTS, plan
from svd_numpy.kernels.cuda.twins import Scratch, Twins
from svd_numpy.kernels.layer_by_layer import LayerByLayer
from svd_numpy.kernels.living import Living
from svd_numpy.kernels.padding import Padding
from svd_numpy.kernels.recurrence import Recurrence
from svd_numpy.kernels.stack import Stack, StackLayer
from svd_numpy.kernels.window import Window

_NO_NOISE = NoiseKey(0, 0, 0)
_KL_PARTS = 8 if SIMULATED else 8192
_LOCK = threading.Lock()  # Numba's simulator runs one kernel at a time


class CudaBackend(CudaRecurrence):
    """CUDA implementation of `svd_numpy.kernels.backend.Backend` for float32 arrays.

    Parameters
    ----------
    seeds : sequence of int
        Of the runs that go side by side; the numbers themselves do not matter where there is one.
    rows : int
        Of the tables that the clock goes through (`recording.py`).
    """

    name = "cuda"
    knows_lists = False
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, seeds: Sequence[int] = (0,), rows: int = 1) -> None:
        self._runs = len(seeds)
        self.recurrence: Recurrence | None = self
        self._twins, self._scratch = Twins(self._runs), Scratch(self._runs)
        self._recording: Recording | None = None  # the one that is made at this moment
        # What changes from step to step is looked up in tables by this counter, which stands at 0 but while a recorded
        # step is played.
        self._clock = cuda.to_device(np.zeros(2, np.uint32))  # row of the tables; steps to add to those of noise keys
        self._still = cuda.to_device(np.zeros(2, np.uint32))
        self._totals = cuda.to_device(np.zeros((self._runs, 2 * rows)))
        self._dials = dials.Dials(self._runs, rows)
        self._segments: dict[tuple[Segment, ...], tuple[int, Array, Array]] = {}
        self._no_moves = cuda.to_device(np.zeros((self._runs, 3), np.int32))
        words = np.array([_seed_words(seed ^ seeds[0]) for seed in seeds], np.uint32)
        self._seeds = cuda.to_device(words)  # in which bits seeds differ from the first run's

    # ------------------------------------------------------------ memory
    def to_device(self, *arrays: Array) -> None:  # noqa: D102
        for array in arrays:
            self._twins.push(array)

    def to_host(self, *arrays: Array) -> None:  # noqa: D102
        for array in arrays:
            self._twins.pull(array)

    def clear(self, array: Array) -> None:  # noqa: D102
        self._each(elementwise.clear, array.size, U(array.size), array)

    def blend(self, target: Array, source: Array, rate: float, scale: float = 1.0) -> None:  # noqa: D102
        self._each(elementwise.blend, target.size, U(target.size), target, source, D(rate), D(scale))

    def copy_columns(self, source: Array, start: int, target: Array, at: int, width: int) -> None:  # noqa: D102
        count = source.size // source.shape[-1] * width
        sizes = (U(number) for number in (width, source.shape[-1], start, target.shape[-1], at))
        self._each(elementwise.copy_columns, count, U(count), *sizes, source, target)

    def average(self, target: Array, source: Array, batches: Array, more: int, scale: float = 1.0) -> None:  # noqa: D102
        self._each(elementwise.average, target.size, U(target.size), target, source, batches, D(more), D(scale))

    def apply_mask(self, theta: Array, mask: Array, out: Array) -> None:  # noqa: D102
        self._each(elementwise.apply_mask, out.size, U(out.size), theta, mask, out)

    # ------------------------------------------------------------ launching
    def _launch(self, kernel: Kernel, blocks: int | tuple[int, ...], threads: int, *args: Any, runs: int = 0) -> None:
        """Launch for all runs (or so many), with device arrays in the place of host arrays."""
        ready = tuple(
            self._twins.of(arg, letter in COMMON) if isinstance(arg, np.ndarray) else arg
            for letter, arg in zip(kernel.signature, args, strict=True)
        )
        launch = Launch(kernel, blocks, threads, ready, runs or self._runs)
        if self._recording is not None:
            self._recording.add(launch)
        else:
            with _LOCK:
                launch()

    def _turn(self, row: dials.Row) -> None:
        """Let the kernels that follow find these numbers on the dials."""
        self._dials.turn(row)

    def _each(self, kernel: Kernel, count: int, *args: Any) -> None:
        """Launch a kernel that strides over `count` entries."""
        if count:
            self._launch(kernel, blocks_for(count), THREADS, *args)

    def _fold(self, kernel: Kernel, count: int, width: int, parts: Any, out: Any, clock: Any = None) -> None:
        """Add parts (count, width) down to out (width,), or to the row of out that a clock shows."""
        clock = self._still if clock is None else clock
        self._launch(kernel, width, sums.FOLDERS, U(count), U(width), parts, clock, out)

    def _summed(self, terms: Any, count: int) -> tuple[float, float]:
        """Add a loss's terms (count, 2) and return both sums; those of a recorded step are read when it was played."""
        self._fold(sums.fold_to_exact, count, 2, terms, self._totals, self._clock)
        if self._recording is not None:
            return 0.0, 0.0
        first, second = self._totals[0, :2].copy_to_host()
        return float(first), float(second)

    def _multiply(
        self, role: str, at: tables.Addresses, a: Array, a2: Array | None, b: Array, b2: Array | None,
        out: Array, out2: Array | None, extra: Array, positions: int = 1, relu: bool = False, key: NoiseKey = _NO_NOISE,
    ) -> None:  # fmt: skip
        """Run one pass of a layer (`product.py`); without b2 it is a plain one."""
        pair, (tile, slices, length) = b2 is not None, plan(at.m, at.n, at.k)
        second_a, second_b, second_out = (
            x if y is None else y for x, y in ((a, a2), (b, b2), (out, out2))
        )  # what is not there is not touched either
        size, parts = TILES[tile], slices > 1
        targets: tuple[Any, Any] = out, second_out
        if parts:
            targets = (self._scratch.get("parts", slices * (1 + pair) * at.m * at.n),) * 2
        grid = math.ceil(at.m / size.bm), math.ceil(at.n / size.bn) * slices
        sizes = tuple(U(v) for v in (at.m, at.n, at.k, length, positions, relu))
        noise = self._noise_of(key)
        self._launch(
            PRODUCTS[role, pair, parts, tile], grid, size.threads, a, second_a, at.row, at.column, b, second_b, at.b,
            U(at.b_step), sizes, *targets, extra, self._dials.table, *noise,
        )  # fmt: skip
        if parts:
            self._each(FINISH[role, pair], at.m * at.n, targets[0], U(slices), sizes, out, second_out, extra, *noise)

    def _spread(self, source: Array, how: tables.Spread | None, name: str, memory: Buffers) -> Array:
        """Images laid out for a convolution to read."""
        if how is None:
            return source
        out = memory.get(name, (len(source), *how.to, source.shape[3]), source.dtype)
        sizes = tuple(I(v) for v in (*source.shape[1:], *how.to, *how.corner, *how.steps))
        self._each(images.spread, out.size, U(len(source)), sizes, source, out)
        return out

    def _column_sums(self, x: Array, columns: int, out: Array) -> None:
        rows = x.size // columns
        if rows <= sums.FEW_ROWS:
            self._fold(sums.fold, rows, columns, x, out)
            return
        parts = sums.parts_of(rows)
        scratch = self._scratch.get("sums", parts * columns)
        self._each(sums.column_sums, parts * columns, U(rows), U(columns), U(parts), x, scratch)
        self._fold(sums.fold, parts, columns, scratch, out)

    # ------------------------------------------------------------ batches and noise
    def gather_rows(  # noqa: D102
        self, source: Array, index: Array, scale: float, mean: Array, out: Array, moves: Array | None = None
    ) -> None:
        units = out.size // len(out)
        if np.issubdtype(out.dtype, np.integer):
            self._each(elementwise.gather_tokens, out.size, U(len(out)), U(units), source, index, self._clock, out)
            return
        sizes = tuple(I(v) for v in (out.shape if out.ndim == 4 else (len(out), 1, 1, units)))
        self._each(elementwise.gather, out.size, source, index, self._clock, F(scale), mean,
                   self._no_moves if moves is None else moves, U(moves is not None), sizes, out)  # fmt: skip

    def noise(self, key: NoiseKey, rows: int, units: int) -> Array:  # noqa: D102
        out = np.empty((rows, units), np.float32)
        self._each(philox.gaussian, out.size, U(rows), U(units), *self._noise_of(key), out)
        self.to_host(out)
        return out

    # ------------------------------------------------------------ layers
    def lrt_forward(  # noqa: D102
        self, x: Array, theta: Array, log_sigma2: Array, bias: Array, keep: float, key: NoiseKey,
        relu: bool, y: Array, memory: Buffers, window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        r = memory.get("r", y.shape, y.dtype)
        seen = self._spread(x, tables.padding(window) if window else None, "padded", memory)
        at = tables.forward(len(x), *theta.shape, window)
        self._turn({dials.KEEP: keep})
        self._multiply(FORWARD, at, seen, None, theta, log_sigma2, y, r, bias, at.m // len(x), relu, key)

    def lrt_backward(  # noqa: D102
        self, x: Array, theta: Array, log_sigma2: Array, keep: float, dy: Array,
        rectified: Array | None, d_theta: Array, d_sigma2: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        d_var, units = memory.get("r", dy.shape, dy.dtype), dy.shape[-1]
        rows, slopes = dy.size // units, (U(rectified is not None), dy if rectified is None else rectified, dy, d_var)
        if rows <= sums.FEW_ROWS:
            self._launch(sums.noise_gradient_sums, math.ceil(units / sums.ACROSS), sums.PATCH, U(rows),
                         U(units), *slopes, d_bias)  # fmt: skip
        else:
            self._each(elementwise.noise_gradient, dy.size, U(dy.size), *slopes)
            self._column_sums(dy, units, d_bias)
        self._weight_gradients(x, dy, d_var, d_theta, d_sigma2, memory, window)
        if dx is not None:
            self._turn({dials.KEEP: keep})
            self._input_gradients(x, theta, log_sigma2, dy, d_var, dx, memory, window)

    def dense_forward(  # noqa: D102
        self, x: Array, theta: Array, bias: Array, y: Array, memory: Buffers, window: Window | None = None,
        living: Living | None = None,
    ) -> None:  # fmt: skip
        seen = self._spread(x, tables.padding(window) if window else None, "padded", memory)
        at = tables.forward(len(x), *theta.shape, window)
        self._multiply(FORWARD, at, seen, None, theta, None, y, None, bias)

    def dense_backward(  # noqa: D102
        self, x: Array, theta: Array, dy: Array, d_theta: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        self._column_sums(dy, dy.shape[-1], d_bias)
        self._weight_gradients(x, dy, None, d_theta, None, memory, window)
        if dx is not None:
            self._input_gradients(x, theta, None, dy, None, dx, memory, window)

    def make_stack(self, layers: Sequence[StackLayer]) -> Stack:  # noqa: D102
        return LayerByLayer(self, layers)

    def _weight_gradients(
        self, x: Array, dy: Array, d_var: Array | None, d_theta: Array, d_sigma2: Array | None, memory: Buffers,
        window: Window | None,
    ) -> None:  # fmt: skip
        seen = self._spread(x, tables.padding(window) if window else None, "padded", memory)
        at = tables.weights(len(x), *d_theta.shape, window)
        self._multiply(WEIGHTS, at, seen, None, dy, d_var, d_theta, d_sigma2, x)

    def _input_gradients(
        self, x: Array, theta: Array, log_sigma2: Array | None, dy: Array, d_var: Array | None, dx: Array,
        memory: Buffers, window: Window | None,
    ) -> None:  # fmt: skip
        how, at = tables.stretching(window) if window else None, tables.inputs(len(x), *theta.shape, window)
        pulls = self._spread(dy, how, "pulls", memory)
        pulls2 = None if d_var is None else self._spread(d_var, how, "pulls2", memory)
        self._multiply(INPUTS, at, pulls, pulls2, theta, log_sigma2, dx, None, x)

    def relu_forward(self, y: Array) -> None:  # noqa: D102
        self._each(elementwise.relu_forward, y.size, U(y.size), y)

    def relu_backward(self, y: Array, dy: Array) -> None:  # noqa: D102
        self._each(elementwise.relu_backward, y.size, U(y.size), y, dy)

    # ------------------------------------------------------------ losses
    def softmax_cross_entropy(self, logits: Array, labels: Array, d_logits: Array) -> tuple[float, float]:  # noqa: D102
        rows, classes = logits.shape
        terms = self._scratch.get("terms", 2 * rows)
        self._each(losses.softmax_cross_entropy, rows, U(rows), U(classes), logits, labels, self._clock, d_logits,
                   terms)  # fmt: skip
        return self._summed(terms, rows)

    def gaussian_nll(  # noqa: D102
        self, prediction: Array, target: Array, std: float, d_prediction: Array
    ) -> tuple[float, float]:
        count, rows = prediction.size, len(prediction)
        terms = self._scratch.get("terms", 2 * count)
        self._turn(dials.of_noise(std))
        self._each(losses.gaussian_nll, count, U(count), U(rows), prediction, target, self._dials.table, self._clock,
                   d_prediction, terms)  # fmt: skip
        return self._summed(terms, count)

    # ------------------------------------------------------------ the pass over all parameters
    def kl(self, theta: Array, log_sigma2: Array, prior: str) -> float:  # noqa: D102
        code, parts = sweep.code_of(prior), min(_KL_PARTS, theta.size)
        scratch, totals = self._scratch.get("kl", parts, np.float64), self._scratch.get("totals", 2, np.float64)
        self._each(sweep.kl_parts, parts, U(theta.size), U(parts), theta, log_sigma2, code, scratch)
        self._fold(sums.fold_exact, parts, 1, scratch, totals)
        return float(totals[0, :1].copy_to_host()[0])

    def _table(self, arena: Arena) -> tuple[int, Array, Array]:
        """The arena's segments as the sweep reads them."""
        if arena.segments not in self._segments:
            self._segments[arena.segments] = sweep.table_of(arena.segments)
        return self._segments[arena.segments]

    def finish_gradients(self, arena: Arena, kl_scale: float, keep: float) -> None:  # noqa: D102
        pieces, rows, _ = self._table(arena)
        self._each(sweep.finish_gradients, pieces * THREADS, U(pieces), rows, arena.params, arena.grads, F(kl_scale),
                   F(keep))  # fmt: skip

    def clip_gradients(self, arena: Arena, most: float) -> None:  # noqa: D102
        pieces, rows, _ = self._table(arena)
        threads = blocks_for(pieces * THREADS) * THREADS
        parts, total = self._scratch.get("squares", threads, np.float64), self._scratch.get("square", 1, np.float64)
        self._each(clip.square_parts, pieces * THREADS, U(pieces), rows, arena.params, arena.grads, parts)
        self._fold(sums.fold_exact, threads, 1, parts, total)
        self._each(clip.shorten, arena.grads.size, U(arena.grads.size), total, D(most), arena.grads)

    def adam_step(self, arena: Arena, settings: StepSettings, held: bool) -> None:  # noqa: D102
        pieces, rows, limits = self._table(arena)
        self._turn(dials.of_step(settings))
        self._each(sweep.adam_sweep, pieces * THREADS, U(pieces), rows, limits, U(held), arena.params, arena.grads,
                   arena.m, arena.v, arena.mask, self._dials.table, self._clock)  # fmt: skip

    # ------------------------------------------------------------ images
    def max_pool_forward(self, x: Array, window: Window, y: Array, chosen: Array) -> None:  # noqa: D102
        self._each(images.max_pool_forward, y.size, U(len(x)), tables.geometry(window), x, y, chosen)

    def max_pool_backward(self, dy: Array, chosen: Array, window: Window, dx: Array) -> None:  # noqa: D102
        self._each(images.pool_backward, dx.size, U(len(dx)), tables.geometry(window), U(1), dy, chosen, dx)

    def avg_pool_forward(self, x: Array, window: Window, y: Array) -> None:  # noqa: D102
        self._each(images.avg_pool_forward, y.size, U(len(x)), tables.geometry(window), x, y)

    def avg_pool_backward(self, dy: Array, window: Window, dx: Array) -> None:  # noqa: D102
        self._each(images.pool_backward, dx.size, U(len(dx)), tables.geometry(window), U(0), dy, self._no_moves, dx)

    def pad_forward(self, x: Array, padding: Padding, y: Array) -> None:  # noqa: D102
        self._sum_pixels(x, tables.copies(padding)[0], y)

    def pad_backward(self, dy: Array, padding: Padding, dx: Array) -> None:  # noqa: D102
        self._sum_pixels(dy, tables.copies(padding)[1], dx)

    def _sum_pixels(self, x: Array, lists: tuple[Array, Array], y: Array) -> None:
        sizes = (U(array.shape[1] * array.shape[2]) for array in (x, y))
        self._each(images.sum_pixels, y.size, U(y.size), *sizes, U(x.shape[3]), *lists, x, y)

    # ------------------------------------------------------------ batch normalisation
    def _channel_sums(self, x: Array, dy: Array | None, mean: Array) -> Any:
        channels = x.shape[-1]
        rows, slopes = x.size // channels, x if dy is None else dy
        parts = sums.parts_of(rows)
        scratch = self._scratch.get("channel parts", 2 * parts * channels, np.float64)
        totals = self._scratch.get("channel sums", 2 * channels, np.float64)
        self._each(sums.channel_sums, parts * channels, U(rows), U(channels), U(parts), x, slopes, mean,
                   U(dy is not None), scratch)  # fmt: skip
        self._fold(sums.fold_exact, parts, 2 * channels, scratch, totals)
        return totals

    def batch_moments(self, x: Array, mean: Array, var: Array, memory: Buffers) -> None:  # noqa: D102
        channels = x.shape[-1]
        self._each(norm.moments, channels, U(channels), U(x.size // channels), self._channel_sums(x, None, mean), mean,
                   var)  # fmt: skip

    def batch_norm_forward(  # noqa: D102
        self, x: Array, mean: Array, var: Array, epsilon: float, gamma: Array, beta: Array, y: Array
    ) -> None:
        channels = x.shape[-1]
        scale = self._scratch.get("scale", 4 * channels)
        self._each(norm.scales, channels, U(channels), mean, var, D(epsilon), gamma, scale)
        self._each(norm.normalise, x.size, U(x.size), U(channels), x, scale, beta, y)

    def batch_norm_backward(  # noqa: D102
        self, x: Array, mean: Array, var: Array, epsilon: float, gamma: Array, of_batch: bool, dy: Array,
        d_gamma: Array, d_beta: Array, dx: Array | None, memory: Buffers,
    ) -> None:  # fmt: skip
        channels = x.shape[-1]
        totals, scale = self._channel_sums(x, dy, mean), self._scratch.get("scale", 4 * channels)
        self._each(norm.gradients, channels, U(channels), U(x.size // channels), U(of_batch), totals, mean, var,
                   D(epsilon), gamma, d_gamma, d_beta, scale)  # fmt: skip
        if dx is not None:
            self._each(norm.normalise_backward, x.size, U(x.size), U(channels), dy, x, scale, dx)

    # ------------------------------------------------------------ factors
    def dropout_factors(self, key: NoiseKey, p: float, out: Array) -> None:  # noqa: D102
        least, kept = U(math.ceil(p * 2**24)), F(1 / (1 - p))
        self._each(philox.dropout_factors, out.size, U(out.shape[0]), U(out.shape[1]), *self._noise_of(key), least,
                   kept, out)  # fmt: skip

    def gaussian_factors(self, key: NoiseKey, std: float, out: Array) -> None:  # noqa: D102
        self._each(philox.gaussian_factors, out.size, U(out.shape[0]), U(out.shape[1]), *self._noise_of(key), F(std),
                   out)  # fmt: skip

    def multiply(self, x: Array, factors: Array, y: Array) -> None:  # noqa: D102
        self._each(elementwise.multiply, x.size, U(x.size), x, factors, y)

    def weight_pulls(  # noqa: D102
        self, theta: Array, d_theta: Array, log_sigma2: Array | None, d_sigma2: Array | None, out: Array
    ) -> None:
        noisy = log_sigma2 is not None
        variance = (log_sigma2, d_sigma2) if noisy else (theta, d_theta)
        self._each(elementwise.weight_pulls, len(theta), U(len(theta)), U(theta.shape[1]), U(noisy), theta, d_theta,
                   *variance, out)  # fmt: skip

    def gate_forward(self, x: Array, z: Array, y: Array) -> None:  # noqa: D102
        self._each(elementwise.gate_forward, x.size, U(x.size), U(len(z)), x, z, y)

    def gate_backward(self, x: Array, z: Array, dy: Array, d_z: Array, dx: Array) -> None:  # noqa: D102
        size = x.size // len(x)
        self._each(elementwise.gate_backward, d_z.size, U(d_z.size), U(size), U(len(z)), x, z, dy, d_z, dx)

    def _noise_of(self, key: NoiseKey) -> tuple[Any, ...]:
        """What kernels take to find a block of noise: five 32-bit words, the clock, and each run's seed."""
        words = key.step, key.layer, key.first_sample, *_seed_words(key.seed)
        return tuple(U(int(word) % 2**32) for word in words), self._clock, self._seeds


def _seed_words(seed: int) -> tuple[int, int]:
    return seed % 2**32, seed // 2**32 % 2**32
