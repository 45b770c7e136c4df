"""The networks of the experiments, by name."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from svd_numpy.checks import check_choice, check_number
from svd_numpy.data import Dataset
from svd_numpy.experiments.recipes import Recipe
from svd_numpy.network.layers import (
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Gate,
    GaussianDropout,
    Layer,
    MaxPool2d,
    ReLU,
    VariationalConv2d,
    VariationalDense,
)
from svd_numpy.network.layers.weighted import Weighted
from svd_numpy.network.model import Sequential

# Kind of network -> its name in tables. Layers have the same names in all kinds, so that one kind can start from the
# weights of another (`init_from`).
KINDS = {
    "variational": "Sparse VD",
    "dense": "Dense network",
    "dropout": "Bernoulli dropout",
    "gaussian-dropout": "Gaussian dropout",
}
_DROPOUT = {"dropout": Dropout, "gaussian-dropout": GaussianDropout}

_HIDDEN = {"lenet-300-100": (300, 100), "lenet-500-300": (500, 300)}
_FILTERS, _UNITS = (20, 50), 500  # of LeNet-5-Caffe
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # of VGG-like; M after each
_BATCH_NORM_EPS = 1e-3  # the authors' script
Shape = tuple[int, ...]
Plan = tuple[Shape, list[Layer]]  # the shape of an input, and the layers


class _Maker:
    """Makes the layers of one kind of network, in their order, with the recipe's initial weights."""

    def __init__(self, kind: str, recipe: Recipe) -> None:
        self.kind, self.recipe, self._made = kind, recipe, 0

    def _options(self) -> dict[str, Any]:
        std = self.recipe.theta_std
        options: dict[str, Any] = {"theta_std": std[self._made] if isinstance(std, tuple) else std}
        caps = self.recipe.sigma_max[self._made : self._made + 1]
        self._made += 1
        if self.kind == "variational":
            options |= {"log_sigma2": self.recipe.log_sigma2, "sigma_max": caps[0] if caps else None}
        return options

    def dense(self, n_in: int, n_out: int, **more: Any) -> Weighted:
        """Make a dense layer."""
        layer = VariationalDense if self.kind == "variational" else Dense
        return layer(n_in, n_out, **more, **self._options())

    def conv(self, n_in: int, n_out: int, kernel: int, **more: Any) -> Weighted:
        """Make a convolution."""
        layer = VariationalConv2d if self.kind == "variational" else Conv2d
        return layer(n_in, n_out, kernel, **more, **self._options())

    def gate(self, units: int, weights: int) -> list[Layer]:
        """Make a list of one gate on units, each read by so many weights, or of none if the recipe has no gates."""
        gates = self.recipe.gates
        return [] if gates is None else [Gate(units, **gates.options_for(weights, first=not self._made))]

    def dropout(self, p: float) -> list[Layer]:
        """Make a list of one dropout layer, or of none if this kind of network has no dropout."""
        return [_DROPOUT[self.kind](p)] if self.kind in _DROPOUT else []


def _lenet_fc(image_shape: Shape, n_classes: int, make: _Maker, width: float) -> Plan:
    """Input - hidden - hidden - classes with ReLU in between (LeCun et al. 1998); dropout of hidden units only.

    Images of several channels are flattened by a layer, because training cannot move them once they are flat.
    """
    hidden = _HIDDEN[make.recipe.arch]
    sizes = [prod(image_shape), *(_scaled(units, width) for units in hidden), n_classes]
    layers: list[Layer] = []
    for n_in, n_out in pairwise(sizes):
        before = make.dropout(0.5) if layers else []
        layers += [*before, *make.gate(n_in, n_out), make.dense(n_in, n_out), ReLU()]
    layers.pop()
    return ((sizes[0],), layers) if image_shape[0] == 1 else (image_shape, [Flatten(), *layers])


