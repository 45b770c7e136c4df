"""This package's side of the benchmarks: the training step, and the kernels one by one."""

from __future__ import annotations

from roofline import Kernel
from workload import Step, Workload


def build_ours(workload: Workload, batch: int, threads: int) -> Step:
    """Return a function that trains LeNet-300-100 by one step and returns the loss.

    ``threads`` is already in the environment (NUMBA_NUM_THREADS, OMP_NUM_THREADS); the batches come from
    ``workload.batch_indices``.
    """
    raise NotImplementedError("ours.build_ours is not connected to the package yet")


def our_kernels(batch: int, threads: int) -> list[Kernel]:
    """Return the kernels of one LeNet-300-100 step with their operation and byte counts."""
    raise NotImplementedError("ours.our_kernels is not connected to the package yet")
