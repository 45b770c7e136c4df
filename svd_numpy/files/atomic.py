"""Strict JSON, and files that are written whole or not at all."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdError, SvdTypeError, SvdValueError

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's share of it
PATIENCE = (0.01, 0.05, 0.25)  # seconds before a rename is tried again
_BLOCKED = (errno.EACCES, errno.EPERM, errno.EBUSY)
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EBADF)
_LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{16}")
_A_DAY = 24 * 3600.0
_REMEDIES = {
    **dict.fromkeys(FULL, "Free some space, or choose another folder"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Check who may write there, or choose another folder"),
    errno.ENOTDIR: "A folder in this path is a file: choose another folder",
    errno.ENAMETOOLONG: "Choose a shorter name",
    **dict.fromkeys(
        (errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY),
        "Something else has this name: choose another one",
    ),
}
MAX_DEPTH = 64  # far below the nesting at which Python's JSON parser gives up


class DiskError(SvdError, OSError):
    """A file could not be written; the message names its path and the free space."""

    def __str__(self) -> str:
        return str(self.strerror)


# ---- strict JSON ----


def check_json(value: Any, where: str, depth: int = MAX_DEPTH) -> None:
    """Raise TypeError or ValueError unless `value` is strict JSON: str keys, finite numbers, not too deep."""
    if depth < 0:
        raise SvdValueError(f"{where[:60]}... is nested deeper than {MAX_DEPTH} levels, or contains itself")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SvdTypeError(f"{where} has the key {key!r}; JSON keys are str: convert it with str()")
            check_json(item, f"{where}[{key!r}]", depth - 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_json(item, f"{where}[{index}]", depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise SvdValueError(f"{where} is {value}; JSON has only finite numbers: store None instead")
    elif not isinstance(value, str | int | float | None):
        raise SvdTypeError(
            f"{where} is a {type(value).__name__}; expected dict, list, str, int, float, bool or None: "
            "convert NumPy values with .item() or .tolist()"
        )


def loads_strict(text: bytes) -> Any:
    """Parse UTF-8 JSON; a ValueError for non-finite numbers, repeated keys, and nesting that is too deep."""
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise SvdValueError("JSON is nested too deeply") from None


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise SvdValueError(f"{number} is not a finite number")
    return float(number)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise SvdValueError("a key is repeated")
    return result


# ---- crash-safe files ----


def write_atomic(path: Path, content: bytes) -> None:
    """Replace the file `path` by `content`, whole or not at all, and sync it to the disk.

    Several processes may write the same file at the same time: the last one wins. The mode of a file that is replaced
    is kept.

    Raises
    ------
    DiskError
        If the file cannot be written; `path` then still holds a whole file, the old or the new one.
    """
    temporary = temporary_in(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new(temporary, content)
        _keep_mode(path, temporary)
        move(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        remove(temporary)
    sweep(path.parent)


@contextlib.contextmanager
def replacing(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Replace several files of a folder that belong together: write the new ones into the folder that this gives.

    Old and new files are never mixed. At the end the old ones are removed, the last one of `names` first; then the new
    ones are moved in, and that one comes last. So where it is there, so are the others.

    Raises
    ------
    DiskError
        If that fails. Until all new files are written, the old ones are untouched.
    """
    make_folder(folder)
    beside = temporary_in(folder)
    try:
        make_folder(beside)
        yield beside
        try:
            for name in reversed(names):
                (folder / name).unlink(missing_ok=True)
            for name in names:
                if (beside / name).exists():
                    move(beside / name, folder / name)
            sync_folder(folder)
        except OSError as error:
            raise disk_error(folder / name, error) from error
    finally:
        remove(beside)
    sweep(folder)


def temporary_in(folder: Path) -> Path:
    """Return a name in a folder that nobody else uses; `sweep` removes what a crash leaves there."""
    return folder / f".tmp-{secrets.token_hex(8)}"


def move(source: Path, target: Path) -> None:
    """Rename, replacing a file; try again where another program, such as a virus scanner, is in the way."""
    for seconds in PATIENCE:
        try:
            return os.replace(source, target)
        except OSError as error:
            if error.errno not in _BLOCKED:
                raise
            time.sleep(seconds)
    os.replace(source, target)


def sweep(folder: Path) -> None:
    """Remove what crashed writers left in a folder; whatever is younger than a day may still be in use."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            ours = _LEFTOVER.fullmatch(entry.name)
            if ours and time.time() - entry.stat(follow_symlinks=False).st_mtime > _A_DAY:
                remove(Path(entry.path))


def _keep_mode(old: Path, new: Path) -> None:
    """Give a file the mode of the one it replaces."""
    with contextlib.suppress(OSError):  # there is none, or the file system has no modes
        found = os.lstat(old).st_mode
        if stat.S_ISREG(found):
            os.chmod(new, stat.S_IMODE(found))


def write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist yet and sync it to the disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk, where the system can do that."""
    if os.name == "nt":  # Windows cannot open a folder; its file system journals renames itself
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error


def remove(path: Path) -> None:
    """Delete a file or folder; what cannot be deleted stays, without an error."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def disk_error(path: Path, error: OSError) -> DiskError:
    """Describe a failed write: path, cause and free space."""
    try:
        existing = next(parent for parent in path.absolute().parents if parent.exists())
        free = f"{shutil.disk_usage(existing).free:,} bytes are free there"
    except OSError:
        free = "the free space there is unknown"
    cause = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "Choose another folder")
    message = f"could not write {path}: {cause}; {free}. {remedy}"
    return DiskError(error.errno or errno.EIO, message)
