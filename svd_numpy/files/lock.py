"""The lock of a run folder: one owner at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from svd_numpy.checks import SvdError
from svd_numpy.files.atomic import remove

NAME = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # what the systems say of a lock that another owner has
_FAR = 2**20  # Windows locks bytes, which nobody can then read: one far behind the text


class FolderInUseError(SvdError):
    """Another run is writing to the folder."""


class FolderLock:
    """Own a folder until `release`, or until the process ends in whatever way.

    The operating system keeps the lock, so that of a dead owner is free. The file says who has it. Where a file system
    knows no locks, or nothing can be written, there is none.

    Parameters
    ----------
    folder : Path
        An existing folder.
    name : str
        Of the file in it; locks of different names do not see each other.

    Raises
    ------
    FolderInUseError
        If another run, in this process or another one, owns it.
    """

    def __init__(self, folder: Path, name: str = NAME) -> None:
        path = folder / name
        handle = _acquire(path)
        # a finaliser, so that a run that is given up without `release` lets go of its folder, too
        self._release = weakref.finalize(self, _let_go, path, handle, os.getpid()) if handle is not None else None

    def release(self) -> None:
        """Let go of the folder, if that has not been done."""
        if self._release is not None:
            self._release()


@contextlib.contextmanager
def one_at_a_time(folder: Path, name: str, patience: float = 60.0) -> Iterator[None]:
    """Let those who use the same name in a folder do something in turn, here or in other processes.

    Whoever has waited for as long as `patience`, in seconds, goes on without the lock.
    """
    lock, latest = None, time.monotonic() + patience
    while lock is None and time.monotonic() < latest:
        try:
            lock = FolderLock(folder, name)
        except FolderInUseError:
            time.sleep(0.02)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquire(path: Path) -> int | None:
    """Return the handle of a locked file at `path`; None where there can be none."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError:
            return None  # a folder that does not exist, or that cannot be written to
        try:
            _lock(handle)
        except OSError as error:
            held, owner = error.errno in _HELD, _owner(handle)
            os.close(handle)
            if not held:
                return None
            raise FolderInUseError(
                f"{path.parent} is in use by {owner}; wait until it has ended or stop it, or choose another run_dir"
            ) from None
        if _is_at(handle, path):
            text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
            with contextlib.suppress(OSError):  # on a full disk the lock has no name, but it is one
                os.ftruncate(handle, 0)
                os.write(handle, text.encode())
            return handle
        os.close(handle)  # the last owner removed the file after we had opened it


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(handle: int) -> str:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        text = json.loads(os.read(handle, 1000))
        minutes = max(0.0, time.time() - float(text["since"])) / 60
        return f"process {int(text['pid'])} on {str(text['host'])[:60]!r} since {minutes:.0f} minutes"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"  # it has not written its number yet


def _let_go(path: Path, handle: int, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner, which goes on
        os.close(handle)
        return
    if sys.platform == "win32":  # an open file cannot be removed
        os.close(handle)
        remove(path)
    else:
        remove(path)  # before the lock is given up: afterwards the file may be another's
        os.close(handle)
