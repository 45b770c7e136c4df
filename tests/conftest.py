"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
import pytest

from svd_numpy.data import Dataset


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small arrays gain nothing from a second thread, and wait for it long where other programs run.

    The tests of the kernels set the number of threads themselves.
    """
    numba.set_num_threads(1)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test with one thread and with two."""
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"Numba may use {numba.config.NUMBA_NUM_THREADS} thread here")
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


@pytest.fixture(scope="session")
def blobs() -> Dataset:
    """Three clouds in 12 dimensions, of which the last 8 say nothing: 240 rows to train, 60 to test."""
    rng = np.random.default_rng(7)
    labels = np.arange(300) % 3
    centres = np.zeros((3, 12))
    centres[:, :4] = 2 * rng.standard_normal((3, 4))
    x = (centres[labels] + rng.standard_normal((300, 12))).astype(np.float32)
    return Dataset("blobs", x[:240], labels[:240], x[240:], labels[240:], None, 3, "made by the tests")
