"""What the tests of the command line share."""

from __future__ import annotations

import subprocess
import sys

import pytest
from processes import ROOT, environment  # noqa: F401 - the root is for tests that import it from here

TINY = ["--dataset", "digits", "--backend", "numpy", "--batch-size", "500"]  # no compiler, 3 steps an epoch


@pytest.fixture(autouse=True)
def plain_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here needs no compiled kernels, unless it says so."""
    monkeypatch.setenv("SVD_NUMPY_BACKEND", "numpy")


def command(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "svd_numpy", *words],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
