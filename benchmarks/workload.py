"""What every candidate of the step benchmark trains: a network, by name, and its training images."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple, SupportsFloat

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
class Kernel:
    """A call to time, its floating-point operations, and the bytes it must read and write once."""

    name: str
    call: Callable[[], object]
    flops: float
    bytes: float


class Task(NamedTuple):
    """A network's title, the data set it is trained on, its size, the batch sizes it is timed at, and its width."""

    title: str
    dataset: str
    dataset_title: str
    train_examples: int
    image_shape: tuple[int, int, int]  # (C, H, W)
    batches: tuple[int, ...]
    network: str = ""  # its name in the package; "": the task's own
    width: float = 1.0  # factor on the numbers of filters and hidden units


TASKS = {
    "lenet-300-100": Task("LeNet-300-100", "mnist", "MNIST", TRAIN_EXAMPLES, (1, 28, 28), (100, 1000)),
    "lenet-5": Task("LeNet-5", "mnist", "MNIST", TRAIN_EXAMPLES, (1, 28, 28), (100,)),
    "vgg-like": Task("VGG-like", "cifar10", "CIFAR-10", 50_000, (3, 32, 32), (32,)),
    "vgg-like-quarter": Task(
        "VGG-like, k = 0.25", "cifar10", "CIFAR-10", 50_000, (3, 32, 32), (100,), "vgg-like", 0.25
    ),
}


@dataclass(frozen=True)
class Workload:
    """The network's name, its training images and labels (N,) int64, and what the table says about them.

    Images are rows (N, C * H * W) uint8 in the order (C, H, W); where a candidate asks for floats, float32 in the
    order (H, W, C), divided by 255, less the mean image.
    """

    arch: str
    images: NDArray[Any]
    labels: NDArray[np.int64]
    description: str


def load_workload(arch: str, floats: bool) -> Workload:
    """Return real images if SVD_NUMPY_DATA names a folder that holds them all, else random ones of that size.

    Speed hardly depends on the pixels, but real images are mostly zeros and the loss can be seen to
    fall, so the table always says which of the two were used.
    """
    task = TASKS[arch]
    shape = task.train_examples, math.prod(task.image_shape)
    dataset: Any = None
    why = "SVD_NUMPY_DATA is not set"
    if os.environ.get("SVD_NUMPY_DATA"):
        from svd_numpy import data

        try:
            dataset = data.load(task.dataset, download=False)
        except data.MissingDataError:
            why = f"SVD_NUMPY_DATA has no {task.dataset_title}"
    if dataset is not None:
        images = np.ascontiguousarray(dataset.x_train, dtype=np.uint8).reshape(shape)
        labels = np.ascontiguousarray(dataset.y_train, dtype=np.int64)
        description = f"{task.dataset_title}, {task.train_examples:,} training images"
    else:
        rng = np.random.default_rng(SEED)
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        labels = rng.integers(0, 10, task.train_examples, dtype=np.int64)
        description = f"random uint8 images and labels ({why})"
    return Workload(arch, _channels_last(images, task.image_shape) if floats else images, labels, description)


def _channels_last(images: NDArray[np.uint8], image_shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Rows (C, H, W) of uint8 -> rows (H, W, C) of float32, divided by 255, less the mean image."""
    pictures = images.reshape(-1, *image_shape).transpose(0, 2, 3, 1)
    floats = np.divide(pictures, 255, dtype=np.float32, order="C").reshape(images.shape)
    floats -= floats.mean(axis=0, dtype=np.float64)
    return floats


def batch_indices(batch: int, examples: int, seed: int = SEED) -> Iterator[NDArray[np.int64]]:
    """Yield for ever the index rows (batch,) of one random permutation of the training set.

    The last incomplete batch is left out. The permutation is made beforehand: shuffling once an epoch
    is not part of a step.
    """
    whole = examples // batch
    order = np.random.default_rng(seed).permutation(examples)[: whole * batch]
    return cycle(order.reshape(whole, batch))
