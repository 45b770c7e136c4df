"""From images to rows."""

from __future__ import annotations

import math

import numpy as np

from svd_numpy.kernels.backend import Array
from svd_numpy.network.layers.base import Layer, Pass
from svd_numpy.network.params import ParamSpec


class Flatten(Layer):
    """Images (B, C, H, W) -> rows (B, H * W * C), the channels of a pixel side by side.

    That is the order of images in memory here, so nothing is copied. Weights of a dense layer after a flattening in
    another library must be reordered.
    """

    kind = "flatten"
    homogeneous = "any"

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        return (math.prod(in_shape),), []

    def take(self, outputs: Array, inputs: Array) -> Array:
        """See `Layer.take`: of every pixel, the channels that remain."""
        channels = self.in_shape[-1]
        pixels = math.prod(self.in_shape[:-1])
        return np.asarray((channels * np.arange(pixels)[:, None] + inputs).reshape(-1))

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, H, W, C) -> (B, H * W * C), the same memory."""
        self._shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, H * W * C) -> (B, H, W, C), the same memory."""
        return dy.reshape(self._shape)
