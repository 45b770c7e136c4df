"""Networks with many dead weights, units and filters for the tests of compact networks."""

from __future__ import annotations

from typing import Any

import numpy as np

import svd_numpy as svd
from svd_numpy.network.layers import Layer
from svd_numpy.network.layers.weighted import Variational, Weighted


def kill(model: svd.Sequential, density: float, seed: int = 0, units: float = 0.6) -> svd.Sequential:
    """Prune weights and whole units at random; randomise biases and batch normalisation.

    Pruned weights of variational layers are not 0 but very noisy. Weights are rescaled so that outputs stay near 1.
    """
    rng = np.random.default_rng(seed)
    for name, array in {**model.parameters, **model.state}.items():
        kind = name.rpartition(".")[2]
        if kind in ("bias", "beta", "running_mean"):
            array[...] = rng.normal(0, 0.5, array.shape)
        elif kind in ("gamma", "running_var"):
            array[...] = rng.uniform(0.5, 1.5, array.shape)
    weighted = [layer for layer in model.layers if isinstance(layer, Weighted)]
    for layer in weighted:
        lives = rng.random(layer.theta.shape) < density
        if layer is not weighted[-1]:
            lives &= rng.random(layer.theta.shape[1]) < units
        if isinstance(layer, Variational):
            layer.log_sigma2[~lives] = 10
            layer.theta[lives] /= density**0.5
        else:
            layer.theta[...] = np.where(lives, layer.theta / density**0.5, 0)
    return model


def lenet_300_100(**options: Any) -> svd.Sequential:
    layers: list[Layer] = [svd.VariationalDense(60, 30), svd.ReLU(), svd.VariationalDense(30, 20), svd.ReLU()]
    return svd.Sequential(*layers, svd.VariationalDense(20, 10), **options)


def lenet_5(**options: Any) -> svd.Sequential:
    """Convolutions, each followed by a pooling that can be fused with it."""
    return svd.Sequential(
        svd.VariationalConv2d(1, 6, 5), svd.ReLU(), svd.MaxPool2d(2), svd.VariationalConv2d(6, 9, 3), svd.MaxPool2d(2),
        svd.ReLU(), svd.Flatten(), svd.VariationalDense(9 * 25, 40), svd.ReLU(), svd.VariationalDense(40, 10),
        input_shape=(1, 28, 28), **options,
    )  # fmt: skip


def vgg_like(pool: type[svd.MaxPool2d] | type[svd.AvgPool2d] = svd.MaxPool2d) -> svd.Sequential:
    """All awkward cases: padding after dead filters, strides, batch normalisation in every possible place."""
    return svd.Sequential(
        svd.BatchNorm(3), svd.VariationalConv2d(3, 8, 3, padding=1, bias=False), svd.BatchNorm(8), svd.ReLU(),
        svd.Dropout(0.3), svd.Conv2d(8, 12, 3, padding=1), svd.ReLU(), pool(2),
        svd.VariationalConv2d(12, 10, 3, padding=2, dilation=2), svd.BatchNorm(10), svd.ReLU(), pool(3, 2, padding=1),
        svd.BatchNorm(10), svd.VariationalConv2d(10, 9, (3, 2), stride=2), pool(1), svd.ReLU(), svd.Flatten(),
        svd.BatchNorm(9 * 2 * 2), svd.ReLU(), svd.VariationalDense(36, 24, bias=False), svd.BatchNorm(24), svd.ReLU(),
        svd.GaussianDropout(0.5), svd.Dense(24, 10), input_shape=(3, 20, 18),
    )  # fmt: skip


def images_only() -> svd.Sequential:
    """No dense layer: the outputs are the pixels of images."""
    return svd.Sequential(
        svd.Conv2d(2, 5, 3, padding=1), svd.ReLU(), svd.Conv2d(5, 3, 3), svd.Flatten(), input_shape=(2, 7, 6)
    )


def flat_images() -> svd.Sequential:
    """Images that are flattened at once, with a mean, for regression."""
    layers = svd.Flatten(), svd.Dense(48, 16), svd.ReLU(), svd.Dense(16, 2)
    mean = np.linspace(-1, 1, 48)
    return svd.Sequential(*layers, input_shape=(3, 4, 4), likelihood="gaussian", input_mean=mean)


def means_inside() -> svd.Sequential:
    """Means that leave out the padding, of channels that are constant, too, and with a padded convolution behind."""
    return svd.Sequential(
        svd.Conv2d(2, 6, 3), svd.ReLU(), svd.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        svd.VariationalConv2d(6, 5, 3, padding=1), svd.AvgPool2d((2, 3), padding=(1, 0), count_include_pad=False),
        svd.Flatten(), svd.Dense(5 * 2, 4), input_shape=(2, 7, 8),
    )  # fmt: skip


NETWORKS = {
    "lenet-300-100": lenet_300_100,
    "lenet-300-100, mean": lambda: lenet_300_100(input_mean=np.linspace(0, 1, 60)),
    "lenet-5": lenet_5,
    "lenet-5, mean": lambda: lenet_5(input_mean=np.linspace(0, 1, 784)),
    "vgg-like": vgg_like,
    "vgg-like, avg": lambda: vgg_like(svd.AvgPool2d),
    "means inside": means_inside,
    "images": images_only,
    "flat images": flat_images,
}


def inputs_of(model: svd.Sequential | svd.SparseModel, rows: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, (rows, *model.in_shape), dtype=np.uint8)
    return rng.standard_normal((rows, *model.in_shape)).astype(dtype)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest error, relative to the largest output."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
