"""Pooling: each window of an image becomes one pixel, its maximum or its mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_flag
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.window import Window
from svd_numpy.network.layers.base import Layer, Pass
from svd_numpy.network.layers.conv import Pair, check_pair, slide
from svd_numpy.network.params import ParamSpec


class _Pool2d(Layer):
    """Geometry of a pooling, checked; subclasses define what becomes of a window."""

    window: Window

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.kernel_size = check_pair("kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else check_pair("stride", stride)
        self.padding = check_pair("padding", padding, low=0)
        if any(2 * pad > size for pad, size in zip(self.padding, self.kernel_size, strict=True)):
            raise SvdValueError(
                f"padding: got {self.padding}, expected at most half the kernel_size {self.kernel_size}, so that every "
                "window sees a pixel; use less padding or a larger kernel"
            )

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        geometry = {"kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding}
        return {**super().config(), **{name: list(pair) for name, pair in geometry.items()}}

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        self.window = slide(self, in_shape, self.kernel_size, self.stride, self.padding)
        return (*self.window.out, self.window.channels), []

    def _out(self, x: Array) -> Array:
        return self.memory.get("y", (len(x), *self.window.out, x.shape[3]), x.dtype)

    def _dx(self, dy: Array) -> Array:
        height, width, channels = self.window[:3]
        return self.memory.get("dx", (len(dy), height, width, channels), dy.dtype)


class MaxPool2d(_Pool2d):
    """The largest pixel of each window, channel by channel.

    Parameters
    ----------
    kernel_size : int or (int, int)
        Sides of the window, in pixels.
    stride : int or (int, int), optional
        Default: kernel_size, windows side by side. Pixels left over at the lower and right edges are ignored.
    padding : int or (int, int)
        At most half the kernel; everything outside the image counts as minus infinity.
    name : str, optional

    Notes
    -----
    If several pixels of a window are equally large, the first of them, row by row, gets the whole gradient.

    Raises
    ------
    ValueError
        Here for too much padding; when the model is built, for inputs that are not images or smaller than a window.
    """

    kind = "max_pool"
    homogeneous = "positive"

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, H, W, C) -> y (B, OH, OW, C)."""
        y = self._out(x)
        self._chosen = self.memory.get("chosen", y.shape, np.int32)
        run.backend.max_pool_forward(x, self.window, y, self._chosen)
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, OH, OW, C) -> dx (B, H, W, C)."""
        if not want_dx:
            return None
        dx = self._dx(dy)
        run.backend.max_pool_backward(dy, self._chosen, self.window, dx)
        return dx


class AvgPool2d(_Pool2d):
    """The mean of each window, channel by channel.

    Parameters
    ----------
    kernel_size, stride, padding, name
        As in `MaxPool2d`, except for what lies outside the image.
    count_include_pad : bool
        Whether pixels outside the image are part of the mean, as zeros; otherwise it is the mean of those inside.

    Raises
    ------
    ValueError
        Here for too much padding; when the model is built, for inputs that are not images or smaller than a window.
    """

    kind = "avg_pool"
    homogeneous = "any"

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, count_include_pad: bool = True,
        name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, name)
        self.count_include_pad = check_flag("count_include_pad", count_include_pad)
        self._factors = np.zeros((0, 0, 0, 0))

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        return {**super().config(), "count_include_pad": self.count_include_pad}

    @property
    def inside(self) -> bool:
        """Whether some means are over fewer pixels than a window has."""
        return not self.count_include_pad and any(self.padding)

    def _correct(self, run: Pass, y: Array) -> None:
        """Multiply means over all pixels of a window by their number over that of the pixels inside, in place."""
        if self._factors.shape[1:] != y.shape[1:] or len(self._factors) < len(y) or self._factors.dtype != y.dtype:
            pattern = np.broadcast_to(self.window.share_inside[:, :, None], y.shape[1:])
            self._factors = np.tile(1 / pattern, (len(y), 1, 1, 1)).astype(y.dtype)
        run.backend.multiply(y, self._factors[: len(y)], y)

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, H, W, C) -> y (B, OH, OW, C)."""
        y = self._out(x)
        run.backend.avg_pool_forward(x, self.window, y)
        if self.inside:
            self._correct(run, y)
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, OH, OW, C) -> dx (B, H, W, C)."""
        if not want_dx:
            return None
        dx = self._dx(dy)
        if self.inside:
            self._correct(run, dy)
        run.backend.avg_pool_backward(dy, self.window, dx)
        return dx
