"""Layers: one concept per file, each with `build`, `forward` and `backward`."""

from svd_numpy.network.layers.activations import ReLU
from svd_numpy.network.layers.base import LAYERS, Layer, Pass, layer_from_config
from svd_numpy.network.layers.batch_norm import BatchNorm
from svd_numpy.network.layers.conv import Conv2d, VariationalConv2d
from svd_numpy.network.layers.dense import Dense, VariationalDense
from svd_numpy.network.layers.dropout import Dropout, GaussianDropout
from svd_numpy.network.layers.flatten import Flatten
from svd_numpy.network.layers.gate import Gate
from svd_numpy.network.layers.padding import Pad2d
from svd_numpy.network.layers.pooling import AvgPool2d, MaxPool2d

__all__ = [
    "LAYERS", "AvgPool2d", "BatchNorm", "Conv2d", "Dense", "Dropout", "Flatten", "Gate", "GaussianDropout", "Layer",
    "MaxPool2d", "Pad2d", "Pass", "ReLU", "VariationalConv2d", "VariationalDense", "layer_from_config",
]  # fmt: skip
