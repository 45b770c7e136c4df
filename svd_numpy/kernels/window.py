"""The sliding window of convolutions and poolings over images (B, H, W, C): its positions and what it sees there.

Images are channels last inside the package: the channels of a pixel are adjacent in memory, and the outputs of a
convolution, one row per position, form images again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Window(NamedTuple):
    """Geometry of one layer; every pair is (vertical, horizontal), in pixels.

    At output position (oy, ox), tap (ky, kx) sees the pixel (oy * stride - padding + ky * dilation, ...), which is 0
    outside the image. In a row of im2col, channel c of that tap has index (ky * kernel[1] + kx) * channels + c.
    """

    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the image with its padding."""
        return self.height + 2 * self.padding[0], self.width + 2 * self.padding[1]

    @property
    def out(self) -> tuple[int, int]:
        """Output positions (down, across); 0 or less if the window is larger than the padded image."""
        spans = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        down, across = (
            (size - span) // step + 1 for size, span, step in zip(self.padded, spans, self.stride, strict=True)
        )
        return down, across

    @property
    def taps(self) -> int:
        """Inputs of one output position: kernel height * kernel width * channels."""
        return self.kernel[0] * self.kernel[1] * self.channels

    @property
    def share_inside(self) -> Array:
        """Share of a window's pixels that lie inside the image, at every position (OH, OW)."""
        whole = self._replace(channels=1)
        seen = [view[0, :, :, 0] for view in whole.views(whole.pad(np.ones((1, self.height, self.width, 1))))]
        return np.asarray(np.mean(seen, axis=0))

    def views(self, padded: Array) -> Iterator[Array]:
        """Yield, for each tap (ky, kx), a view (B, *out, C) of the pixels it sees in padded images (B, H, W, C)."""
        (down, across), (sy, sx) = self.out, self.stride
        for ky in range(self.kernel[0]):
            for kx in range(self.kernel[1]):
                y, x = ky * self.dilation[0], kx * self.dilation[1]
                yield padded[:, y : y + sy * down : sy, x : x + sx * across : sx]

    def pad(self, x: Array, value: float = 0.0) -> Array:
        """Return images (B, H, W, C) with padding around them."""
        (py, px) = self.padding
        return np.pad(x, ((0, 0), (py, py), (px, px), (0, 0)), constant_values=value)


def channels_last(rows: Array, shape: tuple[int, ...]) -> Array:
    """View rows (B, C * H * W) of channels-first images as (B, H, W, C); return other rows unchanged."""
    return rows.reshape(-1, *shape).transpose(0, 2, 3, 1) if len(shape) == 3 else rows


def im2col(x: Array, window: Window | None) -> Array:
    """Rows (B * P, taps) of what the window sees at every position; without a window, x itself."""
    if window is None:
        return x
    seen = np.stack(list(window.views(window.pad(x))), axis=3)  # (B, OH, OW, KH * KW, C)
    return seen.reshape(-1, window.taps)


def col2im(rows: Array, window: Window | None) -> Array:
    """Sum rows (B * P, taps) back onto the pixels (B, H, W, C) that they came from: the transpose of `im2col`."""
    if window is None:
        return rows
    (height, width), (py, px) = window.padded, window.padding
    pieces = rows.reshape(-1, *window.out, window.taps // window.channels, window.channels)
    image = np.zeros((len(pieces), height, width, window.channels), rows.dtype)
    for tap, view in enumerate(window.views(image)):
        view += pieces[:, :, :, tap]
    return image[:, py : height - py, px : width - px]
