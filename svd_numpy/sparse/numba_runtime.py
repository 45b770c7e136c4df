"""Running a compact network by the compiled kernel: block sizes, threads and memory."""

from __future__ import annotations

import numba
import numpy as np

from svd_numpy.kernels.backend import Array, aligned_zeros
from svd_numpy.kernels.cpu import sparse as cpu_sparse
from svd_numpy.kernels.cpu.lock import KERNEL_LOCK, ForkSafeLock
from svd_numpy.kernels.cpu.tiles import LANES
from svd_numpy.sparse.plan import Plan

# Examples in a full block. Of rows, four vectors share each weight that is loaded; of images, several positions do.
_ROW_LANES, _IMAGE_LANES = 64, 16
# Multiplications, about 0.1 ms of work, below which a batch stays on one thread: waking the others can take longer.
_LEAST_PARALLEL = 1e6
_UNIT, _PIXEL = np.float32(1), np.float32(1 / 255)


class NumbaRuntime:
    """Runs the plan of one network; the memory for its activations is kept between calls."""

    name = "numba"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = ForkSafeLock()
        self._floats = np.zeros(0, np.float32)
        self._memories: dict[tuple[int, int], Array] = {}
        self._block = _IMAGE_LANES if plan.images else _ROW_LANES

    def run(self, x: Array, out: Array) -> bool:
        """See `Runtime.run`."""
        plan, examples = self._plan, len(x)
        scale = _UNIT if x.dtype == np.float32 else _PIXEL
        with self._lock:  # guards the memory
            threads = 1
            if examples > LANES and examples * plan.work > _LEAST_PARALLEL:
                threads = min(numba.get_num_threads(), -(-examples // LANES))
            if threads == 1:
                lanes = min(examples, self._block)
                memory = self._memory(1, lanes)
                return not cpu_sparse.run(plan.table, plan.lists, plan.values, x, scale, memory, lanes, out)
            lanes = min(self._block, -(-examples // (threads * LANES)) * LANES)
            faults, memory = np.empty(threads, np.int64), self._memory(threads, lanes)
            with KERNEL_LOCK:
                cpu_sparse.run_parallel(plan.table, plan.lists, plan.values, x, scale, memory, lanes, out, faults)
            return not faults.any()

    def _memory(self, threads: int, lanes: int) -> Array:
        """Memory (threads, floats) for blocks of `lanes` examples: a view of one array that only ever grows."""
        memory = self._memories.get((threads, lanes))
        if memory is None:
            floats = -(-self._plan.floats(lanes) // LANES) * LANES
            if threads * floats > self._floats.size:
                self._floats = aligned_zeros(1, threads * floats, np.float32)[0]
                self._memories.clear()
            memory = self._memories[threads, lanes] = self._floats[: threads * floats].reshape(threads, floats)
        return memory
