"""Layers: one concept a file, each with `build`, `forward` and `backward`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svd_numpy.layers.activations import ReLU
from svd_numpy.layers.base import Layer, Pass
from svd_numpy.layers.dense import Dense, VariationalDense

__all__ = ["LAYERS", "Dense", "Layer", "Pass", "ReLU", "VariationalDense", "layer_from_config"]

LAYERS: dict[str, type[Layer]] = {layer.__name__: layer for layer in (Dense, ReLU, VariationalDense)}


def layer_from_config(config: Mapping[str, Any]) -> Layer:
    """Make the layer that `Layer.config` described."""
    options = dict(config)
    kind = options.pop("type", None)
    if kind not in LAYERS:
        raise ValueError(f"layer type: got {kind!r}, expected one of {tuple(LAYERS)}")
    return LAYERS[kind](**options)
