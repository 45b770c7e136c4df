"""Where the files of a data set may be, and the check that they are the right ones.

Nothing here writes: the folders searched may be read-only.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import as_path
from svd_numpy.data.dataset import DataError
from svd_numpy.data.idx import idx_header, open_unpacked, read_at_most, read_idx
from svd_numpy.data.pinned import FILE_SETS, FileSet, FileSpec

ENV_FOLDER = "SVD_NUMPY_DATA"
ENV_OFFLINE = "SVD_NUMPY_OFFLINE"


@dataclass(frozen=True)
class Place:
    """A folder to search, and why it is searched."""

    folder: Path
    why: str


def cache_dir() -> Path:
    """Return the user's cache folder, the only folder that data are written to."""
    import pooch

    return Path(pooch.os_cache("svd_numpy"))


def search_places(data_dir: str | Path | None) -> list[Place]:
    """List the folders to search: only `data_dir` if given, else $SVD_NUMPY_DATA and the cache.

    Raises
    ------
    TypeError
        If `data_dir` is not a path.
    DataError
        If a folder named by the user does not exist.
    """
    if data_dir is not None:
        return [Place(existing_folder(data_dir, "data_dir"), "data_dir")]
    named = os.environ.get(ENV_FOLDER, "")
    places = [Place(existing_folder(named, ENV_FOLDER), ENV_FOLDER)] if named else []
    return [*places, Place(cache_dir(), "the cache")]


def find(file_set: FileSet, folder: Path) -> tuple[list[Path], str]:
    """Look for all files of a set in one folder.

    Returns
    -------
    paths : list of Path
        In the order of ``file_set.files``, or the archive alone; empty if the set is not there.
    note : str
        Why the list is empty.
    """
    note = "has none of its files"
    for sub in (*file_set.folders, "", "raw"):
        found = [_first_file(folder / sub, spec) for spec in file_set.files]
        paths = [path for path in found if path is not None]
        if len(paths) == len(found):
            owner = _other_owner(file_set, paths[-1])
            if not owner:
                return paths, ""
            note = f"the files in {folder / sub} are those of {owner!r}"
        elif file_set.archive and (archive := _first_file(folder / sub, file_set.archive)):
            return [archive], ""
        elif paths:
            missing = [spec.name for spec, path in zip(file_set.files, found, strict=True) if path is None]
            note = f"{folder / sub} lacks {', '.join(missing)}"
    return [], note


def read_verified(file_set: FileSet, spec: FileSpec, path: Path) -> NDArray[np.uint8]:
    """Read one file and check its shape, its labels and its digest.

    Returns
    -------
    array of uint8
        With ``spec.shape``.

    Raises
    ------
    DataError
        If the file is not byte for byte (once unpacked) the pinned one.
    """
    array, digest = _read_and_digest(spec, path)
    remedy = f"Delete it or replace it by the original, {describe(spec)}."
    if array.shape != spec.shape:
        raise DataError(f"{path}: holds shape {array.shape}; expected {spec.shape}. {remedy}")
    if spec.is_idx and array.ndim == 1 and array.size and int(array.max()) >= file_set.n_classes:
        raise DataError(f"{path}: holds the label {int(array.max())}; expected 0..{file_set.n_classes - 1}. {remedy}")
    if digest != spec.sha256:
        owner = _owner(digest)
        what = f"this is the file of {owner!r}" if owner else f"its unpacked content has SHA-256 {digest}"
        raise DataError(f"{path}: {what}; expected {file_set.title}'s, {spec.sha256}. {remedy}")
    return array


def existing_folder(folder: str | Path, label: str) -> Path:
    """Return a folder that the user named; a DataError if there is no such folder."""
    path = as_path(label, folder)
    if not str(folder) or not os.path.isdir(path):
        raise DataError(f"{label} is {str(folder)!r}, which is not a folder; name one that exists")
    return path


def describe(spec: FileSpec) -> str:
    """Return a file's name and sizes in words."""
    if not spec.gz_bytes:
        return f"{spec.name} ({spec.content_bytes} bytes)"
    if not spec.shape:
        return f"{spec.name}.gz ({spec.gz_bytes} bytes)"
    return f"{spec.name}.gz ({spec.gz_bytes} bytes; unpacked {spec.content_bytes})"


def _first_file(folder: Path, spec: FileSpec) -> Path | None:
    candidates = (folder / name for name in spec.accepted_names)
    return next((path for path in candidates if os.path.isfile(path)), None)


def _other_owner(file_set: FileSet, path: Path) -> str:
    """Name the data set that this file, the last of a set, belongs to, if it is another one; else "".

    MNIST and Fashion-MNIST use the same file names. Their last file, the test labels, is small.
    """
    try:
        _, digest = _read_and_digest(file_set.files[-1], path)
    except DataError:
        return ""  # a damaged file is reported when it is read
    owner = _owner(digest)
    return "" if owner == file_set.name else owner


def _owner(digest: str) -> str:
    owners = (s.name for s in FILE_SETS.values() if any(spec.sha256 == digest for spec in s.files))
    return next(owners, "")


def _read_and_digest(spec: FileSpec, path: Path) -> tuple[NDArray[np.uint8], str]:
    if spec.is_idx:
        array = read_idx(path, max_bytes=math.prod(spec.shape))
        sha = hashlib.sha256(idx_header(array.shape))
    else:
        with open_unpacked(path) as stream:
            array = np.frombuffer(read_at_most(stream, spec.content_bytes + 1), dtype=np.uint8)
        sha = hashlib.sha256()
    sha.update(array.data.cast("B") if array.size else b"")
    return array, sha.hexdigest()
