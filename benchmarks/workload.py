"""What every candidate of the step benchmark trains: LeNet-300-100 on the 60,000 MNIST training images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

LAYERS = (784, 300, 100, 10)
TRAIN_EXAMPLES = 60_000
KL_WEIGHT = 1.0
LEARNING_RATE = 1e-3
INITIAL_LOG_SIGMA2 = -10.0
SEED = 0

# One training step. What it returns is the loss of that step; the harness turns it into a float
# only outside the timed blocks, so that a candidate may return a lazy scalar.
Step = Callable[[], SupportsFloat]


@dataclass(frozen=True)
class Workload:
    """Training images (N, 784) uint8, labels (N,) int64, and the sentence the table prints about them."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    description: str


def load_workload() -> Workload:
    """Return real MNIST if SVD_NUMPY_DATA names a folder that holds it, else random images of that size.

    Speed hardly depends on the pixels, but real images are mostly zeros and the loss can be seen to
    fall, so the table always says which of the two were used.
    """
    if os.environ.get("SVD_NUMPY_DATA"):
        return _real_mnist()
    rng = np.random.default_rng(SEED)
    images = rng.integers(0, 256, (TRAIN_EXAMPLES, LAYERS[0]), dtype=np.uint8)
    labels = rng.integers(0, LAYERS[-1], TRAIN_EXAMPLES, dtype=np.int64)
    return Workload(images, labels, "random uint8 images and labels (SVD_NUMPY_DATA is not set)")


def _real_mnist() -> Workload:
    from svd_numpy import data

    dataset: Any = data.load("mnist", download=False)
    images = np.ascontiguousarray(dataset.x_train, dtype=np.uint8).reshape(TRAIN_EXAMPLES, LAYERS[0])
    labels = np.ascontiguousarray(dataset.y_train, dtype=np.int64)
    return Workload(images, labels, "MNIST, 60,000 training images")


def batch_indices(batch: int, seed: int = SEED) -> Iterator[NDArray[np.int64]]:
    """Yield for ever the index rows (batch,) of one random permutation of the training set.

    The last incomplete batch is left out. The permutation is made beforehand: shuffling once an epoch
    is not part of a step.
    """
    whole = TRAIN_EXAMPLES // batch
    order = np.random.default_rng(seed).permutation(TRAIN_EXAMPLES)[: whole * batch]
    return cycle(order.reshape(whole, batch))
