"""Faults of the disk: calls that change files are counted, and one of them goes wrong, in a child process."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

KINDS = ("killed before", "killed halfway", "killed after", "ENOSPC", "EIO", "short write")
_OF_WRITES = ("killed halfway", "short write")  # other calls have no half
_BY_PATH = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "chmod")
_BY_HANDLE = ("fsync", "write", "ftruncate")
_PATIENCE = 120.0  # seconds after which a child is taken to hang


@dataclass
class Disk:
    """The calls below a folder, of which the one with the number `at` suffers a fault of a kind.

    A file that is written in Python's buffer reaches the disk when it is flushed; a write that is cut short leaves its
    first half there. The log of a run is unbuffered: a short write returns how much it wrote.
    """

    folder: Path
    at: int = -1
    kind: str = ""

    def __post_init__(self) -> None:
        self.names: list[str] = []  # of the calls so far

    def call(self, name: str, real: Callable[[], Any], halfway: Callable[[], Any] | None = None) -> Any:
        """Do a call, unless it is the one that fails."""
        self.names.append(name)
        if len(self.names) - 1 != self.at:
            return real()
        if self.kind.startswith("killed"):
            if self.kind == "killed after":
                real()
            elif self.kind == "killed halfway" and halfway is not None:
                halfway()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "short write" and halfway is not None:
            if (written := halfway()) is not None:
                return written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number))

    def concerns(self, what: Any, base: int | None = None) -> bool:
        """Whether a path, from the folder with the handle `base`, or the handle of an open file is below the folder."""
        try:
            path = _path_of(what) if isinstance(what, int) else os.fspath(what)
            path = os.path.join("." if base is None else _path_of(base), path)
        except (OSError, TypeError):
            return False
        return os.path.abspath(path).startswith(str(self.folder))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Put this in the place of the functions that change files."""
        before = {(os, name): getattr(os, name) for name in (*_BY_PATH, *_BY_HANDLE, "open")}
        before |= {(module, "open"): open for module in (builtins, io)}

        def passed(name: str, real: Callable[..., Any], what: Any, *rest: Any, **options: Any) -> Any:
            if not self.concerns(what, options.get("dir_fd")):
                return real(what, *rest, **options)
            half = None
            if name == "write":
                half = partial(real, what, rest[0][: len(rest[0]) // 2])
            return self.call(name, partial(real, what, *rest, **options), half)

        def opened(real: Callable[..., Any], what: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self.concerns(what):
                return real(what, mode, *rest, **options)
            return _File(self.call("open", partial(real, what, mode, *rest, **options)), self)

        try:
            for (module, name), real in before.items():
                here = partial(passed, name, real) if module is os else partial(opened, real)
                setattr(module, name, here)
            yield
        finally:
            for (module, name), real in before.items():
                setattr(module, name, real)


def _path_of(handle: int) -> str:
    return os.readlink(f"/proc/self/fd/{handle}")


class _File:
    """A file that is open for writing."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, content: Any) -> Any:
        return self._disk.call("write", partial(self._file.write, content), partial(self._half, content))

    def _half(self, content: Any) -> int | None:
        written = self._file.write(content[: len(content) // 2])
        if isinstance(self._file, io.RawIOBase):
            return int(written)
        self._file.flush()
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@dataclass(frozen=True)
class End:
    """How a child ended: "done", "error", "killed" or "hung"; its error as "OSError: ..."; whether it warned."""

    how: str
    error: str = ""
    ours: bool = False  # an error of this package or of the operating system
    warned: bool = False


def in_child(work: Callable[[], Any], disk: Disk | None = None, kill_after: float | None = None) -> End:
    """Do something in a fork of this process, with a disk that fails, or until it is killed after so many seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os._exit(_child(work, disk, writing))
    os.close(writing)
    try:
        if not select.select([reading], [], [], _PATIENCE if kill_after is None else kill_after)[0]:
            os.kill(child, signal.SIGKILL)
        with open(reading, "rb") as pipe:
            text = pipe.read().decode()
    finally:
        _, status = os.waitpid(child, 0)
    if text:
        how, ours, warned, error = text.split("\n", 3)
        return End(how, error, bool(ours), bool(warned))
    killed = os.WIFSIGNALED(status) and ((disk is not None and "killed" in disk.kind) or kill_after is not None)
    return End("killed" if killed else "hung")


def _child(work: Callable[[], Any], disk: Disk | None, writing: int) -> int:
    from svd_numpy.checks import SvdError

    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    how, ours, error = "done", "", ""
    try:
        with warnings.catch_warnings(record=True) as caught, disk.watched() if disk else contextlib.nullcontext():
            warnings.simplefilter("always")
            work()
    except BaseException as raised:
        how, ours = "error", "1" if isinstance(raised, SvdError | OSError) else ""
        where = traceback.extract_tb(sys.exc_info()[2])[-1]
        error = f"{type(raised).__name__}: {raised}" + ("" if ours else f" ({where.filename}:{where.lineno})")
    finally:
        warned = any(issubclass(each.category, UserWarning) for each in caught)
        os.write(writing, f"{how}\n{ours}\n{'1' if warned else ''}\n{error}".encode()[:60_000])
    return 0


def calls_of(work: Callable[[], Any], folder: Path) -> list[str]:
    """Names of the calls that some work does below a folder."""
    names = folder.with_name(f"{folder.name}.calls")
    disk = Disk(folder)

    def counted() -> None:
        work()
        names.write_text("\n".join(disk.names))

    end = in_child(counted, disk)
    if end.how != "done":
        raise RuntimeError(f"undisturbed, the work ends as {end}")
    found = names.read_text().split("\n")
    names.unlink()
    return found


def cases_of(calls: list[str], every: int) -> list[tuple[int, str]]:
    """Return every n-th call by number, each with all kinds of fault that it can suffer."""
    return [
        (at, kind)
        for at, name in list(enumerate(calls))[::every]
        for kind in KINDS
        if name == "write" or kind not in _OF_WRITES
    ]
