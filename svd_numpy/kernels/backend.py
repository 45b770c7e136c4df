"""The contract: every numerical operation of the package, defined in one place.

Three modules implement it: `reference.py` (plain NumPy, any float dtype, reads like the paper), `cpu/backend.py`
(Numba, float32, fused and parallel) and `cuda/backend.py` (a GPU, through numba.cuda). A model picks its backend when
it is built; every pass through its layers carries the backend with it (`network.layers.base.Pass`). How training steps
are run is a separate matter: `train/runner.py`.

Shapes: B examples, I inputs, O outputs. All arrays are C-contiguous and of the backend's dtype unless stated otherwise.
Results are written into arrays supplied by the caller, who also supplies scratch memory that must outlive a call
(`Buffers`). Nothing is checked here: the public API does that. dx is None if the input gradient is not wanted.

Images are (B, H, W, C), channels last. A convolution is the dense operation on im2col rows: if a `window` is given,
x is (B, H, W, C), y is (B, OH, OW, O) with P = OH * OW positions, and "x" in the equations means the matrix
(B * P, taps) whose row b * P + p holds what the window sees at position p; dx is summed back from its rows (col2im).
Each example then has P * O units of noise: unit p * O + o belongs to output o at position p.

If `living` is given, theta, log_sigma2 and their gradients are (n,): the weights that it names, of a matrix (I, O) in
which all others have mean and variance 0. Only backends that say so (`knows_lists`) take them, and no window with a
stride.

The operations of recurrent networks have a file of their own, `recurrence.py`; not every backend has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.living import Living
from svd_numpy.kernels.padding import Padding
from svd_numpy.kernels.stack import Stack, StackLayer
from svd_numpy.kernels.window import Window

if TYPE_CHECKING:
    from svd_numpy.kernels.recurrence import Recurrence

Array = NDArray[Any]


class NoiseKey(NamedTuple):
    """The position of a block of Gaussian noise in one fixed, infinite field of noise.

    noise(key)[b, u] is a standard normal that depends only on these numbers, b and u: word (u // 16) % 4 of the
    Philox4x32-10 block with counter (16 (u // 64) + u % 16, first_sample + b, step, layer) and key `seed`, paired by
    Box-Muller. Nothing is stored: the same key gives the same noise on any number of threads and after any restart.
    """

    seed: int
    layer: int
    step: int
    first_sample: int = 0


def aligned_zeros(rows: int, columns: int, dtype: Any) -> Array:
    """Zeros (rows, columns) whose rows all start on a cache line, so that no vector straddles two."""
    per_line = 64 // np.dtype(dtype).itemsize
    padded = -(-columns // per_line) * per_line
    raw = np.zeros(rows * padded + per_line, dtype)
    start = -raw.ctypes.data % 64 // raw.itemsize
    return raw[start : start + rows * padded].reshape(rows, padded)[:, :columns]


class Buffers:
    """Named arrays that a layer keeps between calls; one is reallocated only when it has to grow."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Array] = {}  # cached: a step asks dozens of times

    def get(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return the start of the array `name` in this shape; it still holds whatever was last written there."""
        view = self._views.get((name, shape))
        if view is not None and view.dtype == dtype:
            return view
        size = math.prod(shape)
        have = self._arrays.get(name)
        if have is None or have.size < size or have.dtype != dtype:
            have = self._arrays[name] = aligned_zeros(1, size, dtype)[0]
            self._views = {key: old for key, old in self._views.items() if key[0] != name}
        view = self._views[name, shape] = have[:size].reshape(shape)
        return view


class AdamSettings(NamedTuple):
    """Settings of one Adam step (Kingma & Ba 2015, algorithm 1); `step` counts from 1."""

    lr: float
    beta1: float
    beta2: float
    epsilon: float
    step: int


class StepSettings(NamedTuple):
    """Settings of `adam_step` that may change from step to step.

    Attributes
    ----------
    kl_scale : float
        Factor on the KL in the loss: its weight / N.
    keep : float
        exp(-threshold) of the mask used in training, 0 if there is none (`lrt_forward`).
    adam : AdamSettings
    """

    kl_scale: float
    keep: float
    adam: AdamSettings


class Segment(NamedTuple):
    """A range of the arena whose numbers are treated alike: one row of the table that `adam_step` walks.

    Attributes
    ----------
    name : str
        Name of the parameter array, `<layer>.<array>`; if a row covers several arrays, that of the first.
    start, stop : int
        The range, in entries of the arena's buffers.
    log_sigma2 : int
        Where the log variances of the same weights begin; -1 if the numbers have no posterior.
    prior : str
        Name of the prior (`priors.PRIORS`); "" if there is no posterior.
    low, high : float
        Bounds of log_sigma2, or of the numbers themselves if they have no posterior.
    lr_factor : float
        Factor on the learning rate.
    """

    name: str
    start: int
    stop: int
    log_sigma2: int
    prior: str
    low: float
    high: float
    lr_factor: float


class Arena(Protocol):
    """What backends see of `network.params.Arena`: flat buffers with one layout, and the table that describes it."""

    segments: tuple[Segment, ...]
    params: Array
    grads: Array
    m: Array
    v: Array
    mask: NDArray[np.uint8]  # 0 where a number is held fixed: see `adam_step`


class Backend(Protocol):
    """Operations on arrays, defined by their equations.

    On a device with its own memory, an array stands for a copy there, and operations read and write only the copy. An
    array is copied to the device when an operation first uses it; after that, only `to_device` and `to_host`
    synchronise the two. They do nothing if there is only one memory.
    """

    name: str
    dtype: np.dtype[Any]
    knows_lists: bool
    recurrence: Recurrence | None  # the operations of recurrent networks; None if the backend does not have them

    def to_device(self, *arrays: Array) -> None:
        """Make what the host wrote into these arrays visible to later operations."""

    def to_host(self, *arrays: Array) -> None:
        """Make what operations wrote into these arrays visible to the host."""

    def clear(self, array: Array) -> None:
        """array = 0."""

    def blend(self, target: Array, source: Array, rate: float, scale: float = 1.0) -> None:
        """target = (1 - rate) target + rate scale source.  Both (C,) in float64."""

    def average(self, target: Array, source: Array, batches: Array, more: int, scale: float = 1.0) -> None:
        """batches += more, then target += (scale source - target) / batches.  All (C,) in float64.

        With `more` = 1 and a target that begins at 0 batches, it becomes the average of all sources.
        """

    def copy_columns(self, source: Array, start: int, target: Array, at: int, width: int) -> None:
        """target[..., at : at + width] = source[..., start : start + width].  All other axes are the same for both."""

    def apply_mask(self, theta: Array, mask: NDArray[np.uint8], out: Array) -> None:
        """out = theta where mask is 1, 0 where it is 0.  All (I, O)."""

    def gather_rows(
        self, source: Array, index: NDArray[np.int64], scale: float, mean: Array, out: Array,
        moves: NDArray[np.int32] | None = None,
    ) -> None:  # fmt: skip
        """out[b] = source[index[b]] * scale - mean.  source (N, I) may be uint8; mean (I,); out (B, I).

        If out holds sequences (B, T, I / T), rows of source hold their steps one after the other. If out holds integers
        (tokens), out[b] = source[index[b]].

        If out holds images (B, H, W, C), source and mean hold them channels first. `moves` (B, 3), if given, shifts and
        mirrors them: with (down, right, mirror) = moves[b], pixel (y, x) of the shifted image is pixel
        (y - down, x - right) of the normalised one, or 0 (that is, the mean) if that lies outside; if mirror is 1, the
        shifted image is then mirrored left to right.
        """

    def noise(self, key: NoiseKey, rows: int, units: int) -> Array:
        """Return the block of noise, array (rows, units); the operations below draw the same numbers."""

    def lrt_forward(
        self, x: Array, theta: Array, log_sigma2: Array, bias: Array, keep: float, key: NoiseKey,
        relu: bool, y: Array, memory: Buffers, window: Window | None = None,
        living: Living | None = None,
    ) -> None:  # fmt: skip
        """Sample the pre-activations directly (local reparametrisation: Kingma et al. 2015; Molchanov et al. 2017).

        mean = x @ theta' + bias          theta' = theta where theta^2 >= keep * sigma^2, else 0
        var  = x^2 @ exp(log_sigma2)      the bias never enters var
        y    = mean + sqrt(var) * noise   and, with `relu`, max(y, 0)
        `keep` = exp(-threshold) masks means during training; 0 masks none. `memory` keeps what backward needs:
        r = noise / (2 sqrt(var)), which is 0 where var <= 1e-30, and whatever else the backend needs.
        """

    def lrt_backward(
        self, x: Array, theta: Array, log_sigma2: Array, keep: float, dy: Array,
        rectified: Array | None, d_theta: Array, d_sigma2: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        """Gradients of the last `lrt_forward` with this `memory`; to be called once per forward pass.

        dy    = dy where rectified > 0, else 0, in place, if `rectified` (the y of a forward pass with `relu`) is given
        d_var = dy * r
        d_theta = x.T @ dy        d_sigma2 = (x^2).T @ d_var        d_bias = sum_b dy
        dx = dy @ theta'.T + 2 x * (d_var @ exp(log_sigma2).T)
        The mask on d_theta and the chain rule to log_sigma2 are left to `finish_gradients` and `adam_step`.
        """

    def dense_forward(
        self, x: Array, theta: Array, bias: Array, y: Array, memory: Buffers, window: Window | None = None,
        living: Living | None = None,
    ) -> None:  # fmt: skip
        """y = x @ theta + bias."""

    def dense_backward(
        self, x: Array, theta: Array, dy: Array, d_theta: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        """d_theta = x.T @ dy;  d_bias = sum_b dy;  dx = dy @ theta.T."""

    def make_stack(self, layers: Sequence[StackLayer]) -> Stack:
        """Bind dense layers on lists that follow each other, to compute them in one operation (`stack.py`)."""

    def relu_forward(self, y: Array) -> None:
        """y = max(y, 0), in place."""

    def relu_backward(self, y: Array, dy: Array) -> None:
        """dy = dy where y > 0, else 0, in place."""

    def softmax_cross_entropy(self, logits: Array, labels: NDArray[np.int64], d_logits: Array) -> tuple[float, float]:
        """Return the summed NLL in nats and the number of wrong predictions; d_logits = (softmax - one_hot) / B."""

    def gaussian_nll(self, prediction: Array, target: Array, std: float, d_prediction: Array) -> tuple[float, float]:
        """Return the summed NLL in nats of N(target | prediction, std^2) and the summed squared error.

        d_prediction = (prediction - target) / (std^2 B).
        """

    def kl(self, theta: Array, log_sigma2: Array, prior: str) -> float:
        """Sum over all weights of KL(N(theta, sigma^2) || prior), in nats."""

    def finish_gradients(self, arena: Arena, kl_scale: float, keep: float) -> None:
        """Turn the data gradients in arena.grads into gradients of mean NLL + kl_scale * KL, in place.

        For every segment with a posterior, with its own prior:
        d_theta      <- d_theta where theta^2 >= keep sigma^2, else 0;   then  + kl_scale dKL/dtheta
        d_log_sigma2 <- sigma^2 d_sigma2 + kl_scale dKL/dlog_sigma2
        """

    def clip_gradients(self, arena: Arena, most: float) -> None:
        """Shorten the data gradients in arena.grads, all taken together, to the norm `most` if it is larger, in place.

        The norm is that of the gradients for theta, log_sigma2 (sigma^2 d_sigma2) and everything else.
        """

    def adam_step(self, arena: Arena, settings: StepSettings, held: bool) -> None:
        """`finish_gradients`, Adam and the projection to the bounds in one pass over the arena, segment by segment.

        If `held`, numbers whose mask is 0 get gradient 0, so that they do not change while their moments are 0.
        """

    def max_pool_forward(self, x: Array, window: Window, y: Array, chosen: NDArray[np.int32]) -> None:
        """y[b, p, c] = max over taps t of the pixel that window p sees at t; chosen[b, p, c] = the first such t.

        Taps are numbered row by row, ky * KW + kx. Those outside the image are never chosen.
        """

    def max_pool_backward(self, dy: Array, chosen: NDArray[np.int32], window: Window, dx: Array) -> None:
        """dx[pixel] = sum of dy over the windows whose chosen tap is this pixel."""

    def avg_pool_forward(self, x: Array, window: Window, y: Array) -> None:
        """y = sum of x over the taps of each window, divided by the number of its taps; 0 outside the image."""

    def avg_pool_backward(self, dy: Array, window: Window, dx: Array) -> None:
        """dx[pixel] = sum of dy over the windows that see this pixel, divided by the number of their taps."""

    def pad_forward(self, x: Array, padding: Padding, y: Array) -> None:
        """y[b, p, c] = x[b, source of p, c] (`padding.sources`), 0 where pixel p has no source."""

    def pad_backward(self, dy: Array, padding: Padding, dx: Array) -> None:
        """dx[b, q, c] = sum of dy[b, p, c] over the pixels p whose source is q."""

    def batch_moments(self, x: Array, mean: Array, var: Array, memory: Buffers) -> None:
        """Mean and (biased) variance of x (..., C) over all axes but the last; into float64 arrays (C,)."""

    def batch_norm_forward(
        self, x: Array, mean: Array, var: Array, epsilon: float, gamma: Array, beta: Array, y: Array
    ) -> None:
        """y = gamma (x - mean) / std + beta, std = sqrt(var + epsilon).  mean, var (C,) in float64."""

    def batch_norm_backward(
        self, x: Array, mean: Array, var: Array, epsilon: float, gamma: Array, of_batch: bool, dy: Array,
        d_gamma: Array, d_beta: Array, dx: Array | None, memory: Buffers,
    ) -> None:  # fmt: skip
        """Gradients of `batch_norm_forward`; with `of_batch`, mean and var are functions of x (`batch_moments`).

        With n = (x - mean) / std, and sums over the R numbers of each channel:
        d_gamma = sum dy n        d_beta = sum dy
        dx = gamma / std * dy                                             without `of_batch`
        dx = gamma / std * (dy - d_beta / R - n d_gamma / R)              with `of_batch` (Ioffe & Szegedy 2015, §3)
        """

    def dropout_factors(self, key: NoiseKey, p: float, out: Array) -> None:
        """out[b, u] = 0 where the uniform of unit u is below p, else 1 / (1 - p).  out (B, units).

        The uniform is (w >> 8) / 2^24, where w is the unit's word (`NoiseKey`): the same bits on every backend.
        """

    def gaussian_factors(self, key: NoiseKey, std: float, out: Array) -> None:
        """out[b, u] = 1 + std * noise(key)[b, u].  out (B, units)."""

    def multiply(self, x: Array, factors: Array, y: Array) -> None:
        """y = x * factors, entry by entry; y may be x."""

    def weight_pulls(
        self, theta: Array, d_theta: Array, log_sigma2: Array | None, d_sigma2: Array | None, out: Array
    ) -> None:
        """out[i] = sum_o theta d_theta + 2 exp(log_sigma2) d_sigma2.  All (I, O), out (I,).

        Of a dense layer and its data gradients that is sum_b x dx, without computing dx. Without noise, log_sigma2 and
        d_sigma2 are None.
        """

    def gate_forward(self, x: Array, z: Array, y: Array) -> None:
        """y[b, p, u] = x[b, p, u] z[u] at all positions p.  x, y (B, ..., U); z (U,)."""

    def gate_backward(self, x: Array, z: Array, dy: Array, d_z: Array, dx: Array) -> None:
        """d_z[b, u] = sum_p dy x, each example's share of the gradient of z;  dx = dy z;  dx may be dy."""
