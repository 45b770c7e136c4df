"""What every layer is: build once, then forward and backward, on buffers that are allocated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.kernels.backend import Array, Backend, Buffers, NoiseKey
from svd_numpy.network.params import ParamSpec

Mode = Literal["sample", "mean"]
Axes = tuple[str | None, ...]

_OWN = __name__.partition(".")[0] + "."  # modules of this package begin so
LAYERS: dict[str, type[Layer]] = {}  # every layer that can be made from its `config`, by the name of its class


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
    mode : "sample" or "mean"
        Noisy (training, Monte Carlo), or posterior means (prediction, fine-tuning).
    keep : float
        exp(-threshold) when training masks: in "sample" mode a mean counts only where theta^2 >= keep * sigma^2.
    masks : mapping of layer name -> uint8 array (I, O)
        Weights whose mask is 0 have no mean in this pass; a layer that is not named has all of them.
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
    masks: Mapping[str, Array] = field(default_factory=dict)

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
        Of one example, without the batch axis; images (H, W, C). Set by the model.
    built : bool
        Whether the layer belongs to a model.
    axes : dict of array name -> tuple
        Which axis of a parameter or state goes with the layer's inputs ("in") or outputs ("out"); None: with neither.
    takes_tokens : int or None
        For a first layer that reads whole numbers (tokens): how many different ones there are.

    Notes
    -----
    A subclass whose name does not begin with an underscore is registered by its name, so that networks with it can be
    copied and loaded: `config` must then return what its constructor takes.
    """

    kind = "layer"
    axes: Mapping[str, Axes] = {}
    takes_tokens: int | None = None
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = LAYERS.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__ and known.__module__.startswith(_OWN):
            raise SvdValueError(f"a layer named {cls.__name__} is there already ({known.__module__}); give it another")
        if not cls.__name__.startswith("_"):
            LAYERS[cls.__name__] = cls

    def __init__(self, name: str | None = None) -> None:
        if not isinstance(name, str | None):
            raise SvdTypeError(f"name: got {name!r} of type {type(name).__name__}, expected a str")
        self.name = name or ""
        self.index = 0
        self.built = False
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

    def alive(self, threshold: float) -> Array | None:
        """Which weights (I, O) survive at a threshold on log_alpha, bool; None for a layer without weights."""
        return None

    def kl(self, backend: Backend) -> float:
        """KL of what only this layer knows of (scales of groups, say), in nats; posteriors in the arena are not in."""
        return 0.0

    def add_kl_gradients(self, backend: Backend, kl_scale: float) -> None:
        """Add the gradients of kl_scale * `kl` to those of the parameters; called after `backward`."""

    def take(self, outputs: Array, inputs: Array) -> Array:
        """Which outputs (units, channels) are left where only these inputs are; chosen are those of `outputs`."""
        return inputs

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        """`config` of the same layer for so many inputs (channels) and outputs."""
        return self.config()

    def config(self) -> dict[str, Any]:
        """Type and constructor arguments, JSON-ready, so that the layer can be made again."""
        return {"type": type(self).__name__, "name": self.name}


def layer_from_config(config: Mapping[str, Any]) -> Layer:
    """Make the layer that `Layer.config` described."""
    options = dict(config)
    kind = options.pop("type", None)
    if kind not in LAYERS:
        raise SvdValueError(
            f"layer type: got {kind!r}, expected one of {tuple(LAYERS)}; a layer of your own must be imported first"
        )
    return LAYERS[kind](**options)
