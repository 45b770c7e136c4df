"""Layers: one concept a file, each with `build`, `forward` and `backward`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svd_numpy.checks import SvdValueError
from svd_numpy.network.layers.activations import ReLU
from svd_numpy.network.layers.base import Layer, Pass
from svd_numpy.network.layers.batch_norm import BatchNorm
from svd_numpy.network.layers.conv import Conv2d, VariationalConv2d
from svd_numpy.network.layers.dense import Dense, VariationalDense
from svd_numpy.network.layers.dropout import Dropout, GaussianDropout
from svd_numpy.network.layers.flatten import Flatten
from svd_numpy.network.layers.pooling import AvgPool2d, MaxPool2d

LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        AvgPool2d, BatchNorm, Conv2d, Dense, Dropout, Flatten, GaussianDropout, MaxPool2d, ReLU, VariationalConv2d,
        VariationalDense,
    )
}  # fmt: skip

__all__ = [
    "LAYERS", "AvgPool2d", "BatchNorm", "Conv2d", "Dense", "Dropout", "Flatten", "GaussianDropout", "Layer",
    "MaxPool2d", "Pass", "ReLU", "VariationalConv2d", "VariationalDense", "layer_from_config",
]  # fmt: skip


def layer_from_config(config: Mapping[str, Any]) -> Layer:
    """Make the layer that `Layer.config` described."""
    options = dict(config)
    kind = options.pop("type", None)
    if kind not in LAYERS:
        raise SvdValueError(f"layer type: got {kind!r}, expected one of {tuple(LAYERS)}")
    return LAYERS[kind](**options)
