"""This package's side of the benchmarks: the training step, and the kernels one by one."""

from __future__ import annotations

from itertools import pairwise

from roofline import Kernel
from workload import INITIAL_LOG_SIGMA2, KL_WEIGHT, LAYERS, LEARNING_RATE, SEED, Step, Workload

from svd_numpy.data import Dataset
from svd_numpy.layers import Layer, ReLU, VariationalDense
from svd_numpy.model import Sequential
from svd_numpy.train import TrainConfig, Trainer


def build_ours(workload: Workload, batch: int, threads: int) -> Step:
    """Return a function that trains LeNet-300-100 by one step and returns the loss.

    ``threads`` is already in the environment (NUMBA_NUM_THREADS, OMP_NUM_THREADS); the batches come from
    ``workload.batch_indices``.
    """
    images, labels = workload.images, workload.labels
    data = Dataset("workload", images, labels, images[:100], labels[:100], (1, 28, 28), 10, "")
    layers: list[Layer] = []
    for n_in, n_out in pairwise(LAYERS):
        layers += [VariationalDense(n_in, n_out, log_sigma2=INITIAL_LOG_SIGMA2), ReLU()]
    model = Sequential(*layers[:-1], backend="numba", seed=SEED)
    config = TrainConfig(
        epochs=1_000_000, batch_size=batch, lr=LEARNING_RATE, kl_schedule=((0.0, KL_WEIGHT),), seed=SEED
    )
    trainer = Trainer(model, data, config)

    def step() -> float:
        before = trainer.progress.nll_sum
        trainer.step()
        return (trainer.progress.nll_sum - before) / batch

    return step


def our_kernels(batch: int, threads: int) -> list[Kernel]:
    """Return the kernels of one LeNet-300-100 step with their operation and byte counts."""
    raise NotImplementedError("ours.our_kernels is not connected to the package yet")
