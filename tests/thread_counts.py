"""Kernels on several numbers of threads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import pytest

COUNTS = (1, 2, 3, 7)  # kernels cut work into halves, and into as many parts as there are threads


@contextmanager
def on(count: int) -> Iterator[None]:
    """Run kernels on so many threads."""
    if count > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"NUMBA_NUM_THREADS is {numba.config.NUMBA_NUM_THREADS}; leave it unset to test {count} threads")
    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def digest(arrays: Iterable[np.ndarray[Any, Any]]) -> str:
    """Hash of the arrays' bytes."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def assert_same_bits(job: Callable[[], Iterable[np.ndarray[Any, Any]]]) -> None:
    """Run a job on each number of threads; its arrays must not differ in a single bit."""
    digests = {}
    for count in COUNTS:
        with on(count):
            digests[count] = digest(job())
    assert len(set(digests.values())) == 1, digests
