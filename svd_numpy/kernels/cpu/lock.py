"""Locks that survive a fork, and the one around Numba's threads, shared by everything that starts a parallel kernel."""

from __future__ import annotations

import os
import sys
import threading
import weakref

from svd_numpy.checks import SvdError


class ForkError(SvdError, RuntimeError):
    """A parallel kernel was called in a forked process, which does not have the threads that Numba had started."""


class ForkSafeLock:
    """A re-entrant lock for `with`; a forked child never waits for a thread that only its parent has."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Free the lock, in a new child, unless the child's one thread holds it."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


class KernelLock(ForkSafeLock):
    """The lock around Numba's threads; a fork waits until the running kernel has ended.

    Numba's `workqueue` threading layer aborts the process when two Python threads start parallel kernels at once. GNU
    OpenMP, its usual layer on Linux, does not survive a fork: it kills the child, or leaves it waiting for ever.
    """

    threads_lost = False

    def __enter__(self) -> None:
        if self.threads_lost:
            raise ForkError(
                "this process was forked after Numba had started its OpenMP threads, and a fork does not copy threads; "
                "start workers by spawn (multiprocessing.get_context('spawn')) or with loky (joblib's default), or set "
                "the environment variable NUMBA_THREADING_LAYER=workqueue before the first kernel runs"
            )
        super().__enter__()

    def before_fork(self) -> None:
        """Wait until no kernel runs, so that the child gets Numba's workqueue at rest."""
        self._lock.acquire()

    def after_fork(self) -> None:
        """Go on in the parent, and in the child."""
        self._lock.release()


def _runs_openmp() -> bool:
    """Whether Numba has started OpenMP threads in this process, or in the one it was forked from."""
    numba = sys.modules.get("numba")
    try:
        return numba is not None and numba.threading_layer() == "omp"
    except (AttributeError, ValueError):  # Numba was being imported, or has started no threads
        return False


def _in_child() -> None:
    KERNEL_LOCK.after_fork()
    KERNEL_LOCK.threads_lost = _runs_openmp()
    for lock in _LOCKS:
        lock.renew()


_LOCKS = weakref.WeakSet[ForkSafeLock]()
KERNEL_LOCK = KernelLock()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(
        before=KERNEL_LOCK.before_fork, after_in_parent=KERNEL_LOCK.after_fork, after_in_child=_in_child
    )
