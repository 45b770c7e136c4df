"""Fixtures that several test files share, and the order of the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before NumPy and Numba are imported: tests want up to seven threads of Numba's, on any machine, and one of NumPy's.
os.environ.setdefault("NUMBA_NUM_THREADS", "7")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numba
import numpy as np
import pytest
import thread_counts
from matplotlib.figure import Figure

from svd_numpy.data import Dataset
from svd_numpy.experiments.result import TrainResult

# Files whose single tests take longest. They come first, so that no process is left alone with one at the end.
LONGEST = ("test_cuda.py", "test_notebooks.py", "test_readme.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first."""
    items.sort(key=lambda item: LONGEST.index(name) if (name := Path(item.path).name) in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small arrays gain nothing from a second thread, and wait for it long where other programs run.

    The tests of the kernels set the number of threads themselves.
    """
    numba.set_num_threads(1)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test on one thread and on an odd number of them."""
    with thread_counts.on(request.param):
        yield request.param


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save blank pictures with runs: to draw a summary takes several times as long as the short runs of the tests."""
    monkeypatch.setattr(TrainResult, "plot", lambda result: Figure())


@pytest.fixture(scope="session")
def blobs() -> Dataset:
    """Three clouds in 12 dimensions, of which the last 8 say nothing: 240 rows to train, 60 to test."""
    rng = np.random.default_rng(7)
    labels = np.arange(300) % 3
    centres = np.zeros((3, 12))
    centres[:, :4] = 2 * rng.standard_normal((3, 4))
    x = (centres[labels] + rng.standard_normal((300, 12))).astype(np.float32)
    return Dataset("blobs", x[:240], labels[:240], x[240:], labels[240:], None, 3, "made by the tests")
