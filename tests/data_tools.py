"""Tiny image sets, pinned and stored like the real ones, an empty cache, and no network."""

from __future__ import annotations

import gzip
import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from svd_numpy.data import sources
from svd_numpy.data.sources import FileSet, FileSpec

RAW_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """Write IDX independently of the package's own header code."""
    dims = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return b"\x00\x00\x08" + bytes([array.ndim]) + dims + array.tobytes()


def make_files(seed: int, n_train: int = 7, n_test: int = 3) -> dict[str, bytes]:
    """Return the raw content of a tiny image set, by file name."""
    rng = np.random.default_rng(seed)
    arrays = [
        rng.integers(0, 256, (n_train, 4, 3), dtype=np.uint8),
        rng.integers(0, 10, n_train, dtype=np.uint8),
        rng.integers(0, 256, (n_test, 4, 3), dtype=np.uint8),
        rng.integers(0, 10, n_test, dtype=np.uint8),
    ]
    return {name: idx_bytes(array) for name, array in zip(RAW_NAMES, arrays, strict=True)}


def pin(name: str, files: dict[str, bytes], mirrors: tuple[str, ...] = ("http://mirror.invalid/",)) -> FileSet:
    """Return a registry entry that pins these files."""
    specs = []
    for file, raw in files.items():
        n_dims = raw[3]
        shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(n_dims))
        packed = gzip.compress(raw, mtime=0)
        digest, gz_digest = hashlib.sha256(raw).hexdigest(), hashlib.sha256(packed).hexdigest()
        specs.append(FileSpec(file, shape, digest, len(packed), gz_digest))
    original = sources.FILE_SETS[name]
    return FileSet(name, original.title, tuple(specs), original.folders, mirrors, 10)


def store(folder: Path, files: dict[str, bytes], packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(raw, mtime=0))
        else:
            (folder / name).write_bytes(raw)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(name="cache", autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own empty cache and no network."""

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise urllib.error.URLError("no network in tests")

    folder = tmp_path / "cache"
    monkeypatch.setattr("pooch.os_cache", lambda _name: folder)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("SVD_NUMPY_DATA", raising=False)
    monkeypatch.delenv("SVD_NUMPY_OFFLINE", raising=False)
    return folder


@pytest.fixture(name="tiny")
def tiny_sets(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Pin a tiny set as "mnist" and another as "fashion-mnist"; return the first one's files."""
    files = make_files(1)
    monkeypatch.setitem(sources.FILE_SETS, "mnist", pin("mnist", files))
    monkeypatch.setitem(sources.FILE_SETS, "fashion-mnist", pin("fashion-mnist", make_files(2)))
    return files
