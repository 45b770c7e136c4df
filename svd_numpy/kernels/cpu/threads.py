"""How many threads a kernel runs on, and how long they wait for each other, where other programs want the cores, too.

A kernel ends when its last thread ends. If another program holds the core of one thread, all the others wait, and GNU
OpenMP lets them spin for milliseconds: two trainings on the same cores would be several times slower than one after
the other. So threads spin only briefly, and a thread that keeps waiting for a core is let go until there is room for
it. Results have the same bits on any number of threads.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

SPINS = 3000  # about 60 us: longer than the Python code between two kernels, shorter than a turn of another program
WINDOW = 0.1  # seconds between two looks
RETRY = 2.0  # seconds, the longest pause before one thread more is tried again
_TASKS = Path("/proc/self/task")


def load_openmp() -> None:
    """Load GNU OpenMP with a short spin, unless the environment says how long, or it is there already.

    It reads its variables only while it is loaded, and the environment is afterwards what it was: other libraries and
    child processes see nothing of this.
    """
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    if chosen or "numba.np.ufunc.omppool" in sys.modules or sys.platform != "linux":  # elsewhere, OpenMP is not GNU's
        return
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    try:
        with contextlib.suppress(ImportError):  # Numba has no OpenMP here
            import numba.np.ufunc.omppool  # noqa: F401
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def waits() -> dict[str, int]:
    """Nanoseconds that each thread of this process has been ready to run without a core; {} where nobody counts."""
    found = dict[str, int]()
    with contextlib.suppress(OSError):  # not Linux
        for thread in os.listdir(_TASKS):
            with contextlib.suppress(OSError):  # it has just ended
                found[thread] = int((_TASKS / thread / "schedstat").read_bytes().split()[1])
    return found


class Crew:
    """The number of threads that find a core.

    It goes down by one where the last of n threads is worth less than waiting costs: after a window of which the
    threads spent more than 1 / n waiting for a core, all together. One more is tried again after a pause, which doubles
    each time that it fails: a short disturbance costs little, and a lasting one is seldom asked about.

    Parameters
    ----------
    most : int
        All of them.
    waits : function () -> dict
        See `waits`.
    clock : function () -> float
        Seconds.
    """

    def __init__(
        self,
        most: int,
        waits: Callable[[], dict[str, int]] = waits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.size = self._most = most
        self._waits, self._clock = waits, clock
        self._before: dict[str, int] | None = None
        self._looked = self._next_try = clock()
        self._pause, self._trying = WINDOW, False

    def look(self) -> int:
        """Count again if a window has passed. Returns the number of threads."""
        now = self._clock()
        if now - self._looked < WINDOW:
            return self.size
        waited, before = self._waits(), self._before
        if before is not None:
            spent = sum(total - before.get(thread, 0) for thread, total in waited.items()) / 1e9
            self._decide(now, spent > (now - self._looked) / self.size)
        self._before, self._looked = waited, now
        return self.size

    def _decide(self, now: float, crowded: bool) -> None:
        if crowded and self.size > 1:
            self.size, self._next_try = self.size - 1, now + self._pause
            self._pause, self._trying = min(2 * self._pause, RETRY), False
        elif self._trying and not crowded:
            self._pause, self._trying = WINDOW, False
        if not crowded and self.size < self._most and now >= self._next_try:
            self.size, self._trying = self.size + 1, True


# A number that somebody has chosen is kept.
_CREW = None if "NUMBA_NUM_THREADS" in os.environ else Crew(numba.config.NUMBA_NUM_THREADS)


def call(kernel: Callable[..., Any], *args: Any) -> None:
    """Call a parallel kernel with the number of threads, at most `numba.get_num_threads()`, as its first argument."""
    wanted = numba.get_num_threads()
    threads = wanted if _CREW is None else min(wanted, _CREW.look())
    if threads == wanted:
        kernel(wanted, *args)
        return
    numba.set_num_threads(threads)
    try:
        kernel(threads, *args)
    finally:
        numba.set_num_threads(wanted)


load_openmp()
