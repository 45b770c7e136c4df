"""Runs a plan with the compiled kernel: how many examples a block holds, on how many threads, in which memory."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels import cpu_sparse
from svd_numpy.kernels.backend import aligned_zeros
from svd_numpy.kernels.cpu import KERNEL_LOCK
from svd_numpy.kernels.tiles import LANES
from svd_numpy.sparse.plan import Plan

Array = NDArray[Any]
_ROW_LANES, _IMAGE_LANES = 64, 16  # examples of a full block: four vectors share a weight, or positions of an image do
_LEAST_PARALLEL = 3e5  # multiplications of a whole batch from which a second thread pays


class Runtime:
    """The plan of one network, and memory for its activations, which is kept from call to call."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._memories: dict[tuple[int, int], Array] = {}
        self._block = _IMAGE_LANES if plan.images else _ROW_LANES

    def run(self, x: Array, out: Array) -> bool:
        """Run rows x (B, I) of uint8 or float32; write out (B, O); return whether inputs and outputs are fit numbers."""
        plan = self._plan
        scale = np.float32(1 / 255 if x.dtype == np.uint8 else 1)
        with KERNEL_LOCK:  # the memory is shared, and Numba's threads may be, too
            threads = numba.get_num_threads() if len(x) * plan.work > _LEAST_PARALLEL else 1
            if threads == 1:
                lanes = min(len(x), self._block)
                memory = self._memory(1, lanes)
                return not cpu_sparse.run(plan.table, plan.lists, plan.values, x, scale, memory, lanes, out)
            share = -(-len(x) // threads)
            lanes = min(self._block, -(-share // LANES) * LANES)
            faults = np.empty(threads, np.int64)
            memory = self._memory(threads, lanes)
            cpu_sparse.run_parallel(plan.table, plan.lists, plan.values, x, scale, memory, lanes, out, faults)
            return not faults.any()

    def _memory(self, threads: int, lanes: int) -> Array:
        memory = self._memories.get((threads, lanes))
        if memory is None:
            memory = self._memories[threads, lanes] = aligned_zeros(threads, self._plan.floats(lanes), np.float32)
        return memory
