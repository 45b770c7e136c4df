"""Layers: one concept per file, each with `build`, `forward` and `backward`."""

from svd_numpy.network.layers.activations import ReLU
from svd_numpy.network.layers.base import LAYERS, Layer, Pass, layer_from_config
from svd_numpy.network.layers.batch_norm import BatchNorm
from svd_numpy.network.layers.conv import Conv2d, VariationalConv2d
from svd_numpy.network.layers.dense import Dense, VariationalDense
from svd_numpy.network.layers.dropout import Dropout, GaussianDropout
from svd_numpy.network.layers.embedding import Embedding, VariationalEmbedding
from svd_numpy.network.layers.flatten import Flatten
from svd_numpy.network.layers.gate import Gate
from svd_numpy.network.layers.padding import Pad2d
from svd_numpy.network.layers.pooling import AvgPool2d, MaxPool2d
from svd_numpy.network.layers.recurrent import GRU, LSTM, VariationalGRU, VariationalLSTM

__all__ = [
    "GRU", "LAYERS", "LSTM", "AvgPool2d", "BatchNorm", "Conv2d", "Dense", "Dropout", "Embedding", "Flatten",
    "Gate", "GaussianDropout", "Layer", "MaxPool2d", "Pad2d", "Pass", "ReLU", "VariationalConv2d", "VariationalDense",
    "VariationalEmbedding", "VariationalGRU", "VariationalLSTM", "layer_from_config",
]  # fmt: skip
