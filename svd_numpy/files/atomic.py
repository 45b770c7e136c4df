"""Strict JSON, and files that are written whole or not at all."""

import contextlib
import errno
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdError, SvdTypeError, SvdValueError

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's share of it
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

    Raises
    ------
    DiskError
        If the file cannot be written; `path` then still holds a whole file, the old or the new one.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        write_new(temporary, content)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        remove(temporary)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist yet and sync it to the disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk."""
    if os.name == "nt":  # Windows cannot open a folder; its file system journals renames itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    remedy = "Free some space, or choose another folder" if error.errno in FULL else "Choose another folder"
    message = f"could not write {path}: {cause}; {free}. {remedy}"
    return DiskError(error.errno or errno.EIO, message)
