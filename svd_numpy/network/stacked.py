"""Layers that pass through the network as one: those that a backend computes in a single operation."""

from __future__ import annotations

from collections.abc import Sequence

from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.kernels.stack import Rows, StackLayer
from svd_numpy.network.layers.base import Layer, Pass


class Stacked:
    """Layers in a row, with the ReLUs between them, as one operation (`kernels.stack.Stack`)."""

    def __init__(self, layers: Sequence[Layer], described: Sequence[StackLayer], backend: Backend) -> None:
        self._layers, self._stack, self._alone = layers, backend.make_stack(described), False

    def forward(self, x: Array | Rows, run: Pass) -> Array:
        """See `Layer.forward`; x may be examples that are still to be gathered, unless the pass has masks."""
        self._alone = bool(run.masks)
        if not self._alone:
            return self._stack.forward(x, run.keep, run.noise_key(0) if run.mode == "sample" else None)
        assert not isinstance(x, Rows)
        for layer in self._layers:
            x = layer.forward(x, run)
        return x

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """See `Layer.backward`."""
        if not self._alone:
            return self._stack.backward(dy, want_dx)
        d: Array | None = dy
        for layer in reversed(self._layers):
            assert d is not None
            d = layer.backward(d, run, want_dx or layer is not self._layers[0])
        return d

    def add_kl_gradients(self, backend: Backend, kl_scale: float) -> None:
        """See `Layer.add_kl_gradients`: these layers have no KL of their own."""


def stacked(layers: Sequence[Layer], backend: Backend) -> list[Layer | Stacked]:
    """Put together what can be: the layers of a network, built, in the order in which a pass meets them."""
    found, at = list[Layer | Stacked](), 0
    while at < len(layers):
        first, described = at, list[StackLayer]()
        while at < len(layers) and (layer := layers[at].stack_layer()) is not None:
            described.append(layer)
            at += 2 if layer.relu else 1  # a ReLU behind it has nothing left to do
        if described:
            found.append(Stacked(layers[first:at], described, backend))
        else:
            found.append(layers[at])
            at += 1
    return found
