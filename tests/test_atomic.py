"""Files that are written whole or not at all: several writers, odd names, modes, systems that cannot do everything."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoint_tools import names

from svd_numpy.files import atomic
from svd_numpy.files.atomic import disk_error, replacing, write_atomic

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs POSIX file modes")


def test_several_writers_of_one_file_never_fail_and_leave_a_whole_one(tmp_path: Path) -> None:
    path, failures, torn = tmp_path / "file", list[Exception](), list[bytes]()
    contents = [bytes([65 + i]) * 100_000 for i in range(3)]
    write_atomic(path, contents[0])

    def write(content: bytes) -> None:
        for _ in range(40):
            try:
                write_atomic(path, content)
            except OSError as error:
                failures.append(error)
            if (found := path.read_bytes()) not in contents:
                torn.append(found[:20])

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and not torn and names(tmp_path) == ["file"]


@pytest.mark.parametrize("length", [250, 251, 255])
def test_a_name_as_long_as_the_system_allows(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("n" * length)
    write_atomic(path, b"here")
    assert path.read_bytes() == b"here" and names(tmp_path) == [path.name]


@POSIX
def test_a_new_file_has_the_usual_mode_and_a_replaced_one_keeps_its_own(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    path = tmp_path / "file"
    write_atomic(path, b"1")
    assert path.stat().st_mode == usual.stat().st_mode
    for mode in (0o600, 0o640):
        path.chmod(mode)
        write_atomic(path, b"2")
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_old_leftovers_are_swept_and_new_ones_are_not(tmp_path: Path) -> None:
    """A new one may belong to another process that is writing."""
    old, new, other = (tmp_path / name for name in (".tmp-" + "0" * 16, ".tmp-" + "1" * 16, ".tmp-mine"))
    for path in (old, new, other):
        path.write_bytes(b"half")
    long_ago = time.time() - 7 * 24 * 3600
    for path in (old, other):
        os.utime(path, (long_ago, long_ago))
    write_atomic(tmp_path / "file", b"whole")
    assert names(tmp_path) == sorted([new.name, other.name, "file"])


def test_old_leftovers_are_swept_where_files_are_replaced_together(tmp_path: Path) -> None:
    left = tmp_path / (".tmp-" + "0" * 16)
    left.mkdir()
    (left / "model").write_bytes(b"half")
    os.utime(left, (0, 0))
    with replacing(tmp_path, ["model"]) as beside:
        (beside / "model").write_bytes(b"whole")
    assert names(tmp_path) == ["model"]


@POSIX
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As on SMB, some FUSE and WSL file systems."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "file", b"here")
    assert (tmp_path / "file").read_bytes() == b"here"


def test_a_rename_that_another_program_blocks_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refusals = os.replace, [errno.EACCES, errno.EBUSY]

    def replace(*paths: Any) -> None:
        if refusals:
            raise OSError(number := refusals.pop(), os.strerror(number))
        real(*paths)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(atomic, "PATIENCE", (0.0, 0.0))
    write_atomic(tmp_path / "file", b"here")
    assert names(tmp_path) == ["file"] and not refusals
    refusals += [errno.EACCES] * 3
    with pytest.raises(OSError, match="file") as caught:
        write_atomic(tmp_path / "file", b"there")
    assert caught.value.errno == errno.EACCES and (tmp_path / "file").read_bytes() == b"here"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "Check who may write there"),
        (errno.EROFS, "Check who may write there"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
        (errno.EEXIST, "Something else has this name"),
        (errno.ENOTDIR, "A folder in this path is a file"),
        (errno.ENOENT, "Choose another folder"),
    ],
)
def test_the_remedy_fits_the_cause(number: int, remedy: str) -> None:
    message = str(disk_error(Path("/run/here"), OSError(number, os.strerror(number))))
    assert remedy in message and ("Free some space" in message) == (number == errno.ENOSPC)
