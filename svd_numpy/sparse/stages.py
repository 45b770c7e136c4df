"""A trained network as a list of stages: pruned, batch normalisation folded, ReLUs attached, but not yet compacted.

`compaction` works on stages: they are mutable, in float64, and have all channels. They describe inference only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.padding import Padding
from svd_numpy.kernels.window import Window
from svd_numpy.network.layers import (
    AvgPool2d,
    BatchNorm,
    Dropout,
    Flatten,
    GaussianDropout,
    MaxPool2d,
    Pad2d,
    ReLU,
)
from svd_numpy.network.layers.base import Layer
from svd_numpy.network.layers.weighted import Weighted
from svd_numpy.network.model import Sequential
from svd_numpy.sparse.op_checks import MAX_WEIGHTS
from svd_numpy.sparse.ops import PoolKind


@dataclass(eq=False)
class Stage:
    """What all stages have: the shape of an example before and after it, and whether it ends with a ReLU."""

    name: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    relu: bool = field(default=False, kw_only=True)


@dataclass(eq=False)
class Product(Stage):
    """A dense layer (`window` is None) or a convolution: theta (I, O), bias (O,), in float64."""

    theta: Array
    bias: Array
    window: Window | None
    before: tuple[int, ...]

    @property
    def by_channel(self) -> Array:
        """View (positions or taps, C, O) of theta: the weights by channel of the stage's input."""
        return self.theta.reshape(-1, self.in_shape[-1], self.theta.shape[1])

    @property
    def padded(self) -> bool:
        """Whether this is a convolution that sees zeros around its images."""
        return self.window is not None and self.window.padding != (0, 0)


@dataclass(eq=False)
class Pooling(Stage):
    """A pooling; its kind is that of a `PoolOp`."""

    kind: PoolKind
    window: Window


@dataclass(eq=False)
class Padded(Stage):
    """Pixels added around images by a layer of its own."""

    padding: Padding


@dataclass(eq=False)
class Scaling(Stage):
    """y = x * scale + shift, channel by channel."""

    scale: Array
    shift: Array

    @property
    def rectifies_only(self) -> bool:
        """Whether this is a ReLU and nothing else."""
        return self.relu and bool((self.scale == 1).all() and (self.shift == 0).all())


AnyStage = Product | Pooling | Padded | Scaling


def stages_of(model: Sequential, threshold: float) -> list[AnyStage]:
    """Translate a network pruned at a threshold on log_alpha.

    Raises
    ------
    TypeError
        For a layer that has no stage.
    """
    stages = [stage for layer in model.layers for stage in _translated(layer, threshold)]
    merged = _merge(stages)
    while merged != stages:  # a stage that has moved forwards may now merge with the next one
        stages, merged = merged, _merge(merged)
    shape = model.inner_shape
    for stage in stages:
        if isinstance(stage, Product) and stage.window is None:
            stage.in_shape = shape  # flattening moves nothing in memory: rows of theta are still grouped by position
        shape = stage.out_shape
    return stages


def _translated(layer: Layer, threshold: float) -> list[AnyStage]:
    """The stage of one layer; dropout and flattening have none."""
    shapes = layer.in_shape, layer.out_shape
    if isinstance(layer, Weighted):
        if layer.window is not None and layer.window.taps * layer.theta_shape[-1] > MAX_WEIGHTS:
            raise SvdValueError(
                f"compress: layer {layer.name!r} has {layer.window.taps} taps and {layer.theta_shape[-1]} filters, "
                f"that is, with zeros between groups, more than {MAX_WEIGHTS} weights; expected at most that many"
            )
        theta = layer.full_theta(layer.pruned_theta(threshold)).astype(np.float64)
        bias = layer.bias.astype(np.float64)
        return [Product(layer.name, *shapes, theta, bias, layer.window, layer.theta_shape)]
    if isinstance(layer, BatchNorm):
        scale = layer.gamma / np.sqrt(layer.running_var.astype(np.float64) + layer.eps)
        return [Scaling(layer.name, *shapes, scale, layer.beta - layer.running_mean * scale)]
    if isinstance(layer, ReLU):
        return [_rectifier(layer.name, layer.in_shape)]
    if isinstance(layer, MaxPool2d | AvgPool2d):
        average: PoolKind = "avg_inside" if isinstance(layer, AvgPool2d) and layer.inside else "avg"
        return [Pooling(layer.name, *shapes, "max" if isinstance(layer, MaxPool2d) else average, layer.window)]
    if isinstance(layer, Pad2d):
        return [Padded(layer.name, *shapes, layer.geometry)]
    if isinstance(layer, Dropout | GaussianDropout | Flatten):
        return []
    raise SvdTypeError(
        f"compress: layer {layer.name!r} is a {type(layer).__name__}, which compact networks do not have; "
        "expected dense and convolutional layers, BatchNorm, ReLU, poolings, Pad2d, dropout and Flatten"
    )


def _rectifier(name: str, shape: tuple[int, ...]) -> Scaling:
    return Scaling(name, shape, shape, np.ones(shape[-1]), np.zeros(shape[-1]), relu=True)


def _merge(stages: list[AnyStage]) -> list[AnyStage]:
    """Fold scalings into the stages with weights next to them, wherever that is exact."""
    merged: list[AnyStage] = []
    for stage in stages:
        before = merged[-1] if merged else None
        if isinstance(stage, Scaling) and before is not None and _take_in(before, stage):
            continue
        if isinstance(stage, Scaling) and stage.rectifies_only and _commutes(before):
            assert before is not None
            merged[-1:] = [_rectifier(stage.name, before.in_shape), before]
            continue
        if isinstance(stage, Product) and isinstance(before, Scaling) and _feed(before, stage):
            merged.pop()
        merged.append(stage)
    return merged


def _commutes(before: AnyStage | None) -> bool:
    """Whether a ReLU after this stage can equally well come before it: copies and maxima do not mind."""
    return isinstance(before, Padded) or (isinstance(before, Pooling) and before.kind == "max")


def _take_in(before: AnyStage, stage: Scaling) -> bool:
    """Fold a scaling into the stage before it; return False where that is not exact."""
    if isinstance(before, Pooling | Padded):
        return False
    if not stage.rectifies_only:
        if before.relu or before.out_shape != stage.in_shape:  # shapes differ if a flattening lies between
            return False
        if isinstance(before, Product):
            before.theta *= stage.scale
            before.bias = before.bias * stage.scale + stage.shift
        else:
            before.scale, before.shift = before.scale * stage.scale, before.shift * stage.scale + stage.shift
    before.relu |= stage.relu
    return True


def _feed(before: Scaling, stage: Product) -> bool:
    """Fold a scaling into the weights after it; return False where that is not exact."""
    if before.relu or before.out_shape != stage.in_shape or (stage.padded and before.shift.any()):
        return False
    weights = stage.by_channel
    stage.bias = stage.bias + np.einsum("pco,c->o", weights, before.shift)
    weights *= before.scale[:, None]
    return True
