"""`Layer`, the base class: build once, then forward and backward on buffers kept between calls; and `Pass`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.kernels.backend import Array, Backend, Buffers, NoiseKey
from svd_numpy.kernels.living import Living
from svd_numpy.kernels.stack import StackLayer
from svd_numpy.network.params import ParamSpec

Mode = Literal["sample", "mean"]
Axes = tuple[str | None, ...]

OWN = __name__.partition(".")[0] + "."  # prefix of this package's modules
LAYERS: dict[str, type[Layer]] = {}  # layers that can be made from their `config`, by class name


def public_shape(shape: tuple[int, ...]) -> str:
    """Write the shape of a batch as the user sees it, with images channels first."""
    if len(shape) == 3:
        shape = (shape[2], *shape[:2])
    return f"(B, {', '.join(map(str, shape))})"


@dataclass
class Pass:
    """How to run one pass through the network.

    Attributes
    ----------
    backend : Backend
    mode : "sample" or "mean"
        Noisy (training, Monte Carlo), or posterior means (prediction, fine-tuning).
    keep : float
        exp(-threshold) if training masks, else 0: in "sample" mode a mean counts only if theta^2 >= keep * sigma^2.
    masks : mapping of layer name -> uint8 array (I, O)
        Weights whose mask is 0 have mean 0 in this pass; layers not named use all their weights.
    carried : mapping of layer name -> array (states, B, H)
        Where a recurrent layer finds the states in which its sequences begin, and leaves those in which they end. For
        layers not named they begin at 0.
    present : uint8 array (B, T) or None
        Which steps are not just padding; written by the first layer for those behind it. None: all.
    surveyed : array (S, n) or None
        What the last survey of a layer (`Layer.survey`) found in each shard, if this pass has one of the S shards of a
        batch. None: it has the whole batch.
    seed, step, first_sample : int
        Position of the noise of this pass (`NoiseKey`).
    training : bool
        Whether layers act as in training: statistics of the batch, dropout.
    learn : bool
        Whether backward updates running averages; only with `training`.
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
    carried: Mapping[str, Array] = field(default_factory=dict)
    present: Array | None = None
    surveyed: Array | None = None

    def noise_key(self, layer: int) -> NoiseKey:
        """Noise key of the layer with this index."""
        return NoiseKey(self.seed, layer, self.step, self.first_sample)


