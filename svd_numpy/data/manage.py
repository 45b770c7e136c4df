"""Looking after the data files: where they are, downloading them, copying them into the cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from svd_numpy.data.cifar import read_tables
from svd_numpy.data.dataset import DataError, MissingDataError
from svd_numpy.data.idx_sets import IDX_SETS, read_family
from svd_numpy.data.loading import EMBEDDED, check_name, download_to_cache, missing_text, offline
from svd_numpy.data.pinned import FILE_SETS, PACKINGS, FileSet, FileSpec
from svd_numpy.data.sources import (
    ENV_OFFLINE,
    Place,
    cache_dir,
    existing_folder,
    find,
    read_verified,
    search_places,
)
from svd_numpy.files.atomic import disk_error, move, remove, sweep, sync_folder, temporary_in


def status(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """List where each data set was found, and whether it is intact; every file found is read.

    Of EMNIST, KMNIST and QMNIST only shapes and labels are checked.

    Parameters
    ----------
    data_dir : str or Path, optional
        Look in this folder only; otherwise in $SVD_NUMPY_DATA and the cache.

    Returns
    -------
    list of dict
        One row for each set and place, with the keys "name" (str), "where" (str, empty if found nowhere), "verified"
        (bool) and "note" (str, what is wrong, if anything).

    Raises
    ------
    DataError
        If `data_dir` or $SVD_NUMPY_DATA is not a folder.
    """
    places = search_places(data_dir)
    rows = [row for file_set in (*FILE_SETS.values(), *IDX_SETS.values()) for row in _status_rows(file_set, places)]
    embedded = {"where": "scikit-learn (embedded)", "verified": True, "note": ""}
    return rows + [{"name": name, **embedded} for name in EMBEDDED]


def fetch(name: str) -> Path:
    """Make sure that the cache holds an intact copy of a data set, downloading what is missing or damaged.

    Parameters
    ----------
    name : str
        "mnist", "fashion-mnist", "cifar10" or "cifar100".

    Returns
    -------
    Path
        The folder in the cache.

    Raises
    ------
    ValueError
        If `name` is not a data set that can be downloaded.
    MissingDataError
        If the download is forbidden or fails.
    """
    check_name(name, tuple(s.name for s in FILE_SETS.values() if s.mirrors))
    file_set = FILE_SETS[name]
    cache = Place(cache_dir(), "the cache")
    paths, note = find(file_set, cache.folder)
    if paths and not _damage(file_set, paths):
        return paths[0].parent
    if offline():
        raise MissingDataError(missing_text(file_set, [cache], [note], f"not allowed ({ENV_OFFLINE} is set)"))
    try:
        return download_to_cache(file_set)
    except OSError as error:
        raise MissingDataError(missing_text(file_set, [cache], [note], f"failed: {error}")) from error


def import_folder(path: str | Path) -> list[str]:
    """Verify the data sets found in a folder and copy them into the cache.

    Nothing is copied unless everything found is intact; each file appears in the cache whole or not at all.

    Parameters
    ----------
    path : str or Path
        A folder in any of the layouts that `load` accepts; nothing in it is changed.

    Returns
    -------
    list of str
        Names of the sets that were copied.

    Raises
    ------
    DataError
        If the folder does not exist, holds no known set, or a file is damaged.
    DiskError
        If the cache cannot be written.
    """
    folder = existing_folder(path, "path")
    found: list[tuple[FileSet, list[Path]]] = []
    notes = []
    for file_set in FILE_SETS.values():
        paths, note = find(file_set, folder)
        if paths:
            found.append((file_set, paths))
        notes.append(f"  {file_set.title}: {note}")
    if not found:
        raise MissingDataError("\n".join([f"{folder} holds no known data set:", *notes]))
    for file_set, paths in found:
        if damage := _damage(file_set, paths):
            raise DataError(damage)
    for file_set, paths in found:
        for spec, source in zip(file_set.specs_at(len(paths)), paths, strict=True):
            _copy_verified(file_set, spec, source, cache_dir() / file_set.folders[0])
    return [file_set.name for file_set, _ in found]


def _status_rows(file_set: FileSet, places: list[Place]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    notes = []
    for place in places:
        paths, note = find(file_set, place.folder)
        if paths:
            damage = _damage(file_set, paths)
            where = f"{paths[0].parent} ({place.why})"
            rows.append({"name": file_set.name, "where": where, "verified": not damage, "note": damage})
        else:
            notes.append(f"{place.folder} ({place.why}): {note}")
    return rows or [{"name": file_set.name, "where": "", "verified": False, "note": "; ".join(notes)}]


def _damage(file_set: FileSet, paths: list[Path]) -> str:
    """Return what is wrong with the files of a set; "" if nothing is."""
    try:
        if file_set.name in IDX_SETS:
            read_family(file_set, paths, "")
            return ""
        for spec, path in zip(file_set.specs_at(len(paths)), paths, strict=True):
            _verify(file_set, spec, path)
    except DataError as error:
        return str(error)
    return ""


def _verify(file_set: FileSet, spec: FileSpec, path: Path) -> None:
    """Read one file; a DataError if anything is wrong with it."""
    if file_set.archive:
        read_tables(file_set, spec, path)
    else:
        read_verified(file_set, spec, path)


def _copy_verified(file_set: FileSet, spec: FileSpec, source: Path, folder: Path) -> None:
    """Copy one file under its usual name: temporary file, check, flush to disk, rename."""
    target = folder / (spec.name + (source.suffix if source.suffix in PACKINGS else ""))
    temporary = temporary_in(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as out, open(source, "rb") as original:
            shutil.copyfileobj(original, out)
            out.flush()
            os.fsync(out.fileno())
        _verify(file_set, spec, temporary)
        move(temporary, target)
        for other in spec.accepted_names:  # a stale copy under another accepted name would be found first
            if other != target.name:
                (folder / other).unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        remove(temporary)
    sweep(folder)
