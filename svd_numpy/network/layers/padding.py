"""Padding of images before a layer that reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_choice, check_count
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.padding import MODES, Padding
from svd_numpy.network.layers.base import Layer, Pass, public_shape
from svd_numpy.network.params import ParamSpec


class Pad2d(Layer):
    """Images (B, C, H, W) with pixels added around them; put it before a convolution with padding 0.

    Parameters
    ----------
    padding : int, or (left, right, top, bottom)
        Pixels to add at every side, in PyTorch's order.
    mode : "zeros", "reflect", "replicate" or "circular"
        What the added pixels are: 0, the image mirrored without repeating its edge, its outermost pixels, or its
        other side. The same as PyTorch's `padding_mode` of a convolution.
    name : str, optional

    Raises
    ------
    ValueError
        When the model is built, for inputs that are not images, or images too small for the padding: "reflect" needs
        more pixels than it adds at a side, "circular" at least as many.
    """

    kind = "pad"
    homogeneous = "any"

    def __init__(self, padding: int | tuple[int, int, int, int], mode: str = "zeros", name: str | None = None) -> None:
        super().__init__(name)
        edges = tuple(padding) if isinstance(padding, tuple | list) else (padding,) * 4
        if len(edges) != 4:
            raise SvdValueError(f"padding: got {padding!r}, expected a number, or (left, right, top, bottom)")
        self.padding = tuple(check_count("padding", edge, low=0, high=2**31) for edge in edges)
        self.mode = check_choice("mode", mode, MODES)
        self.geometry: Padding

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        return {**super().config(), "padding": list(self.padding), "mode": self.mode}

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        if len(in_shape) != 3:
            raise SvdValueError(
                f"layer {self.name!r}: got inputs of shape {public_shape(in_shape)}, expected images (B, C, H, W); "
                "give Sequential an input_shape=(C, H, W), and put it before Flatten"
            )
        height, width, channels = in_shape
        left, right, top, bottom = self.padding
        most = {"reflect": -1, "circular": 0}.get(self.mode)
        if most is not None and (max(left, right) > width + most or max(top, bottom) > height + most):
            raise SvdValueError(
                f"layer {self.name!r}: got images of {height} x {width}, too small to add (left, right, top, bottom) = "
                f"{self.padding} pixels by mode {self.mode!r}; use less padding, or mode 'replicate'"
            )
        self.geometry = Padding(height, width, (top, bottom, left, right), self.mode)
        return (*self.geometry.out, channels), []

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, H, W, C) -> y (B, H + top + bottom, W + left + right, C)."""
        y = self.memory.get("y", (len(x), *self.geometry.out, x.shape[3]), x.dtype)
        run.backend.pad_forward(x, self.geometry, y)
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy, padded -> dx (B, H, W, C)."""
        if not want_dx:
            return None
        dx = self.memory.get("dx", (len(dy), self.geometry.height, self.geometry.width, dy.shape[3]), dy.dtype)
        run.backend.pad_backward(dy, self.geometry, dx)
        return dx