def _lenet_5(image_shape: Shape, n_classes: int, make: _Maker, width: float) -> Plan:
    """LeNet-5 as in Caffe: two convolutions of 5 x 5, each rectified and pooled by 2 x 2, then 500 units."""
    channels, height, side = image_shape
    after = (((height - 4) // 2 - 4) // 2) * (((side - 4) // 2 - 4) // 2)
    first, second, units = (_scaled(number, width) for number in (*_FILTERS, _UNITS))
    return image_shape, [
        make.conv(channels, first, 5),
        ReLU(),
        MaxPool2d(2),
        *make.gate(first, 25 * second),
        make.conv(first, second, 5),
        ReLU(),
        MaxPool2d(2),
        *make.gate(second, after * units),
        Flatten(),
        *make.dropout(0.5),
        *make.gate(second * after, units),
        make.dense(second * after, units),
        ReLU(),
        *make.dropout(0.5),
        *make.gate(units, n_classes),
        make.dense(units, n_classes),
    ]


def _vgg_like(image_shape: Shape, n_classes: int, make: _Maker, width: float) -> Plan:
    """VGG-like of the authors' scripts: 13 convolutions of 3 x 3 in five blocks, then 512 units, all batch-normalised.

    Each block ends with max-pooling, which halves the sides. Layers before a batch normalisation have no bias, because
    its beta is one. Dropout rates are those of the authors' pre-training network: .3 inside the first block, .4 inside
    the others, .5 before the last layer, and none before a pooling. In a narrower network they are multiplied by its
    width, because it has no units to spare.
    """
    channels, height, side = image_shape
    layers: list[Layer] = []
    less = min(1.0, width)
    for block in _BLOCKS:
        for place, full in enumerate(block):
            filters = _scaled(full, width)
            conv = make.conv(channels, filters, 3, padding=1, bias=False)
            layers += [conv, BatchNorm(filters, _BATCH_NORM_EPS), ReLU(), *make.gate(filters, 9 * filters)]
            if place < len(block) - 1:
                layers += make.dropout(less * (0.3 if block is _BLOCKS[0] else 0.4))
            channels = filters
        layers.append(MaxPool2d(2))
    units, after = _scaled(512, width), (height // 2 ** len(_BLOCKS)) * (side // 2 ** len(_BLOCKS))
    layers += [Flatten(), make.dense(max(1, channels * after), units, bias=False)]
    layers += [BatchNorm(units, _BATCH_NORM_EPS), ReLU(), *make.dropout(less * 0.5), *make.gate(units, n_classes)]
    return image_shape, [*layers, make.dense(units, n_classes)]


def _scaled(units: int, width: float) -> int:
    return max(1, round(units * width))


ARCHITECTURES = {"lenet-300-100": _lenet_fc, "lenet-500-300": _lenet_fc, "lenet-5": _lenet_5, "vgg-like": _vgg_like}


def build(
    data: Dataset, recipe: Recipe, seed: int, backend: str, kind: str = "variational", width: float = 1.0
) -> Sequential:
    """Build the network of a recipe for a data set of images.

    Parameters
    ----------
    data : Dataset
    recipe : Recipe
        Defines the architecture and the initial weights.
    seed : int
    backend : str
    kind : "variational", "dense", "dropout" or "gaussian-dropout"
        Variational weights (Sparse VD); ordinary weights; ordinary weights with Bernoulli or Gaussian dropout of
        activations.
    width : float
        Factor on the numbers of filters and hidden units, 0.01 to 16; they are rounded, to at least 1.

    Returns
    -------
    Sequential

    Raises
    ------
    SvdValueError, SvdTypeError
        For an unknown kind, a width out of range, and images too small for the poolings.
    """
    kind, width = check_choice("kind", kind, KINDS), check_number("width", width, low=0.01, high=16)
    assert data.image_shape is not None
    shape, layers = ARCHITECTURES[recipe.arch](data.image_shape, data.n_classes, _Maker(kind, recipe), width)
    mean = data.x_train.mean(axis=0, dtype=np.float64) / 255 if recipe.subtract_mean else None
    return Sequential(*layers, prior=recipe.prior, backend=backend, seed=seed, input_mean=mean, input_shape=shape)
