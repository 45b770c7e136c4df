"""A `Stack` for backends without a faster one: the operations of `backend.py`, one layer after the other."""

from __future__ import annotations

from collections.abc import Sequence

from svd_numpy.kernels.backend import Array, Backend, Buffers, NoiseKey
from svd_numpy.kernels.stack import Rows, StackLayer


class LayerByLayer:
    """A `Stack` that calls the operations of its backend, which says what a stack computes."""

    def __init__(self, backend: Backend, layers: Sequence[StackLayer]) -> None:
        self._backend, self._layers = backend, [(layer, Buffers()) for layer in layers]

    def forward(self, x: Array | Rows, keep: float, key: NoiseKey | None) -> Array:
        """See `Stack.forward`."""
        if isinstance(x, Rows):
            inputs, memory = self._layers[0][0].living.shape[0], self._layers[0][1]
            gathered = memory.get("x", (len(x.order), inputs), self._backend.dtype)
            self._backend.gather_rows(*x, gathered)
            x = gathered
        self._keep, self._sampled, self._values = keep, key is not None, [x]
        for layer, memory in self._layers:
            x, y = self._values[-1], memory.get("y", (len(x), layer.living.shape[1]), x.dtype)
            if key is None:
                self._backend.dense_forward(x, layer.theta, layer.bias, y, memory, None, layer.living)
                if layer.relu:
                    self._backend.relu_forward(y)
            else:
                self._backend.lrt_forward(
                    x, layer.theta, layer.log_sigma2, layer.bias, keep, key._replace(layer=layer.number), layer.relu, y,
                    memory, None, layer.living,
                )  # fmt: skip
            self._values.append(y)
        return self._values[-1]

    def backward(self, dy: Array, want_dx: bool) -> Array | None:
        """See `Stack.backward`."""
        for at in reversed(range(len(self._layers))):
            (layer, memory), x, y = self._layers[at], self._values[at], self._values[at + 1]
            dx = memory.get("dx", x.shape, x.dtype) if want_dx or at else None
            if self._sampled:
                self._backend.lrt_backward(
                    x, layer.theta, layer.log_sigma2, self._keep, dy, y if layer.relu else None, layer.d_theta,
                    layer.d_sigma2, layer.d_bias, dx, memory, None, layer.living,
                )  # fmt: skip
            else:
                if layer.relu:
                    self._backend.relu_backward(y, dy)
                self._backend.dense_backward(
                    x, layer.theta, dy, layer.d_theta, layer.d_bias, dx, memory, None, layer.living
                )
                self._backend.clear(layer.d_sigma2)
            if dx is not None:
                dy = dx
        return dy if want_dx else None
