"""Numba's CUDA simulator, mended: threads of a block get one shared array, not sometimes one each.

The simulator makes a shared array for the first thread that asks for it, and looks whether there is one before it makes
one. Between the two Python may go over to another thread, which then makes an array, too: the first thread writes where
nobody reads, and the others read what was never written. On a busy machine that happens once in some million launches.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numba.cuda.simulator.kernelapi import FakeCUDAShared

_one_at_a_time = threading.Lock()


def _array(self: Any, shape: Any, dtype: Any) -> Any:
    """The array of the line that asks; it is made by the thread that comes first."""
    caller = sys._getframe(1)
    line = caller.f_code.co_filename, caller.f_lineno
    with _one_at_a_time:
        if line not in self._allocations:
            self._allocations[line] = np.empty(shape, dtype)
        return self._allocations[line]


def mend() -> None:
    """Do so from now on, in this process."""
    FakeCUDAShared.array = _array
