"""What every layer is: build once, then forward and backward, on buffers that are allocated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdTypeError
from svd_numpy.kernels.backend import Backend, Buffers, NoiseKey
from svd_numpy.network.params import ParamSpec

Array = NDArray[Any]
Mode = Literal["sample", "mean", "pruned"]


def public_shape(shape: tuple[int, ...]) -> str:
    """Name the shape of a batch as its user sees it: images channels first, whatever the layout inside."""
    if len(shape) == 3:
        shape = (shape[2], *shape[:2])
    return f"(B, {', '.join(map(str, shape))})"


@dataclass
class Pass:
    """How one pass through the network is to be done.

    Attributes
    ----------
    backend : Backend
    mode : "sample", "mean" or "pruned"
        Noisy (training, Monte Carlo); posterior means as they are (fine-tuning); means pruned at the
        threshold.
    keep : float
        exp(-threshold): in "pruned" mode, and in "sample" mode when training masks, a weight counts only
        where theta^2 >= keep * sigma^2.
    seed, step, first_sample : int
        Where the noise of this pass lies (`NoiseKey`).
    training : bool
        Whether layers act as in training: statistics of the batch, dropout.
    learn : bool
        Whether backward lets the batch enter running averages; only with `training`.
    """

    backend: Backend
    mode: Mode = "sample"
    keep: float = 0.0
    seed: int = 0
    step: int = 0
    first_sample: int = 0
    training: bool = False
    learn: bool = False

    def noise_key(self, layer: int) -> NoiseKey:
        """Key of the noise of layer number `layer`."""
        return NoiseKey(self.seed, layer, self.step, self.first_sample)


class Layer:
    """Base class. A layer owns its buffers; its parameters are views of the model's arena.

    Attributes
    ----------
    name : str
        Unique in a model; set by the model when the user gives none.
    index : int
        Position in the model; part of the noise key.
    in_shape, out_shape : tuple of int
        Of one example, images (H, W, C); set by the model when it builds the layer.
    """

    kind = "layer"
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def __init__(self, name: str | None = None) -> None:
        if not isinstance(name, str | None):
            raise SvdTypeError(f"name: got {name!r} of type {type(name).__name__}, expected a str")
        self.name = name or ""
        self.index = 0
        self.memory = Buffers()

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """Check the input shape (no batch axis; images H, W, C); return the output shape and the parameters wanted."""
        return in_shape, []

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """Receive views of the arena for the parameters asked for in `build`."""

    def state(self) -> dict[str, Array]:
        """Arrays that are no parameters but belong to the model, by name; what is written there is used."""
        return {}

    def forward(self, x: Array, run: Pass) -> Array:
        """Return the output for input x (B, ...); both stay valid until the next forward."""
        raise NotImplementedError

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """Write the data gradients of the parameters; return d(loss)/dx where wanted. May overwrite dy."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Type and constructor arguments, JSON-ready, so that the layer can be made again."""
        return {"type": type(self).__name__, "name": self.name}
