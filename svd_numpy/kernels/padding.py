"""Padding of images as a layer of its own: which pixel of an image each pixel of the padded one copies."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MODES = ("zeros", "reflect", "replicate", "circular")


class Padding(NamedTuple):
    """Geometry of one padding of images (B, H, W, C); `mode` is one of `MODES`.

    Attributes
    ----------
    height, width : int
        Of the images without padding.
    edges : (top, bottom, left, right)
        Pixels added at each side.
    """

    height: int
    width: int
    edges: tuple[int, int, int, int]
    mode: str

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the padded images."""
        top, bottom, left, right = self.edges
        return self.height + top + bottom, self.width + left + right

    @property
    def lines(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The row, and the column, that each padded row and column copies; -1 where it is 0."""
        top, bottom, left, right = self.edges
        return _line(self.height, top, bottom, self.mode), _line(self.width, left, right, self.mode)


@lru_cache(maxsize=64)
def sources(padding: Padding) -> NDArray[Any]:
    """The pixel, numbered row by row, that each padded pixel copies, (H' * W',); -1 where it is 0."""
    rows, columns = padding.lines
    pixels = rows[:, None] * padding.width + columns
    return np.where((rows[:, None] < 0) | (columns < 0), -1, pixels).ravel()


def _line(size: int, before: int, after: int, mode: str) -> NDArray[Any]:
    at = np.arange(-before, size + after)
    if mode == "zeros":
        return np.where((at >= 0) & (at < size), at, -1)
    if mode == "replicate":
        return np.clip(at, 0, size - 1)
    if mode == "circular":
        return at % size
    period = max(1, 2 * (size - 1))  # back and forth; the outermost pixel is not repeated
    return np.minimum(at % period, period - at % period)
