"""How much memory a step takes: the process's own pages, not those of the libraries it has mapped."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STEPS = 2
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets VmHWM back to the present resident size


def _status_mib() -> dict[str, float]:
    lines = (line.split() for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[-1] == "kB"}


def anonymous_mib() -> float | None:
    """Return the resident anonymous memory in MiB, freed memory given back first; None where it cannot be read."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else a step could hide in what loading the data has left behind
        return _status_mib()["RssAnon"]
    except (OSError, AttributeError, KeyError):
        return None


def peak_of(step: Callable[[], object]) -> float | None:
    """Run a few steps; return the largest anonymous memory meanwhile in MiB, or None where it cannot be read.

    The system keeps the peak of the whole resident size only. The file pages in it are those of libraries, touched
    long before: they are the same at the peak and now.
    """
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
        for _ in range(STEPS):
            step()
        status = _status_mib()
        return status["VmHWM"] - status["RssFile"] - status["RssShmem"]
    except (OSError, KeyError):
        return None
