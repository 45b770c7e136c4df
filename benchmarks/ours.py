"""This package's side of the benchmarks: the training step, and the kernels one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from workload import (
    INITIAL_LOG_SIGMA2,
    KL_WEIGHT,
    LAYERS,
    LEARNING_RATE,
    SEED,
    TASKS,
    TRAIN_EXAMPLES,
    Kernel,
    Step,
    Workload,
)

from svd_numpy.data import Dataset
from svd_numpy.experiments import architectures
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.kernels.backend import AdamSettings, Buffers, NoiseKey, StepSettings
from svd_numpy.kernels.cpu.backend import NumbaBackend
from svd_numpy.network.layers import Layer, ReLU, VariationalDense
from svd_numpy.network.model import Sequential
from svd_numpy.network.params import Arena, ParamSpec
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.trainer import Trainer


def build_ours(workload: Workload, batch: int, threads: int) -> Step:
    """Return a function that trains the workload's network by one step and returns the loss.

    ``threads`` is already in the environment (NUMBA_NUM_THREADS, OMP_NUM_THREADS); the batches are the trainer's
    own, slices of a permutation of each epoch.
    """
    return train_steps(untrained_model(workload), workload, batch)


def dataset_of(workload: Workload, count: int | None = None) -> Dataset:
    """Return the first images of a workload (default: all) as training data; some of them are test images, too."""
    images, labels = workload.images[:count], workload.labels[:count]
    image_shape = TASKS[workload.arch].image_shape
    return Dataset("workload", images, labels, images[:100], labels[:100], image_shape, 10, "")


def train_steps(model: Sequential, workload: Workload, batch: int) -> Step:
    """Return a function that trains a network on the workload's images by one step and returns the loss."""
    data = dataset_of(workload)
    config = TrainConfig(epochs=10_000, batch_size=batch, lr=LEARNING_RATE, kl_schedule=((0.0, KL_WEIGHT),), seed=SEED)
    trainer = Trainer(model, data, config)

    def step() -> float:
        before = trainer.progress.nll_sum
        trainer.step()
        return (trainer.progress.nll_sum - before) / batch

    return step


def untrained_model(workload: Workload) -> Sequential:
    """Build the network of a workload, with initial weights."""
    if workload.arch == "lenet-300-100":
        return _lenet_300_100()
    return _convolutional(workload.arch, dataset_of(workload, 100))


def _lenet_300_100() -> Sequential:
    layers: list[Layer] = []
    for n_in, n_out in pairwise(LAYERS):
        layers += [VariationalDense(n_in, n_out, log_sigma2=INITIAL_LOG_SIGMA2), ReLU()]
    return Sequential(*layers[:-1], backend="numba", seed=SEED)


def _convolutional(arch: str, data: Dataset) -> Sequential:
    """Build the network as the recipe "paper" of LeNet-5 does, but theta starts as in the peers (He et al. 2015)."""
    task = TASKS[arch]
    of_paper = get_recipe("lenet-5", "paper")
    recipe = replace(of_paper, arch=task.network or arch, theta_std=None, log_sigma2=INITIAL_LOG_SIGMA2)
    return architectures.build(data, recipe, SEED, "numba", width=task.width)


def our_kernels(batch: int, threads: int) -> list[Kernel]:
    """Return the kernels of one LeNet-300-100 step with their operation and byte counts.

    A product of (M, K) and (K, N) counts 2 M K N operations; bytes are what must at least be read and written
    once. The first layer's inputs are real-valued in every place here, so that none is left out.
    """
    backend, rng = NumbaBackend(), np.random.default_rng(SEED)
    pixels = rng.integers(0, 256, (10_000, LAYERS[0]), dtype=np.uint8)
    index, x = rng.permutation(10_000)[:batch], np.empty((batch, LAYERS[0]), np.float32)
    mean = np.zeros(LAYERS[0], np.float32)
    kernels = [
        Kernel(
            "gather_rows",
            lambda: backend.gather_rows(pixels, index, 1 / 255, mean, x),
            2 * x.size,
            5 * x.size,
        )
    ]
    for number, (n_in, n_out) in enumerate(pairwise(LAYERS), start=1):
        kernels += _layer_kernels(backend, rng, number, batch, n_in, n_out)
    logits, labels = rng.standard_normal((batch, 10)).astype(np.float32), rng.integers(0, 10, batch)
    d_logits = np.empty_like(logits)
    loss = Kernel(
        "softmax_cross_entropy",
        lambda: backend.softmax_cross_entropy(logits, labels, d_logits),
        25 * logits.size,
        8 * logits.size,
    )
    n_weights = sum(n_in * n_out for n_in, n_out in pairwise(LAYERS))
    start = 0.03 * rng.standard_normal(n_weights)
    arena = Arena([ParamSpec("w.theta", (n_weights,), start, np.full(1, -8.0))], np.float32, "log_uniform")
    settings = StepSettings(1 / TRAIN_EXAMPLES, 0.0, AdamSettings(1e-6, 0.9, 0.999, 1e-8, 100))
    sweep = Kernel(
        "adam_step (chain rule, KL, Adam)",
        lambda: backend.adam_step(arena, settings, False),
        110 * n_weights,  # about 110 additions, multiplications and the like per weight, counted in machine code
        4 * 14 * n_weights,  # theta, log_sigma2, two gradients and four moments read, six of them written
    )
    return [*kernels, loss, sweep]


def _layer_kernels(
    backend: NumbaBackend, rng: np.random.Generator, number: int, batch: int, n_in: int, n_out: int
) -> list[Kernel]:
    """Forward and backward of one variational layer; the first one needs no gradient for its input."""
    memory = Buffers()
    x = rng.random((batch, n_in), dtype=np.float32) + 0.1
    dy = np.ones((batch, n_out), np.float32)  # backward scales its memory by it, call after call
    y, dx = np.empty_like(dy), np.empty_like(x) if number > 1 else None
    theta = (0.03 * rng.standard_normal((n_in, n_out))).astype(np.float32)
    log_sigma2, bias = np.full_like(theta, -8), np.zeros(n_out, np.float32)
    gradients = np.empty_like(theta), np.empty_like(theta), np.empty_like(bias)
    key = NoiseKey(SEED, number, 0)

    def forward() -> None:
        backend.lrt_forward(x, theta, log_sigma2, bias, 0.0, key, False, y, memory)

    def backward() -> None:
        backend.lrt_backward(x, theta, log_sigma2, 0.0, dy, None, *gradients, dx, memory)

    forward()
    products, weights, rows = 2 * batch * n_in * n_out, 8 * n_in * n_out, 4 * batch * (n_in + n_out)
    backward_products = 4 if number > 1 else 2
    return [
        Kernel(f"lrt_forward {n_in}-{n_out}", forward, 2 * products, weights + 2 * rows),
        Kernel(f"lrt_backward {n_in}-{n_out}", backward, backward_products * products, 2 * weights + 3 * rows),
    ]