class Layer:
    """Base class. A layer owns its buffers; its parameters are views of the model's arena.

    Attributes
    ----------
    name : str
        Unique in a model; chosen by the model if the user gives none.
    index : int
        Position in the model; part of the noise key.
    in_shape, out_shape : tuple of int
        Shapes of one example, without the batch axis; images are (H, W, C). Set by the model.
    built : bool
        Whether the layer belongs to a model.
    axes : dict of array name -> tuple
        What each axis of a parameter or state runs over: the layer's inputs ("in"), outputs ("out") or neither (None).
    takes_tokens : int or None
        Size of the vocabulary, for a first layer that reads tokens (integers from 0).
    vocabulary : tuple of str, or None
        What the tokens stand for, if the layer knows it.
    needs_recurrence : bool
        Whether it needs the operations in `Backend.recurrence`.
    homogeneous : "any", "positive" or None
        Whether f(c x) = c f(x), channel by channel, for every c, for c >= 0, or not at all.
    fixed : tuple of str
        Own parameters that stay as they are in fine-tuning.
    output_arrays : tuple of str
        Own parameters whose last axis runs over the outputs, and which scale them when all are scaled.
    inner_rows : int
        How many of the last rows of theta read the layer's own outputs of the step before.
    living : Living or None
        Which of its weights a layer has, if not all; only in the small copies that are trained (`network.living`).

    Notes
    -----
    A subclass whose name does not begin with an underscore is registered under that name, so that networks with it can
    be copied and loaded; its `config` must return every argument of its constructor.
    """

    kind = "layer"
    axes: Mapping[str, Axes] = {}
    takes_tokens: int | None = None
    vocabulary: tuple[str, ...] | None = None
    needs_recurrence = False
    homogeneous: Literal["any", "positive"] | None = None
    fixed: tuple[str, ...] = ()
    output_arrays: tuple[str, ...] = ()
    inner_rows = 0
    living: Living | None = None
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = LAYERS.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__ and known.__module__.startswith(OWN):
            raise SvdValueError(f"layer class {cls.__name__}: {known.__module__} uses this name; choose another")
        if not cls.__name__.startswith("_"):
            LAYERS[cls.__name__] = cls

    def __init__(self, name: str | None = None) -> None:
        if not isinstance(name, str | None):
            raise SvdTypeError(f"name: got {name!r} of type {type(name).__name__}, expected a str")
        if name and not name.isprintable():  # names go to terminals, where others can do harm, and into files
            raise SvdValueError(f"name: got {name!r}, expected printable text")
        self.name = name or ""
        self.index = 0
        self.built = False
        self.memory = Buffers()

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """Check the input shape (no batch axis; images H, W, C); return the output shape and the parameters needed."""
        return in_shape, []

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """Receive views of the arena for the parameters requested in `build`."""

    def state(self) -> dict[str, Array]:
        """Arrays that belong to the model but are not parameters, by name; writing to them takes effect."""
        return {}

    def forward(self, x: Array, run: Pass) -> Array:
        """Return the output for input x (B, ...), and keep what `backward` needs. May overwrite x."""
        raise NotImplementedError

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """Write the data gradients of the parameters; return d(loss)/dx if wanted. May overwrite dy."""
        raise NotImplementedError

    def needs_no_dy(self, reader: Any, run: Pass) -> bool:
        """Whether `backward_from` can take the place of `backward`, if nobody wants dx; reader : the next layer."""
        return False

    def backward_from(self, reader: Any, run: Pass) -> None:
        """Write the gradients of the parameters, given those that the next layer has written; see `needs_no_dy`."""

    def stack_layer(self) -> StackLayer | None:
        """Describe what it does, if that may be a part of a `Stack` with its neighbours."""
        return None

    def survey(self, x: Array, run: Pass) -> Array | None:
        """Return what `forward` must know of every shard of a batch, (n,) in float64; called before it.

        Only where batches are cut into shards (`TrainConfig.shards`). None: the examples are independent.
        """
        return None

    def survey_back(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """Return what `backward` must know of every shard, (n,) in float64; called before it, as `survey` is."""
        return None

    def alive(self, threshold: float) -> Array | None:
        """Which weights (I, O) survive at a threshold on log_alpha, bool; None for a layer without weights."""
        return None

    def first_state(self, sequences: int) -> Array | None:
        """State in which so many sequences begin, (states, sequences, H); None if the layer is not recurrent."""
        return None

    def closed(self) -> Array | None:
        """Which outputs (channels) are 0 in the pruned network, whatever the input, bool; None if that is unknown."""
        return None

    def kl(self, backend: Backend) -> float:
        """KL, in nats, of parameters that are not posteriors in the arena (for example, scales of groups)."""
        return 0.0

    def add_kl_gradients(self, backend: Backend, kl_scale: float) -> None:
        """Add the gradients of kl_scale * `kl` to those of the parameters; called after `backward`."""

    def take(self, outputs: Array, inputs: Array) -> Array:
        """Return the outputs (units, channels) that remain, given those to keep and the inputs that remain."""
        return inputs

    def along(self, axis: str | None, inputs: Array, outputs: Array) -> Array | None:
        """Indices along an axis (`axes`) that remain, given the inputs and outputs that do; None: all of them."""
        return {"in": inputs, "out": outputs}.get(axis or "")

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        """`config` of the same layer with this many inputs (channels) and outputs."""
        return self.config()

    def config(self) -> dict[str, Any]:
        """Type and constructor arguments, JSON-ready, from which the layer can be made again."""
        return {"type": type(self).__name__, "name": self.name}


def layer_from_config(config: Mapping[str, Any]) -> Layer:
    """Make the layer that a `Layer.config` describes."""
    options = dict(config)
    kind = options.pop("type", None)
    if kind not in LAYERS:
        raise SvdValueError(
            f"layer type: got {kind!r}, expected one of {tuple(LAYERS)}; a layer of your own must be imported first"
        )
    return LAYERS[kind](**options)
