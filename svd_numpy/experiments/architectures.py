"""The networks of the experiments, by name."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from svd_numpy.data import Dataset
from svd_numpy.experiments.recipes import Recipe
from svd_numpy.layers import Flatten, Layer, MaxPool2d, ReLU, VariationalConv2d, VariationalDense
from svd_numpy.model import Sequential

_HIDDEN = (300, 100)  # units of LeNet-300-100
_FILTERS, _UNITS = (20, 50), 500  # of LeNet-5-Caffe


def _lenet_300_100(image_shape: tuple[int, ...], n_classes: int, options: list[dict[str, Any]]) -> list[Layer]:
    """Input - 300 - 100 - classes, ReLU between (LeCun et al. 1998)."""
    sizes = [int(np.prod(image_shape)), *_HIDDEN, n_classes]
    layers: list[Layer] = []
    for (n_in, n_out), option in zip(pairwise(sizes), options, strict=True):
        layers += [VariationalDense(n_in, n_out, **option), ReLU()]
    return layers[:-1]


def _lenet_5(image_shape: tuple[int, ...], n_classes: int, options: list[dict[str, Any]]) -> list[Layer]:
    """LeNet-5 as in Caffe: two convolutions of 5 x 5, each rectified and pooled by 2 x 2, then 500 units."""
    channels, height, width = image_shape
    after = (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    return [
        VariationalConv2d(channels, _FILTERS[0], 5, **options[0]),
        ReLU(),
        MaxPool2d(2),
        VariationalConv2d(_FILTERS[0], _FILTERS[1], 5, **options[1]),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        VariationalDense(_FILTERS[1] * after, _UNITS, **options[2]),
        ReLU(),
        VariationalDense(_UNITS, n_classes, **options[3]),
    ]


# Name -> (how its layers are made, how many of them have weights)
ARCHITECTURES = {"lenet-300-100": (_lenet_300_100, 3), "lenet-5": (_lenet_5, 4)}


def build(data: Dataset, recipe: Recipe, seed: int, backend: str) -> Sequential:
    """Build the network of a recipe for a data set of images, every weight variational."""
    make, n_weighted = ARCHITECTURES[recipe.arch]
    assert data.image_shape is not None
    stds = recipe.theta_std if isinstance(recipe.theta_std, tuple) else (recipe.theta_std,) * n_weighted
    options = [{"theta_std": std, "log_sigma2": recipe.log_sigma2} for std in stds]
    layers = make(data.image_shape, data.n_classes, options)
    shape = (int(np.prod(data.image_shape)),) if isinstance(layers[0], VariationalDense) else data.image_shape
    mean = data.x_train.mean(axis=0, dtype=np.float64) / 255 if recipe.subtract_mean else None
    return Sequential(*layers, prior=recipe.prior, backend=backend, seed=seed, input_mean=mean, input_shape=shape)
