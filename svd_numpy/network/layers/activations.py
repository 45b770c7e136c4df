"""Activations without parameters."""

from __future__ import annotations

from svd_numpy.kernels.backend import Array
from svd_numpy.network.layers.base import Layer, Pass


class ReLU(Layer):
    """y = max(x, 0), in place."""

    kind = "relu"
    homogeneous = "positive"
    sampled = False  # set by the model after a variational layer, which then rectifies its samples: one pass fewer

    def forward(self, x: Array, run: Pass) -> Array:
        """x of any shape -> y, the same memory."""
        if not (self.sampled and run.mode == "sample"):
            run.backend.relu_forward(x)
        self._y = x
        return x

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """Keep dy where y > 0, in place."""
        if not (self.sampled and run.mode == "sample"):
            run.backend.relu_backward(self._y, dy)
        return dy
